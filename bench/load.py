"""The load: many members of one room in one thread, by raw sockets and epoll.

A member is no Socket.IO client. What it receives is compared with the bytes expected, not parsed, so that
the load costs less than any server it measures.
"""

import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Sequence

import msgspec

from bench import frames

# Handshakes under way at a time; the servers' backlogs hold more.
_CONCURRENT_HANDSHAKES = 50
# A server that says nothing for so long is given up.
_SILENCE_S = 30.0
_SILENT = f"the server has been silent for {_SILENCE_S:.0f} s"
_SILENCE = struct.pack("ll", int(_SILENCE_S), 0)
_READ_BYTES = 16_384
# Of so many members the arrivals are timed; the others are read when several events have piled up.
_WATCHED = 10
_EVENTS_BEFORE_READING = 16

_HANDSHAKE = (
    f"GET {frames.SOCKETIO_PATH}?EIO=4&transport=websocket HTTP/1.1\r\n"
    "Host: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
).encode()


class LoadError(Exception):
    """The server did something else than it should."""


class Deliveries(msgspec.Struct, frozen=True, kw_only=True):
    """How many events were received in `duration_s`, and how long some of them took, from the sending."""

    count: int
    duration_s: float
    delays_s: list[float]


class _Member:
    __slots__ = ("buffer", "fd", "is_upgraded", "socket", "token")

    def __init__(self, port: int, token: str) -> None:
        self.token = token
        self.is_upgraded = False
        self.buffer = bytearray()
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_SILENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.fd = self.socket.fileno()
        self.socket.send(_HANDSHAKE)
        # Blocking, but the kernel gives up: a read costs one call, and none waits for ever.
        self.socket.settimeout(None)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _SILENCE)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SILENCE)


class Load:
    """The members of one server's room."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._epoll = select.epoll()
        self._members: dict[int, _Member] = {}
        self._events = 0

    def connect(self, tokens: Sequence[str]) -> None:
        """Connect a member for each token. Raises FrameError, LoadError, OSError."""
        waiting, pending = deque(tokens), 0
        while waiting or pending:
            while waiting and pending < _CONCURRENT_HANDSHAKES:
                member = _Member(self._port, waiting.popleft())
                self._members[member.fd] = member
                self._epoll.register(member.fd, select.EPOLLIN)
                pending += 1
            for fd, _ in self._ready():
                member = self._members[fd]
                if self._shake_hands(member, self._read(member)):
                    self._epoll.unregister(fd)
                    pending -= 1

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
                self._read_rest(member, said, wanted)
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

    def _say(self, text: bytes, watched: Sequence[_Member], delays: list[float]) -> float:
        """Send an event and wait until those watched have it; how long that took."""
        frame, expected, missing = frames.client_frame(text), frames.server_frame(text), len(watched)
        sent_at = time.perf_counter()
        watched[0].socket.send(frame)
        while missing:
            ready = self._ready()
            delay_s = time.perf_counter() - sent_at
            for fd, _ in ready:
                data = self._read(self._members[fd])
                if data == expected or self._has_received(self._members[fd], data, text):
                    missing -= 1
                    delays.append(delay_s)
        return delay_s

    def _has_received(self, member: _Member, data: bytes, expected: bytes) -> bool:
        """Whether a part of a frame, a ping, or both with the frame expected, ends with the latter."""
        received = self._texts(member, data)
        if received not in ([], [expected]):
            raise LoadError(f"not what was expected: {received!r:.300}")
        return bool(received)

    def _read_rest(self, member: _Member, said: list[bytes], wanted: bytes) -> None:
        """Read what has piled up, and make sure that it is all that was said, in order."""
        received: list[bytes] = []
        while received != said:
            data = self._read(member)
            if data == wanted:
                return
            received += self._texts(member, data)
            if received != said[: len(received)]:
                raise LoadError(f"not what was expected: {received!r:.300}")

    def _shake_hands(self, member: _Member, data: bytes) -> bool:
        """Go on with a handshake; whether that was the end of it."""
        if not member.is_upgraded:
            head, end, rest = (bytes(member.buffer) + data).partition(b"\r\n\r\n")
            if not end:
                member.buffer += data
                return False
            if not head.startswith(b"HTTP/1.1 101"):
                raise LoadError(f"no websocket: {head!r:.300}")
            member.buffer.clear()
            member.is_upgraded, data = True, rest
            if not data:
                return False
        for text in self._texts(member, data):
            if text.startswith(b"0{"):
                auth = msgspec.json.encode({"token": member.token})
                member.socket.send(frames.client_frame(frames.CONNECT_BEGIN + auth))
            elif text.startswith(frames.CONNECT_BEGIN + b"{"):
                return True
            else:
                raise LoadError(f"not connected: {text!r:.300}")
        return False

    def _texts(self, member: _Member, data: bytes) -> list[bytes]:
        """What was received but pings, which are answered."""
        if not data:
            raise LoadError("the server closed a connection")
        member.buffer += data
        received = list(frames.texts(member.buffer))
        for _ in range(received.count(frames.PING)):
            member.socket.send(frames.client_frame(frames.PONG))
        return [text for text in received if text != frames.PING]

    def _read(self, member: _Member) -> bytes:
        try:
            return os.read(member.fd, _READ_BYTES)
        except BlockingIOError:
            raise LoadError(_SILENT) from None

    def _ready(self) -> list[tuple[int, int]]:
        ready = self._epoll.poll(_SILENCE_S)
        if not ready:
            raise LoadError(_SILENT)
        return ready
