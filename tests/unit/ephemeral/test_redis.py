"""Who is online on several servers; the guarantees for one are in tests/contract/test_ephemeral.py."""

import asyncio

import pytest

from server.ephemeral.base import Ephemeral, StatusChange, Typing
from server.ephemeral.redis import RedisEphemeral
from server.ephemeral.redis_scripts import ARRIVE, LEAVE
from tests.ephemeral_worlds import RedisWorld
from tests.redis_server import RedisServer

pytestmark = pytest.mark.real_services

GRACE_S = 5.0
TTL_S = 6.0
SLOWEST_OFFLINE_S = 30
# Keys of nobody: the leases, the last renewal, and the versions of those who came or went of late.
LASTING = {"nodes", "beaten", "calm"}


def named(changes: list[StatusChange]) -> list[tuple[str, bool]]:
    """Who is what now."""
    return sorted((change.user_id, change.is_online) for change in changes)


async def reap(*servers: Ephemeral) -> list[tuple[str, bool]]:
    """Who is named, by each of these in turn."""
    return [each for server in servers for each in named(await server.reap())]


async def arrive(server: RedisEphemeral, user_id: str, connection_id: str) -> StatusChange | None:
    """A connection of which others have been told."""
    arrival = await server.arrive(user_id, connection_id)
    assert not [change for change in await server.reap() if change.is_online]
    return arrival.change


async def test_a_person_on_two_servers_is_one_person(
    world: RedisWorld, here: RedisEphemeral, there: RedisEphemeral
) -> None:
    assert (await here.arrive("juan", "1")).change is not None
    assert (await there.arrive("juan", "2")).change is None
    assert (await there.arrive("ana", "3")).change is not None
    assert await here.online({"juan", "ana"}) == {"juan", "ana"}
    await here.leave("juan", "1", GRACE_S)
    await world.elapse(2 * GRACE_S)
    assert await reap(here, there) == []
    assert await here.online({"juan"}) == {"juan"}
    await there.leave("juan", "2", GRACE_S)
    await world.elapse(GRACE_S)
    assert await reap(here, there) == [("juan", False)]


@pytest.mark.parametrize("leaves", [True, False])
async def test_who_arrives_at_another_server_before_having_left_this_one_stays_online(
    world: RedisWorld, here: RedisEphemeral, there: RedisEphemeral, *, leaves: bool
) -> None:
    """Recovered elsewhere a connection keeps its id."""
    await arrive(here, "juan", "1")
    assert (await there.arrive("juan", "1")).change is None
    if leaves:
        await here.leave("juan", "1", GRACE_S)
    else:
        await world.die(here)
    await world.elapse(SLOWEST_OFFLINE_S)
    assert await reap(*world._living) == []
    assert await there.online({"juan"}) == {"juan"}
    await there.leave("juan", "1", GRACE_S)
    await world.elapse(GRACE_S)
    assert await reap(there) == [("juan", False)]


async def test_people_of_a_server_that_died_are_offline_unless_they_are_elsewhere_too(
    world: RedisWorld, here: RedisEphemeral, there: RedisEphemeral
) -> None:
    third = await world.open()
    for user_id in ("juan", "ana", "eva"):
        await arrive(here, user_id, user_id)
    await here.leave("eva", "eva", 2)
    await there.arrive("ana", "ana 2")
    await world.die(here)
    told, after_s = [], 0
    while after_s < SLOWEST_OFFLINE_S:
        told += [(after_s, change) for change in await reap(there, third)]
        await world.elapse(1)
        after_s += 1
    assert [change for _, change in told] == [("eva", False), ("juan", False)]
    assert told[0][0] == 2
    assert world.times.lease_s - world.times.renew_s <= told[1][0] <= world.times.lease_s + 1
    assert await there.online({"juan", "ana", "eva"}) == {"ana"}


async def test_of_a_server_that_died_with_many_people_each_is_named_once(
    world: RedisWorld, here: RedisEphemeral, there: RedisEphemeral
) -> None:
    """Redis is held up by a part of them at a time."""
    people = [f"user-{number}" for number in range(2_500)]
    await asyncio.gather(*(here.arrive(user_id, user_id) for user_id in people))
    assert await reap(here) == []
    await world.die(here)
    await world.elapse(world.times.lease_s)
    parts = [await reap(there) for _ in range(5)]
    assert max(map(len, parts)) <= 1_100
    assert sorted(change for part in parts for change in part) == sorted((each, False) for each in people)
    assert await there.online(set(people)) == set()


async def test_after_a_pause_of_redis_nobody_is_declared_gone_who_is_there(
    world: RedisWorld, here: RedisEphemeral, there: RedisEphemeral
) -> None:
    """Whichever server is the first to come back, and although the other one takes a while."""
    dead = await world.open()
    for server, user_id in ((here, "juan"), (there, "ana"), (dead, "eva")):
        await arrive(server, user_id, "1")
    await world.die(dead)
    world.make_older(2 * world.times.lease_s)
    assert await reap(here) == []
    await here.beat()
    assert await reap(here) == []
    world.make_older(world.times.settle_s - 0.5)
    assert await reap(here) == []
    await there.beat()
    await world.elapse(1)
    assert await reap(here, there) == []
    await world.elapse(world.times.lease_s)
    assert await reap(here, there) == [("eva", False)]
    assert await here.online({"juan", "ana", "eva"}) == {"juan", "ana"}


async def test_after_redis_lost_everything_each_puts_back_its_own_and_nobody_is_told(
    world: RedisWorld, here: RedisEphemeral, there: RedisEphemeral
) -> None:
    """But of those who were about to go."""
    await here.arrive("juan", "1")
    await there.arrive("ana", "2")
    await there.arrive("juan", "3")
    await here.arrive("eva", "4")
    await here.leave("eva", "4", GRACE_S)
    world.forget()
    assert await reap(here, there) == []
    await here.beat()
    assert await reap(here, there) == []
    await there.beat()
    await world.elapse(2 * GRACE_S)
    assert await reap(here, there) == [("eva", False)]
    assert await here.online({"juan", "ana"}) == await there.online({"juan", "ana"}) == {"juan", "ana"}
    await here.leave("juan", "1", GRACE_S)
    await there.leave("ana", "2", GRACE_S)
    await world.elapse(GRACE_S)
    assert await reap(here, there) == [("ana", False)]


async def test_who_comes_and_goes_before_a_server_has_noticed_the_loss_is_told_of(
    world: RedisWorld, here: RedisEphemeral, there: RedisEphemeral
) -> None:
    for user_id in ("juan", "ana"):
        await here.arrive(user_id, "1")
    world.forget()
    assert (await here.arrive("eva", "1")).change is None
    await here.leave("juan", "1", GRACE_S)
    await world.elapse(1)
    assert await reap(here, there) == [("eva", True)]
    assert await there.online({"eva", "ana"}) == {"eva", "ana"}
    await world.elapse(2 * GRACE_S)
    assert await reap(here, there) == [("juan", False)]


async def test_people_who_were_declared_gone_while_their_server_was_held_up_are_told_to_be_back(
    world: RedisWorld, here: RedisEphemeral, there: RedisEphemeral
) -> None:
    first = await arrive(here, "juan", "1")
    await arrive(there, "ana", "2")
    world._living.remove(here)
    await world.elapse(world.times.lease_s)
    (gone,) = await there.reap()
    await here.beat()
    (back,) = await here.reap()
    assert await reap(there) == []
    assert first is not None
    assert first.version < gone.version < back.version
    assert [(change.user_id, change.is_online) for change in (gone, back)] == [
        ("juan", False),
        ("juan", True),
    ]
    assert await there.online({"juan"}) == {"juan"}
    await here.close()


async def test_commands_that_come_late_change_nothing(world: RedisWorld, here: RedisEphemeral) -> None:
    """After a pause Redis does what it was sent before, in whatever order it reads it."""
    await here.arrive("juan", "1")
    old = here._node
    world.redis.delete(f"{world.prefix}nodes")
    await here.beat()
    assert here._node != old
    assert await here._send(ARRIVE, old, f"{old}|9|2", "ana", 0, 0) is None
    assert await here._send(LEAVE, old, f"{old}|1|1", 0) == 1
    await world.elapse(SLOWEST_OFFLINE_S)
    assert await reap(here) == []
    assert await here._send(LEAVE, old, f"{old}|1|1", 0) == 0
    assert await here.online({"juan", "ana"}) == {"juan"}
    assert world.stored() == ["beaten", f"held:{here._node}", "nodes", "user:juan", "version:juan"]


async def test_what_a_server_was_named_before_it_died_another_one_is_named_again(
    world: RedisWorld, here: RedisEphemeral, there: RedisEphemeral
) -> None:
    for user_id in ("juan", "ana"):
        await here.arrive(user_id, "1")
        await here.leave(user_id, "1", 0)
        await world.elapse(1)
        if user_id == "juan":
            assert await reap(here, here) == [("juan", False)]
    (anas,) = await here.reap()
    await world.die(here)
    assert await reap(there) == []
    await world.elapse(world.times.lease_s)
    (again,) = await there.reap()
    assert (again.user_id, again.version) == ("ana", anas.version)
    assert await reap(there) == []


async def test_a_clock_that_is_set_back_gives_no_lower_version(
    world: RedisWorld, here: RedisEphemeral
) -> None:
    """As when another Redis takes over."""
    ahead = (1 << 52) + 1
    world.redis.set(f"{world.prefix}version:juan", ahead)
    change = (await here.arrive("juan", "1")).change
    assert change is not None
    assert change.version == ahead + 1


async def test_an_arrival_that_nobody_waits_for_any_more_is_told_of(
    world: RedisWorld, here: RedisEphemeral, there: RedisEphemeral
) -> None:
    arriving = asyncio.create_task(here.arrive("juan", "1"))
    await asyncio.sleep(0)
    arriving.cancel()
    await asyncio.gather(arriving, return_exceptions=True)
    await here.leave("juan", "1", GRACE_S)
    assert (await here.arrive("juan", "2")).change is None
    assert await reap(there, here) == []
    await world.elapse(world.times.lease_s)
    assert await reap(there, here) == [("juan", True)]
    await world.elapse(SLOWEST_OFFLINE_S)
    assert await reap(there, here) == []


async def test_who_came_to_a_server_that_died_before_it_told_of_them_is_told_of_by_another(
    world: RedisWorld, here: RedisEphemeral, there: RedisEphemeral
) -> None:
    change = (await here.arrive("juan", "1")).change
    await world.die(here)
    assert (await there.arrive("juan", "2")).change is None
    assert await there.reap() == []
    await world.elapse(world.times.lease_s)
    assert await there.reap() == [change]
    assert await there.reap() == []


async def test_a_call_is_one_command(own_redis: RedisServer) -> None:
    world = RedisWorld(own_redis.url)
    await world.start()
    here = world.ephemeral
    await here.arrive("juan", "1")
    before = _commands(world)
    await here.arrive("juan", "2", 20)
    await here.leave("juan", "2", GRACE_S)
    assert await here.stop_typing_from("2") == []
    after = _commands(world)
    await world.close()
    assert {name: count - before.get(name, 0) for name, count in after.items()}.get("evalsha") == 2
    assert after.keys() - before.keys() <= {"info"}


def _commands(world: RedisWorld) -> dict[str, int]:
    """How many of each were sent by clients, not by scripts."""
    sent = {"evalsha", "eval", "script|load", "ping", "hello", "client|setinfo", "multi", "exec", "get"}
    stats = world.redis.info("commandstats")
    assert isinstance(stats, dict)
    names = {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()}
    return {name: calls for name, calls in names.items() if name in sent}


async def test_an_arrival_while_the_reaper_is_asked_is_still_to_be_told_of(
    world: RedisWorld, here: RedisEphemeral, there: RedisEphemeral
) -> None:
    """What is acknowledged is what was named before the call."""
    reaping = asyncio.create_task(here.reap())
    await asyncio.sleep(0)
    change = (await here.arrive("juan", "1")).change
    await reaping
    await world.die(here)
    await there.arrive("juan", "2")
    await world.elapse(world.times.lease_s)
    assert await there.reap() == [change]


async def test_nothing_is_kept_of_those_who_are_gone(
    world: RedisWorld, here: RedisEphemeral, there: RedisEphemeral
) -> None:
    for server in (here, there):
        for user_id in ("juan", "ana"):
            await server.arrive(user_id, user_id)
            await server.start_typing(Typing("room", user_id), user_id, TTL_S, 5)
        await server.leave("juan", "juan", GRACE_S)
    await world.die(there)
    await here.leave("ana", "ana", GRACE_S)
    await world.elapse(2 * SLOWEST_OFFLINE_S)
    assert await reap(here, here) == [("ana", False), ("juan", False)]
    await here.reap_typing()
    lasting = set(world.stored()) - LASTING
    assert lasting == {"version:ana", "version:juan"}
    assert all(world.redis.pttl(world.prefix + key) > 0 for key in lasting)
    assert world.redis.zcard(f"{world.prefix}nodes") == 1
    await here.stop_typing_from("juan")
    await here.stop_typing_from("ana")
    assert (here._own._people, here._own._left, here._typed) == ({}, {}, {})
