"""Servers whose Redis is the one that Sentinels name."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.cluster.site import Cluster, becomes, running_cluster
from tests.fault_proxy import FaultProxy
from tests.harness import PATIENCE_S, Client, caught_up, connected, site_token
from tests.redis_sentinel import ReplicatedRedis, replicated_redis
from tests.redis_server import RedisServer, find_free_port

pytestmark = pytest.mark.real_services


@asynccontextmanager
async def dead(_redis: ReplicatedRedis) -> AsyncIterator[int]:
    """A port where nobody is."""
    yield find_free_port()


@asynccontextmanager
async def silent(redis: ReplicatedRedis) -> AsyncIterator[int]:
    """The port of a Sentinel that takes what is asked, and never answers."""
    async with FaultProxy(redis.sentinel_port, choose=lambda: "blackhole").listening() as line:
        yield line.port


class Two:
    """Two people at two servers, in one room."""

    def __init__(self, ana: Client, juan: Client, room_id: str) -> None:
        self._ana = ana
        self._juan = juan
        self._room_id = room_id

    async def meet(self) -> None:
        """Each hears what the other says, and sees that the other is online."""
        await caught_up(self._ana, self._room_id, self._juan)
        await caught_up(self._juan, self._room_id, self._ana)
        for each in (self._ana, self._juan):
            async with asyncio.timeout(PATIENCE_S):
                while set((await each.call("sync"))["online"]) != {"ana", "juan"}:  # noqa: ASYNC110 - it tells who asks
                    await asyncio.sleep(0.1)

    def require_once(self) -> None:
        """Make sure that each has heard everything once, in order."""
        for each in (self._ana, self._juan):
            revs = [told["message"]["rev"] for told in each.received("chat_message")]
            assert revs == list(range(1, len(revs) + 1))


@asynccontextmanager
async def two(cluster: Cluster) -> AsyncIterator[Two]:
    one, other = cluster.nodes
    async with (
        connected(one.url, site_token("ana")) as (ana,),
        connected(other.url, site_token("juan")) as (juan,),
    ):
        group = {"kind": "group", "name": "Tapas", "member_ids": ["juan"]}
        room_id = (await ana.call("create_room", group))["room"]["id"]
        await juan.heard("room_joined")
        yield Two(ana, juan, room_id)


def scripts_at(redis: RedisServer) -> int:
    """How many scripts its clients have had it run: what a primary says to a replica is none."""
    with redis.client() as client:
        stats = client.info("commandstats")
        assert isinstance(stats, dict)
        return sum(int(stats[name]["calls"]) for name in ("cmdstat_eval", "cmdstat_evalsha") if name in stats)


async def left_alone(redis: RedisServer) -> None:
    """Return once no server is connected to it: what it was sent before it has done."""
    with redis.client() as client:
        async with asyncio.timeout(PATIENCE_S):
            while len(_others(await asyncio.to_thread(client.client_list, _type="normal"))) > 1:  # noqa: ASYNC110 - it tells who asks
                await asyncio.sleep(0.05)


def _others(clients: list[dict[str, str]]) -> list[dict[str, str]]:
    return [each for each in clients if not each["name"].startswith("sentinel")]


@pytest.mark.parametrize(
    ("first", "fail", "come_back"),
    [(dead, RedisServer.kill, RedisServer.start), (silent, RedisServer.freeze, RedisServer.thaw)],
    ids=["dead sentinel, killed primary", "silent sentinel, frozen primary"],
)
async def test_servers_follow_the_primary_and_never_write_to_one_that_was(
    tmp_path: Path,
    first: Callable[[ReplicatedRedis], AbstractAsyncContextManager[int]],
    fail: Callable[[RedisServer], None],
    come_back: Callable[[RedisServer], None],
) -> None:
    """Though the first Sentinel that they are named does not answer."""
    async with replicated_redis(tmp_path / "redis") as redis, first(redis) as port:
        env = {"TERTULIA_CLUSTER__URL": redis.url_of(port, redis.sentinel_port)}
        async with running_cluster(tmp_path, 2, env, redis=redis.primary) as cluster, two(cluster) as people:
            await people.meet()
            assert scripts_at(redis.primary) > 0
            fail(redis.primary)
            await redis.promoted()
            for node in cluster.nodes:
                await becomes(node, 200, ok=True, reasons=[])
            await people.meet()
            await asyncio.to_thread(come_back, redis.primary)
            await left_alone(redis.primary)
            before = scripts_at(redis.primary)
            await people.meet()
            await redis.demoted()
            await people.meet()
            assert scripts_at(redis.primary) == before
            for node in cluster.nodes:
                await becomes(node, 200, ok=True, reasons=[])
            people.require_once()


async def test_servers_follow_the_primary_by_tls(tmp_path: Path) -> None:
    authority = await asyncio.to_thread(Authority, tmp_path / "authority")
    async with replicated_redis(tmp_path / "redis", authority=authority) as redis:
        env = {"TERTULIA_CLUSTER__URL": redis.url, "SSL_CERT_FILE": str(authority.trusted)}
        async with running_cluster(tmp_path, 2, env, redis=redis.primary) as cluster, two(cluster) as people:
            await people.meet()
            redis.primary.kill()
            await redis.promoted()
            for node in cluster.nodes:
                await becomes(node, 200, ok=True, reasons=[])
            await people.meet()
            people.require_once()
            stranger = await asyncio.to_thread(Authority, tmp_path / "stranger")
            with pytest.raises(AssertionError, match="no Sentinel of the URL names a primary"):
                await cluster.add({"SSL_CERT_FILE": str(stranger.trusted)})
