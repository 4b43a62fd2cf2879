"""Between the use cases and the bus: notices become packets on the way out and notices on the way in."""

from collections.abc import Awaitable, Callable, Collection, Sequence

import msgspec

from server.domain.errors import UnavailableError
from server.domain.models import Head
from server.realtime.bus import Bus, BusAwayError, Control, Emit, Order, SourceAwayError
from server.services import notices
from server.services.directory import Directory
from server.services.notices import (
    LoginEnded,
    MembershipChanged,
    Notice,
    Place,
    ProfileChanged,
    RoomChanged,
    SocketsEnded,
    Tell,
)
from server.services.telling import Teller
from server.views import RoomJoined, RoomLeft

from .sessions import Sessions, room_channel, room_of_channel, told_channel, user_channel

_KINDS: dict[str, type[notices.Control]] = {
    "membership_changed": MembershipChanged,
    "room_changed": RoomChanged,
    "profile_changed": ProfileChanged,
    "login_ended": LoginEnded,
    "sockets_ended": SocketsEnded,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


class Retelling:
    """The `Source` of the bus: what the store has, in place of what the bus did not bring.

    The parts are set before anything is published.
    """

    teller: Teller
    directory: Directory
    sessions: Sessions
    learn: Callable[[str, Head], None]
    said: Callable[[str, str, int], None]

    async def emits_after(self, key: str, number: int) -> list[Emit]:
        """As `Source.emits_after`."""
        try:
            tells = await self.teller.tells_after(room_of_channel(key), number)
        except UnavailableError:
            raise SourceAwayError from None
        return [_emit(tell) for tell in tells]

    async def heads(self, keys: Collection[str]) -> dict[str, int]:
        """As `Source.heads`."""
        try:
            heads = await self.teller.heads([room_of_channel(key) for key in keys])
        except UnavailableError:
            raise SourceAwayError from None
        return {room_channel(room_id): rev for room_id, rev in heads.items()}

    async def settle(self, key: str) -> None:
        """As `Source.settle`."""
        try:
            await self.sessions.settle(room_of_channel(key))
        except UnavailableError:
            raise SourceAwayError from None

    def passed(self, key: str, number: int, memo: str) -> None:
        """As `Source.passed`."""
        head, said_by = _noted(number, memo)
        if head is not None:
            self.learn(room_of_channel(key), head)
            if said_by:
                self.said(room_of_channel(key), said_by, head.at)

    def forget(self) -> None:
        """As `Source.forget`."""
        self.directory.forget_all()

    async def refresh(self) -> None:
        """As `Source.refresh`."""
        try:
            await self.sessions.refresh()
        except UnavailableError:
            raise SourceAwayError from None


class Fanout:
    """The `Publisher` of the services. Followers handle each control notice, on every server, in order."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._followers: list[Callable[[notices.Control], Awaitable[None]]] = []
        bus.subscribe(self._receive)

    def follow(self, handler: Callable[[notices.Control], Awaitable[None]]) -> None:
        """Call `handler` with each control notice, behind those who follow already."""
        self._followers.append(handler)

    async def publish(self, *published: Notice) -> None:
        """As `Publisher.publish`."""
        try:
            await self._bus.publish([_entry(notice) for notice in published])
        except BusAwayError:
            raise UnavailableError("the other servers cannot be told now", retry_after_ms=1000) from None

    async def listen_to(self, room_ids: Collection[str]) -> None:
        """Have no change of these rooms missed here from now on. Raises UnavailableError."""
        try:
            await self._bus.follow([room_channel(room_id) for room_id in room_ids])
        except SourceAwayError:
            raise UnavailableError("the store does not answer in time") from None

    def retell(self, room_id: str, first: int, last: int) -> None:
        """Have these changes of a room told, unless they were."""
        self._bus.owe(room_channel(room_id), first, last)

    def read_anew(self) -> None:
        """Have every server read what notices may not have told it."""
        self._bus.read_anew()

    async def _receive(self, control: Control) -> None:
        notice = msgspec.convert(control.data, _KINDS[control.name])
        for handler in self._followers:
            await handler(notice)


def _entry(notice: Notice) -> Emit | Control:
    if isinstance(notice, Tell):
        return _emit(notice)
    # Who was told that somebody is out relies on it, on every server.
    is_strict = isinstance(notice, LoginEnded) or (
        isinstance(notice, MembershipChanged) and notice.left_because is not None
    )
    return Control(name=_NAMES[type(notice)], data=msgspec.to_builtins(notice), is_strict=is_strict)


def _emit(tell: Tell) -> Emit:
    return Emit(
        event=tell.event,
        data=msgspec.Raw(msgspec.json.encode(tell.data)),
        rooms=frozenset(_channels(tell)),
        except_rooms=excepted(tell),
        volatile=tell.volatile,
        order=_order(tell.place) if tell.place is not None else None,
    )


def _order(place: Place) -> Order:
    key = room_channel(place.key) if place.is_gapless else place.key
    head = place.head
    memo = f"{head.last_seq} {head.at} {place.said_by or ''}" if head is not None else ""
    return Order(key, place.number, place.is_gapless, memo)


def _noted(rev: int, memo: str) -> tuple[Head | None, str]:
    """What `_order` noted: the head (None: nothing that is known here), and who wrote it, if a message."""
    last_seq, _, rest = memo.partition(" ")
    at, _, said_by = rest.partition(" ")
    if not (last_seq.isdecimal() and at.isdecimal()):
        return None, ""
    return Head(rev=rev, last_seq=int(last_seq), at=int(at)), said_by


def excepted(tell: Tell) -> frozenset[str]:
    """The engine's rooms of those who are not told: who knows of it, or is back in what they left."""
    if isinstance(tell.data, RoomLeft):
        return frozenset([told_channel(tell.data), room_channel(tell.data.room_id)])
    return frozenset([told_channel(tell.data)] if isinstance(tell.data, RoomJoined) else [])


def _channels(notice: Tell) -> Sequence[str]:
    return [*map(room_channel, notice.rooms), *map(user_channel, notice.users)]
