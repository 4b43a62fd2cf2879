"""The load: many members of one room in one thread, by raw sockets and epoll.

A member is no Socket.IO client. What it receives is compared with the bytes expected, not parsed, so that
the load costs less than any server it measures.
"""

import select
import time
from collections.abc import Sequence

import msgspec

from bench import frames
from bench.member import LoadError, Member, connect, ready

# Of so many members the arrivals are timed; the others are read when several events have piled up.
_WATCHED = 10
_EVENTS_BEFORE_READING = 16


class Deliveries(msgspec.Struct, frozen=True, kw_only=True):
    """How many events were received in `duration_s`, and how long some of them took, from the sending."""

    count: int
    duration_s: float
    delays_s: list[float]


class Load:
    """The members of one server's room."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._epoll = select.epoll()
        self._members: dict[int, Member] = {}
        self._events = 0

    def connect(self, tokens: Sequence[str]) -> None:
        """Connect a member for each token. Raises FrameError, LoadError, OSError."""
        members = connect(self._port, [{"token": token} for token in tokens])
        self._members |= {member.fd: member for member in members}

    def broadcast(self, duration_s: float) -> Deliveries:
        """Have one member say something, all receive it, and so on. Raises FrameError, LoadError, OSError.

        There is never more than one event under way: what arrives belongs to it, and no server can save
        work by sending two at once.
        """
        members = list(self._members.values())
        # Servers send in the order of joining: when the last member has an event, all have it.
        watched = members[:: -max(1, len(members) // _WATCHED)]
        others = [member for member in members if member not in watched]
        for member in watched:
            self._epoll.register(member.fd, select.EPOLLIN)
        events, took_s, until, delays = 0, 0.0, time.perf_counter() + duration_s, list[float]()
        while time.perf_counter() < until:
            said: list[bytes] = []
            while len(said) < _EVENTS_BEFORE_READING and time.perf_counter() < until:
                said.append(frames.make_event(self._events))
                self._events += 1
                took_s += self._say(said[-1], watched, delays)
            wanted = b"".join(map(frames.server_frame, said))
            for member in others:
                read_rest(member, said, wanted)
            events += len(said)
        for member in watched:
            self._epoll.unregister(member.fd)
        return Deliveries(count=events * len(members), duration_s=took_s, delays_s=delays)

    def close(self) -> None:
        """Close every socket."""
        for member in self._members.values():
            member.socket.close()
        self._members.clear()
        self._epoll.close()

    def _say(self, text: bytes, watched: Sequence[Member], delays: list[float]) -> float:
        """Send an event and wait until those watched have it; how long that took."""
        frame, expected, missing = frames.client_frame(text), frames.server_frame(text), len(watched)
        sent_at = time.perf_counter()
        watched[0].socket.send(frame)
        while missing:
            found = ready(self._epoll)
            delay_s = time.perf_counter() - sent_at
            for fd, _ in found:
                data = self._members[fd].read()
                if data == expected or _has_received(self._members[fd], data, text):
                    missing -= 1
                    delays.append(delay_s)
        return delay_s


def _has_received(member: Member, data: bytes, expected: bytes) -> bool:
    """Whether a part of a frame, a ping, or both with the frame expected, ends with the latter."""
    received = member.texts(data)
    if received not in ([], [expected]):
        raise LoadError(f"not what was expected: {received!r:.300}")
    return bool(received)


def read_rest(member: Member, said: list[bytes], wanted: bytes) -> None:
    """Read what has piled up, and make sure that it is all that was said, in order.

    `wanted` is `said` in the server's frames. Raises FrameError, LoadError, OSError.
    """
    received: list[bytes] = []
    while received != said:
        data = member.read()
        if data == wanted:
            return
        received += member.texts(data)
        if received != said[: len(received)]:
            raise LoadError(f"not what was expected: {received!r:.300}")
