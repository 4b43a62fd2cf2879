import asyncio
import json
from typing import Any

import pytest
from msgspec.structs import replace

from server.realtime import packets
from server.realtime.packets import Frame, InvalidPacketError
from server.realtime.session import MAX_UNSENT_FRAMES, Options, Reason, Session

OPTIONS = Options(ping_interval_s=0.5, ping_timeout_s=0.25, max_buffer_bytes=100)
HELLO = Frame(b"4hello")


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


async def test_frames_leave_in_order_and_count_until_they_have_left() -> None:
    session, _, _ = begin()
    session.send([HELLO, packets.PING])
    unsent = []
    for frame in (HELLO, packets.PING):
        assert await session._next_frame() == frame
        unsent.append((session.has_unsent, session._unsent_bytes))
        session._sent(frame)
    assert [*unsent, (session.has_unsent, session._unsent_bytes)] == [(True, 7), (True, 1), (False, 0)]


async def test_a_writer_is_woken_by_the_next_frame_and_by_the_end() -> None:
    session, _, _ = begin()
    async with asyncio.timeout(1):
        asyncio.get_running_loop().call_soon(session.send, [HELLO])
        assert await session._next_frame() == HELLO
        session._sent(HELLO)
        asyncio.get_running_loop().call_soon(session.close, Reason.SHUTDOWN)
        assert await session._next_frame() is None


async def test_what_was_queued_before_the_end_is_still_sent_and_nothing_after_it() -> None:
    session, upstairs, _ = begin(is_websocket=False)
    session.send([HELLO])
    session.close(Reason.FORCED_CLOSE)
    session.send([HELLO])
    session.close(Reason.SHUTDOWN)
    assert not session.is_open
    assert session._take_unsent() == [HELLO]
    assert upstairs.reasons == [Reason.FORCED_CLOSE]
    session.abort(Reason.SHUTDOWN)


@pytest.mark.parametrize("reason", Reason)
async def test_only_a_client_at_fault_is_sent_the_packet_for_which_it_may_stay_away(reason: Reason) -> None:
    session, _, _ = begin(is_websocket=False)
    session.send([HELLO])
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
    session.send([HELLO])
    session.close(Reason.FORCED_CLOSE)
    assert forgotten.sessions == []
    while not session._is_over:
        session._changed.clear()
        await asyncio.wait_for(session._changed.wait(), 1)
    assert forgotten.sessions == [session]
    assert not session.has_unsent


async def test_an_aborted_session_is_forgotten_at_once() -> None:
    session, upstairs, forgotten = begin()
    session.send([HELLO])
    session.abort(Reason.SLOW_CONSUMER)
    session.abort(Reason.SHUTDOWN)
    assert upstairs.reasons == [Reason.SLOW_CONSUMER]
    assert forgotten.sessions == [session]
    assert not session.has_unsent


async def test_a_session_that_has_ended_pings_no_more() -> None:
    for end in (Session.close, Session.abort):
        session, _, _ = begin()
        end(session, Reason.SHUTDOWN)
        assert session._heartbeat._timer is None


async def test_the_bound_on_unsent_bytes_is_checked_before_a_packet_is_added() -> None:
    session, upstairs, _ = begin()
    session.send([Frame(bytes(99))])
    session.send([Frame(bytes(1_000))])
    assert upstairs.reasons == []
    session.send([HELLO])
    assert upstairs.reasons == [Reason.SLOW_CONSUMER]


async def test_the_number_of_unsent_frames_is_bounded_too() -> None:
    session, upstairs, _ = begin(replace(OPTIONS, max_buffer_bytes=1_000_000))
    session.send([HELLO] * MAX_UNSENT_FRAMES)
    assert upstairs.reasons == []
    session.send([HELLO])
    assert upstairs.reasons == [Reason.SLOW_CONSUMER]


async def test_messages_go_up_and_a_close_ends_it() -> None:
    session, upstairs, forgotten = begin()
    await session.receive(HELLO)
    await session.receive(Frame(b"\x01", is_binary=True))
    await session.receive(packets.CLOSE)
    assert upstairs.frames == [HELLO, Frame(b"\x01", is_binary=True)]
    assert upstairs.reasons == [Reason.TRANSPORT_CLOSE]
    assert forgotten.sessions == [session]


@pytest.mark.parametrize("payload", [b"0{}", b"2", b"2probe", b"5", b"6", b"7", b"", b"4invalid"])
async def test_what_clients_do_not_send_is_invalid(payload: bytes) -> None:
    session, _, _ = begin()
    with pytest.raises(InvalidPacketError):
        await session.receive(Frame(payload))
    session.abort(Reason.PARSE_ERROR)


async def test_reading_waits_while_there_is_no_room_and_the_ping_timeout_with_it() -> None:
    session, upstairs, _ = begin(replace(OPTIONS, ping_interval_s=0.01, ping_timeout_s=0.02))
    upstairs.room.clear()
    reading = asyncio.create_task(session.receive(HELLO))
    assert await asyncio.wait_for(session._next_frame(), 1) == packets.PING
    other, given_up, _ = begin(replace(OPTIONS, ping_interval_s=0.01, ping_timeout_s=0.03))
    while not given_up.reasons:
        other._changed.clear()
        await asyncio.wait_for(other._changed.wait(), 1)
    assert given_up.reasons == [Reason.PING_TIMEOUT]
    assert upstairs.reasons == []
    assert not reading.done()
    upstairs.room.set()
    await asyncio.wait_for(reading, 1)
    await session.receive(Frame(b"3"))
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
