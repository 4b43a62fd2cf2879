"""Who is in which room."""

from collections.abc import Callable, Collection, Hashable
from typing import Generic, TypeVar

from server.realtime.packet_log import Stay

Member = TypeVar("Member", bound=Hashable)


class Rooms(Generic[Member]):
    """Members by room and rooms by member, so that leaving costs O(own rooms), however many there are."""

    def __init__(self) -> None:
        self.changed: Callable[[str], object] = _nothing
        """Called whenever somebody has entered a room, or left it."""
        # A dict without values: a set that keeps its order.
        self._members: dict[str, dict[Member, None]] = {}
        self._rooms: dict[Member, dict[str, Stay | None]] = {}

    def enter(self, member: Member, room: str, stay: Stay | None = None) -> None:
        """Put a member into a room, where it may be already. `stay` is for who wants to know it later."""
        self._members.setdefault(room, {})[member] = None
        self._rooms.setdefault(member, {})[room] = stay
        self.changed(room)

    def leave(self, member: Member, room: str) -> Stay | None:
        """Take a member out of a room, where it need not be."""
        _drop(self._members, room, member)
        self.changed(room)
        return _drop(self._rooms, member, room)

    def leave_all(self, member: Member) -> dict[str, Stay | None]:
        """Forget a member. Returns where it was."""
        rooms = self._rooms.pop(member, {})
        for room in rooms:
            _drop(self._members, room, member)
            self.changed(room)
        return rooms

    def has(self, member: Member, room: str) -> bool:
        """Whether the member is in the room."""
        return room in self._rooms.get(member, ())

    def rooms_of(self, member: Member) -> frozenset[str]:
        """The rooms that a member is in."""
        return frozenset(self._rooms.get(member, ()))

    def stays_of(self, member: Member) -> dict[str, Stay]:
        """The rooms that a member is in, with what was given when it entered, where something was."""
        return {room: stay for room, stay in self._rooms.get(member, {}).items() if stay is not None}

    def has_members(self, room: str) -> bool:
        """Whether anybody is in it."""
        return room in self._members

    def members(self, rooms: Collection[str], except_rooms: Collection[str] = ()) -> list[Member]:
        """Who is in one of `rooms` and in none of `except_rooms`, once each."""
        found: dict[Member, None] = {}
        for room in rooms:
            found.update(self._members.get(room, {}))
        for room in except_rooms:
            for member in self._members.get(room, ()):
                found.pop(member, None)
        return list(found)


_Key = TypeVar("_Key")
_Item = TypeVar("_Item")
_Value = TypeVar("_Value")


def _drop(index: dict[_Key, dict[_Item, _Value]], key: _Key, item: _Item) -> _Value | None:
    items = index.get(key, {})
    value = items.pop(item, None)
    if not items:
        index.pop(key, None)
    return value


def _nothing(room: str) -> None:
    """Nobody wants to know."""
