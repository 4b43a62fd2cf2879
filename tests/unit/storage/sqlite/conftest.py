"""An open store in a file of its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.storage.sqlite.store import SqliteStorage


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "var" / "tertulia.db"


@pytest.fixture
async def storage(path: Path) -> AsyncIterator[SqliteStorage]:
    opened = SqliteStorage(path, readers=1)
    await opened.open()
    yield opened
    await opened.close()
