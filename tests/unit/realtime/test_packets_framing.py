"""What a websocket carries, read by a parser that is not ours."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol, Opcode

from server.realtime import packets
from server.realtime.packets import Frame


def read_wire(wire: bytes) -> list[Frame]:
    """The messages that a client's side of a websocket makes of these bytes, with nothing left over."""
    reader = FrameProtocol(client=True, extensions=[])
    reader.receive_bytes(wire)
    messages: list[Frame] = []
    payload = b""
    for part in reader.received_frames():
        # The reader gives a long frame in parts; a message in several frames is not what is sent.
        assert part.message_finished or not part.frame_finished
        assert part.opcode in (Opcode.TEXT, Opcode.BINARY)
        assert not isinstance(part.payload, tuple)
        payload += part.payload.encode() if isinstance(part.payload, str) else part.payload
        if part.message_finished:
            messages.append(Frame(payload, is_binary=part.opcode is Opcode.BINARY))
            payload = b""
    assert payload == b""
    reader.receive_bytes(b"\x81\x013")
    assert [part.payload for part in reader.received_frames()] == ["3"]
    return messages


LENGTHS = [0, 1, 125, 126, 127, 65_535, 65_536, 200_000]


@pytest.mark.parametrize("length", LENGTHS)
def test_a_frame_of_any_length_is_a_websocket_message(length: int) -> None:
    text, binary = Frame(b"4" * length), Frame(bytes(length), is_binary=True)
    for frame in (text, binary):
        assert read_wire(packets.encoded(frame).wire) == [frame]


@pytest.mark.parametrize(("length", "header_bytes"), [(125, 2), (126, 4), (65_535, 4), (65_536, 10)])
def test_a_length_is_written_in_the_fewest_bytes(length: int, header_bytes: int) -> None:
    """Strict clients refuse any other."""
    assert len(packets.encoded(Frame(bytes(length))).wire) == header_bytes + length


@given(
    st.lists(
        st.builds(Frame, st.text(max_size=300).map(str.encode), st.just(value=False))
        | st.builds(Frame, st.binary(max_size=300), st.just(value=True)),
        max_size=5,
    )
)
def test_what_is_sent_by_websocket_and_by_polling_is_the_same(frames: list[Frame]) -> None:
    encoded = packets.encoded(*frames)
    assert list(encoded.frames) == read_wire(encoded.wire) == frames


def test_a_packet_and_its_attachments_are_a_message_each() -> None:
    """Whether marked or not."""
    packet = packets.encode_event("/chat", "a", [b"one", {"b": b"two"}])
    for encoded in (packet.plain(), packet.marked("epoch.1")):
        assert [frame.is_binary for frame in encoded.frames] == [False, True, True]
        assert read_wire(encoded.wire) == list(encoded.frames)
