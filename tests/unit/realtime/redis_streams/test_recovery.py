import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from server.realtime.packet_log import Stay
from server.realtime.packets import EventPacket, encode_event
from server.realtime.recovery import RecoveryOptions, Trail
from server.realtime.redis_streams import recovery as module
from server.realtime.redis_streams.fallback import stop
from server.realtime.redis_streams.recovery import INEXACT, SharedRecovery
from server.realtime.redis_streams.shelf import Shelf
from server.redis_client import Client
from tests.conformance.wire import eventually


class Bus:
    """What recovery needs of a bus; whom it asks for lets go, if `is_obeyed`."""

    def __init__(self, *others: SharedRecovery, is_obeyed: bool = True) -> None:
        self.others = others
        self.is_obeyed = is_obeyed
        self.is_exact = True
        self.relayed: list[Trail] = []
        self.asked = 0

    def relay(self, _packet: EventPacket, trail: Trail) -> None:
        self.relayed.append(trail)

    def ask_for(self, pid: str) -> None:
        self.asked += 1
        if self.is_obeyed:
            for other in self.others:
                other.abandon(pid)


class World:
    """The recoveries of three servers."""

    def __init__(self, client: Client, name: str) -> None:
        options = RecoveryOptions(max_away_s=60)
        shelves = [Shelf(client, name, max_away_s=60, ping_s=5) for _ in range(3)]
        self.all = [SharedRecovery(options, ping_s=5, shelf=shelf) for shelf in shelves]
        self.buses = [Bus(*self.all) for _ in self.all]
        for recovery, bus in zip(self.all, self.buses, strict=True):
            recovery.join(bus)
            recovery.begin_epoch("one", 10)
        self.one, self.other, self.third = self.all

    async def begin(self, recovery: SharedRecovery, owner: str = "ana") -> Trail:
        trail = recovery.begin("sid", owner)
        assert trail is not None
        hold(recovery, trail)
        await recovery.flush(1)
        return trail


def hold(recovery: SharedRecovery, trail: Trail, **stays: Stay) -> None:
    """As a connection does."""

    def let_go() -> None:
        recovery.leave(trail, stays)
        trail.settled.set()

    trail.abandon = let_go
    trail.current = lambda: stays


@pytest.fixture
async def world(client: Client, name: str) -> AsyncIterator[World]:
    made = World(client, name)
    tasks = [asyncio.create_task(each.run()) for each in made.all]
    yield made
    await stop(tasks)


def tell(recovery: SharedRecovery, position: int, room: str = "r") -> str:
    offset = recovery.record(encode_event("/chat", "e", 1), frozenset([room]), position=position)
    recovery.advance(position)
    return offset


async def test_a_connection_is_taken_from_who_has_it_with_one_more_generation(world: World) -> None:
    trail = await world.begin(world.one)
    hold(world.one, trail, r=Stay(since=10, tag="1"))
    taken = await world.other.take(trail.pid, "ana")
    assert taken is not None
    assert (taken.generation, taken.is_whole, taken.kept) == (2, True, {"r": Stay(since=10, tag="1")})
    assert taken.settled.is_set()
    assert world.buses[1].asked == 1


async def test_from_who_does_not_answer_it_is_taken_as_it_was_known(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LET_GO_S", 0.05)
    trail = await world.begin(world.one)
    world.buses[1].is_obeyed = False
    taken = await world.other.take(trail.pid, "ana")
    assert taken is not None
    assert (taken.generation, taken.is_whole) == (2, False)
    world.one.leave(trail, {})
    await world.one.flush(1)
    assert trail.is_forgotten


async def test_of_two_that_take_it_one_has_it(world: World) -> None:
    trail = await world.begin(world.one)
    trail.abandon()
    await world.one.flush(1)
    taken = await asyncio.gather(*(each.take(trail.pid, "ana") for each in world.all[1:]))
    # The one that came second asked the first, which had nothing to let go of yet, and took it by force.
    assert sorted(each.generation for each in taken if each) == [2, 3]


async def test_there_and_back_again_it_is_the_same_connection(world: World) -> None:
    trail = await world.begin(world.one)
    for generation, recovery in enumerate((world.other, world.one, world.third, world.one), start=2):
        taken = await recovery.take(trail.pid, "ana")
        assert taken is not None
        assert (taken.generation, taken.sid) == (generation, "sid")
        hold(recovery, taken)


async def test_who_goes_while_it_is_taken_may_come_once_more(world: World) -> None:
    trail = await world.begin(world.one)
    trail.abandon()
    taking = asyncio.create_task(world.other.take(trail.pid, "ana"))
    await asyncio.sleep(0)
    taking.cancel()
    with suppress(asyncio.CancelledError):
        await taking
    taken = None
    async with asyncio.timeout(5):
        while taken is None:
            taken = await world.third.take(trail.pid, "ana")
    assert taken.sid == "sid"


@pytest.mark.parametrize("pid", ["", "a:b", "x" * 65, "ñ", "a b", "*"])
async def test_a_name_that_cannot_be_ours_asks_redis_nothing(world: World, pid: str) -> None:
    assert await world.one.take(pid, "ana") is None


async def test_a_name_that_reaches_into_anothers_is_nobodys(world: World) -> None:
    trail = await world.begin(world.one, "ana:eva")
    trail.abandon()
    await world.one.flush(1)
    assert await world.other.take(f"eva:{trail.pid}", "ana") is None
    assert await world.other.take(trail.pid, "ana:eva") is not None


async def test_the_name_of_a_connection_is_in_no_line_of_the_log(
    world: World, caplog: pytest.LogCaptureFixture, client: Client, name: str
) -> None:
    trail = await world.begin(world.one)
    trail.abandon()
    await world.one.flush(1)
    await client.hset(f"{name}:away:ana:{trail.pid}", "record", b"\xc1")
    assert await world.other.take(trail.pid, "ana") is None
    assert "recovery.undecodable" in caplog.text
    assert trail.pid not in caplog.text


async def test_redis_that_fails_recovers_nobody(world: World, client: Client, name: str) -> None:
    await client.set(f"{name}:away:ana:pid", "not a record")
    assert await world.one.take("pid", "ana") is None


async def test_what_is_told_ahead_of_the_stream_has_no_offset(world: World) -> None:
    assert world.one.offset() == "one.a"
    world.buses[0].is_exact = False
    assert world.one.offset() == INEXACT
    assert world.one.offset(12) == "one.c"


async def test_nobody_goes_on_while_it_is_told_ahead(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_READ_TIMEOUT_S", 0.05)
    trail = await world.begin(world.one)
    world.buses[0].is_exact = False
    assert await world.one.find_position_in_time(trail, "one.a") is None
    waiting = asyncio.create_task(world.one.find_position_in_time(trail, "one.a"))
    await asyncio.sleep(0)
    world.buses[0].is_exact = True
    assert await waiting == 10


async def test_who_is_coming_back_when_others_are_told_ahead_begins_anew(world: World) -> None:
    trail = await world.begin(world.one)
    assert world.one.has_all(trail, 10)
    # What the others are told now the stream will bring to nobody here.
    world.buses[0].is_exact = False
    assert not world.one.has_all(trail, 10)
    assert world.one.find_position(trail, "one.a") is None


async def test_who_comes_from_a_server_that_has_read_further_is_waited_for(world: World) -> None:
    trail = await world.begin(world.one)
    waiting = asyncio.create_task(world.one.find_position_in_time(trail, "one.c"))
    await asyncio.sleep(0)
    assert not waiting.done()
    tell(world.one, 12)
    assert await waiting == 12


async def test_an_offset_that_nobody_gave_is_waited_for_a_while_and_forgotten(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_READ_TIMEOUT_S", 0.02)
    trail = await world.begin(world.one)
    assert await world.one.find_position_in_time(trail, "one.ffffffffffffffff") is None


@pytest.mark.parametrize("offset", [INEXACT, "two.a", 7, "one.-1", "one.+a", "one."])
async def test_nobody_goes_on_from_what_is_no_offset_of_now(world: World, offset: object) -> None:
    trail = await world.begin(world.one)
    assert await world.one.find_position_in_time(trail, offset) is None


async def test_nobody_goes_on_from_before_something_that_may_be_missing(world: World) -> None:
    trail = await world.begin(world.one)
    hold(world.one, trail, r=Stay(since=10))
    tell(world.one, 12)
    tell(world.one, 14, "s")
    world.one.doubt(["r"], 14)
    assert world.one.find_position(trail, "one.c") is None
    assert world.one.find_position(trail, "one.e") == 14
    world.one.doubt(["another"], 15)
    assert world.one.find_position(trail, "one.e") == 14


async def test_doubts_end_with_what_is_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MANY_DOUBTS", 3)
    world.one.doubt(["a", "b", "c"], 9)
    world.one.doubt(["d"], 12)
    assert world.one._doubts == {"d": 12}


async def test_those_who_went_on_here_begin_anew_and_no_others(world: World) -> None:
    new, elsewhere = await world.begin(world.one), await world.begin(world.one)
    hold(world.one, new, r=Stay(since=10))
    came = await world.begin(world.other)
    taken = await world.one.take(came.pid, "ana")
    assert taken is not None
    hold(world.one, taken, r=Stay(since=10))
    world.one.begin_anew(["r"])
    assert (new.is_forgotten, elsewhere.is_forgotten, taken.is_forgotten) == (False, False, True)
    await world.one.flush(1)
    assert await world.third.take(taken.pid, "ana") is None


async def test_in_another_stream_who_is_here_stays_and_goes_on_from_its_beginning(world: World) -> None:
    trail, stay = await world.begin(world.one), Stay(since=10)
    hold(world.one, trail, r=stay)
    tell(world.one, 12)
    world.one.begin_epoch("two", 100)
    assert (trail.start, trail.received, stay.since) == (100, 100, 100)
    tell(world.one, 101)
    assert world.one.find_position(trail, "one.c") is None
    assert [each.position for each in world.one.missed(trail, {"r": stay}, trail.start)] == [101]


async def test_what_is_for_one_alone_goes_by_the_stream(world: World) -> None:
    trail = await world.begin(world.one)
    packet, got = encode_event("/chat", "e", 1), list[str]()
    trail.receive = lambda _, offset: got.append(offset)
    assert world.one.record_own(packet, trail) is None
    assert world.buses[0].relayed == [trail]
    world.one.deliver(trail.pid, packet, "one.b")
    world.one.deliver("unknown", packet, "one.b")
    assert got == ["one.b"]


async def test_who_is_forgotten_while_here_is_not_kept_when_it_goes(world: World) -> None:
    trail = await world.begin(world.one)
    world.one.forget("sid")
    trail.abandon()
    await world.one.flush(1)
    assert await world.other.take(trail.pid, "ana") is None


async def test_records_are_written_while_it_runs(world: World, client: Client, name: str) -> None:
    trail = world.one.begin("sid", "ana")
    assert trail is not None
    await eventually(lambda: not world.one._shelf._waiting)
    assert await client.exists(f"{name}:away:ana:{trail.pid}")
