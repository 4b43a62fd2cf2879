"""A member of a room: a raw socket that speaks just enough of the protocol, parsing little."""

import os
import select
import socket
import struct
from collections import deque
from collections.abc import Iterable, Mapping

import msgspec

from bench import frames

# Handshakes under way at a time; the servers' backlogs hold more.
_CONCURRENT_HANDSHAKES = 50
# A server that says nothing for so long is given up.
SILENCE_S = 30.0
_SILENT = f"the server has been silent for {SILENCE_S:.0f} s"
_SILENCE = struct.pack("ll", int(SILENCE_S), 0)
_READ_BYTES = 16_384

_HANDSHAKE = (
    f"GET {frames.SOCKETIO_PATH}?EIO=4&transport=websocket HTTP/1.1\r\n"
    "Host: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
).encode()


class LoadError(Exception):
    """The server did something else than it should."""


class Member:
    """One connection. `answer` is what the server said to its CONNECT."""

    __slots__ = ("_auth", "_buffer", "_early", "_is_upgraded", "answer", "fd", "socket")

    def __init__(self, port: int, auth: Mapping[str, object]) -> None:
        self._auth = auth
        self._is_upgraded = False
        self._buffer = bytearray()
        self._early: list[bytes] = []
        self.answer = b""
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=SILENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.fd = self.socket.fileno()
        self.socket.send(_HANDSHAKE)
        # Blocking, but the kernel gives up: a read costs one call, and none waits for ever.
        self.socket.settimeout(None)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _SILENCE)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SILENCE)

    def shake_hands(self, data: bytes) -> list[bytes] | None:
        """Go on with the handshake; once that was the end of it, the events that came with it.

        Node sends who is recovered what it missed before the answer to its CONNECT; clients put it behind.
        """
        if not self._is_upgraded:
            head, end, rest = (bytes(self._buffer) + data).partition(b"\r\n\r\n")
            if not end:
                self._buffer += data
                return None
            if not head.startswith(b"HTTP/1.1 101"):
                raise LoadError(f"no websocket: {head!r:.300}")
            self._buffer.clear()
            self._is_upgraded, data = True, rest
            if not data:
                return None
        received = self.texts(data)
        for number, text in enumerate(received):
            if text.startswith(b"0{"):
                auth = msgspec.json.encode(self._auth)
                self.socket.send(frames.client_frame(frames.CONNECT_BEGIN + auth))
            elif text.startswith(frames.CONNECT_BEGIN + b"{"):
                self.answer = text.removeprefix(frames.CONNECT_BEGIN)
                return self._early + received[number + 1 :]
            elif text.startswith(frames.EVENT_BEGIN):
                self._early.append(text)
            else:
                raise LoadError(f"not connected: {text!r:.300}")
        return None

    def texts(self, data: bytes) -> list[bytes]:
        """What was received but pings, which are answered."""
        if not data:
            raise LoadError("the server closed a connection")
        self._buffer += data
        received = list(frames.texts(self._buffer))
        for _ in range(received.count(frames.PING)):
            self.socket.send(frames.client_frame(frames.PONG))
        return [text for text in received if text != frames.PING]

    def read(self) -> bytes:
        """What has come, or comes next."""
        try:
            return os.read(self.fd, _READ_BYTES)
        except BlockingIOError:
            raise LoadError(_SILENT) from None


def ready(epoll: select.epoll) -> list[tuple[int, int]]:
    """Who can be read, as soon as anybody can. Raises LoadError."""
    found = epoll.poll(SILENCE_S)
    if not found:
        raise LoadError(_SILENT)
    return found


def connect(port: int, auths: Iterable[Mapping[str, object]]) -> list[Member]:
    """Connect a member for each of what the CONNECTs say. Raises FrameError, LoadError, OSError."""
    waiting, pending = deque(auths), dict[int, Member]()
    members: list[Member] = []
    with select.epoll() as epoll:
        while waiting or pending:
            while waiting and len(pending) < _CONCURRENT_HANDSHAKES:
                member = Member(port, waiting.popleft())
                members.append(member)
                pending[member.fd] = member
                epoll.register(member.fd, select.EPOLLIN)
            for fd, _ in ready(epoll):
                if pending[fd].shake_hands(pending[fd].read()) is not None:
                    epoll.unregister(fd)
                    del pending[fd]
    return members
