"""A connection that has been accepted: its events, what it is sent, and its end."""

import asyncio

import pytest

from server.realtime import packets
from server.realtime.connection import Connection
from server.realtime.packets import UnencodableError
from server.realtime.session import Reason
from tests.conformance.wire import Recorder
from tests.unit.realtime.world import World


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
    assert not world.connection.is_full


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


async def test_a_volatile_event_is_not_for_a_client_that_is_behind() -> None:
    world = await World(Recorder()).connected()
    for number in (1, 2):
        world.connection.deliver(packets.encode_event("/chat", "a", number), "", volatile=True)
    world.connection.deliver(packets.encode_event("/chat", "a", 3), "")
    assert world.sent() == ['42/chat,["a",1]', '42/chat,["a",3]']
    world.connection.deliver(packets.encode_event("/chat", "a", 4), "", volatile=True)
    assert world.sent() == ['42/chat,["a",4]']
    world.connection.close()
    await world.settled()


async def test_an_event_that_cannot_be_encoded_raises_and_sends_nothing() -> None:
    world = await World(Recorder()).connected()
    with pytest.raises(UnencodableError):
        world.connection.emit("a", "\ud800")
    assert world.sent() == []
