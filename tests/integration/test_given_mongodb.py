"""What tests do with a MongoDB that somebody else runs, where they have none of their own."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from server.storage.mongo.store import MongoStorage
from tests import mongodb
from tests.builders import message_change
from tests.fault_proxy import FaultProxy
from tests.mongodb import MongoServer, make_server

pytestmark = pytest.mark.real_services


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Iterator[MongoServer]:
    running = make_server()
    url = f"mongodb://127.0.0.1:{running.port}/?directConnection=true"
    monkeypatch.setenv("TERTULIA_TEST_MONGODB_URL", url)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(mongodb, "FERRETDB", Path("/nowhere"))
    monkeypatch.delenv("TERTULIA_TEST_REQUIRE", raising=False)
    mongodb.is_real_mongod.cache_clear()
    yield running
    mongodb.is_real_mongod.cache_clear()
    running.stop()


async def test_a_test_has_databases_of_its_own_there_and_leaves_none(
    given: MongoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERTULIA_TEST_REQUIRE", "all")  # where it is not used this fails
    made, other = await asyncio.gather(*(asyncio.to_thread(make_server) for _ in range(2)))
    assert made.url("chat") != other.url("chat")
    async with FaultProxy(made.port).listening() as proxy:
        for url in (made.url("chat"), made.url("chat", port=proxy.port)):
            storage = MongoStorage(url, is_alone=False, timeout_s=10)
            await storage.open()
            rev = (await storage.heads(["room"]))["room"].rev
            await storage.append([message_change("room", rev + 1)])
            await storage.close()
        assert rev == 1
        assert proxy.accepted
    assert names(given) == {made.url("chat").rpartition("/")[2].partition("?")[0]}
    await asyncio.to_thread(made.stop)
    assert names(given) == set()


def names(server: MongoServer) -> set[str]:
    client: MongoClient[dict[str, Any]] = MongoClient(server.url("admin"))
    with client:
        return set(client.list_database_names()) - {"admin", "config", "local"}


def test_it_is_not_killed(given: MongoServer) -> None:
    made = make_server()
    with pytest.raises(pytest.skip.Exception, match="not one to kill"):
        made.kill()
    assert given.port == made.port
