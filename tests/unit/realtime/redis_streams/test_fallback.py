import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from server.realtime.redis_streams import fallback
from server.realtime.redis_streams.fallback import Fallback, kept_up, stop
from server.realtime.redis_streams.outbox import Out
from server.realtime.redis_streams.tracks import Tracks
from tests.conformance.cluster import Log
from tests.conformance.wire import eventually
from tests.unit.realtime.redis_streams.outs import filled, outbox


class World:
    """What is dealt with here, while loops run."""

    def __init__(self) -> None:
        self.log = Log()
        self.outbox = outbox(most_entries=5)
        self.dealt: list[int] = []
        self.given_up = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.tracks = Tracks(self.log, lambda _: None, lambda _: True, self.outbox.owe, lambda _: None)
        self.fallback = Fallback(self.outbox, self.tracks, self.log, deal=self._deal, give_up=self._give_up)

    async def _deal(self, out: Out) -> None:
        await self.gate.wait()
        if out.tries:
            raise ValueError("poisoned")
        self.outbox.told[out.entry.number] = out
        self.dealt.append(out.entry.number)

    def _give_up(self) -> None:
        self.given_up += 1

    def publish(self, count: int = 1) -> list[Out]:
        _, outs = filled(count, self.outbox)
        self.fallback.wake()
        return outs


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    tasks = [asyncio.create_task(loop()) for loop in (made.fallback.deal, made.fallback.watch)]
    yield made
    await stop(tasks)


async def test_nothing_is_dealt_with_here_while_the_bus_is_there(world: World) -> None:
    world.publish()
    await asyncio.sleep(0.01)
    assert world.dealt == []


async def test_while_it_is_away_all_is_dealt_with_here_in_order(world: World) -> None:
    world.publish(2)
    world.fallback.went_away()
    world.publish(1)
    await eventually(lambda: not world.outbox.pending)
    assert world.dealt == [1, 2, 3]


async def test_who_waits_learns_that_only_this_server_has_it_unless_it_went_in(world: World) -> None:
    outs = world.publish(2)
    for each in outs:
        each.done = asyncio.get_running_loop().create_future()
    outs[1].is_in = True
    world.fallback.went_away()
    assert [await each.done for each in outs if each.done] == [False, True]


async def test_what_fails_stops_nothing_that_comes_behind(world: World) -> None:
    outs = world.publish(2)
    outs[0].tries = 1
    world.fallback.went_away()
    await eventually(lambda: not world.outbox.pending)
    assert world.dealt == [2]


async def test_nothing_is_dealt_with_while_the_reader_deals(world: World) -> None:
    async with world.fallback.dealing:
        world.publish()
        world.fallback.went_away()
        await asyncio.sleep(0.01)
        assert world.dealt == []
        world.outbox.came_back(1)
    await asyncio.sleep(0.01)
    assert world.dealt == []


async def test_too_much_is_given_up_and_read_by_all_instead(world: World) -> None:
    world.fallback.went_away()
    world.publish(6)
    await eventually(lambda: not world.outbox.pending)
    assert world.given_up > 0
    assert not world.outbox.is_full


async def test_a_server_that_hears_nothing_is_away_and_back_when_something_new_comes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fallback, "_DEAF_AFTER_S", 0.02)
    monkeypatch.setattr(fallback, "_WATCH_S", 0.005)
    states = [(world.fallback.is_away, world.fallback.is_heard)]
    world.fallback.heard_at(time.monotonic())
    states.append((world.fallback.is_away, world.fallback.is_heard))
    await eventually(lambda: world.fallback.is_away)
    states.append((world.fallback.is_away, world.fallback.is_heard))
    # Written before it went away, this says nothing of now.
    world.fallback.heard_at(time.monotonic() - 1)
    await asyncio.sleep(0.02)
    states.append((world.fallback.is_away, world.fallback.is_heard))
    assert states == [(False, False), (False, True), (True, False), (True, False)]
    world.fallback.heard_at(time.monotonic())
    await eventually(lambda: not world.fallback.is_away)


async def test_what_may_never_come_is_read_anew_and_asked_for_until_then(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fallback, "_READ_EVERY_S", 0.01)
    monkeypatch.setattr(fallback, "_WATCH_S", 0.005)
    world.fallback.heard_at(time.monotonic())
    world.log.is_away = True
    world.fallback.read_anew()
    await asyncio.sleep(0.03)
    assert world.fallback.must_read_anew
    world.log.is_away = False
    await eventually(lambda: not world.fallback.must_read_anew)
    assert world.log.refreshes == 1


async def test_what_was_published_here_is_dealt_with_before_the_rest_is_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fallback, "_DEAF_AFTER_S", 0.02)
    monkeypatch.setattr(fallback, "_WATCH_S", 0.005)
    dealt_when_read: list[list[int]] = []

    async def refresh() -> None:
        dealt_when_read.append(list(world.dealt))

    monkeypatch.setattr(world.log, "refresh", refresh)
    world.publish(3)
    world.fallback.heard_at(time.monotonic())
    await eventually(lambda: dealt_when_read)
    assert dealt_when_read == [[1, 2, 3]]


async def test_that_the_bus_is_back_is_noticed_before_all_is_dealt_with(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fallback, "_WATCH_S", 0.005)
    answers = asyncio.Semaphore(0)
    monkeypatch.setattr(world.gate, "wait", answers.acquire)
    world.fallback.heard_at(time.monotonic())
    world.fallback.went_away()
    world.publish(5)
    await eventually(world.fallback.dealing.locked)
    await eventually(lambda: "waiters:1" in repr(world.fallback.dealing))
    world.fallback.heard_at(time.monotonic())
    for _ in range(2):
        answers.release()
    await eventually(lambda: not world.fallback.is_away)
    assert len(world.outbox.pending) == 3


async def test_waiting_for_the_first_sign_ends(world: World) -> None:
    with pytest.raises(TimeoutError):
        await world.fallback.heard(0.01)
    world.fallback.heard_at(1.0)
    await world.fallback.heard(0.01)


async def test_a_loop_that_a_bug_ended_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fallback, "_BEGIN_ANEW_S", 0.0)
    begun = asyncio.Semaphore(0)

    async def loop() -> None:
        begun.release()
        await asyncio.sleep(0)
        raise ValueError

    task = asyncio.create_task(kept_up(loop))
    for _ in range(3):
        await begun.acquire()
    await stop([task])


async def test_a_loop_that_swallows_a_cancellation_is_ended_all_the_same() -> None:
    async def loop() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(10)
        await asyncio.sleep(10)

    task = asyncio.create_task(loop())
    await asyncio.sleep(0)
    await stop([task])
    assert task.cancelled()
