import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from server.realtime.event_queue import Event, EventQueue
from server.realtime.session import Options

OPTIONS = Options(max_queued_events=3, max_queued_bytes=100)


def event(name: str, size_bytes: int = 1) -> Event:
    return Event(name, [], None, size_bytes)


class Desk:
    """A queue whose events are handled one for each `let_go`."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.handled: list[str] = []
        self.idle_count = 0
        self.tasks: list[asyncio.Task[None]] = []
        self._permits = asyncio.Semaphore(0)
        self.queue = EventQueue(self._handle, spawn=self._spawn, idle=self._idle, options=OPTIONS)

    async def _handle(self, event: Event) -> None:
        self.begun.append(event.name)
        await self._permits.acquire()
        self.handled.append(event.name)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.create_task(work))

    def _idle(self) -> None:
        assert not self.queue.is_working
        self.idle_count += 1

    def add(self, *names: str) -> None:
        for name in names:
            self.queue.add(event(name))

    async def let_go(self, count: int) -> None:
        """Have so many events be handled, and let everything run until it waits again."""
        for _ in range(count):
            self._permits.release()
        await self.pause()

    async def pause(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk()
    yield desk
    for task in desk.tasks:
        task.cancel()
    await asyncio.gather(*desk.tasks, return_exceptions=True)


async def test_events_are_handled_one_at_a_time_in_their_order(desk: Desk) -> None:
    desk.add("a", "b", "c")
    await desk.pause()
    assert (desk.begun, desk.handled) == (["a"], [])
    await desk.let_go(2)
    assert (desk.begun, desk.handled) == (["a", "b", "c"], ["a", "b"])
    desk.add("d")
    await desk.let_go(2)
    assert desk.handled == ["a", "b", "c", "d"]


async def test_there_is_a_task_only_while_there_are_events(desk: Desk) -> None:
    working = [desk.queue.is_working]
    for number in (1, 2):
        desk.add("a", "b")
        working.append(desk.queue.is_working)
        await desk.let_go(2)
        working.append(desk.queue.is_working)
        assert (len(desk.tasks), desk.idle_count) == (number, number)
        assert desk.tasks[-1].done()
    assert working == [False, True, False, True, False]


async def test_it_is_full_by_number_with_the_event_that_is_being_handled(desk: Desk) -> None:
    fullness = []
    for name in "abc":
        fullness.append(desk.queue.is_full)
        desk.add(name)
        await desk.pause()
    assert [*fullness, desk.queue.is_full] == [False, False, False, True]
    await desk.let_go(1)
    assert not desk.queue.is_full
    desk.add("d")
    assert desk.queue.is_full


async def test_it_is_full_by_size_and_takes_one_event_of_any_size(desk: Desk) -> None:
    fullness = []
    for name, size_bytes in (("a", 99), ("b", 1_000)):
        desk.queue.add(event(name, size_bytes))
        fullness.append(desk.queue.is_full)
    for _ in range(2):
        await desk.let_go(1)
        fullness.append(desk.queue.is_full)
    assert fullness == [False, True, True, False]


async def test_what_was_handled_counts_no_more_however_much_it_was(desk: Desk) -> None:
    for number in range(20):
        desk.queue.add(event(f"{number}", 90))
        await desk.let_go(1)
    desk.queue.add(event("a", 99))
    assert not desk.queue.is_full


async def test_who_waits_for_room_is_woken_when_there_is_some(desk: Desk) -> None:
    await asyncio.wait_for(desk.queue.wait_for_room(), 1)
    desk.add("a", "b", "c", "d")
    waiting = [asyncio.create_task(desk.queue.wait_for_room()) for _ in range(2)]
    await desk.let_go(1)
    assert not any(task.done() for task in waiting)
    await desk.let_go(1)
    assert all(task.done() for task in waiting)


@pytest.mark.parametrize("discard", [False, True])
async def test_once_closed_it_is_not_full_and_what_waits_is_handled_or_dropped(
    desk: Desk, *, discard: bool
) -> None:
    desk.add("a", "b", "c")
    waiting = asyncio.create_task(desk.queue.wait_for_room())
    await desk.pause()
    desk.queue.close(discard=discard)
    assert not desk.queue.is_full
    await asyncio.wait_for(waiting, 1)
    assert (desk.handled, desk.idle_count) == ([], 0)
    await desk.let_go(3)
    assert desk.handled == (["a"] if discard else ["a", "b", "c"])
    assert desk.idle_count == 1


async def test_a_task_that_is_cancelled_is_over_and_says_so(desk: Desk) -> None:
    desk.add("a", "b")
    await desk.pause()
    desk.tasks[0].cancel()
    await desk.pause()
    assert (desk.begun, desk.handled) == (["a"], [])
    assert (desk.queue.is_working, desk.idle_count) == (False, 1)
