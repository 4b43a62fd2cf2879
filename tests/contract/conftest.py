"""Every implementation of the store, for the laws that each of them keeps."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from server.storage.base import Storage
from server.storage.sqlite.store import SqliteStorage


def _sqlite(directory: Path) -> Storage:
    return SqliteStorage(directory / "tertulia.db")


IMPLEMENTATIONS: dict[str, Callable[[Path], Storage]] = {"sqlite": _sqlite}


@pytest.fixture(params=sorted(IMPLEMENTATIONS))
def make_storage(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Storage]:
    """Makes stores, not yet open, that share their data."""
    implementation = IMPLEMENTATIONS[request.param]
    return lambda: implementation(tmp_path)


@pytest.fixture
async def storage(make_storage: Callable[[], Storage]) -> AsyncIterator[Storage]:
    """An open, empty store."""
    opened = make_storage()
    await opened.open()
    yield opened
    await opened.close()
