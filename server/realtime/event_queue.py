"""The events of one connection, handled one after another while its session is read on."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple

from server.realtime.session import Options


class Event(NamedTuple):
    """An event as the client sent it. `ack_id`: what it wants to be answered by."""

    name: str
    args: list[object]
    ack_id: int | None
    size_bytes: int


class EventQueue:
    """Calls `handle` with each event in turn, in a task that exists while there are events.

    `spawn` runs that task; `idle` is called when it ends. What waits is counted with what is being handled.
    """

    def __init__(
        self,
        handle: Callable[[Event], Awaitable[None]],
        *,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        idle: Callable[[], None],
        options: Options,
    ) -> None:
        self._handle = handle
        self._spawn = spawn
        self._idle = idle
        self._options = options
        self._waiting: deque[Event] = deque()
        self._count = 0
        self._size_bytes = 0
        self._is_closed = False
        self._has_room = asyncio.Event()
        self.is_working = False

    @property
    def is_full(self) -> bool:
        """Whether no more should be read for now; never once it is closed."""
        return not self._is_closed and (
            self._count >= self._options.max_queued_events
            or self._size_bytes >= self._options.max_queued_bytes
        )

    async def wait_for_room(self) -> None:
        """Return once it is not full."""
        while self.is_full:
            self._has_room.clear()
            await self._has_room.wait()

    def add(self, event: Event) -> None:
        """Have an event handled behind those that wait."""
        self._waiting.append(event)
        self._count += 1
        self._size_bytes += event.size_bytes
        if not self.is_working:
            self.is_working = True
            self._spawn(self._work())

    def close(self, *, discard: bool) -> None:
        """Nothing comes any more; `discard` what waits."""
        self._is_closed = True
        if discard:
            self._waiting.clear()
        self._has_room.set()

    async def _work(self) -> None:
        try:
            while self._waiting:
                event = self._waiting.popleft()
                await self._handle(event)
                self._count -= 1
                self._size_bytes -= event.size_bytes
                self._has_room.set()
        finally:
            self.is_working = False
            self._idle()
