"""One event to many connections."""

import asyncio
from collections.abc import Collection, Hashable
from typing import Generic, NamedTuple, Protocol, TypeVar

from server.realtime.hold import Hold
from server.realtime.outlet import free_bytes
from server.realtime.packets import EventPacket
from server.realtime.rooms import Rooms

# In a smaller room there is nothing to gain.
_MANY = 8


class Recipient(Hashable, Protocol):
    """A connection."""

    is_marked: bool
    """Whether it is sent offsets."""

    def deliver(self, packet: EventPacket, offset: str, *, volatile: bool = False) -> None:
        """Send it an event, in whatever state it is.

        `offset` is the event's, or the newest one if it is volatile, where recovery is in use.
        """

    def find_free(self) -> asyncio.Transport | None:
        """What it is written to, if it is open, on a websocket and idle."""


Member = TypeVar("Member", bound=Recipient)


class _Split(NamedTuple, Generic[Member]):
    """A room's members: the transports of the idle ones, without offsets and with, and the other members.

    It holds as long as the doubts are so many, and fewer bytes have been sent.
    """

    plain: list[asyncio.Transport]
    marked: list[asyncio.Transport]
    others: list[Member]
    doubts: int
    until_bytes: int


class Broadcast(Generic[Member]):
    """Sends events to the connections in rooms.

    Of a large room it is known who is open, on a websocket and idle. They are written to without being asked,
    which would cost a third of the write itself. This is known anew when somebody has entered or left the
    room, when one of them was sent much otherwise, and after so many bytes that one of them may be behind.
    """

    def __init__(self, rooms: Rooms[Member], hold: Hold, *, max_buffer_bytes: int) -> None:
        self._rooms = rooms
        self._hold = hold
        self._free_bytes = free_bytes(max_buffer_bytes)
        # In all broadcasts, so that it is at least what any one connection was sent by them.
        self._sent_bytes = 0
        self._splits: dict[str, _Split[Member]] = {}
        rooms.changed = self._changed

    def send(
        self,
        packet: EventPacket,
        offset: str,
        rooms: Collection[str],
        except_rooms: Collection[str] = (),
        *,
        volatile: bool,
    ) -> None:
        """Send to all in one of `rooms` and in none of `except_rooms`, once each."""
        room = next(iter(rooms)) if len(rooms) == 1 and not except_rooms and not self._hold.is_on else None
        split = self._splits.get(room) if room is not None else None
        if split is not None and self._holds(split):
            self._send(packet, offset, split, volatile=volatile)
            return
        members = self._rooms.members(rooms, except_rooms)
        for member in members:
            member.deliver(packet, offset, volatile=volatile)
        if room is not None and len(members) >= _MANY:
            # Some may have been cut off.
            self._splits[room] = self._split(self._rooms.members(rooms))

    def _holds(self, split: _Split[Member]) -> bool:
        return self._sent_bytes < split.until_bytes and self._hold.doubts == split.doubts

    def _send(self, packet: EventPacket, offset: str, split: _Split[Member], *, volatile: bool) -> None:
        self._sent_bytes += packet.size_bytes
        if split.plain:
            self._write(split.plain, packet.plain().wire)
        if split.marked:
            self._write(split.marked, packet.marked(offset).wire)
        for member in split.others:
            member.deliver(packet, offset, volatile=volatile)

    def _write(self, transports: list[asyncio.Transport], wire: bytes) -> None:
        self._sent_bytes += len(wire)
        for transport in transports:
            try:
                transport.write(wire)
            except RuntimeError:
                # Lost, as uvloop says it; its reader ends the session in a moment.
                continue

    def _split(self, members: list[Member]) -> _Split[Member]:
        until_bytes = self._sent_bytes + self._free_bytes
        split: _Split[Member] = _Split([], [], [], self._hold.doubts, until_bytes)
        for member in members:
            transport = member.find_free()
            if transport is None:
                split.others.append(member)
            else:
                (split.marked if member.is_marked else split.plain).append(transport)
        return split

    def _changed(self, room: str) -> None:
        self._splits.pop(room, None)
