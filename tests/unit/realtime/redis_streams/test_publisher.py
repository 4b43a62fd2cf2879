import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from server.realtime.bus import Control, Emit, Order
from server.realtime.redis_streams import entries
from server.realtime.redis_streams.door import Door
from server.realtime.redis_streams.entries import AgainEntry, EchoEntry, EmitEntry
from server.realtime.redis_streams.fallback import stop
from server.realtime.redis_streams.publisher import Publisher
from server.redis_client import Client
from tests.conformance.cluster import Log
from tests.conformance.wire import eventually
from tests.unit.realtime.redis_streams.outs import outbox


class World:
    """A publisher that runs, its outbox, the source and what is in the stream."""

    def __init__(self, client: Client, name: str) -> None:
        self.client: Any = client
        self.door = Door(client, name, retention_s=60, most_entries=1_000)
        self.outbox = outbox()
        self.log = Log()
        self.failures = 0
        self.publisher = Publisher(
            self.door,
            self.outbox,
            self.log,
            namespace="/chat",
            node="me",
            epoch=lambda: "known",
            failed=self._fail,
        )

    def _fail(self) -> None:
        self.failures += 1

    def publish(self, *published: Emit | Control) -> None:
        for each in published:
            self.outbox.add(self.publisher.out(each))
        self.publisher.wake()

    async def entries(self) -> list[Any]:
        return [entries.decode(fields[b"d"]) for _, fields in await self.client.xrange(self.door.stream)]

    async def numbers(self, key: str = "r") -> list[int]:
        return [each.rev for each in await self.entries() if isinstance(each, EmitEntry) and each.key == key]


@pytest.fixture
async def world(client: Client, name: str) -> AsyncIterator[World]:
    made = World(client, name)
    task = asyncio.create_task(made.publisher.run())
    yield made
    await stop([task])
    made.door.close()


async def test_what_is_published_comes_in_in_order_with_an_echo(world: World) -> None:
    world.publish(Emit(event="e", data=1, rooms=frozenset("r")), Control(name="c", data={}))
    await world.publisher.flush(2)
    kinds = [type(each).__name__ for each in await world.entries()]
    assert kinds[:2] == ["EmitEntry", "ControlEntry"]
    assert "EchoEntry" in kinds
    numbers = [each.number for each in await world.entries()]
    assert numbers == sorted(numbers)


async def test_what_another_server_left_out_is_read_and_put_in_before(world: World) -> None:
    world.publish(world.log.say("r"))
    await world.publisher.flush(2)
    for _ in range(5):
        world.log.say("r")
    world.publish(world.log.say("r"))
    await world.publisher.flush(2)
    assert await world.numbers() == [1, 2, 3, 4, 5, 6, 7]
    assert [each.number for each in await world.entries() if isinstance(each, EmitEntry)][1:6] == [0] * 5


async def test_a_key_that_cannot_be_read_makes_the_rest_not_wait(world: World) -> None:
    world.publish(world.log.say("r"))
    await world.publisher.flush(2)
    world.log.say("r")
    world.log.is_away = True
    world.publish(world.log.say("r"), Emit(event="e", data=1, rooms=frozenset("s")))
    await eventually(lambda: not world.outbox.unsent)
    assert await world.numbers() == [1]
    assert await world.numbers("") == [0]
    assert world.outbox.owed == {"r": (2, 3)}
    world.log.is_away = False
    await eventually(lambda: not world.outbox.owed)
    assert await world.numbers() == [1, 2, 3]


async def test_behind_what_was_owed_an_echo_follows(world: World) -> None:
    for _ in range(4):
        world.log.say("r")
    world.outbox.owe("r", 1, 4)
    world.publisher.wake()
    await world.publisher.flush(2)
    ((number, keys),) = world.outbox.fences.items()
    assert keys == {"r": 4}
    last = (await world.entries())[-1]
    assert isinstance(last, EchoEntry)
    assert last.number == number


@pytest.mark.parametrize("stored", [0, 2])
async def test_what_the_source_does_not_have_is_owed_no_longer(world: World, stored: int) -> None:
    for _ in range(stored):
        world.log.say("r")
    world.outbox.owe("r", 1, 9)
    world.publisher.wake()
    await world.publisher.flush(2)
    assert not world.outbox.owed
    assert await world.numbers() == list(range(1, stored + 1))


async def test_a_source_that_begins_later_wedges_nothing(world: World) -> None:
    world.log.emits["r"] = [Emit(event="e", data=1, rooms=frozenset("r"), order=Order("r", 9))] * 2
    world.outbox.owe("r", 1, 2)
    world.publisher.wake()
    await world.publisher.flush(2)
    assert not world.outbox.owed


async def test_what_does_not_encode_wedges_nothing(world: World) -> None:
    world.log.emits["r"] = [Emit(event="e", data="\ud800", rooms=frozenset("r"), order=Order("r", 1))]
    world.outbox.owe("r", 1, 1)
    world.publish(Emit(event="e", data=1, rooms=frozenset("s")))
    await world.publisher.flush(2)
    assert await world.numbers("") == [0]


async def test_a_source_that_is_away_lets_others_run(world: World) -> None:
    world.log.is_away = True
    world.outbox.owe("r", 1, 1)
    world.publisher.wake()
    async with asyncio.timeout(2):
        await asyncio.sleep(0.05)
    assert world.outbox.owed


async def test_what_was_in_before_is_settled(world: World) -> None:
    emit = world.log.say("r")
    world.publish(emit, emit)
    await world.publisher.flush(2)
    assert list(world.outbox.pending) == [1]


async def test_an_older_one_of_an_order_with_gaps_is_told_nobody(world: World) -> None:
    newer, older = (
        Emit(event="e", data=number, rooms=frozenset("r"), order=Order("o", number, is_gapless=False))
        for number in (5, 3)
    )
    world.publish(newer, older)
    world.outbox.told[2] = world.outbox.pending[2]
    await world.publisher.flush(2)
    assert not world.outbox.told
    assert await world.numbers("") == [0]


async def test_what_may_have_gone_in_says_so_when_it_is_tried_again(world: World) -> None:
    await world.client.set(f"{world.door.stream}", "not a stream")
    world.publish(Emit(event="e", data=1, rooms=frozenset("r")))
    await eventually(lambda: world.failures)
    assert world.outbox.unsent[0].passage.tried_in == "known"
    await world.client.delete(world.door.stream)
    await world.publisher.flush(2)
    assert await world.numbers("") == [0]


async def test_one_echo_waits_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.realtime.redis_streams.publisher._ECHO_S", 0.0)
    await world.client.set(f"{world.door.stream}", "not a stream")
    await eventually(lambda: world.failures > 2)
    assert sum(isinstance(each.entry, EchoEntry) for each in world.outbox.unsent) <= 1
    await world.client.delete(world.door.stream)


async def test_what_the_stream_lost_goes_in_again_as_a_later_one(world: World) -> None:
    emits = [Emit(event="e", data=number, rooms=frozenset("r")) for number in range(2)]
    world.publish(*emits, world.log.say("r"))
    await world.publisher.flush(2)
    lost = [world.outbox.pending.pop(number) for number in (1, 2, 3)]
    await world.client.delete(world.door.stream, f"{world.door._prefix}gapless:r")
    world.publisher.again(lost[0], is_told=True)
    world.publisher.again(lost[1], is_told=False)
    world.publisher.again(lost[2], is_told=False)
    await world.publisher.flush(2)
    again = [each for each in await world.entries() if isinstance(each, AgainEntry)]
    assert [(each.epoch, each.first, each.number > 3) for each in again] == [
        ("known", 1, True),
        ("known", 2, True),
    ]
    assert [entries.lost(each) for each in again] == [each.entry for each in lost[:2]]
    assert await world.numbers() == [1]
    assert (list(world.outbox.told), list(world.outbox.pending)) == ([again[0].number], [again[1].number])


async def test_who_publishes_waits_while_it_is_full_for_a_bounded_time(world: World) -> None:
    await world.publisher.flush(2)
    world.outbox._most_entries = 0
    async with asyncio.timeout(2):
        await world.publisher.room(0.01)
    world.outbox._most_entries = 100
    await world.publisher.room(10)
