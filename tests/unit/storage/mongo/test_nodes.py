import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pymongo.asynchronous.database import AsyncDatabase

from server.domain.errors import UnavailableError
from server.storage.base import NodeReport, StoreRefusedError
from server.storage.mongo.store import MongoStorage
from tests.builders import message_change, user
from tests.unit.storage.mongo.held import holding

Inside = AsyncDatabase[dict[str, Any]]


@pytest.fixture
async def joined(url: str) -> AsyncIterator[MongoStorage]:
    opened = MongoStorage(url, timeout_s=10, is_alone=False)
    await opened.open()
    yield opened
    await opened.close()


async def test_each_report_is_counted_and_all_are_shown(url: str, joined: MongoStorage) -> None:
    starting = MongoStorage(url, timeout_s=10, is_alone=False)
    await starting.open()
    await joined.report("a", at=5, is_heard=True)
    await joined.report("b", at=1, is_heard=True)
    told = await joined.report("a", at=7, is_heard=False)
    assert sorted(told, key=lambda each: each.node) == [
        NodeReport(node="a", beat=2, at=7, is_heard=False),
        NodeReport(node="b", beat=1, at=1, is_heard=True),
    ]
    await joined.forget_node("b")
    await joined.forget_node("unknown")
    assert [each.node for each in await joined.report("a", at=8, is_heard=True)] == ["a"]
    assert await joined.count_undecodable() == 0
    await starting.close()


async def test_what_a_server_wrote_since_is_found(storage: MongoStorage) -> None:
    await storage.append([message_change("room", 1), message_change("room", 2, seq=2)])
    first = (await storage.changes_after("room", 0, 1))[0]
    assert sorted(await storage.written_by(first.node, first.at)) == [("room", 1), ("room", 2)]
    assert await storage.written_by(first.node, first.at + 1_000_000) == []
    assert await storage.written_by("another", 0) == []


async def test_a_server_alone_and_servers_of_a_cluster_do_not_share_a_database(
    url: str, storage: MongoStorage
) -> None:
    joined = MongoStorage(url, timeout_s=10, lease_s=3, is_alone=False)
    with pytest.raises(StoreRefusedError, match="another server uses this database"):
        await joined.open()
    await storage.close()
    await joined.open()

    async def go_on() -> None:
        while True:
            await joined.report("a", at=1, is_heard=True)

    going_on = asyncio.create_task(go_on())
    with pytest.raises(StoreRefusedError, match="servers of a cluster use this database"):
        await MongoStorage(url, timeout_s=10, lease_s=1).open()
    going_on.cancel()
    await asyncio.gather(going_on, return_exceptions=True)
    await joined.close()


async def test_a_server_alone_is_refused_while_one_of_a_cluster_is_starting(
    url: str, joined: MongoStorage, inside: Inside
) -> None:
    """It has looked for the lease, and is still far from its first report."""
    with pytest.raises(StoreRefusedError, match="servers of a cluster use this database"):
        await MongoStorage(url, timeout_s=10, lease_s=2).open()
    await joined.report("a", at=1, is_heard=True)
    assert [each["_id"] async for each in inside.nodes.find()] == ["a"]


async def test_one_of_a_cluster_that_looked_for_the_lease_too_early_looks_again(
    url: str, storage: MongoStorage, inside: Inside
) -> None:
    await storage.close()
    joining = MongoStorage(url, timeout_s=10, lease_s=1, is_alone=False)
    with holding(joining, "update", "nodes") as held:
        opening = asyncio.create_task(joining.open())
        await held.come()
        await inside.meta.insert_one({"_id": "lease", "holder": "alone", "beat": 1})
        held.go.set()
        beating = asyncio.create_task(beat(inside))
        with pytest.raises(StoreRefusedError, match="another server uses this database"):
            await opening
    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)
    assert await inside.nodes.count_documents({}) == 0


async def beat(inside: Inside) -> None:
    while True:
        await inside.meta.update_one({"_id": "lease"}, {"$inc": {"beat": 1}})


async def test_servers_that_are_dead_keep_nobody_out_and_are_forgotten(
    url: str, joined: MongoStorage, inside: Inside
) -> None:
    await joined.report("dead", at=1, is_heard=True)
    alone = MongoStorage(url, timeout_s=10, lease_s=1.5)
    await alone.open()
    assert await inside.nodes.count_documents({}) == 0
    await alone.create_user(user("juan"), None)
    await alone.close()


async def test_a_server_alone_gives_way_to_a_cluster_that_was_taken_for_dead(
    url: str, joined: MongoStorage
) -> None:
    """It stood still for as long as the other one was starting."""
    await joined.report("a", at=1, is_heard=True)
    alone = MongoStorage(url, timeout_s=10, lease_s=2)
    await alone.open()

    async def go_on() -> None:
        while True:
            await joined.report("a", at=1, is_heard=True)

    going_on = asyncio.create_task(go_on())
    async with asyncio.timeout(10):
        with pytest.raises(UnavailableError, match="another server"):  # noqa: PT012 - until it does
            while True:
                await alone.ping()
    with pytest.raises(UnavailableError, match="another server"):
        await alone.create_user(user("juan"), None)
    second = MongoStorage(url, timeout_s=10, lease_s=2, is_alone=False)
    await second.open()
    await second.close()
    going_on.cancel()
    await asyncio.gather(going_on, return_exceptions=True)
    async with asyncio.timeout(10):
        while True:
            try:
                await alone.create_user(user("ana"), None)
            except UnavailableError:
                await asyncio.sleep(0.05)
            else:
                break
    await alone.close()
