"""A connection from its CONNECT until it has been answered."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import pytest

from server.realtime import packets
from server.realtime.application import RefusedError, TransportClosedError
from server.realtime.connection import Connection
from server.realtime.session import MAX_UNSENT_FRAMES, Reason
from tests.conformance.wire import Recorder
from tests.unit.realtime.test_session import Wire
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
        connection.deliver(packets.encode_event("/chat", "volatile", 3), "", volatile=True)

    class Greeting(Recorder):
        def connected(self, connection: Connection) -> None:
            connection.emit("third", 3)

    world = World(Greeting(decide))
    world.connection.begin({})
    await asyncio.sleep(0)
    assert not world.session.is_behind
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


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (
            RefusedError("not you", {"code": "forbidden"}),
            '44/chat,{"message":"not you","data":{"code":"forbidden"}}',
        ),
        (
            ValueError("a secret"),
            '44/chat,{"message":"internal error","data":{"code":"internal","retry":"never",',
        ),
        (TransportClosedError(), None),
    ],
)
async def test_who_is_not_authenticated_is_not_decided_on(error: Exception, answer: str | None) -> None:
    class Strict(Recorder):
        async def authenticate(self, connection: Connection, _auth: Mapping[str, object]) -> str:
            connection.enter("room")
            connection.emit("never seen", {})
            raise error

    world = World(Strict())
    world.connection.begin({"recovery": True})
    await world.settled()
    sent = world.sent()
    assert [text[: len(answer or "")] for text in sent] == ([] if answer is None else [answer])
    assert "secret" not in str(sent)
    assert world.application.calls == []
    assert not world.rooms.members(["room"])
    assert world.session.is_open is (answer is not None)
    assert not world.recovery.is_used


@pytest.mark.parametrize("returns", [True, False])
async def test_a_client_that_leaves_while_it_is_authenticated_leaves_no_ghost(*, returns: bool) -> None:
    begun = asyncio.Event()

    class Slow(Recorder):
        async def authenticate(self, connection: Connection, _auth: Mapping[str, object]) -> str:
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if not returns:
                    raise
            connection.enter("room")
            return "ana"

    world = World(Slow())
    world.connection.begin({"recovery": True})
    await begun.wait()
    world.session.close(Reason.TRANSPORT_CLOSE)
    await world.settled()
    assert world.application.calls[-1] == ("disconnected", "transport close")
    assert not world.rooms.members(["room"])
    assert not world.recovery.is_used
    assert world.sent() == []


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


async def test_it_is_not_written_to_unasked_before_it_is_open_or_after_its_end() -> None:
    wire, found = Wire(), list[object]()

    async def decide(connection: Connection, _auth: object) -> None:
        found.append(connection.find_free())

    world = World(Recorder(decide))
    world.session.outlet.open(wire)
    world.connection.begin({})
    await world.settled()
    found.append(world.connection.find_free())
    world.connection.disconnect()
    found.append(world.connection.find_free())
    assert found == [None, wire, None]


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


async def test_what_goes_ahead_of_what_was_missed_is_bounded_too() -> None:
    async def decide(connection: Connection, _auth: object) -> None:
        if not connection.is_recovered:
            return
        for _ in range(MAX_UNSENT_FRAMES):
            connection.emit("a", {}, is_kept=False)
        assert connection.is_open
        connection.emit("a", {}, is_kept=False)
        assert not connection.is_open

    left = World(Recorder(decide))
    left.connection.begin({"recovery": True})
    await left.settled()
    assert left.connection._trail is not None
    left.session.abort(Reason.TRANSPORT_CLOSE)
    await left.settled()
    back = World(Recorder(decide))
    back.connection._recovery = left.recovery
    back.connection.begin({"recovery": True, "pid": left.connection._trail.pid})
    await back.settled()
    assert back.connection.is_recovered
    assert back.ends == [Reason.SLOW_CONSUMER]


async def test_a_failure_of_connected_closes_the_transport() -> None:
    class Failing(Recorder):
        def connected(self, connection: Connection) -> None:
            raise ValueError(connection.namespace)

    world = World(Failing())
    world.connection.begin({})
    await world.settled()
    assert world.application.calls == [("connect", {}), ("disconnected", "forced close")]
