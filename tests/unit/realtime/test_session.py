import asyncio
import json
from typing import Any

import pytest
from msgspec.structs import replace

from server.realtime import packets
from server.realtime.outlet import BEHIND_BYTES
from server.realtime.packets import Encoded, Frame, InvalidPacketError, encoded
from server.realtime.session import MAX_UNSENT_FRAMES, Options, Reason, Session
from tests.conformance.wire import eventually

OPTIONS = Options(ping_interval_s=0.5, ping_timeout_s=0.25, max_buffer_bytes=100)
HELLO = Frame(b"4hello")
HELLO_PACKET = encoded(HELLO)


def packet(size_bytes: int) -> Encoded:
    return encoded(Frame(bytes(size_bytes), is_binary=True))


class Upstairs:
    """A receiver that writes down what it gets; it is full while there is no room."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.reasons: list[Reason] = []
        self.room = asyncio.Event()
        self.room.set()

    @property
    def is_full(self) -> bool:
        return not self.room.is_set()

    def answered(self) -> None: ...

    async def wait_for_room(self) -> None:
        await self.room.wait()

    def received(self, frame: Frame) -> None:
        if frame.payload == b"4invalid":
            raise InvalidPacketError("invalid")
        self.frames.append(frame)

    def closed(self, reason: Reason) -> None:
        self.reasons.append(reason)


class Forgotten:
    def __init__(self) -> None:
        self.sessions: list[Session] = []

    def __call__(self, session: Session) -> None:
        self.sessions.append(session)


class Wire(asyncio.Transport):
    """A TCP transport whose peer reads nothing; once lost it behaves as uvloop's do."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_lost = False
        self.is_aborted = False

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self.written))

    def is_closing(self) -> bool:
        return self.is_lost

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.is_lost:
            raise RuntimeError("the handler is closed")
        self.written.append(bytes(data))

    def abort(self) -> None:
        self.is_aborted = True


def on_wire(options: Options = OPTIONS) -> tuple[Session, Upstairs, Wire]:
    """A session that is served by a websocket."""
    session, upstairs, _ = begin(options)
    wire = Wire()
    session.outlet.open(wire)
    return session, upstairs, wire


def begin(options: Options = OPTIONS, *, is_websocket: bool = True) -> tuple[Session, Upstairs, Forgotten]:
    forgotten, upstairs = Forgotten(), Upstairs()
    session = Session("the request", options, forgotten)
    session.receiver = upstairs
    session.start(is_websocket=is_websocket)
    session._take_unsent()
    return session, upstairs, forgotten


@pytest.mark.parametrize(
    ("transports", "is_websocket", "upgrades"),
    [
        (("polling", "websocket"), False, ["websocket"]),
        (("polling", "websocket"), True, []),
        (("polling",), False, []),
    ],
)
async def test_the_handshake_says_what_the_client_needs(
    transports: tuple[str, ...],
    is_websocket: bool,  # noqa: FBT001 - a table's column
    upgrades: list[str],
) -> None:
    session = Session(None, replace(OPTIONS, transports=transports), Forgotten())
    session.receiver = Upstairs()
    session.start(is_websocket=is_websocket)
    (opening,) = session._take_unsent()
    handshake: dict[str, Any] = json.loads(opening.payload.removeprefix(b"0"))
    assert handshake == {
        "sid": session.sid,
        "upgrades": upgrades,
        "pingInterval": 500,
        "pingTimeout": 250,
        "maxPayload": 65_536,
    }
    session.abort(Reason.SHUTDOWN)


async def until_unsent(session: Session) -> list[Frame]:
    """Wait for the next frames of a session that has no websocket."""
    async with asyncio.timeout(1):
        while not session._unsent:
            session._changed.clear()
            await session._changed.wait()
    return session._take_unsent()


async def test_frames_leave_in_order_and_count_until_they_have_left() -> None:
    session, _, _ = begin(is_websocket=False)
    session.send(encoded(HELLO, packets.PING))
    session.send(encoded(packets.NOOP))
    taken, unsent = [], []
    for most in (1, 5):
        unsent.append((session.is_behind, session._unsent_bytes))
        taken.append(session._take_unsent(most))
    assert taken == [[HELLO], [packets.PING, packets.NOOP]]
    assert [*unsent, (session.is_behind, session._unsent_bytes)] == [(True, 8), (True, 2), (False, 0)]


async def test_a_websocket_is_written_to_at_once_and_nothing_is_queued() -> None:
    session, _, wire = on_wire(replace(OPTIONS, max_buffer_bytes=1_000))
    sent = [HELLO_PACKET, encoded(packets.PING, HELLO), HELLO_PACKET]
    for each in sent:
        session.send(each)
    assert wire.written == [each.wire for each in sent]
    assert session._take_unsent() == []
    session.abort(Reason.SHUTDOWN)
    session.send(HELLO_PACKET)
    assert len(wire.written) == 3


async def test_pings_go_the_way_of_all_else() -> None:
    session, _, wire = on_wire(replace(OPTIONS, ping_interval_s=0.01, ping_timeout_s=5))
    await eventually(lambda: wire.written)
    assert wire.written == [encoded(packets.PING).wire]
    session.abort(Reason.SHUTDOWN)


async def test_a_websocket_whose_peer_does_not_read_is_cut_off_at_the_bound() -> None:
    """It is checked before a packet is written: one may pass it."""
    session, upstairs, wire = on_wire()
    session.send(packet(97))
    session.send(packet(1_000))
    assert (upstairs.reasons, wire.is_aborted) == ([], False)
    session.send(HELLO_PACKET)
    assert (upstairs.reasons, wire.is_aborted) == ([Reason.SLOW_CONSUMER], True)
    assert len(wire.written) == 2


async def test_a_websocket_that_is_lost_is_not_written_to() -> None:
    """Its end is heard of a moment later; until then whoever sends to many must not fail."""
    session, upstairs, wire = on_wire()
    session.send(HELLO_PACKET)
    wire.is_lost = True
    session.send(HELLO_PACKET)
    assert wire.written == [HELLO_PACKET.wire]
    assert upstairs.reasons == []
    session.abort(Reason.TRANSPORT_CLOSE)


async def test_a_websocket_is_behind_when_more_than_a_burst_is_unsent() -> None:
    session, _, _ = on_wire(Options())
    behind = [session.is_behind]
    for size_bytes in (BEHIND_BYTES - 4, 1):
        session.send(packet(size_bytes))
        behind.append(session.is_behind)
    assert behind == [False, False, True]
    session.abort(Reason.SHUTDOWN)


async def test_what_was_sent_before_a_ping_that_is_answered_has_been_received() -> None:
    session, _, _ = begin(replace(OPTIONS, ping_interval_s=0.01, ping_timeout_s=5), is_websocket=False)
    begun_s = asyncio.get_running_loop().time()
    assert session.received_until_s < 0
    await until_unsent(session)
    pinged_s = asyncio.get_running_loop().time()
    assert session.received_until_s < 0
    session.receive(Frame(b"3"))
    answered = session.received_until_s
    assert begun_s < answered <= pinged_s
    session.receive(Frame(b"3"))
    assert session.received_until_s == answered
    session.abort(Reason.SHUTDOWN)


async def test_who_waits_for_a_poller_to_take_its_frames_is_woken_when_all_are_taken_or_it_ends() -> None:
    session, _, _ = begin(is_websocket=False)
    await asyncio.wait_for(session.drained(), 1)
    session.send(encoded(HELLO, HELLO))
    waiting = asyncio.create_task(session.drained())
    for is_done in (False, True):
        await asyncio.sleep(0)
        session._take_unsent(1)
        await asyncio.wait({waiting}, timeout=1 if is_done else 0)
        assert waiting.done() is is_done
    session.send(HELLO_PACKET)
    waiting = asyncio.create_task(session.drained())
    await asyncio.sleep(0)
    assert not waiting.done()
    session.close(Reason.SHUTDOWN)
    await asyncio.wait_for(waiting, 1)
    session.abort(Reason.SHUTDOWN)


async def test_what_was_queued_before_the_end_is_still_sent_and_nothing_after_it() -> None:
    session, upstairs, _ = begin(is_websocket=False)
    session.send(HELLO_PACKET)
    session.close(Reason.FORCED_CLOSE)
    session.send(HELLO_PACKET)
    session.close(Reason.SHUTDOWN)
    assert not session.is_open
    assert session._take_unsent() == [HELLO]
    assert upstairs.reasons == [Reason.FORCED_CLOSE]
    session.abort(Reason.SHUTDOWN)


@pytest.mark.parametrize("reason", Reason)
async def test_only_a_client_at_fault_is_sent_the_packet_for_which_it_may_stay_away(reason: Reason) -> None:
    session, _, _ = begin(is_websocket=False)
    session.send(HELLO_PACKET)
    session.close(reason)
    is_at_fault = reason in {Reason.PARSE_ERROR, Reason.TRANSPORT_ERROR}
    assert session._take_unsent() == ([HELLO, packets.CLOSE] if is_at_fault else [HELLO])
    session.abort(Reason.SHUTDOWN)


async def test_a_polling_session_with_nothing_to_send_does_not_linger() -> None:
    session, _, forgotten = begin(is_websocket=False)
    session.close(Reason.SHUTDOWN)
    assert forgotten.sessions == [session]


async def test_a_session_that_lingers_is_forgotten_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.realtime.session.LINGER_S", 0.01)
    session, _, forgotten = begin(is_websocket=False)
    session.send(HELLO_PACKET)
    session.close(Reason.FORCED_CLOSE)
    assert forgotten.sessions == []
    while not session._is_over:
        session._changed.clear()
        await asyncio.wait_for(session._changed.wait(), 1)
    assert forgotten.sessions == [session]
    assert not session.is_behind


async def test_an_aborted_session_is_forgotten_at_once() -> None:
    session, upstairs, forgotten = begin()
    session.send(HELLO_PACKET)
    session.abort(Reason.SLOW_CONSUMER)
    session.abort(Reason.SHUTDOWN)
    assert upstairs.reasons == [Reason.SLOW_CONSUMER]
    assert forgotten.sessions == [session]
    assert not session.is_behind


async def test_a_session_that_has_ended_pings_no_more() -> None:
    for end in (Session.close, Session.abort):
        session, _, _ = begin()
        end(session, Reason.SHUTDOWN)
        assert session._heartbeat._timer is None


async def test_the_bound_on_unsent_bytes_is_checked_before_a_packet_is_added() -> None:
    session, upstairs, _ = begin(is_websocket=False)
    session.send(packet(99))
    session.send(packet(1_000))
    assert upstairs.reasons == []
    session.send(HELLO_PACKET)
    assert upstairs.reasons == [Reason.SLOW_CONSUMER]


async def test_the_number_of_unsent_frames_is_bounded_too() -> None:
    session, upstairs, _ = begin(replace(OPTIONS, max_buffer_bytes=1_000_000), is_websocket=False)
    session.send(encoded(*[HELLO] * MAX_UNSENT_FRAMES))
    assert upstairs.reasons == []
    session.send(HELLO_PACKET)
    assert upstairs.reasons == [Reason.SLOW_CONSUMER]


async def test_messages_go_up_and_a_close_ends_it() -> None:
    session, upstairs, forgotten = begin()
    session.receive(HELLO)
    session.receive(Frame(b"\x01", is_binary=True))
    session.receive(packets.CLOSE)
    assert upstairs.frames == [HELLO, Frame(b"\x01", is_binary=True)]
    assert upstairs.reasons == [Reason.TRANSPORT_CLOSE]
    assert forgotten.sessions == [session]


@pytest.mark.parametrize("payload", [b"0{}", b"2", b"2probe", b"5", b"6", b"7", b"", b"4invalid"])
async def test_what_clients_do_not_send_is_invalid(payload: bytes) -> None:
    session, _, _ = begin()
    with pytest.raises(InvalidPacketError):
        session.receive(Frame(payload))
    session.abort(Reason.PARSE_ERROR)


async def test_reading_waits_while_there_is_no_room_and_the_ping_timeout_with_it() -> None:
    session, upstairs, _ = begin(replace(OPTIONS, ping_interval_s=0.01, ping_timeout_s=0.02))
    upstairs.room.clear()
    session.receive(HELLO)
    reading = asyncio.create_task(session.wait_for_room())
    assert await until_unsent(session) == [packets.PING]
    other, given_up, _ = begin(replace(OPTIONS, ping_interval_s=0.01, ping_timeout_s=0.03))
    while not given_up.reasons:
        other._changed.clear()
        await asyncio.wait_for(other._changed.wait(), 1)
    assert given_up.reasons == [Reason.PING_TIMEOUT]
    assert upstairs.reasons == []
    assert not reading.done()
    upstairs.room.set()
    await asyncio.wait_for(reading, 1)
    session.receive(Frame(b"3"))
    assert session.is_open
    for each in (session, other):
        each.abort(Reason.SHUTDOWN)


@pytest.mark.parametrize(
    ("is_websocket", "is_polled", "lingers"),
    [(True, False, True), (False, True, True), (False, False, False)],
    ids=["websocket", "poll held open", "no poll"],
)
async def test_only_a_client_that_would_hear_it_is_told_of_the_ping_timeout(
    is_websocket: bool,  # noqa: FBT001 - a table's column
    is_polled: bool,  # noqa: FBT001 - a table's column
    lingers: bool,  # noqa: FBT001 - a table's column
) -> None:
    session, upstairs, forgotten = begin(is_websocket=is_websocket)
    session._is_polled = is_polled
    session._give_up()
    assert upstairs.reasons == [Reason.PING_TIMEOUT]
    assert (forgotten.sessions == []) is lingers
    session.abort(Reason.SHUTDOWN)
