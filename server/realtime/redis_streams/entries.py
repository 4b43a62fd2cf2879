"""What stands in the stream: entries of every server, in one order."""

import msgspec

from server.realtime.bus import Control, Emit
from server.realtime.packets import EventPacket, encode_event

VERSION = b"1"
"""Of the form of entries. A server skips those of another one."""

# Of a stream's id `milliseconds-number`; a millisecond has never so many entries.
_NUMBER_BITS = 20


class EmitEntry(msgspec.Struct, frozen=True, array_like=True, tag="emit"):
    """An event, encoded but for its offset. (`node`, `number`): which server's, and its how manieth.

    Those of one server come with ascending numbers; 0 is what was read from the source, by whomever.
    `key`, `rev` and `memo` are its gapless order, if it has one. `pid`: it is for this connection alone.
    """

    node: str
    number: int
    rooms: tuple[str, ...]
    except_rooms: tuple[str, ...]
    volatile: bool
    key: str
    rev: int
    pid: str
    opening: bytes
    attachments: list[bytes]
    memo: str = ""

    @property
    def packet(self) -> EventPacket:
        return EventPacket.of(self.opening, self.attachments)


class ControlEntry(msgspec.Struct, frozen=True, array_like=True, tag="control"):
    """A notice of the application."""

    node: str
    number: int
    name: str
    data: dict[str, object]


class EchoEntry(msgspec.Struct, frozen=True, array_like=True, tag="echo"):
    """Written to be read: whoever gets its own back hears the bus. `at_s`: when, by its own clock."""

    node: str
    number: int
    at_s: float


class RepairEntry(msgspec.Struct, frozen=True, array_like=True, tag="repair"):
    """Something may never come by the stream: what can be read elsewhere is to be read anew."""

    node: str
    number: int


class TakeoverEntry(msgspec.Struct, frozen=True, array_like=True, tag="takeover"):
    """Whoever has this connection is to let go of it: its client is at another server."""

    node: str
    number: int
    pid: str


class AgainEntry(msgspec.Struct, frozen=True, array_like=True, tag="again"):
    """An entry, encoded, that had gone into the stream as number `first` in that epoch, and that Redis lost.

    Who read it there has dealt with it.
    """

    node: str
    number: int
    epoch: str
    first: int
    data: bytes


Entry = EmitEntry | ControlEntry | EchoEntry | RepairEntry | TakeoverEntry | AgainEntry

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Entry)


def encode(entry: Entry) -> bytes:
    """The bytes of an entry."""
    return _encoder.encode(entry)


def decode(data: bytes) -> Entry:
    """The entry. Raises msgspec.DecodeError."""
    entry: Entry = _decoder.decode(data)
    return entry


def emit_entry(emit: Emit, *, namespace: str, node: str, number: int) -> EmitEntry:
    """An event as it goes into the stream. Raises UnencodableError."""
    opening, attachments = encode_event(namespace, emit.event, emit.data).parts
    gapless = emit.order if emit.order is not None and emit.order.is_gapless else None
    return EmitEntry(
        node,
        number,
        tuple(emit.rooms),
        tuple(emit.except_rooms),
        emit.volatile,
        gapless.key if gapless else "",
        gapless.number if gapless else 0,
        "",
        opening,
        attachments,
        gapless.memo if gapless else "",
    )


def control_entry(control: Control, *, node: str, number: int) -> ControlEntry:
    """A notice as it goes into the stream."""
    return ControlEntry(node, number, control.name, control.data)


def position_of(stream_id: bytes) -> int:
    """A stream's id as one number, in the same order."""
    milliseconds, _, number = stream_id.partition(b"-")
    return (int(milliseconds) << _NUMBER_BITS) | int(number)


def again(entry: Entry, number: int, epoch: str) -> AgainEntry:
    """The entry that was lost in that epoch, as another one of its server."""
    if isinstance(entry, AgainEntry):
        return msgspec.structs.replace(entry, number=number)
    return AgainEntry(entry.node, number, epoch, entry.number, encode(entry))


def lost(entry: Entry) -> Entry:
    """The entry itself, if it was lost before. Raises msgspec.DecodeError."""
    return decode(entry.data) if isinstance(entry, AgainEntry) else entry
