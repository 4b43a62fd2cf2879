"""Every implementation of the store, for the laws that each of them keeps."""

import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from msgspec import Struct

from server.storage.base import Storage
from server.storage.mongo.database import Driver
from server.storage.mongo.store import MongoStorage
from server.storage.sqlite.store import SqliteStorage
from tests.mongodb import shared_url


class Implementation(Struct, frozen=True, kw_only=True):
    """Makes stores, not yet open, over a folder. `effort`: how much of a random test it is given."""

    make: Callable[[Path], Storage]
    effort: float = 1.0
    marks: tuple[pytest.MarkDecorator, ...] = ()


def _sqlite(directory: Path) -> Storage:
    return SqliteStorage(directory / "tertulia.db")


def _mongo(driver: Driver) -> Implementation:
    def make(directory: Path) -> Storage:
        database = f"test_{hashlib.sha256(str(directory).encode()).hexdigest()[:16]}"
        return MongoStorage(shared_url(database), driver=driver, timeout_s=10, lease_s=3)

    # FerretDB reads a whole collection for each query.
    return Implementation(make=make, effort=0.3, marks=(pytest.mark.real_services,))


IMPLEMENTATIONS: dict[str, Implementation] = {
    "mongo by motor": _mongo("motor"),
    "mongo by pymongo": _mongo("pymongo"),
    "sqlite": Implementation(make=_sqlite),
}
NAMES = [pytest.param(name, marks=each.marks) for name, each in IMPLEMENTATIONS.items()]


@pytest.fixture(params=NAMES)
def implementation(request: pytest.FixtureRequest) -> Implementation:
    name: str = request.param
    return IMPLEMENTATIONS[name]


@pytest.fixture
def make_storage(implementation: Implementation, tmp_path: Path) -> Callable[[], Storage]:
    """Makes stores, not yet open, that share their data."""
    return lambda: implementation.make(tmp_path)


@pytest.fixture
async def storage(make_storage: Callable[[], Storage]) -> AsyncIterator[Storage]:
    """An open, empty store."""
    opened = make_storage()
    await opened.open()
    yield opened
    await opened.close()
