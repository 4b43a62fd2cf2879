"""What becomes of people and calls while Redis is away, and when it comes back, full or empty."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest

from server.ephemeral.base import Typing
from server.ephemeral.redis import RedisEphemeral, Times
from tests.ephemeral_worlds import RedisWorld
from tests.harness import PATIENCE_S
from tests.redis_server import RedisServer

pytestmark = pytest.mark.real_services

GRACE_S = 5.0
TTL_S = 6.0
TIMEOUT_S = 0.5
# Nothing but what a test does itself.
SLOW = Times(renew_s=3600, probe_s=3600)


@pytest.fixture
async def world(own_redis: RedisServer) -> AsyncIterator[RedisWorld]:
    made = RedisWorld(own_redis.url, times=SLOW)
    yield made
    own_redis.thaw()
    await made.close()


async def start(world: RedisWorld) -> tuple[RedisEphemeral, RedisEphemeral]:
    """Two servers that declare people gone."""
    servers = (await world.open(timeout_s=TIMEOUT_S), await world.open(timeout_s=TIMEOUT_S))
    await world.settle()
    return servers


async def reap(*servers: RedisEphemeral) -> list[tuple[str, bool]]:
    changes = [change for server in servers for change in await server.reap()]
    return sorted((change.user_id, change.is_online) for change in changes)


Failure = Callable[[RedisServer], None]


@pytest.mark.parametrize(
    ("fail", "mend"),
    [(RedisServer.kill, RedisServer.start), (RedisServer.freeze, RedisServer.thaw)],
    ids=["killed", "frozen"],
)
async def test_people_come_and_go_while_redis_is_away_and_each_is_told_of_after_it(
    world: RedisWorld, own_redis: RedisServer, fail: Failure, mend: Failure
) -> None:
    here, there = await start(world)
    for user_id in ("stays", "leaves", "moves", "returns"):
        assert (await here.arrive(user_id, user_id)).change is not None
    await there.arrive("eva", "eva")
    fail(own_redis)
    for user_id in ("leaves", "moves", "returns"):
        await here.leave(user_id, user_id, GRACE_S)
    assert (await there.arrive("moves", "moves")).change is None
    assert (await here.arrive("returns", "returns")).change is None
    assert (await here.arrive("comes", "1", 1)).surplus == []
    assert (await here.arrive("comes", "2", 1)).surplus == ["1"]
    await here.arrive("visits", "visits")
    await here.leave("visits", "visits", GRACE_S)
    assert await here.online({"stays", "leaves", "comes", "visits", "eva"}) == {
        "stays",
        "leaves",
        "comes",
        "visits",
    }
    mend(own_redis)
    for server in (here, there):
        await server.beat()
    assert set(await reap(here, there)) <= {("comes", True), ("moves", True)}
    await world.settle()
    await world.elapse(2 * GRACE_S)
    assert await reap(here, there) == [("leaves", False), ("visits", False)]
    online = {"stays", "moves", "returns", "comes", "eva"}
    assert await here.online({*online, "leaves", "visits"}) == online
    await world.elapse(world.times.lease_s)
    assert await reap(here, there) == []


@pytest.mark.parametrize("fail", [RedisServer.kill, RedisServer.freeze], ids=["killed", "frozen"])
async def test_no_call_fails_or_waits_for_long_while_redis_is_away(
    world: RedisWorld, own_redis: RedisServer, fail: Failure
) -> None:
    here, _ = await start(world)
    typing = Typing("room", "juan")
    await here.start_typing(typing, "1", TTL_S, 5)
    await here.arrive("juan", "1")
    fail(own_redis)
    began = time.monotonic()
    for number in range(100):
        await here.arrive("ana", f"{number}")
        await here.leave("ana", f"{number}", GRACE_S)
        assert not await here.start_typing(typing, "1", TTL_S, 5)
        assert not await here.stop_typing(typing)
        assert await here.stop_typing_from("1") == []
        assert await here.reap_typing() == []
        assert await here.reap() == []
        assert await here.online({"juan", "eva"}) == {"juan"}
        assert await here.claim("message", 60) is (number == 0)
    assert time.monotonic() - began < 5 * TIMEOUT_S
    assert len(here._own._left) == 1


async def test_a_server_that_starts_while_redis_is_away_is_heard_of_when_it_is_there(
    world: RedisWorld, own_redis: RedisServer
) -> None:
    own_redis.kill()
    here = await world.open(timeout_s=TIMEOUT_S)
    assert (await here.arrive("juan", "1")).change is None
    await here.beat()
    own_redis.start()
    await here.beat()
    assert await reap(here) == [("juan", True)]
    there = await world.open(timeout_s=TIMEOUT_S)
    assert await there.online({"juan"}) == {"juan"}


async def test_what_redis_does_late_leaves_no_ghost_and_loses_nobody(
    world: RedisWorld, own_redis: RedisServer
) -> None:
    """It reads what it was sent while it was frozen, connection by connection, in an order of its own."""
    here, there = await start(world)
    await here.arrive("juan", "1")
    for _ in range(5):
        own_redis.freeze()
        await here.leave("juan", "1", 0)
        await here.arrive("juan", "1")
        await here.arrive("ana", "2")
        await here.beat()
        await here.leave("ana", "2", 0)
        own_redis.thaw()
        await here.beat()
        await there.beat()
        await world.settle()
        await here.reap()
    await world.elapse(2 * world.times.lease_s)
    await reap(here, there)
    assert await there.online({"juan", "ana"}) == {"juan"}
    assert await reap(here, there) == []
    await here.leave("juan", "1", 0)
    await world.elapse(1)
    assert await reap(here) == [("juan", False)]
    assert {key for key in world.stored() if "version" not in key} <= {"beaten", "nodes", "untold"}


async def test_a_server_that_was_cut_off_gives_up_its_old_name_at_once(world: RedisWorld) -> None:
    """Else what Redis does late under that name would hold for as long as its lease."""
    here, _ = await start(world)
    await here.arrive("juan", "1")
    old = here._node
    world.redis.client_kill_filter(_type="normal", skipme=True)
    await here.leave("juan", "1", GRACE_S)
    for _ in range(2):
        await here.beat()
    assert here._node != old
    assert world.redis.zscore(f"{world.prefix}nodes", old) is None
    await world.elapse(GRACE_S)
    assert await reap(here) == [("juan", False)]
    assert f"held:{old}" not in world.stored()


async def test_a_server_comes_back_by_itself(own_redis: RedisServer) -> None:
    world = RedisWorld(own_redis.url, times=Times(renew_s=0.05, probe_s=0.05))
    here, there = await world.open(timeout_s=TIMEOUT_S), await world.open(timeout_s=TIMEOUT_S)
    await here.arrive("juan", "1")
    for fail, mend in ((own_redis.kill, own_redis.start), (own_redis.flush, lambda: None)):
        fail()
        mend()
        async with asyncio.timeout(PATIENCE_S):
            while await there.online({"juan"}) != {"juan"}:  # noqa: ASYNC110 - Redis gives no sign
                await asyncio.sleep(0.02)
    await world.close()


async def test_a_pause_shorter_than_the_time_out_is_not_noticed(
    world: RedisWorld, own_redis: RedisServer
) -> None:
    here = await world.open(timeout_s=PATIENCE_S)
    own_redis.pause(0.3)
    assert (await here.arrive("juan", "1")).change is not None
    assert here._line.is_open


async def test_a_beat_that_goes_wrong_is_not_the_last(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = RedisWorld(own_redis.url, times=Times(renew_s=0.01, probe_s=0.01))
    here = await world.open()
    beat, beaten = here.beat, asyncio.Event()

    async def once() -> None:
        async def again() -> None:
            await beat()
            beaten.set()

        monkeypatch.setattr(here, "beat", again)
        raise ValueError("a bug")

    monkeypatch.setattr(here, "beat", once)
    async with asyncio.timeout(PATIENCE_S):
        await beaten.wait()
    assert "ephemeral.beat_failed" in caplog.text
    await world.close()


async def test_who_was_named_to_be_gone_is_not_named_again_when_redis_has_lost_it(world: RedisWorld) -> None:
    """Whichever server they were named to."""
    here, there = await start(world)
    for user_id in ("juan", "ana"):
        await here.arrive(user_id, user_id)
        await here.leave(user_id, user_id, GRACE_S)
        await world.elapse(GRACE_S)
        first, second = (here, there) if user_id == "juan" else (there, here)
        assert await reap(first, second) == [(user_id, False)]
        world.forget()
        for server in (here, there):
            await server.beat()
        await world.settle()
        assert await reap(here, there) == []


async def test_who_was_named_to_be_gone_is_not_named_again_when_their_server_was_cut_off(
    world: RedisWorld,
) -> None:
    here, there = await start(world)
    await here.arrive("juan", "1")
    await here.leave("juan", "1", GRACE_S)
    await world.elapse(GRACE_S)
    assert await reap(there) == [("juan", False)]
    world.redis.client_kill_filter(_type="normal", skipme=True)
    for _ in range(2):
        await here.beat()
        await there.beat()
    assert await reap(here, there) == []


async def test_who_has_just_left_several_servers_when_redis_loses_it_is_gone_once(world: RedisWorld) -> None:
    here, there = await start(world)
    for server in (here, there):
        await server.arrive("juan", server._node)
        await server.leave("juan", server._node, GRACE_S)
    await world.elapse(1)
    world.forget()
    for server in (here, there):
        await server.beat()
    await world.elapse(2 * GRACE_S)
    assert await reap(here, there, here, there) == [("juan", False)]
