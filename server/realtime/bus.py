"""How what is to be told reaches every server, and through it the connections concerned."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec

from server.realtime.server import Server
from server.telemetry import get_logger, new_error_id

log = get_logger(__name__)

ControlHandler = Callable[["Control"], Awaitable[None]]


class Emit(msgspec.Struct, frozen=True, kw_only=True):
    """An event for every connection in one of `rooms` and in none of `except_rooms`.

    `data` is what `Server.emit` takes, msgspec.Raw too. `volatile`: not for those who have unsent packets.
    """

    event: str
    data: object
    rooms: frozenset[str]
    except_rooms: frozenset[str] = frozenset()
    volatile: bool = False


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """A notice to the servers themselves; `data` is JSON."""

    name: str
    data: dict[str, object]


class Bus(Protocol):
    """Takes entries from one server and gives them to all, the publishing one too.

    Each server gets the entries of one `publish` in their order, and every entry after the one before it has
    been dealt with: an emit is queued for its recipients, a control's handler has returned. So an emit behind
    a control goes to the rooms as the control left them. An entry that fails is logged, and the others go on.
    """

    async def start(self) -> None:
        """Begin to hear. To be called once, before the first `publish`."""

    async def close(self) -> None:
        """Stop hearing."""

    def subscribe(self, handler: ControlHandler) -> None:
        """Have each control handled here; handlers are called one after another, in the order subscribed."""

    async def publish(self, entries: Sequence[Emit | Control]) -> None:
        """Give entries to all servers. Concurrent calls: entries of one call may come between another's."""

    def is_heard(self) -> bool:
        """Whether this server hears what is published now."""


class MemoryBus:
    """The bus of a single server: when `publish` returns, all has been dealt with.

    Entries of one call are never reordered. Concurrent calls meet only at controls: a run of emits without a
    control between them is queued with nothing else in between.
    """

    def __init__(self, server: Server, *, namespace: str) -> None:
        self._server = server
        self._namespace = namespace
        self._handlers: list[ControlHandler] = []
        self._is_started = False

    async def start(self) -> None:
        """Begin to hear."""
        self._is_started = True

    async def close(self) -> None:
        """Stop hearing; nothing waits in here."""
        self._is_started = False

    def subscribe(self, handler: ControlHandler) -> None:
        """Have each control handled."""
        self._handlers.append(handler)

    async def publish(self, entries: Sequence[Emit | Control]) -> None:
        """Deal with each entry in turn."""
        for entry in entries:
            try:
                if isinstance(entry, Emit):
                    self._emit(entry)
                else:
                    for handler in self._handlers:
                        await handler(entry)
            except Exception:
                name = entry.event if isinstance(entry, Emit) else entry.name
                log.exception("realtime.entry_failed", error_id=new_error_id(), name=name)

    def is_heard(self) -> bool:
        """Whether it has been started."""
        return self._is_started

    def _emit(self, entry: Emit) -> None:
        self._server.emit(
            entry.event,
            entry.data,
            namespace=self._namespace,
            rooms=entry.rooms,
            except_rooms=entry.except_rooms,
            volatile=entry.volatile,
        )
