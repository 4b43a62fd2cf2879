import asyncio

import pytest

from server.storage.base import NodeReport, StoreRefusedError
from server.storage.mongo.store import MongoStorage
from tests.builders import message_change


async def test_each_report_is_counted_and_all_are_shown(storage: MongoStorage) -> None:
    await storage.report("a", at=5, is_heard=True)
    await storage.report("b", at=1, is_heard=True)
    told = await storage.report("a", at=7, is_heard=False)
    assert sorted(told, key=lambda each: each.node) == [
        NodeReport(node="a", beat=2, at=7, is_heard=False),
        NodeReport(node="b", beat=1, at=1, is_heard=True),
    ]
    await storage.forget_node("b")
    await storage.forget_node("unknown")
    assert [each.node for each in await storage.report("a", at=8, is_heard=True)] == ["a"]


async def test_what_a_server_wrote_since_is_found(storage: MongoStorage) -> None:
    await storage.append([message_change("room", 1), message_change("room", 2, seq=2)])
    first = (await storage.changes_after("room", 0, 1))[0]
    assert sorted(await storage.written_by(first.node, first.at)) == [("room", 1), ("room", 2)]
    assert await storage.written_by(first.node, first.at + 1_000_000) == []
    assert await storage.written_by("another", 0) == []


async def test_a_server_alone_and_servers_of_a_cluster_do_not_share_a_database(
    url: str, storage: MongoStorage
) -> None:
    joined = MongoStorage(url, timeout_s=10, lease_s=1, is_alone=False)
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


async def test_servers_that_are_dead_keep_nobody_out(url: str, storage: MongoStorage) -> None:
    await storage.report("dead", at=1, is_heard=True)
    await storage.close()
    alone = MongoStorage(url, timeout_s=10, lease_s=0.1)
    await alone.open()
    assert [each.node for each in await alone.report("own", at=1, is_heard=True)] == ["own"]
    await alone.close()
