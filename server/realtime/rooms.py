"""Who is in which room."""

from collections.abc import Collection, Hashable
from typing import Generic, TypeVar

Member = TypeVar("Member", bound=Hashable)


class Rooms(Generic[Member]):
    """Members by room and rooms by member, so that leaving costs O(own rooms), however many there are."""

    def __init__(self) -> None:
        # Dicts without values: sets that keep their order.
        self._members: dict[str, dict[Member, None]] = {}
        self._rooms: dict[Member, dict[str, None]] = {}

    def enter(self, member: Member, room: str) -> None:
        """Put a member into a room, where it may be already."""
        self._members.setdefault(room, {})[member] = None
        self._rooms.setdefault(member, {})[room] = None

    def leave(self, member: Member, room: str) -> None:
        """Take a member out of a room, where it need not be."""
        _drop(self._members, room, member)
        _drop(self._rooms, member, room)

    def leave_all(self, member: Member) -> None:
        """Forget a member."""
        for room in self._rooms.pop(member, ()):
            _drop(self._members, room, member)

    def rooms_of(self, member: Member) -> frozenset[str]:
        """The rooms that a member is in."""
        return frozenset(self._rooms.get(member, ()))

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
_Value = TypeVar("_Value")


def _drop(index: dict[_Key, dict[_Value, None]], key: _Key, value: _Value) -> None:
    values = index.get(key, {})
    values.pop(value, None)
    if not values:
        index.pop(key, None)
