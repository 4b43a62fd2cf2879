"""Nothing is lost, doubled or told out of order when parts of a cluster fail under load."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.cluster.crowd import Crowd, gathered
from tests.cluster.site import Cluster, running_cluster
from tests.fault_proxy import FAULTS, Fault, FaultProxy, no_fault
from tests.redis_sentinel import replicated_redis

MEMBERS, WRITERS = 40, 8
MANY_MEMBERS, MANY_WRITERS = 200, 20
BEFORE_S, AFTER_S = 1.5, 2.0
# The store that stands in takes about a tenth of a second for each of those who come back, who may be more
# than a hundred at once. Where their room did not count as large it would take minutes.
FOR_MANY = {
    "TERTULIA_PRESENCE__MAX_ROOM_SIZE": "50",
    "TERTULIA_DATABASE__TIMEOUT_S": "30",
    "TERTULIA_REALTIME__CONNECT_TIMEOUT_S": "60",
    "TERTULIA_REALTIME__EVENT_DEADLINE_S": "40",
}
ANSWER_FOR_MANY_S = 45.0


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running_cluster(tmp_path, 2) as made:
        yield made


async def nothing(_cluster: Cluster) -> None:
    """Peace."""


async def a_server_is_killed(cluster: Cluster) -> None:
    await cluster.kill(cluster.nodes[0])


async def a_server_is_stopped(cluster: Cluster) -> None:
    assert await cluster.stop(cluster.nodes[0]) == 0


async def a_server_comes_late(cluster: Cluster) -> None:
    await cluster.add()
    await cluster.kill(cluster.nodes[0])


async def redis_is_killed(cluster: Cluster) -> None:
    cluster.redis.kill()
    await asyncio.sleep(3)
    await asyncio.to_thread(cluster.redis.start)


async def redis_stops_answering(cluster: Cluster) -> None:
    cluster.redis.freeze()
    await asyncio.sleep(10)
    cluster.redis.thaw()


async def redis_is_flushed(cluster: Cluster) -> None:
    await asyncio.to_thread(cluster.redis.flush)


async def the_store_is_killed(cluster: Cluster) -> None:
    await asyncio.to_thread(cluster.mongodb.kill)
    await asyncio.sleep(2)
    await asyncio.to_thread(cluster.mongodb.start)


async def redis_and_a_server_are_killed(cluster: Cluster) -> None:
    cluster.redis.kill()
    await cluster.kill(cluster.nodes[0])
    await asyncio.sleep(1)
    await asyncio.to_thread(cluster.redis.start)


SCENARIOS: list[Callable[[Cluster], Awaitable[None]]] = [
    nothing,
    a_server_comes_late,
    redis_is_killed,
    redis_stops_answering,
    redis_is_flushed,
    the_store_is_killed,
    redis_and_a_server_are_killed,
]


@pytest.mark.parametrize("fail", SCENARIOS, ids=lambda each: each.__name__.replace("_", " "))
async def test_nothing_is_lost_or_doubled_when(
    cluster: Cluster, fail: Callable[[Cluster], Awaitable[None]]
) -> None:
    async with gathered(cluster, MEMBERS, WRITERS) as crowd:
        await crowd_lives_through(fail, cluster, crowd)
    for node in cluster.nodes:
        assert await node.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    "end", [a_server_is_killed, a_server_is_stopped], ids=lambda each: each.__name__.replace("_", " ")
)
async def test_nothing_is_lost_or_doubled_for_many_when(
    tmp_path: Path, end: Callable[[Cluster], Awaitable[None]]
) -> None:
    async with (
        running_cluster(tmp_path, 2, FOR_MANY) as cluster,
        gathered(cluster, MANY_MEMBERS, MANY_WRITERS, ANSWER_FOR_MANY_S) as crowd,
    ):
        await crowd_lives_through(end, cluster, crowd)


async def crowd_lives_through(
    fail: Callable[[Cluster], Awaitable[None]], cluster: Cluster, crowd: Crowd
) -> None:
    """Something fails while they talk and a fifth of them is cut off."""
    async with crowd.talking():
        await asyncio.sleep(BEFORE_S)
        for member in crowd.members[::5]:
            member.drop()
        await fail(cluster)
        await asyncio.sleep(AFTER_S)
    await crowd.check(fail.__name__.replace("_", " "))


def seldom() -> Fault:
    """What befalls a request on a line that fails now and then."""
    return random.choices(["none", *FAULTS], [100 - len(FAULTS), *[1] * len(FAULTS)])[0]


async def test_nothing_is_lost_or_doubled_behind_lines_that_fail(tmp_path: Path) -> None:
    """To Redis and to the store: late, cut off on the way there or back, or swallowed."""
    async with running_cluster(tmp_path, 1) as cluster:
        to_redis, to_store = FaultProxy(cluster.redis.port), FaultProxy(cluster.mongodb.port)
        async with to_redis.listening(), to_store.listening():
            lines = {
                "TERTULIA_CLUSTER__URL": f"redis://127.0.0.1:{to_redis.port}/0",
                "TERTULIA_DATABASE__URL": cluster.mongodb.url("cluster", port=to_store.port),
                "TERTULIA_DATABASE__TIMEOUT_S": "3",
            }
            for _ in range(2):
                await cluster.add(lines)
            await cluster.stop(cluster.nodes[0])
            async with gathered(cluster, MEMBERS // 2, WRITERS) as crowd:
                async with crowd.talking():
                    to_redis.choose = to_store.choose = seldom
                    await asyncio.sleep(10)
                    to_redis.choose = to_store.choose = no_fault
                    for line in (to_redis, to_store):
                        line.cut()
                await crowd.check("lines to Redis and the store fail")
            assert all(to_redis.met[fault] + to_store.met[fault] for fault in FAULTS)


async def test_nothing_is_lost_or_doubled_when_a_replica_that_lags_is_promoted(tmp_path: Path) -> None:
    """Members were told what the new primary never had; some of them come back just then."""
    async with replicated_redis(tmp_path / "redis") as redis:
        env = {"TERTULIA_CLUSTER__URL": redis.url}
        async with (
            running_cluster(tmp_path, 2, env, redis=redis.primary) as cluster,
            gathered(cluster, MEMBERS, WRITERS) as crowd,
        ):
            async with crowd.talking():
                await redis.lag()
                known = len(crowd.members[0].known)
                await crowd.members[0].knows(known + WRITERS)
                for member in crowd.members[::5]:
                    member.drop()
                redis.primary.kill()
                await redis.promoted()
                for member in crowd.members[1::5]:
                    member.drop()
                await asyncio.sleep(AFTER_S)
            await crowd.check("a replica that lags is promoted")
