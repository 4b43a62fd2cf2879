"""Connection state recovery: who comes back in time goes on with its sid and gets what it missed.

As Socket.IO 4.6 has it on the wire: CONNECT is answered `{sid, pid}`, an event carries its offset as a last
argument, and a client that comes back sends `{pid, offset}`. A connection takes part if it asked to.
"""

import asyncio
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from server.realtime.packet_log import Entry, PacketLog, Stay
from server.realtime.packets import EventPacket

_MAX_AWAY = 100_000
# Past so many, ended times in rooms are looked through for those that are of no use any more.
_MANY_STAYS = 64
POSITION = re.compile(r"[0-9a-f]{1,16}")


class RecoveryOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`max_away_s`: how long a client may be away, 0 for no recovery. The rest bounds the log of packets.

    A client that was told more than is kept meanwhile begins anew, as one that stayed away for too long.
    """

    max_away_s: float = 120.0
    max_log_entries: int = 200_000
    max_log_bytes: int = 64 * 1024 * 1024


class Trail:
    """What is known of one connection from its first transport to its last.

    `owner` is whom the application authenticated: nobody else may go on with it. `stays` are times in rooms
    that ended while it was connected; `kept`, while it comes back, are those that its transport cut short.
    Nothing up to `start` is due, and whatever it was sent up to `received` it has received. `settled` is set
    while nobody has the connection and the application has been told so; `abandon` ends the transport of who
    has it, `receive` is how that one is sent an event, and `current` are its present times in rooms.

    `generation` counts by how many servers it was had, and it `is_whole` unless the last one was lost with
    it: then its times in rooms are those of a moment before.
    """

    __slots__ = (
        "__weakref__",
        "abandon",
        "current",
        "expires_at_s",
        "generation",
        "is_forgotten",
        "is_whole",
        "kept",
        "owner",
        "pid",
        "receive",
        "received",
        "settled",
        "sid",
        "start",
        "stays",
    )

    def __init__(self, sid: str, owner: str, start: int) -> None:
        self.sid = sid
        self.pid = secrets.token_urlsafe(15)
        self.owner = owner
        self.start = start
        # What is for it alone is sent to a room that nobody else can name.
        self.stays: dict[str, list[Stay]] = {self.pid: [Stay(since=start)]}
        self.kept: dict[str, Stay] = {}
        self.received = start
        self.expires_at_s = 0.0
        self.generation = 1
        self.is_whole = True
        self.is_forgotten = False
        self.settled = asyncio.Event()
        self.abandon: Callable[[], None] = _nothing
        self.receive: Callable[[EventPacket, str], None] = _nothing
        self.current: Callable[[], dict[str, Stay]] = dict

    def enter(self, room: str, tag: str | None, head: int) -> Stay:
        """The time in a room that begins now, or goes on where the transport cut it short."""
        kept = self.kept.get(room)
        return kept if kept is not None and kept.tag == tag else Stay(since=head, tag=tag)

    def leave(self, room: str, stay: Stay, *, head: int, dropped: int) -> None:
        """End a time in a room. What was sent to it before is still due, as long as it is kept."""
        stay.until = head
        self.kept.pop(room, None)
        self.stays.setdefault(room, []).append(stay)
        if len(self.stays) > _MANY_STAYS or len(self.stays[room]) > _MANY_STAYS:
            due = {
                room: [each for each in times if each.is_due(dropped)] for room, times in self.stays.items()
            }
            self.stays = {room: times for room, times in due.items() if times}


def _nothing(*_: object) -> None:
    """There is no transport."""


class Recovery:
    """What one namespace needs to take clients back: packets of late, and connections that are away."""

    def __init__(self, options: RecoveryOptions, *, ping_s: float) -> None:
        """`ping_s`: how long a dead transport may go unnoticed; packets are kept for that much longer."""
        self.log = PacketLog(
            retention_s=options.max_away_s + ping_s,
            max_entries=options.max_log_entries,
            max_bytes=options.max_log_bytes,
        )
        self._max_away_s = options.max_away_s
        # Offsets of another process are not ours.
        self._epoch = secrets.token_urlsafe(6)
        self._connected: dict[str, Trail] = {}
        self._away: OrderedDict[str, Trail] = OrderedDict()

    @property
    def is_used(self) -> bool:
        """Whether what is sent now may be asked for again."""
        return bool(self._connected or self._away)

    def offset(self, position: int | None = None) -> str:
        """The offset of a packet; without a position that of the newest one, or of one that is not kept."""
        return f"{self._epoch}.{self.log.head if position is None else position:x}"

    def record(
        self,
        packet: EventPacket,
        rooms: frozenset[str],
        except_rooms: frozenset[str] = frozenset(),
        position: int | None = None,
    ) -> str:
        """Keep a packet for those who are away; its offset."""
        self.log.append(packet, rooms, except_rooms, now_s=_now_s(), position=position)
        return self.offset()

    def record_own(self, packet: EventPacket, trail: Trail) -> str | None:
        """Keep a packet for one connection alone; its offset. None: it comes to it by another way."""
        return self.record(packet, frozenset([trail.pid]))

    def begin(self, sid: str, owner: str) -> Trail | None:
        """A new connection that asks for recovery; None where there is none."""
        if self._max_away_s <= 0:
            return None
        self._drop_expired()
        trail = Trail(sid, owner, self.log.head)
        self._connected[trail.pid] = trail
        return trail

    def find_connected(self, pid: str, owner: str) -> Trail | None:
        """The connection of that name, if the owner has it and it seems to be connected."""
        trail = self._connected.get(pid)
        return trail if trail is not None and trail.owner == owner else None

    async def take(self, pid: str, owner: str) -> Trail | None:
        """As `claim`, wherever it is kept."""
        return self.claim(pid, owner)

    def claim(self, pid: str, owner: str) -> Trail | None:
        """Take the connection of that name, if the owner has it and it is away; nobody else gets it then."""
        self._drop_expired()
        trail = self._away.get(pid)
        if trail is None or trail.owner != owner or trail.expires_at_s <= _now_s():
            return None
        del self._away[pid]
        self._connected[pid] = trail
        return trail

    def find_position(self, trail: Trail, offset: object) -> int | None:
        """Where to go on: behind `offset`, or from the beginning for who never got one (None).

        None when it is no offset of ours, when packets behind it are gone, or when nobody may go on with it.
        """
        if trail.is_forgotten:
            return None
        position = trail.start
        if offset is not None:
            epoch, _, text = offset.rpartition(".") if isinstance(offset, str) else ("", "", "")
            if epoch != self._epoch or not POSITION.fullmatch(text) or int(text, 16) > self.log.head:
                return None
            # A client keeps its offset when it begins a new connection.
            position = max(trail.start, int(text, 16))
        return position if self.has_all(trail, position) else None

    async def find_position_in_time(self, trail: Trail, offset: object) -> int | None:
        """As `find_position`, when that can be known."""
        return self.find_position(trail, offset)

    def has_all(self, trail: Trail, position: int) -> bool:
        """Whether all is kept that a connection may have missed behind that position."""
        return self.log.dropped <= max(position, trail.received)

    def answered(self, trail: Trail, at_s: float) -> None:
        """The client has received what it was sent before that time."""
        trail.received = max(trail.received, self.log.position_before(at_s))

    def changed(self, trail: Trail) -> None:
        """Something of it, or of its times in rooms, is another now."""

    def leave(self, trail: Trail, stays: dict[str, Stay]) -> None:
        """The transport went while the connection was in these rooms: keep it for a while."""
        self._connected.pop(trail.pid, None)
        if trail.is_forgotten:
            return
        trail.kept = stays
        trail.expires_at_s = _now_s() + self._max_away_s
        self._put_away(trail)

    def restore(self, trail: Trail) -> None:
        """It could not be taken back after all, and may come once more until it expires."""
        self._connected.pop(trail.pid, None)
        if not trail.is_forgotten:
            self._put_away(trail)

    def end(self, trail: Trail) -> None:
        """The connection is over for good."""
        self._connected.pop(trail.pid, None)
        if not self.is_used:
            self.log.clear()

    def forget(self, sid: str) -> None:
        """A connection is not to be taken back, whether it is away or will be."""
        for trails in (self._connected, self._away):
            for pid, trail in list(trails.items()):
                if trail.sid == sid:
                    trail.is_forgotten = True
                    self._away.pop(pid, None)

    def away(self, owner: str) -> list[str]:
        """The sids of the owner's connections that are away."""
        self._drop_expired()
        now_s = _now_s()
        # One that was restored stands behind others that have more time.
        return [
            trail.sid for trail in self._away.values() if trail.owner == owner and trail.expires_at_s > now_s
        ]

    def forget_away(self, owner: str) -> None:
        """Those of the owner's connections that are away are not to be taken back."""
        for sid in self.away(owner):
            self.forget(sid)

    def missed(
        self, trail: Trail, stays: dict[str, Stay], after: int, *, is_any: bool = False
    ) -> list[Entry]:
        """What a connection in these rooms has not been sent behind that position, in order.

        `is_any`: it may turn out not to be in all of them.
        """
        every = {room: list(times) for room, times in trail.stays.items()}
        for room, stay in stays.items():
            every.setdefault(room, []).append(stay)
        return self.log.missed(every, after, is_any=is_any)

    def _put_away(self, trail: Trail) -> None:
        trail.abandon, trail.receive, trail.current = _nothing, _nothing, dict
        self._away[trail.pid] = trail
        self._drop_expired()
        while len(self._away) > _MAX_AWAY:
            self._away.popitem(last=False)

    def _drop_expired(self) -> None:
        now_s = _now_s()
        while self._away and next(iter(self._away.values())).expires_at_s <= now_s:
            self._away.popitem(last=False)
        self.log.drop_old(now_s)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
