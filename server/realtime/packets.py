"""What goes over the wire: Engine.IO 4 frames and Socket.IO 5 packets, strictly.

Everything a client sends that is not a packet of these protocols raises InvalidPacketError; no input makes
anything else escape.
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from engineio import packet as engineio_packet
from socketio import packet as socketio_packet

CONNECT: int = socketio_packet.CONNECT
DISCONNECT: int = socketio_packet.DISCONNECT
EVENT: int = socketio_packet.EVENT
ACK: int = socketio_packet.ACK
CONNECT_ERROR: int = socketio_packet.CONNECT_ERROR
_BINARY = {socketio_packet.BINARY_EVENT: EVENT, socketio_packet.BINARY_ACK: ACK}

# An event of one of these names would pass for what the library itself tells the application.
RESERVED_EVENTS = frozenset(
    {"connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"}
)
MAX_ATTACHMENTS = 10

_SEPARATOR = "\x1e"
# A Socket.IO packet up to its data: type, number of attachments, namespace, id.
_HEAD = re.compile(r"[0-9](?:[0-9]+-)?(?:(/[^,]*),?)?[0-9]*")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


class InvalidPacketError(Exception):
    """The client broke the protocol; its transport is to be closed."""


class UnencodableError(ValueError):
    """What was to be sent is not JSON, or holds a lone surrogate."""


class Frame(NamedTuple):
    """One Engine.IO packet as a websocket message: text with its type in front, or the bytes of a MESSAGE."""

    payload: bytes
    is_binary: bool = False


class Encoded(NamedTuple):
    """One packet to be sent, of a frame or several, and the same frames as a websocket carries them."""

    frames: tuple[Frame, ...]
    wire: bytes


class EventPacket:
    """An event to be sent, encoded once however many clients there are.

    `plain` is for clients without recovery; those with it are sent the event's offset as a last argument.
    """

    __slots__ = ("_attachments", "_marked", "_opening", "_plain", "size_bytes")

    def __init__(self, opening: bytes, attachments: tuple[Frame, ...]) -> None:
        # Without the bracket that closes the arguments.
        self._opening = opening
        self._attachments = attachments
        self._plain: Encoded | None = None
        self._marked: Encoded | None = None
        self.size_bytes = len(opening)
        if attachments:
            self.size_bytes += sum(len(frame.payload) for frame in attachments)

    @classmethod
    def of(cls, opening: bytes, attachments: Iterable[bytes]) -> "EventPacket":
        """The event that `parts` was taken of."""
        return cls(opening, tuple([Frame(each, is_binary=True) for each in attachments]))

    @property
    def parts(self) -> tuple[bytes, list[bytes]]:
        """What it is made of, to be sent to another server."""
        return self._opening, [frame.payload for frame in self._attachments]

    def bare(self) -> "EventPacket":
        """The same event without the frames made of it: who keeps it for later keeps its bytes once."""
        return EventPacket(self._opening, self._attachments)

    def plain(self) -> Encoded:
        """The event as it is."""
        if self._plain is None:
            self._plain = encoded(Frame(self._opening + b"]"), *self._attachments)
        return self._plain

    def marked(self, offset: str) -> Encoded:
        """The event with its offset, which is always the same one; of plain ASCII without quotes."""
        if self._marked is None:
            self._marked = encoded(Frame(b'%b,"%b"]' % (self._opening, offset.encode())), *self._attachments)
        return self._marked


class Packet(msgspec.Struct, frozen=True, kw_only=True):
    """One Socket.IO packet of a client, whole and valid.

    `type` is CONNECT, DISCONNECT, EVENT or ACK (binary ones are these, with bytes inside `data`). `data` is
    an object for CONNECT, None for DISCONNECT, a list for EVENT, which begins with the event's name, and a
    list or None for ACK.
    """

    type: int
    namespace: str
    data: Any
    ack_id: int | None
    size_bytes: int


# Engine.IO


def _text(packet_type: int, data: str = "") -> Frame:
    return Frame(f"{packet_type}{data}".encode())


PING = _text(engineio_packet.PING)
NOOP = _text(engineio_packet.NOOP)
CLOSE = _text(engineio_packet.CLOSE)
UPGRADE = _text(engineio_packet.UPGRADE)
PING_PROBE = _text(engineio_packet.PING, "probe")
PONG_PROBE = _text(engineio_packet.PONG, "probe")


def engine_type(frame: Frame) -> int:
    """The Engine.IO packet type of a frame."""
    if frame.is_binary:
        return engineio_packet.MESSAGE
    first = frame.payload[:1]
    if not first or first not in b"0123456":
        raise InvalidPacketError("unknown Engine.IO packet")
    return int(first)


_TEXT_FRAME = 0x81
_BINARY_FRAME = 0x82
# In place of a length: it follows in so many bytes.
_IN_2_BYTES, _IN_8_BYTES = 126, 127


def encoded(*frames: Frame) -> Encoded:
    """One packet of these frames."""
    if len(frames) == 1:
        return Encoded(frames, _websocket_frame(frames[0]))
    return Encoded(frames, b"".join(map(_websocket_frame, frames)))


def _websocket_frame(frame: Frame) -> bytes:
    """A whole message of a server: unmasked, uncompressed, in one piece (RFC 6455, section 5.2)."""
    opcode = _BINARY_FRAME if frame.is_binary else _TEXT_FRAME
    length = len(frame.payload)
    if length < _IN_2_BYTES:
        return bytes((opcode, length)) + frame.payload
    if length < 1 << 16:
        return bytes((opcode, _IN_2_BYTES)) + length.to_bytes(2) + frame.payload
    return bytes((opcode, _IN_8_BYTES)) + length.to_bytes(8) + frame.payload


def encode_open(handshake: dict[str, object]) -> Encoded:
    """The packet that begins an Engine.IO session."""
    return encoded(_text(engineio_packet.OPEN, msgspec.json.encode(handshake).decode()))


def decode_payload(body: bytes) -> Iterator[Frame]:
    """The frames of a long-polling request, at least one. Raises InvalidPacketError at a malformed one."""
    for part in body.split(_SEPARATOR.encode()):
        if not part.startswith(b"b"):
            yield Frame(part)
            continue
        try:
            data = base64.b64decode(part[1:], validate=True)
        except binascii.Error:
            raise InvalidPacketError("invalid base64") from None
        yield Frame(data, is_binary=True)


def encode_payload(frames: Iterable[Frame]) -> bytes:
    """The body of a long-polling answer."""
    return _SEPARATOR.encode().join(
        b"b" + base64.b64encode(frame.payload) if frame.is_binary else frame.payload for frame in frames
    )


# Socket.IO, from the client


class Decoder:
    """Makes packets out of one client's MESSAGE frames. `max_bytes` bounds a packet with its attachments."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._partial: _Codec | None = None
        self._size_bytes = 0

    def feed(self, frame: Frame) -> Packet | None:
        """The packet that this frame completes, if it does. Raises InvalidPacketError."""
        self._size_bytes += len(frame.payload)
        if self._size_bytes > self._max_bytes:
            raise InvalidPacketError("packet with its attachments too large")
        try:
            packet = self._attach(frame.payload) if frame.is_binary else self._begin(frame.payload)
        except (ValueError, TypeError, LookupError, RecursionError):
            raise InvalidPacketError("malformed Socket.IO packet") from None
        if packet is None:
            return None
        size_bytes, self._size_bytes, self._partial = self._size_bytes, 0, None
        return Packet(
            type=_BINARY.get(packet.packet_type, packet.packet_type),
            namespace=packet.namespace or "/",
            data={} if packet.packet_type == CONNECT and packet.data is None else packet.data,
            ack_id=packet.id,
            size_bytes=size_bytes,
        )

    def _begin(self, payload: bytes) -> "_Codec | None":
        if self._partial is not None:
            raise InvalidPacketError("attachment expected")
        text = payload[1:].decode()
        if not text or text[0] not in "012356":
            raise InvalidPacketError("unknown Socket.IO packet")
        packet = _Codec(encoded_packet=text)
        head = _HEAD.match(text)
        # The codec takes digits of any script, and a query out of the namespace's name.
        if head is None or text[head.end() : head.end() + 1].isdigit():
            raise InvalidPacketError("a number in other digits than 0 to 9")
        packet.namespace = head[1]
        _check(packet)
        if packet.attachment_count == 0:
            return packet
        self._partial = packet
        return None

    def _attach(self, attachment: bytes) -> "_Codec | None":
        if self._partial is None:
            raise InvalidPacketError("attachment without a packet")
        return self._partial if self._partial.add_attachment(attachment) else None


def _check(packet: "_Codec") -> None:
    data = packet.data
    if (packet.packet_type in _BINARY) != (packet.attachment_count > 0):
        raise InvalidPacketError("attachments and packet type differ")
    if packet.attachment_count > MAX_ATTACHMENTS:
        raise InvalidPacketError("too many attachments")
    match _BINARY.get(packet.packet_type, packet.packet_type):
        case socketio_packet.CONNECT:
            valid = data is None or isinstance(data, dict)
        case socketio_packet.DISCONNECT:
            valid = data is None
        case socketio_packet.EVENT:
            valid = isinstance(data, list) and bool(data) and _is_event_name(data[0])
        case _:
            # One that nobody waits for is ignored; so is one without an id.
            valid = data is None or isinstance(data, list)
    if not valid:
        raise InvalidPacketError("invalid payload")


def _is_event_name(name: object) -> bool:
    return isinstance(name, str) and name not in RESERVED_EVENTS


# Socket.IO, to the client


def encode_connect(namespace: str, sid: str, pid: str | None = None) -> Encoded:
    """The answer to an accepted CONNECT. `pid` names the connection to the server when it comes back."""
    return encoded(*_encode(CONNECT, namespace, {"sid": sid} if pid is None else {"sid": sid, "pid": pid}))


def encode_connect_error(namespace: str, refusal: dict[str, object]) -> Encoded:
    """The answer to a refused CONNECT: `{message, data?}`."""
    return encoded(*_encode(CONNECT_ERROR, namespace, refusal))


def encode_disconnect(namespace: str) -> Encoded:
    """The end of a connection by the server."""
    return encoded(*_encode(DISCONNECT, namespace, None))


def encode_event(namespace: str, event: str, data: object) -> EventPacket:
    """An event of one argument: JSON types, msgspec structs, Raw; bytes in lists and dicts are attached."""
    with _Complaining():
        if not _holds_bytes(data):
            # As the library's packets do it, which take ten times as long.
            arguments = msgspec.json.encode([event, data])
            str(arguments, "utf-8")  # what is put in raw may be anything
            return EventPacket(_event_head(namespace) + arguments[:-1], ())
    text, *attachments = _encode(EVENT, namespace, [event, data])
    return EventPacket(text.payload.removesuffix(b"]"), tuple(attachments))


def encode_ack(namespace: str, ack_id: int, result: object) -> Encoded:
    """The acknowledgement of an event, of one argument as in `encode_event`."""
    return encoded(*_encode(ACK, namespace, [result], ack_id))


def _encode(packet_type: int, namespace: str, data: object, ack_id: int | None = None) -> list[Frame]:
    with _Complaining():
        is_binary = _holds_bytes(data)
        packet = _Codec(packet_type, data=data, namespace=namespace, id=ack_id, binary=is_binary).encode()
        parts = [packet] if isinstance(packet, str) else packet
        return [
            _text(engineio_packet.MESSAGE, part)
            if isinstance(part, str)
            else Frame(bytes(part), is_binary=True)
            for part in parts
        ]


@lru_cache(maxsize=16)
def _event_head(namespace: str) -> bytes:
    return f"{engineio_packet.MESSAGE}{EVENT}{'' if namespace == '/' else f'{namespace},'}".encode()


class _Complaining:
    """Raises UnencodableError for what the block cannot encode; no generator, which would cost as much."""

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, UnicodeError):
            raise UnencodableError("a lone surrogate cannot be sent") from None
        if isinstance(error, (TypeError, ValueError, RecursionError)):
            raise UnencodableError(f"cannot be sent: {error}") from None


def _holds_bytes(value: object) -> bool:
    """As the codec would find out itself, which takes it as long as all the rest."""
    if isinstance(value, dict):
        return any(map(_holds_bytes, value.values()))
    if isinstance(value, list):
        return any(map(_holds_bytes, value))
    return isinstance(value, (bytes, bytearray))


# JSON


class _Json:
    """What the library's packets encode and decode with."""

    @staticmethod
    def dumps(value: object, **_: object) -> str:
        return msgspec.json.encode(value).decode()

    @staticmethod
    def loads(text: str) -> object:
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError:
            # JSON may escape half a surrogate pair, and the application is to say which field does.
            if not _SURROGATE_ESCAPE.search(text):
                raise
        return json.loads(text, parse_constant=_refused, parse_float=_finite)


def _refused(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("number out of range")
    return number


class _Codec(socketio_packet.Packet):
    json = _Json

    @classmethod
    def reconstruct_binary(cls, data: Any, attachments: list[bytes]) -> Any:
        return _restored(data, attachments)


def _restored(value: Any, attachments: list[bytes]) -> Any:
    match value:
        case list():
            return [_restored(item, attachments) for item in value]
        case {"_placeholder": True, **rest}:
            number = rest.get("num")
            if type(number) is not int or not 0 <= number < len(attachments):
                raise InvalidPacketError("no such attachment")
            return attachments[number]
        case dict():
            return {key: _restored(item, attachments) for key, item in value.items()}
        case _:
            return value
