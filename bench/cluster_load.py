"""The load of a cluster of two nodes: one room whose members are spread over both, said to at the first."""

import select
import time
from collections.abc import Sequence

import msgspec

from bench import frames
from bench.load import read_rest
from bench.member import LoadError, Member, connect, ready

# Of so many members of a node the arrivals are waited for, and those at the second one timed.
_WATCHED = 5
_EVENTS_BEFORE_READING = 16


class Crossings(msgspec.Struct, frozen=True, kw_only=True):
    """How many events all members received, and the times until the second node had delivered them."""

    count: int
    delays_s: list[float]


class ClusterLoad:
    """The members of the room."""

    def __init__(self, ports: tuple[int, int], tokens: Sequence[str]) -> None:
        """Connect half of them to each node. Raises FrameError, LoadError, OSError."""
        halves = tokens[::2], tokens[1::2]
        self._here, self._there = (
            connect(port, [{"token": token} for token in half])
            for port, half in zip(ports, halves, strict=True)
        )
        # Servers send in the order of joining: when the last member has an event, all of its node have it.
        self._watched = {member.fd: member for half in (self._here, self._there) for member in _some(half)}
        self._distant = {member.fd for member in self._there}
        self._others = [each for each in self._here + self._there if each.fd not in self._watched]
        self._epoll = select.epoll()
        for fd in self._watched:
            self._epoll.register(fd, select.EPOLLIN)
        self._events = 0

    def say(self, duration_s: float, *, burst: int) -> Crossings:
        """Have one member say `burst` events at once, all receive them, and so on.

        Raises FrameError, LoadError, OSError.
        """
        count, until, delays = 0, time.perf_counter() + duration_s, list[float]()
        while time.perf_counter() < until:
            said: list[bytes] = []
            while len(said) < _EVENTS_BEFORE_READING and time.perf_counter() < until:
                numbers = range(self._events, self._events + burst)
                self._events += burst
                texts = [frames.make_event(number) for number in numbers]
                self._say(texts, delays)
                said += texts
            wanted = b"".join(map(frames.server_frame, said))
            for member in self._others:
                read_rest(member, said, wanted)
            count += len(said)
        return Crossings(count=count, delays_s=delays)

    def close(self) -> None:
        """Close every socket."""
        for member in self._here + self._there:
            member.socket.close()
        self._epoll.close()

    def _say(self, said: list[bytes], delays: list[float]) -> None:
        """Send events and wait until those watched have them."""
        wanted = b"".join(map(frames.server_frame, said))
        received = dict.fromkeys(self._watched, 0)
        missing = len(received)
        sent_at = time.perf_counter()
        self._here[-1].socket.send(b"".join(map(frames.client_frame, said)))
        while missing:
            found = ready(self._epoll)
            delay_s = time.perf_counter() - sent_at
            for fd, _ in found:
                count = _count(self._watched[fd], said[received[fd] :], wanted)
                received[fd] += count
                missing -= bool(count) and received[fd] == len(said)
                if fd in self._distant:
                    delays += [delay_s] * count


def _some(members: list[Member]) -> list[Member]:
    return members[:: -max(1, len(members) // _WATCHED)]


def _count(member: Member, expected: list[bytes], wanted: bytes) -> int:
    """How many of those expected have come, in their order; `wanted` is all that was said, in frames."""
    data = member.read()
    if data == wanted:
        return len(expected)
    received = member.texts(data)
    if received != expected[: len(received)]:
        raise LoadError(f"not what was expected: {received!r:.300}")
    return len(received)
