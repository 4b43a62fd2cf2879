import asyncio
from collections.abc import Awaitable, Callable

import pytest

from server.realtime import packets
from server.realtime.connection import Connection, RefusedError, TransportClosedError
from server.realtime.packets import UnencodableError
from server.realtime.session import MAX_UNSENT_FRAMES, Reason
from tests.conformance.wire import Recorder
from tests.unit.realtime.world import World


def connect_packet(connection: Connection) -> str:
    return f'40/chat,{{"sid":"{connection.sid}"}}'


async def test_a_connection_that_is_accepted_gets_its_sid() -> None:
    world = World(Recorder())
    assert world.connection.is_connecting
    assert world.connection.request == "the request"
    world.connection.begin({"token": "t"})
    await world.settled()
    assert world.sent() == [connect_packet(world.connection)]
    assert world.application.calls == [("connect", {"token": "t"}), ("connected", "/chat")]
    assert (world.connection.is_open, world.opened_count, world.ends) == (True, 1, [])


async def test_what_is_emitted_before_connect_follows_it_in_order() -> None:
    async def decide(connection: Connection, _auth: object) -> None:
        connection.enter("room")
        connection.emit("first", 1)
        await asyncio.sleep(0)
        for member in world.rooms.members(["room"]):
            member.emit("second", 2)
        connection.deliver(packets.encode_event("/chat", "volatile", 3), volatile=True)

    class Greeting(Recorder):
        def connected(self, connection: Connection) -> None:
            connection.emit("third", 3)

    world = World(Greeting(decide))
    world.connection.begin({})
    await asyncio.sleep(0)
    assert not world.session.has_unsent
    await world.settled()
    assert world.sent() == [
        connect_packet(world.connection),
        '42/chat,["first",1]',
        '42/chat,["second",2]',
        '42/chat,["third",3]',
    ]


async def refuse(_connection: Connection, _auth: object) -> None:
    raise RefusedError("not you", {"code": "forbidden", "retry": "never"})


async def refuse_unencodably(_connection: Connection, _auth: object) -> None:
    raise RefusedError("not you", {"code": object()})


async def fail(_connection: Connection, _auth: object) -> None:
    raise ValueError("a secret")


async def be_cancelled_from_within(_connection: Connection, _auth: object) -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("decide", "answer"),
    [
        (refuse, '44/chat,{"message":"not you","data":{"code":"forbidden","retry":"never"}}'),
        (
            refuse_unencodably,
            '44/chat,{"message":"internal error","data":{"code":"internal","retry":"never",',
        ),
        (fail, '44/chat,{"message":"internal error","data":{"code":"internal","retry":"never","error_id":"'),
        (be_cancelled_from_within, '44/chat,{"message":"internal error","data":{"code":"internal",'),
    ],
)
async def test_a_connection_that_is_refused_never_was(
    decide: Callable[[Connection, object], Awaitable[None]], answer: str
) -> None:
    async def enter_and_decide(connection: Connection, auth: object) -> None:
        connection.enter("room")
        connection.emit("never seen", {})
        await decide(connection, auth)

    world = World(Recorder(enter_and_decide))
    world.connection.begin({})
    await world.settled()
    (sent,) = world.sent()
    assert sent.startswith(answer)
    assert "secret" not in sent
    assert world.application.calls == [("connect", {})]
    assert (world.connection.is_open, world.ends) == (False, [Reason.REFUSED])
    assert world.connection.rooms == frozenset()
    assert world.session.is_open


async def test_an_application_may_close_the_transport_instead_of_answering() -> None:
    async def decide(_connection: Connection, _auth: object) -> None:
        raise TransportClosedError

    world = World(Recorder(decide))
    world.connection.begin({})
    await world.settled()
    assert world.sent() == []
    assert not world.session.is_open
    assert world.application.calls == [("connect", {})]
    assert world.ends == [Reason.FORCED_CLOSE]


async def test_a_client_that_leaves_before_connect_has_begun_is_never_heard_of() -> None:
    world = World(Recorder())
    world.connection.begin({})
    world.connection.end(Reason.TRANSPORT_CLOSE)
    await world.settled()
    assert world.application.calls == []


@pytest.mark.parametrize("ending", ["return", "raise", "refuse", "cancelled"])
async def test_a_client_that_leaves_while_connect_decides_leaves_no_ghost(ending: str) -> None:
    begun = asyncio.Event()

    async def decide(connection: Connection, _auth: object) -> None:
        connection.enter("room")
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            connection.enter("another")
            match ending:
                case "raise":
                    raise ValueError from None
                case "refuse":
                    raise RefusedError("too late", {}) from None
                case "cancelled":
                    raise

    world = World(Recorder(decide))
    world.connection.begin({})
    await begun.wait()
    world.session.close(Reason.TRANSPORT_CLOSE)
    assert not world.rooms.members(["room"])
    await world.settled()
    assert world.application.calls == [("connect", {}), ("disconnected", "transport close")]
    assert not world.rooms.members(["room", "another"])
    assert world.sent() == []


async def test_a_connection_may_be_ended_from_within_connect() -> None:
    async def decide(connection: Connection, _auth: object) -> None:
        connection.disconnect()

    world = World(Recorder(decide))
    world.connection.begin({})
    await world.settled()
    assert world.sent() == ["41/chat,"]
    assert world.application.calls == [("connect", {}), ("disconnected", "server namespace disconnect")]


async def test_what_is_held_back_is_bounded() -> None:
    async def decide(connection: Connection, _auth: object) -> None:
        for _ in range(MAX_UNSENT_FRAMES):
            connection.emit("a", {})
        assert connection.is_open
        connection.emit("a", {})
        assert not connection.is_open

    world = World(Recorder(decide))
    world.connection.begin({})
    await world.settled()
    assert world.ends == [Reason.SLOW_CONSUMER]
    assert world.application.named("disconnected") == [("slow consumer",)]


async def test_a_failure_of_connected_closes_the_transport() -> None:
    class Failing(Recorder):
        def connected(self, connection: Connection) -> None:
            raise ValueError(connection.namespace)

    world = World(Failing())
    world.connection.begin({})
    await world.settled()
    assert world.application.calls == [("connect", {}), ("disconnected", "forced close")]


async def test_events_are_handled_one_after_another_and_answered_in_order() -> None:
    world = await World(Recorder()).connected()
    world.event("wait", 1, ack_id=7)
    world.event("echo", {"a": b"bytes"}, 2)
    world.event("echo", 3, ack_id=8)
    await world.application.until("event")
    assert len(world.application.named("event")) == 1
    world.application.gate.set()
    await world.settled()
    assert world.application.named("event") == [
        ("wait", [1], True),
        ("echo", [{"a": b"bytes"}, 2], False),
        ("echo", [3], True),
    ]
    assert world.sent() == ["43/chat,7[1]", "43/chat,8[[3]]"]


@pytest.mark.parametrize("result", [ValueError("failed"), asyncio.CancelledError(), object()])
async def test_a_handler_that_fails_gets_no_ack_and_stops_nothing(result: object) -> None:
    class Failing(Recorder):
        async def event(
            self, connection: Connection, name: str, args: list[object], *, wants_ack: bool
        ) -> object | None:
            if name == "echo":
                return await super().event(connection, name, args, wants_ack=wants_ack)
            if isinstance(result, BaseException):
                raise result
            return result

    world = await World(Failing()).connected()
    world.event("fail" * 100, ack_id=1)
    world.event("echo", ack_id=2)
    await world.settled()
    assert world.sent() == ["43/chat,2[[]]"]
    assert world.connection.is_open


async def test_a_worker_lives_only_while_there_are_events() -> None:
    world = await World(Recorder()).connected()
    for number in range(3):
        world.event("echo", ack_id=number)
        await world.settled()
        assert world.sent() == [f"43/chat,{number}[[]]"]


async def test_a_connection_is_full_by_number_until_an_event_has_been_handled() -> None:
    world = await World(Recorder()).connected()
    fullness = []
    for number in range(3):
        fullness.append(world.connection.is_full)
        world.event("wait", number)
    assert [*fullness, world.connection.is_full] == [False, False, False, True]
    waiting = asyncio.create_task(world.connection.wait_for_room())
    await world.application.until("event")
    assert not waiting.done()
    world.application.gate.set()
    await asyncio.wait_for(waiting, 1)


async def test_a_connection_is_full_by_size_and_takes_one_event_of_any_size() -> None:
    world = await World(Recorder()).connected()
    fullness = []
    for size_bytes in (99, 1_000):
        world.event("wait", size_bytes=size_bytes)
        fullness.append(world.connection.is_full)
    assert fullness == [False, True]
    world.application.gate.set()
    await world.connection.wait_for_room()
    await world.settled()
    assert (world.connection._unhandled_count, world.connection._unhandled_bytes) == (0, 0)


async def test_nobody_waits_for_room_in_a_connection_that_has_ended() -> None:
    world = await World(Recorder()).connected()
    for _ in range(3):
        world.event("wait")
    waiting = asyncio.create_task(world.connection.wait_for_room())
    await asyncio.sleep(0)
    world.connection.end(Reason.TRANSPORT_CLOSE)
    await asyncio.wait_for(waiting, 1)
    world.application.gate.set()
    await world.settled()


@pytest.mark.parametrize(
    ("reason", "handled"),
    [
        (Reason.CLIENT_DISCONNECT, [1, 2, 3]),
        (Reason.TRANSPORT_CLOSE, [1, 2, 3]),
        (Reason.TRANSPORT_ERROR, [1, 2, 3]),
        (Reason.PING_TIMEOUT, [1, 2, 3]),
        (Reason.SERVER_DISCONNECT, [1]),
        (Reason.FORCED_CLOSE, [1]),
        (Reason.PARSE_ERROR, [1]),
        (Reason.SLOW_CONSUMER, [1]),
        (Reason.SHUTDOWN, [1]),
    ],
)
async def test_events_received_before_the_end_are_handled_unless_the_server_ended_it(
    reason: Reason, handled: list[int]
) -> None:
    world = await World(Recorder()).connected()
    for number in (1, 2, 3):
        world.event("wait", number, ack_id=number)
    await world.application.until("event")
    world.connection.end(reason)
    assert world.application.named("disconnected") == []
    world.application.gate.set()
    await world.settled()
    assert world.application.named("waited") == [([number],) for number in handled]
    assert world.application.calls[-1] == ("disconnected", reason.value)
    assert len(world.application.named("disconnected")) == 1
    assert world.sent() == []


async def test_an_end_is_told_once_and_a_failure_there_harms_nothing() -> None:
    class Failing(Recorder):
        async def disconnected(self, connection: Connection, reason: str) -> None:
            await super().disconnected(connection, reason)
            raise ValueError(reason)

    world = await World(Failing()).connected()
    world.connection.end(Reason.TRANSPORT_CLOSE)
    world.connection.end(Reason.PING_TIMEOUT)
    world.connection.disconnect()
    world.connection.close()
    await world.settled()
    assert world.application.named("disconnected") == [("transport close",)]
    assert world.ends == [Reason.TRANSPORT_CLOSE]
    assert world.session.is_open


async def test_a_worker_that_is_cancelled_stops_there_and_the_end_is_still_told() -> None:
    world = await World(Recorder()).connected()
    world.event("wait", 1)
    world.event("wait", 2)
    await world.application.until("event")
    world.connection.end(Reason.TRANSPORT_CLOSE)
    for task in world.tasks:
        task.cancel()
    await world.settled()
    assert len(world.application.named("event")) == 1
    assert world.application.calls[-1] == ("disconnected", "transport close")


async def test_a_connection_that_has_ended_is_in_no_room_and_enters_none() -> None:
    world = await World(Recorder()).connected()
    world.connection.enter("a")
    world.connection.enter("b")
    world.connection.leave("b")
    assert world.connection.rooms == {"a"}
    world.connection.disconnect()
    world.connection.enter("c")
    world.connection.emit("after", {})
    assert world.connection.rooms == frozenset()
    assert world.sent() == ["41/chat,"]
    assert world.session.is_open
    await world.settled()


async def test_close_takes_the_transport_along() -> None:
    world = await World(Recorder()).connected()
    world.connection.emit("last", {})
    world.connection.close()
    assert (world.connection.is_open, world.session.is_open) == (False, False)
    assert world.sent() == ['42/chat,["last",{}]']
    await world.settled()


async def test_a_volatile_event_needs_an_empty_queue() -> None:
    world = await World(Recorder()).connected()
    for number in (1, 2):
        world.connection.deliver(packets.encode_event("/chat", "a", number), volatile=True)
    assert world.sent() == ['42/chat,["a",1]']
    world.connection.close()
    await world.settled()


async def test_an_event_that_cannot_be_encoded_raises_and_sends_nothing() -> None:
    world = await World(Recorder()).connected()
    with pytest.raises(UnencodableError):
        world.connection.emit("a", "\ud800")
    assert world.sent() == []
