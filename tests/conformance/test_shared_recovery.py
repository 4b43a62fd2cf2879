"""A connection goes on at another server, over a real Redis."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from server.realtime.server import Options, RecoveryOptions
from tests.conformance.cluster import ClubMember, Cluster, Node, away, cluster, crash
from tests.conformance.wire import eventually
from tests.fault_proxy import FaultProxy, no_fault
from tests.redis_server import make_redis, running_redis, shared_redis_url


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Cluster, Node, Node]]:
    async with cluster(await asyncio.to_thread(shared_redis_url)) as (made, (one, other)):
        yield made, one, other


Pair = tuple[Cluster, Node, Node]


async def test_what_was_missed_comes_once_in_order_at_another_server(pair: Pair) -> None:
    made, one, other = pair
    member = ClubMember(one.site)
    await member.come()
    await one.say()
    await other.tell("hello")
    await other.settled()
    assert await member.hear_until("hello") == [1, "hello"]
    for here, there in ((one, other), (other, one), (one, other)):
        member.drop()
        await here.say(count=2)
        await there.tell("missed")
        await there.say(count=2)
        assert await member.at(there).come()
        await here.say()
        await member.hear_until(len(made.log.emits["r"]))
    expected = [1, "hello"]
    for turn in range(3):
        first = 2 + 5 * turn
        expected += [*range(first, first + 2), "missed", *range(first + 2, first + 5)]
    assert member.data() == expected


async def test_a_connection_that_its_server_believes_alive_is_taken_over(pair: Pair) -> None:
    made, one, other = pair
    member = ClubMember(one.site)
    await member.come()
    await one.say()
    await member.hear_until(1)
    assert await member.at(other).come()
    assert await made.club.until("disconnected") == [("transport close",)]
    await eventually(lambda: not one.site.server.connection_count)
    await one.say()
    assert await member.hear_until(2) == [1, 2]


async def test_who_never_heard_anything_is_recovered(pair: Pair) -> None:
    made, one, other = pair
    member = ClubMember(one.site)
    await away(made, member)
    await one.say(count=2)
    assert await member.at(other).come()
    assert await member.hear_until(2) == [1, 2]


@pytest.mark.parametrize("heard", [0, 2])
async def test_a_connection_of_a_server_that_was_killed_goes_on_at_another(pair: Pair, heard: int) -> None:
    _, one, other = pair
    member = ClubMember(one.site)
    await member.come()
    await one.say(count=2)
    if heard:
        await member.hear_until(2)
    await one.settled()
    await crash(one)
    await other.say(count=2)
    assert await member.at(other).come()
    await other.say()
    assert await member.hear_until(5) == [1, 2, 3, 4, 5]


async def test_who_joined_a_room_in_the_last_moment_of_a_killed_server_begins_anew(pair: Pair) -> None:
    made, one, other = pair
    member = ClubMember(one.site)
    await member.come()
    await one.settled()
    made.club.rooms["ana"]["late"] = "1"
    await crash(one)
    with suppress(AssertionError):  # cut off, or not recovered at once
        assert not await member.at(other).come()
    assert not await member.come()


async def test_who_was_removed_while_away_gets_nothing_of_the_room(pair: Pair) -> None:
    made, one, other = pair
    made.club.rooms["ana"] = {"r": "1", "left": "1", "rejoined": "1"}
    member = ClubMember(one.site)
    await away(made, member)
    for room in ("left", "rejoined"):
        await one.tell("secret", room)
    await one.settled()
    made.club.rooms["ana"] = {"r": "1", "rejoined": "2"}
    await one.say()
    assert await member.at(other).come()
    await one.tell("secret", "left")
    await one.tell("for all", "rejoined")
    assert await member.hear_until("for all") == [1, "for all"]


async def test_what_is_for_one_connection_alone_reaches_it_wherever_it_is(pair: Pair) -> None:
    made, one, other = pair
    member = ClubMember(one.site)
    await member.come()
    connection = one.site.connection(member.sid)
    connection.emit("told", "first")
    assert await member.hear_until("first") == ["first"]
    connection.emit("told", "second")
    member.drop()
    await made.club.until("disconnected")
    assert await member.at(other).come()
    other.site.connection(member.sid).emit("told", "third")
    assert await member.hear_until("third") == ["first", "second", "third"]


def another_owner(member: ClubMember) -> None:
    member.auth["user"] = "juan"


def forged_pid(member: ClubMember) -> None:
    member.pid = "a" * 20


def forged_offset(member: ClubMember) -> None:
    member.offset = f"forged.{1:x}"


def future_offset(member: ClubMember) -> None:
    epoch, _, _ = str(member.offset).rpartition(".")
    member.offset = f"{epoch}.{2**62:x}"


def inexact_offset(member: ClubMember) -> None:
    member.offset = "!"


@pytest.mark.parametrize("forge", [another_owner, forged_pid, forged_offset, future_offset, inexact_offset])
async def test_nobody_goes_on_with_what_is_not_theirs(
    pair: Pair, forge: Callable[[ClubMember], None]
) -> None:
    made, one, other = pair
    member = ClubMember(one.site)
    await member.come()
    await one.say()
    await member.hear_until(1)
    member.drop()
    await made.club.until("disconnected")
    known = member.sid, member.pid, member.offset
    forge(member)
    assert not await member.at(other).come()
    if forge is another_owner:
        member.auth["user"] = "ana"
        member.sid, member.pid, member.offset = known
        assert await member.come()


async def test_what_is_forgotten_anywhere_is_forgotten_everywhere(pair: Pair) -> None:
    made, one, other = pair
    by_sid, by_owner, kept = ClubMember(one.site), ClubMember(one.site, "eva"), ClubMember(one.site, "leo")
    for member in (by_sid, by_owner, kept):
        await away(made, member)
    await one.settled()
    other.site.server.forget("/chat", by_sid.sid)
    other.site.server.forget_away("/chat", "eva")
    await other.settled()
    assert [await member.at(one).come() for member in (by_sid, by_owner, kept)] == [False, False, True]


async def test_of_a_server_that_was_killed_nobody_goes_on_who_was_forgotten_with_those_away(
    pair: Pair,
) -> None:
    _, one, other = pair
    forgotten, kept = ClubMember(one.site), ClubMember(one.site, "eva")
    for member in (forgotten, kept):
        await member.come()
    await one.settled()
    await crash(one)
    other.site.server.forget_away("/chat", "ana")
    await other.settled()
    assert [await member.at(other).come() for member in (forgotten, kept)] == [False, True]


async def test_who_is_away_for_too_long_begins_anew() -> None:
    options = Options(recovery=RecoveryOptions(max_away_s=0.2))
    async with cluster(await asyncio.to_thread(shared_redis_url), options=options) as (made, (one, other)):
        member = ClubMember(one.site)
        await away(made, member)
        await one.settled()
        client, key = other.bus._writing, f"{made.bus_options.name}:away:ana:{member.pid}"
        while await client.exists(key):  # noqa: ASYNC110 - Redis tells nobody
            await asyncio.sleep(0.02)
        assert not await member.at(other).come()


async def test_nobody_recovers_across_the_loss_of_redis() -> None:
    redis = await asyncio.to_thread(make_redis)
    try:
        async with cluster(redis.url) as (made, (one, other)):
            member, staying = ClubMember(one.site), ClubMember(one.site, "eva")
            await staying.come()
            await away(made, member)
            await one.say()
            await staying.hear_until(1)
            await asyncio.to_thread(redis.flush)
            await other.say()
            await staying.hear_until(2)
            await one.settled()
            assert not await member.at(other).come()
            await staying.at(other).come()
            await one.say()
            for each in (member, staying):
                await each.hear_until(3)
    finally:
        await asyncio.to_thread(redis.stop)


async def test_nobody_goes_on_from_what_a_promoted_replica_lacks(tmp_path: Path) -> None:
    """Else it would come twice. The server that told it is dead, and the other one was deaf to it."""
    async with AsyncExitStack() as stack:
        primary = stack.enter_context(running_redis(tmp_path / "primary"))
        copying, here, there = [
            await stack.enter_async_context(FaultProxy(primary.port).listening()) for _ in range(3)
        ]
        replica = stack.enter_context(running_redis(tmp_path / "replica", replica_of=copying.port))
        made = Cluster(f"redis://127.0.0.1:{here.port}", Options())
        one = await stack.enter_async_context(made.node())
        made.url = f"redis://127.0.0.1:{there.port}"
        other = await stack.enter_async_context(made.node())
        member = ClubMember(one.site)
        await member.come()
        await one.say()
        await member.hear_until(1)
        await one.settled()
        while not await asyncio.to_thread(replica.holds, f"{made.bus_options.name}:last:gapless:r"):  # noqa: ASYNC110 - Redis tells nobody
            await asyncio.sleep(0.02)
        copying.choose = there.choose = lambda: "blackhole"
        await eventually(lambda: copying.met["blackhole"] and there.met["blackhole"])
        await one.say(count=2)
        await member.hear_until(3)
        member.drop()
        await crash(one)
        await asyncio.to_thread(primary.kill)
        await asyncio.to_thread(replica.promote)
        there.to_port, there.choose = replica.port, no_fault
        there.cut()
        await eventually(other.bus.is_heard)
        await other.settled()
        assert not await member.at(other).come()
        await other.say()
        await member.hear_until(4)
