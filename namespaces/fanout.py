"""Between the use cases and the bus: notices become packets on the way out and notices on the way in."""

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from server.realtime.bus import Bus, Control, Emit
from server.services import notices
from server.services.notices import LoginEnded, MembershipChanged, Notice, ProfileChanged, RoomChanged, Tell

from .sessions import room_channel, user_channel

_KINDS: dict[str, type[notices.Control]] = {
    "membership_changed": MembershipChanged,
    "room_changed": RoomChanged,
    "profile_changed": ProfileChanged,
    "login_ended": LoginEnded,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


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
        await self._bus.publish([_entry(notice) for notice in published])

    async def _receive(self, control: Control) -> None:
        notice = msgspec.convert(control.data, _KINDS[control.name])
        for handler in self._followers:
            await handler(notice)


def _entry(notice: Notice) -> Emit | Control:
    if isinstance(notice, Tell):
        return Emit(
            event=notice.event,
            data=msgspec.Raw(msgspec.json.encode(notice.data)),
            rooms=frozenset(_channels(notice)),
            volatile=notice.volatile,
        )
    return Control(name=_NAMES[type(notice)], data=msgspec.to_builtins(notice))


def _channels(notice: Tell) -> Sequence[str]:
    return [*map(room_channel, notice.rooms), *map(user_channel, notice.users)]
