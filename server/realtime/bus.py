"""How what is to be told reaches every server, and through it the connections concerned."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from server.realtime.server import Server
from server.telemetry import get_logger, new_error_id

log = get_logger(__name__)

ControlHandler = Callable[["Control"], Awaitable[None]]


class BusRefusedError(Exception):
    """The bus cannot be used; the message names the remedy."""


class Order(msgspec.Struct, frozen=True):
    """The place of an entry among those of its `key`: none of a lower or the same number comes behind it.

    `is_gapless`: the key is a room; they count 1, 2, 3 …, and the `Source` has them all: each comes right
    behind the one before. `memo` is for `Source.passed`.
    """

    key: str
    number: int
    is_gapless: bool = True
    memo: str = ""


class Emit(msgspec.Struct, frozen=True, kw_only=True):
    """An event for every connection in one of `rooms` and in none of `except_rooms`.

    `data` is what `Server.emit` takes, msgspec.Raw too. `volatile`: not for those who have unsent packets.
    With an `order` the rooms may be none: then it takes its place and nobody is told.
    """

    event: str
    data: object
    rooms: frozenset[str]
    except_rooms: frozenset[str] = frozenset()
    volatile: bool = False
    order: Order | None = None


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """A notice to the servers themselves; `data` is JSON.

    `is_strict`: who publishes it wants to know that the others will have it.
    """

    name: str
    data: dict[str, object]
    is_strict: bool = False


class BusAwayError(Exception):
    """The other servers cannot be told now. They will be, when the bus is back."""


class SourceAwayError(Exception):
    """The source does not answer now."""


class Source(Protocol):
    """Where what is published in a gapless order can be read again. Each method raises SourceAwayError."""

    async def emits_after(self, key: str, number: int) -> list[Emit]:
        """Those of the key with a greater number, ascending, without gaps; all, or the first ones."""

    async def heads(self, keys: Collection[str]) -> Mapping[str, int]:
        """The greatest number of each key, 0 where there is none."""

    async def settle(self, key: str) -> None:
        """Have nobody here told of this key any more who is not to be, though no control has said so yet."""

    def passed(self, key: str, number: int, memo: str) -> None:
        """One of the key has come by the bus; raises nothing. Others may have come, and gone, before it."""

    def forget(self) -> None:
        """Controls may have been missed: nothing that is kept until one comes holds any longer."""

    async def refresh(self) -> None:
        """Read anew whatever controls would have told."""


class Bus(Protocol):
    """Takes entries from one server and gives them to all, the publishing one too.

    Each server gets the entries of one `publish` in their order, and every entry after the one before it has
    been dealt with: an emit is queued for its recipients, a control's handler has returned. So an emit behind
    a control goes to the rooms as the control left them. An entry that fails is logged, and the others go on.
    While the others cannot be reached an entry is dealt with here alone, and by them when they can be.
    """

    async def start(self) -> None:
        """Begin to hear. To be called once, before the first `publish`. Raises BusRefusedError."""

    async def close(self) -> None:
        """Stop hearing."""

    def subscribe(self, handler: ControlHandler) -> None:
        """Have each control handled here; handlers are called one after another, in the order subscribed."""

    async def publish(self, entries: Sequence[Emit | Control]) -> None:
        """Give entries to all servers. Concurrent calls: entries of one call may come between another's.

        When it returns, a control among them has been dealt with here, and all that is before it. Raises
        BusAwayError when a strict one could be dealt with here alone.
        """

    async def follow(self, keys: Collection[str]) -> None:
        """Have no entry of these keys missed from now on, as long as anybody is in them.

        A key is a room. To be called before a connection enters it. Raises SourceAwayError.
        """

    def is_heard(self) -> bool:
        """Whether this server hears what is published now."""

    def owe(self, key: str, first: int, last: int) -> None:
        """Have these entries of a key published as the source has them, unless they were."""

    def read_anew(self) -> None:
        """Have every server read anew what controls would have told it: some may never come."""


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

    async def follow(self, keys: Collection[str]) -> None:
        """Nothing is missed in one process."""

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

    def owe(self, key: str, first: int, last: int) -> None:
        """Nothing is missed in one process."""

    def read_anew(self) -> None:
        """Nothing is missed in one process."""

    def _emit(self, entry: Emit) -> None:
        if not entry.rooms and entry.order is not None:
            return
        self._server.emit(
            entry.event,
            entry.data,
            namespace=self._namespace,
            rooms=entry.rooms,
            except_rooms=entry.except_rooms,
            volatile=entry.volatile,
        )
