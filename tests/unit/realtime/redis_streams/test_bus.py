import asyncio
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import pytest

from server.realtime.bus import BusAwayError, BusRefusedError, Control, Emit, Order
from server.realtime.redis_streams import bus as module
from server.realtime.redis_streams import entries
from server.realtime.redis_streams.bus import RedisBusOptions
from server.realtime.redis_streams.entries import ControlEntry
from server.realtime.redis_streams.recovery import INEXACT
from server.realtime.server import Options
from server.redis_client import make_client
from tests.conformance.cluster import ClubMember, Cluster, Node, cluster
from tests.conformance.wire import eventually
from tests.redis_server import RedisServer, shared_redis_url
from tests.unit.realtime.redis_streams.outs import emit_entry, out

Pair = tuple[Cluster, Node, Node]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with cluster(await asyncio.to_thread(shared_redis_url)) as (made, (one, other)):
        yield made, one, other


class Ear:
    """What controls a server handled, and how often."""

    def __init__(self, node: Node) -> None:
        self.heard: list[object] = []
        node.bus.subscribe(self._hear)

    async def _hear(self, control: Control) -> None:
        self.heard.append(control.data.get("number"))
        await asyncio.sleep(0)
        if control.name == "fail":
            raise ValueError


def control(number: int, *, name: str = "c", is_strict: bool = False) -> Control:
    return Control(name=name, data={"number": number}, is_strict=is_strict)


async def add_raw(node: Node, data: bytes, version: str = "1") -> None:
    """Put something into the stream that no door has seen."""
    fields: dict[Any, Any] = {"v": version, "e": node.bus._epoch, "d": data, "f": ""}
    await node.bus._writing.xadd(node.bus._door.stream, fields)


async def test_when_publish_returns_its_controls_have_been_handled_here(pair: Pair) -> None:
    _, one, other = pair
    here, there = Ear(one), Ear(other)
    await one.bus.publish([control(1), control(2)])
    assert here.heard == [1, 2]
    await eventually(lambda: there.heard == [1, 2])


async def test_a_handler_that_fails_takes_none_along(pair: Pair) -> None:
    _, one, _ = pair
    ear = Ear(one)
    await one.bus.publish([control(1, name="fail"), control(2)])
    assert ear.heard == [1, 2]


async def test_what_does_not_encode_takes_none_along(pair: Pair) -> None:
    _, one, _ = pair
    ear = Ear(one)
    await one.bus.publish([Emit(event="e", data="\ud800", rooms=frozenset("r")), control(1)])
    assert ear.heard == [1]


async def test_what_is_for_no_room_takes_its_place_and_is_told_nobody(pair: Pair) -> None:
    made, one, _ = pair
    member = ClubMember(one.site)
    await member.come()
    silent = Emit(event="said", data=1, rooms=frozenset(), order=Order("r", 1))
    made.log.emits["r"] = [silent]
    await one.bus.publish([silent])
    await one.say()
    assert await member.hear_until(2) == [2]


async def test_every_server_learns_how_far_a_key_has_come(pair: Pair) -> None:
    """Its own entries too, and whether or not anybody there is told of them."""
    made, one, other = pair
    orders = [Order("r", 1, memo="one"), Order("r", 2, memo="two"), Order("other", 1)]
    emits = [Emit(event="said", data=1, rooms=frozenset([each.key]), order=each) for each in orders]
    await one.bus.publish(emits[:1])
    await eventually(lambda: len(made.log.passages) == 2)
    await other.bus.publish(emits[1:])
    await eventually(lambda: len(made.log.passages) == 6)
    assert sorted(made.log.passages) == sorted([(each.key, each.number, each.memo) for each in orders] * 2)


async def test_a_source_that_was_set_back_is_refused_until_redis_is_emptied(pair: Pair) -> None:
    made, one, _ = pair
    await one.say(count=3)
    del made.log.emits["r"][2:]
    with pytest.raises(BusRefusedError, match="a backup was restored"):
        async with made.node():
            pass
    # A site of the same Redis that does not know the room.
    made.log.emits.clear()
    made.log.passages.clear()
    async with made.node() as third:
        await third.settled()
        assert not made.log.passages


async def test_what_is_of_another_form_stops_nobody_but_who_would_go_on_from_before(pair: Pair) -> None:
    made, one, other = pair
    member, witness = ClubMember(one.site), ClubMember(other.site)
    for each in (member, witness):
        await each.come()
    await one.tell("before")
    await member.hear_until("before")
    member.drop()
    await made.club.until("disconnected")
    await add_raw(one, b"\xc1")
    await add_raw(one, b"whatever", version="2")
    await one.tell("after")
    await witness.hear_until("after")
    assert not await member.at(other).come()
    await eventually(lambda: made.log.refreshes)
    await one.tell("now")
    assert await member.hear_until("now") == ["before", "now"]


async def test_the_same_entry_in_another_stream_is_told_nobody_twice(pair: Pair) -> None:
    made, one, _ = pair
    member = ClubMember(one.site)
    await member.come()
    for number in (1, 2, 2, 1):
        await add_raw(one, entries.encode(emit_entry(number, node="gone")))
    await one.tell("now")
    await eventually(lambda: one.bus.is_exact)
    while await member.hear() != ["told", "now"]:
        pass
    assert len(member.heard) == 3
    assert made.club.named("disconnected") == []


async def test_a_strict_control_says_when_only_this_server_has_it(redis: RedisServer) -> None:
    async with cluster(redis.url) as (_, (one, other)):
        here, there = Ear(one), Ear(other)
        await one.bus.publish([control(1, is_strict=True)])
        redis.freeze()
        with pytest.raises(BusAwayError):
            await one.bus.publish([control(2, is_strict=True)])
        assert here.heard == [1, 2]
        await one.bus.publish([control(3)])
        redis.thaw()
        await eventually(lambda: there.heard == [1, 2, 3])
        await eventually(lambda: one.bus.is_exact and not one.bus._outbox.told)
        assert here.heard == [1, 2, 3]


async def test_while_redis_is_away_members_here_are_told_and_others_later(
    redis: RedisServer,
) -> None:
    async with cluster(redis.url) as (_, (one, other)):
        near, far = ClubMember(one.site), ClubMember(other.site, "eva")
        for member in (near, far):
            await member.come()
        redis.freeze()
        await one.tell("first")
        await one.say(count=2)
        await one.tell("last")
        assert await near.hear_until("last") == ["first", 1, 2, "last"]
        assert near.offset == INEXACT
        redis.thaw()
        heard = await far.hear_until("last")
        assert sorted(heard, key=str) == [1, 2, "first", "last"]
        for node in (one, other):
            await eventually(lambda node=node: node.bus.is_exact)  # type: ignore[misc]  # bound in time
        await other.tell("exact")
        assert (await near.hear_until("exact"))[-2:] == ["last", "exact"]
        assert near.offset not in {None, INEXACT}


async def test_a_busy_server_notices_that_the_bus_is_back(redis: RedisServer) -> None:
    async with cluster(redis.url, 1) as (_, (one,)):
        one.bus._fallback.went_away()
        numbers = count()

        async def publish() -> None:
            while True:
                await one.tell(next(numbers))
                await asyncio.sleep(0)

        busy = [asyncio.create_task(publish()) for _ in range(5)]
        await eventually(lambda: not one.bus._fallback.is_away)
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)


async def test_what_is_too_much_is_read_by_all_when_redis_is_back(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.01)
    async with cluster(redis.url) as (made, (one, other)):
        far = ClubMember(other.site)
        await far.come()
        one.bus._outbox._most_entries = 20
        redis.freeze()
        for _ in range(30):
            await one.bus.publish([made.log.say("r"), control(1)])
        await eventually(lambda: one.bus._fallback.is_away)
        await eventually(lambda: not one.bus._outbox.pending)
        assert not one.bus._outbox.is_full
        redis.thaw()
        await far.hear_until(30)
        assert far.data() == list(range(1, 31))
        assert made.log.refreshes
        await eventually(lambda: one.bus.is_exact and other.bus.is_exact)


async def test_what_was_published_before_closing_reaches_the_others(pair: Pair) -> None:
    made, _, other = pair
    ear = Ear(other)
    async with made.node() as third:
        await third.bus.publish([Emit(event="e", data=1, rooms=frozenset("s")) for _ in range(300)])
        third.bus._add(third.bus._publisher.out(control(7)))
    await eventually(lambda: ear.heard == [7])


async def test_closing_ends_although_redis_answers_nothing(redis: RedisServer) -> None:
    async with asyncio.timeout(15), cluster(redis.url, 1) as (_, (one,)):
        await one.tell("before")
        redis.freeze()


async def test_a_redis_that_is_not_there_refuses_without_showing_the_url(redis: RedisServer) -> None:
    await asyncio.to_thread(redis.kill)
    made = Cluster(redis.url.replace("redis://", "redis://:secret@"), Options())
    with pytest.raises(BusRefusedError) as caught:
        async with made.node():
            pass
    assert "secret" not in str(caught.value)
    assert str(redis.port) not in str(caught.value)
    await asyncio.to_thread(redis.start)


async def test_redis_that_takes_nothing_refuses(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_OPEN_TIMEOUT_S", 0.5)
    client: Any = make_client(redis.url, timeout_s=2)
    made = Cluster(redis.url, Options())
    await client.set(f"{made.bus_options.name}:epoch", "one")
    await client.execute_command("ACL", "SETUSER", "default", "-xadd")
    with pytest.raises(BusRefusedError, match="does not take"):
        async with made.node():
            pass
    await client.aclose()


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("maxmemory", "1", r"refuses \(OOM\).*memory"),
        ("min-replicas-to-write", "1", r"refuses \(NOREPLICAS\)"),
    ],
)
async def test_redis_that_begins_nothing_is_named_as_what_it_is(
    redis: RedisServer, setting: str, value: str, said: str
) -> None:
    client = make_client(redis.url, timeout_s=2)
    await client.config_set(setting, value)
    await client.aclose()
    with pytest.raises(BusRefusedError, match=said):
        async with Cluster(redis.url, Options()).node():
            pass


async def test_an_entry_that_fails_is_settled(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    _, one, _ = pair

    def fail(*_: object, **__: object) -> None:
        raise ValueError

    with monkeypatch.context() as patched:
        patched.setattr(one.bus._recovery, "record", fail)
        await one.tell("lost")
        await eventually(lambda: not one.bus._outbox.pending)
    assert one.bus.is_exact


async def test_offsets_are_exact_unless_somebody_was_told_more_or_less(pair: Pair) -> None:
    _, one, _ = pair
    bus = one.bus
    seen = [bus.is_exact]
    bus._outbox.told[9_999] = out(9_999)
    seen.append(bus.is_exact)
    del bus._outbox.told[9_999]
    bus._tracks.ahead["r"] = 1
    seen.append(bus.is_exact)
    bus._tracks.ahead.clear()
    bus._tracks.broken.add("r")
    seen.append(bus.is_exact)
    bus._tracks.broken.clear()
    bus._fallback.read_anew()
    seen.append(bus.is_exact)
    await eventually(lambda: bus.is_exact)
    bus._fallback.went_away()
    seen.append(bus.is_exact)
    await eventually(lambda: bus.is_exact)
    assert seen == [True, False, False, False, False, False]


def test_a_control_has_a_place_among_those_of_its_server() -> None:
    entry = entries.control_entry(control(1), node="me", number=4)
    assert entry == ControlEntry("me", 4, "c", {"number": 1})


def test_a_stream_is_kept_for_as_long_as_somebody_may_be_away() -> None:
    options = Options()
    away_s = options.recovery.max_away_s + options.ping_interval_s + options.ping_timeout_s
    assert RedisBusOptions().retention_s >= away_s
