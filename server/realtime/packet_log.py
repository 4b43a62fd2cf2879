"""What was sent lately and to whom, so that a client that was away can be given what it missed."""

import math
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import msgspec

from server.realtime.packets import EventPacket

# What an entry takes beside its packet.
_ENTRY_BYTES = 500


class Stay(msgspec.Struct):
    """A time in a room: the positions since which and until which (None: still) what is sent to it is due.

    `tag` is the application's name for this very membership; who comes back with another one is new.
    """

    since: int
    until: int | None = None
    tag: str | None = None

    def covers(self, position: int) -> bool:
        """Whether what was sent at `position` was for who stayed."""
        return self.since < position and (self.until is None or position <= self.until)

    def is_due(self, dropped: int) -> bool:
        """Whether anything that was for who stayed is kept, when all up to `dropped` is not."""
        return self.until is None or self.until > max(self.since, dropped)


Stays = Mapping[str, Collection[Stay]]


class Entry(NamedTuple):
    """A packet, and the rooms that it was sent to."""

    position: int
    at_s: float
    rooms: frozenset[str]
    except_rooms: frozenset[str]
    packet: EventPacket


class PacketLog:
    """The packets of the last `retention_s` seconds, at most so many, of at most so many bytes.

    Finding what a client missed costs O(missed), not O(kept). Positions count from 1.
    """

    def __init__(self, *, retention_s: float, max_entries: int, max_bytes: int) -> None:
        self.head = 0
        """The position of the newest packet."""
        self.dropped = 0
        """The position of the newest packet that is not kept any more."""
        self.dropped_at_s = -math.inf
        """When that one was sent."""
        self._retention_s = retention_s
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: deque[Entry] = deque()
        self._by_room: dict[str, deque[Entry]] = {}
        self._size_bytes = 0

    def append(
        self,
        packet: EventPacket,
        rooms: Iterable[str],
        except_rooms: Iterable[str] = (),
        *,
        now_s: float,
        position: int | None = None,
    ) -> int:
        """Keep a packet; its position: the next one, or one that is given and greater than all before."""
        self.head = self.head + 1 if position is None else position
        entry = Entry(self.head, now_s, frozenset(rooms), frozenset(except_rooms), packet.bare())
        self._entries.append(entry)
        self._size_bytes += _ENTRY_BYTES + packet.size_bytes
        for room in entry.rooms:
            self._by_room.setdefault(room, deque()).append(entry)
        self.drop_old(now_s)
        return self.head

    def position_before(self, at_s: float) -> int:
        """The newest position of which it is known that it was sent before that time. Costs O(sent since)."""
        for entry in reversed(self._entries):
            if entry.at_s < at_s:
                return entry.position
        return self.dropped if self.dropped_at_s < at_s else 0

    def drop_old(self, now_s: float) -> None:
        """Forget what is past its time, and what is too much."""
        oldest_s = now_s - self._retention_s
        while self._entries and (
            self._entries[0].at_s < oldest_s
            or len(self._entries) > self._max_entries
            or self._size_bytes > self._max_bytes
        ):
            self._drop(self._entries.popleft())

    def begin(self, position: int) -> None:
        """Begin anew: nothing up to that position can be asked for."""
        self.clear()
        self.head = self.dropped = position
        self.dropped_at_s = -math.inf

    def clear(self) -> None:
        """Forget all: nobody asks for it any more."""
        if self._entries:
            self.dropped, self.dropped_at_s = self.head, self._entries[-1].at_s
        self._entries.clear()
        self._by_room.clear()
        self._size_bytes = 0

    def missed(self, stays: Stays, after: int, *, is_any: bool = False) -> list[Entry]:
        """What was sent after that position to who stayed so, in order; it must be kept still.

        `is_any`: also where they were in a room that was left out.
        """
        found: dict[int, Entry] = {}
        for room, times in stays.items():
            floor = max(after, min((stay.since for stay in times), default=self.head))
            for entry in reversed(self._by_room.get(room, ())):
                if entry.position <= floor:
                    break
                is_out = not is_any and _is_excepted(entry, stays)
                if not is_out and any(stay.covers(entry.position) for stay in times):
                    found[entry.position] = entry
        return [found[position] for position in sorted(found)]

    def _drop(self, entry: Entry) -> None:
        self.dropped, self.dropped_at_s = entry.position, entry.at_s
        self._size_bytes -= _ENTRY_BYTES + entry.packet.size_bytes
        for room in entry.rooms:
            of_room = self._by_room[room]
            of_room.popleft()
            if not of_room:
                del self._by_room[room]


def _is_excepted(entry: Entry, stays: Stays) -> bool:
    return any(stay.covers(entry.position) for room in entry.except_rooms for stay in stays.get(room, ()))
