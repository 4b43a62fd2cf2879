"""An open store in a database of its own, and that database as another program sees it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pymongo import AsyncMongoClient, monitoring
from pymongo.asynchronous.database import AsyncDatabase

from server.storage.mongo.store import MongoStorage
from tests.mongodb import shared_url
from tests.unit.storage.mongo.wire import Wire


@pytest.fixture
def url() -> str:
    return shared_url(f"test_{uuid4().hex[:16]}")


@pytest.fixture
async def storage(url: str) -> AsyncIterator[MongoStorage]:
    opened = MongoStorage(url, timeout_s=10, lease_s=3)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def inside(url: str) -> AsyncIterator[AsyncDatabase[dict[str, Any]]]:
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(url)
    yield client.get_default_database()
    await client.close()


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    listener = Wire()
    listeners = monitoring._LISTENERS
    monkeypatch.setattr(
        monitoring,
        "_LISTENERS",
        listeners._replace(command_listeners=[*listeners.command_listeners, listener]),
    )
    return listener


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and "url" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.real_services)
