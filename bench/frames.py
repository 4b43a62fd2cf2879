"""What the load generator and the bare loop speak: websocket frames around Socket.IO packets, no more."""

from collections.abc import Iterator

SOCKETIO_PATH = "/socket.io/"
NAMESPACE = "/bench"
ROOM = "bench"
EVENT = "say"
# The member who says something is told as well: what is sent and what each member receives is one text.
EVENT_BEGIN = f'42{NAMESPACE},["{EVENT}",'.encode()
CONNECT_BEGIN = f"40{NAMESPACE},".encode()
EVENT_BYTES = 330
PING, PONG = b"2", b"3"

_TEXT = 0x81
_MASKED = 0x80
_SHORT = 126
_SHORTER_THAN_LONG = 65_536
# A key that changes nothing: the server unmasks all the same, and the load generator need not mask.
_MASK_KEY = bytes(4)


class FrameError(Exception):
    """What came is not a whole text frame of less than 64 KiB."""


def server_frame(text: bytes) -> bytes:
    """A frame as servers send it."""
    return bytes((_TEXT,)) + _length(text, 0) + text


def client_frame(text: bytes) -> bytes:
    """A frame as clients send it."""
    return bytes((_TEXT,)) + _length(text, _MASKED) + _MASK_KEY + text


def make_event(number: int) -> bytes:
    """The packet of an event, EVENT_BYTES long; no other within a million is like it."""
    begin = EVENT_BEGIN + f'{{"n":"{number % 1_000_000:06}","room":"{ROOM}","body":"'.encode()
    end = b'"}]'
    return begin + b"x" * (EVENT_BYTES - len(begin) - len(end)) + end


def texts(buffer: bytearray) -> Iterator[bytes]:
    """Take the whole frames out of what was received, and leave the rest. Raises FrameError."""
    while len(buffer) >= 2:  # noqa: PLR2004 - the shortest head
        if buffer[0] != _TEXT:
            raise FrameError(f"not a text frame: {bytes(buffer[:80])!r}")
        is_masked, size, begin = buffer[1] & _MASKED, buffer[1] & ~_MASKED, 2
        if size > _SHORT:
            raise FrameError("a frame too long")
        if size == _SHORT:
            size, begin = int.from_bytes(buffer[2:4]), 4
        key_begin, begin = begin, begin + (4 if is_masked else 0)
        if len(buffer) < begin + size:
            return
        text = bytes(buffer[begin : begin + size])
        yield _unmasked(text, bytes(buffer[key_begin:begin])) if is_masked else text
        del buffer[: begin + size]


def _length(text: bytes, flag: int) -> bytes:
    if len(text) < _SHORT:
        return bytes((flag | len(text),))
    if len(text) >= _SHORTER_THAN_LONG:
        raise FrameError("a frame too long")
    return bytes((flag | _SHORT,)) + len(text).to_bytes(2)


def _unmasked(text: bytes, key: bytes) -> bytes:
    keys = (key * (len(text) // 4 + 1))[: len(text)]
    return (int.from_bytes(text) ^ int.from_bytes(keys)).to_bytes(len(text))
