import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from socketio.packet import Packet as LibraryPacket

from server.realtime import packets
from server.realtime.packets import Decoder, Encoded, Frame, InvalidPacketError, Packet, UnencodableError

MAX_BYTES = 65_536

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def decode(text: str, *attachments: bytes) -> Packet | None:
    decoder = Decoder(MAX_BYTES)
    packet = decoder.feed(Frame(f"4{text}".encode()))
    for attachment in attachments:
        assert packet is None
        packet = decoder.feed(Frame(attachment, is_binary=True))
    return packet


def decode_whole(encoded: Encoded) -> Packet:
    decoder = Decoder(MAX_BYTES)
    *partial, packet = [decoder.feed(frame) for frame in encoded.frames]
    assert partial == [None] * len(partial)
    assert packet is not None
    return packet


@pytest.mark.parametrize(
    ("text", "packet_type", "namespace", "data", "ack_id"),
    [
        ("0", packets.CONNECT, "/", {}, None),
        ("0/chat,", packets.CONNECT, "/chat", {}, None),
        ("0/chat", packets.CONNECT, "/chat", {}, None),
        ('0/chat,{"token":"x"}', packets.CONNECT, "/chat", {"token": "x"}, None),
        ("0/chat?token=x,", packets.CONNECT, "/chat?token=x", {}, None),
        ("0/chat?token=x", packets.CONNECT, "/chat?token=x", {}, None),
        ("1", packets.DISCONNECT, "/", None, None),
        ("1/chat,", packets.DISCONNECT, "/chat", None, None),
        ('2["a"]', packets.EVENT, "/", ["a"], None),
        ('2/chat,17["a",{"b":[1,2.5,null]}]', packets.EVENT, "/chat", ["a", {"b": [1, 2.5, None]}], 17),
        ('2/chat,["a,b","/x,1"]', packets.EVENT, "/chat", ["a,b", "/x,1"], None),
        ("3/chat,0[]", packets.ACK, "/chat", [], 0),
        ("3/chat,[]", packets.ACK, "/chat", [], None),
        ("31", packets.ACK, "/", None, 1),
    ],
)
def test_valid_packets_are_understood(
    text: str, packet_type: int, namespace: str, data: object, ack_id: int | None
) -> None:
    assert decode(text) == Packet(
        type=packet_type, namespace=namespace, data=data, ack_id=ack_id, size_bytes=len(text) + 1
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "-1",
        "7[]",
        "9",
        "٢[]",
        '4{"message":"servers refuse, clients do not"}',
        "0[]",
        '0"token"',
        "0 1",
        "1{}",
        "1/chat,[]",
        "2",
        "2/chat,",
        "2[]",
        "2{}",
        "2null",
        '2"a"',
        "2[1]",
        "2[null]",
        '2[["a"]]',
        '2["a"',
        '2["a"]x',
        "2[NaN]",
        '2["a",NaN]',
        '2["a",Infinity]',
        '2["a",1e999]',
        '2["a",-1e999]',
        '2["\\ud800",NaN]',
        '2["\\ud800",1e999]',
        f'2["a",{"9" * 5_000}]',
        f'2["\\ud800",{"9" * 5_000}]',
        f"2{'9' * 101}[]",
        f'2["a",{"[" * 30_000}]',
        f'2["a",{"[" * 20_000}{"]" * 20_000}]',
        f'2["\\ud800",{"[" * 20_000}{"]" * 20_000}]',
        "31{}",
        "3٢[]",
        '2/chat,٢["a"]',
        '2/chat,1٢["a"]',
        '5٢-["a",{"_placeholder":true,"num":0}]',
        '5["a"]',
        '50-["a"]',
        '51["a"]',
        '511-["a"]',
        f'5{"9" * 40}-["a"]',
        '21-["a",{"_placeholder":true,"num":0}]',
        "51-[1]",
        '51-[{"_placeholder":true,"num":0}]',
        "61-{}",
        *(f'2["{name}",{{}}]' for name in sorted(packets.RESERVED_EVENTS)),
        *(f'51-["{name}",{{}}]' for name in sorted(packets.RESERVED_EVENTS)),
    ],
)
def test_what_is_no_packet_is_invalid(text: str) -> None:
    with pytest.raises(InvalidPacketError):
        decode(text)


def test_text_that_is_not_utf_8_is_invalid() -> None:
    with pytest.raises(InvalidPacketError):
        Decoder(MAX_BYTES).feed(Frame(b'42["\xff"]'))


HEADERS = st.from_regex(r"\A4[0-9](-|[0-9]{1,3}-)?(/[a-z]{0,3}[,?]?)?[0-9]{0,3}\Z")
NEARLY_PACKETS = st.builds(lambda header, data: f"{header}{json.dumps(data)}".encode(), HEADERS, JSON)


@given(st.binary(max_size=200) | NEARLY_PACKETS, st.booleans())
def test_nothing_a_client_sends_raises_anything_but_invalid(payload: bytes, is_binary: bool) -> None:  # noqa: FBT001
    frame = Frame(payload, is_binary)
    for act in (
        packets.engine_type,
        Decoder(MAX_BYTES).feed,
        lambda _: list(packets.decode_payload(payload)),
    ):
        with suppress(InvalidPacketError):
            act(frame)


def test_half_a_surrogate_pair_reaches_the_application() -> None:
    packet = decode('2["a",{"content":"\\ud83d","whole":"\\ud83d\\ude00"}]')
    assert packet is not None
    assert packet.data == ["a", {"content": "\ud83d", "whole": "😀"}]


def test_attachments_take_the_place_of_their_placeholders() -> None:
    placeholder = '{"_placeholder":true,"num":%d}'
    text = f'52-/chat,3["a",{placeholder % 1},{{"b":[{placeholder % 0}]}}]'
    packet = decode(text, b"first", b"second")
    assert packet == Packet(
        type=packets.EVENT,
        namespace="/chat",
        data=["a", b"second", {"b": [b"first"]}],
        ack_id=3,
        size_bytes=len(text) + 1 + len(b"firstsecond"),
    )


@pytest.mark.parametrize("number", ["1", "-1", "0.0", '"0"', "true", "null"])
def test_a_placeholder_without_its_attachment_is_invalid(number: str) -> None:
    with pytest.raises(InvalidPacketError):
        decode(f'51-["a",{{"_placeholder":true,"num":{number}}}]', b"only one")


def test_an_attachment_needs_a_packet_and_a_packet_its_attachments() -> None:
    with pytest.raises(InvalidPacketError):
        Decoder(MAX_BYTES).feed(Frame(b"x", is_binary=True))
    decoder = Decoder(MAX_BYTES)
    assert decoder.feed(Frame(b'451-["a"]')) is None
    with pytest.raises(InvalidPacketError):
        decoder.feed(Frame(b'42["b"]'))


def test_ten_attachments_are_the_most() -> None:
    assert decode('510-["a"]', *[b""] * 10) is not None
    with pytest.raises(InvalidPacketError):
        decode('511-["a"]')


def test_a_packet_is_bounded_with_its_attachments_and_a_decoder_is_not() -> None:
    decoder = Decoder(100)
    for _ in range(3):
        assert decoder.feed(Frame(b'451-["a"]')) is None
        assert decoder.feed(Frame(bytes(91), is_binary=True)) is not None
    assert decoder.feed(Frame(b'451-["a"]')) is None
    with pytest.raises(InvalidPacketError):
        decoder.feed(Frame(bytes(92), is_binary=True))


@given(st.text().filter(lambda name: name not in packets.RESERVED_EVENTS), JSON)
def test_an_event_arrives_as_it_was_sent(event: str, data: Any) -> None:
    packet = decode_whole(packets.encode_event("/chat", event, data).plain())
    assert (packet.type, packet.namespace, packet.data) == (packets.EVENT, "/chat", [event, data])


@given(st.integers(min_value=0, max_value=10**15), JSON)
def test_an_ack_has_one_argument(ack_id: int, result: Any) -> None:
    packet = decode_whole(packets.encode_ack("/", ack_id, result))
    assert (packet.type, packet.ack_id, packet.data) == (packets.ACK, ack_id, [result])


def test_bytes_go_as_attachments() -> None:
    encoded = packets.encode_event("/chat", "a", {"b": [b"one", {"c": b"two"}]}).plain()
    assert [frame.is_binary for frame in encoded.frames] == [False, True, True]
    assert decode_whole(encoded).data == ["a", {"b": [b"one", {"c": b"two"}]}]


def test_structs_and_ready_json_are_data() -> None:
    class Note(msgspec.Struct):
        text: str

    packet = packets.encode_event("/", "a", [Note("b"), msgspec.Raw(b'{"c": 1}')])
    assert packet.plain().frames == (Frame(b'42["a",[{"text":"b"},{"c": 1}]]'),)


@given(st.text().filter(lambda name: name not in packets.RESERVED_EVENTS), JSON)
def test_a_marked_event_has_its_offset_as_a_last_argument(event: str, data: Any) -> None:
    packet = packets.encode_event("/chat", event, {"d": data, "b": b"one"})
    marked, plain = packet.marked("a-_.1f"), packet.plain()
    assert decode_whole(marked).data == [event, {"d": data, "b": b"one"}, "a-_.1f"]
    assert decode_whole(plain).data == [event, {"d": data, "b": b"one"}]
    assert packet.size_bytes == sum(len(frame.payload) for frame in plain.frames) - len(b"]")


def test_an_event_is_encoded_once_however_often_it_is_sent() -> None:
    packet = packets.encode_event("/", "a", b"b")
    assert packet.plain() is packet.plain()
    assert packet.marked("a.1") is packet.marked("a.1")


def nested(depth: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(depth):
        inner = [inner]
    return inner


@pytest.mark.parametrize(
    "data",
    [
        "\ud800",
        {"\udfff": 1},
        {"a": ["b\ud83d"]},
        msgspec.Raw(b'"\xff"'),
        object(),
        {"a": object()},
        nested(5_000),
    ],
    ids=["string", "key", "deep", "raw", "object", "object inside", "too deep"],
)
def test_what_is_not_json_is_never_sent(data: object) -> None:
    with pytest.raises(UnencodableError):
        packets.encode_event("/", "a", data)
    with pytest.raises(UnencodableError):
        packets.encode_ack("/", 1, data)
    with pytest.raises(UnencodableError):
        packets.encode_connect_error("/", {"message": "a", "data": data})


def test_what_the_server_says_of_a_connection() -> None:
    for encoded, payload in (
        (packets.encode_connect("/", "abc"), b'40{"sid":"abc"}'),
        (packets.encode_connect("/chat", "abc"), b'40/chat,{"sid":"abc"}'),
        (packets.encode_connect("/chat", "abc", "def"), b'40/chat,{"sid":"abc","pid":"def"}'),
        (packets.encode_connect_error("/x", {"message": "no"}), b'44/x,{"message":"no"}'),
        (packets.encode_disconnect("/chat"), b"41/chat,"),
    ):
        assert encoded.frames == (Frame(payload),)


def test_the_handshake_opens_a_session() -> None:
    (opening,) = packets.encode_open({"sid": "a", "pingInterval": 25_000}).frames
    assert json.loads(opening.payload.removeprefix(b"0")) == {"sid": "a", "pingInterval": 25_000}


TEXTS = st.binary().filter(lambda data: b"\x1e" not in data).map(lambda data: Frame(b"4" + data))
ATTACHMENTS = st.binary().map(lambda data: Frame(data, is_binary=True))


@given(st.lists(TEXTS | ATTACHMENTS, min_size=1))
def test_a_payload_holds_any_number_of_frames(frames: list[Frame]) -> None:
    assert list(packets.decode_payload(packets.encode_payload(frames))) == frames


@pytest.mark.parametrize("body", [b"b!", b"bA", b"4a\x1ebAQID\n"])
def test_base64_is_taken_by_the_letter(body: bytes) -> None:
    with pytest.raises(InvalidPacketError):
        list(packets.decode_payload(body))


@pytest.mark.parametrize("payload", [b"", b"a", b"7", b"9x", b"-1", b" 4", b"\xff"])
def test_an_unknown_frame_is_invalid(payload: bytes) -> None:
    with pytest.raises(InvalidPacketError):
        packets.engine_type(Frame(payload))


def test_the_library_is_as_the_codec_expects() -> None:
    """The codec builds on these parts of socketio.packet.Packet; where they change it needs another look."""
    expected = "socketio.packet.Packet has changed: see server/realtime/packets.py"
    assert [
        packets.CONNECT,
        packets.DISCONNECT,
        packets.EVENT,
        packets.ACK,
        packets.CONNECT_ERROR,
    ] == [0, 1, 2, 3, 4], expected

    class Spy(LibraryPacket):
        class json:  # noqa: N801 - the attribute's name is the library's
            @staticmethod
            def dumps(value: object, **_: object) -> str:
                return f"<{value}>"

            @staticmethod
            def loads(text: str) -> object:
                return [text]

        @classmethod
        def reconstruct_binary(cls, data: Any, attachments: list[bytes]) -> Any:
            return [data, attachments]

    assert Spy(2, data=["a"], namespace="/chat", id=1).encode() == "2/chat,1<['a']>", expected
    assert Spy(2, data=[b"a"], binary=False).encode() == "2<[b'a']>", expected
    encoded = Spy(2, data=["a", b"b"], namespace="/").encode()
    assert encoded == ["51-<['a', {'_placeholder': True, 'num': 0}]>", b"b"], expected
    decoded = Spy(encoded_packet="51-/chat,1x")
    assert (decoded.attachment_count, decoded.namespace, decoded.id, decoded.data) == (
        1,
        "/chat",
        1,
        ["x"],
    ), expected
    assert decoded.add_attachment(b"c") is True, expected
    assert decoded.data == [["x"], [b"c"]], expected
