"""Connections of one namespace that may be recovered, without any transport."""

from server.realtime.packet_log import Stay
from server.realtime.packets import EventPacket, encode_event
from server.realtime.recovery import Recovery, RecoveryOptions, Trail

PING_S = 45.0
OPTIONS = RecoveryOptions(max_away_s=120)


class Clock:
    """The loop's clock as recovery sees it."""

    now_s = 1_000.0


def packet(data: object = 1) -> EventPacket:
    return encode_event("/chat", "a", data)


def begin(recovery: Recovery, owner: str = "ana", sid: str = "sid") -> Trail:
    trail = recovery.begin(sid, owner)
    assert trail is not None
    return trail


def away(recovery: Recovery, owner: str = "ana", sid: str = "sid", **stays: Stay) -> Trail:
    """A connection whose transport went."""
    trail = begin(recovery, owner, sid)
    recovery.leave(trail, stays)
    return trail


def tell(recovery: Recovery, count: int = 1, room: str = "room") -> str:
    """Send to a room; the last offset."""
    return [recovery.record(packet(), frozenset([room])) for _ in range(count)][-1]


def positions(recovery: Recovery, trail: Trail, after: int = 0, **stays: Stay) -> list[int]:
    return [entry.position for entry in recovery.missed(trail, stays, after)]
