import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import pytest
from msgspec.structs import replace

from server.realtime.client import _MAX_CONNECTS, Client, Namespace
from server.realtime.packets import Frame, InvalidPacketError
from server.realtime.recovery import Recovery
from server.realtime.session import Options, Reason, Session
from tests.conformance.wire import Recorder

OPTIONS = Options(connect_timeout_s=60)


class Desk:
    """A host with two namespaces, and the one client of a session without a network."""

    def __init__(self, options: Options = OPTIONS, application: Recorder | None = None) -> None:
        self.options = options
        self.application = application or Recorder()
        self.other = Recorder()
        self.namespaces = {
            "/chat": Namespace(self.application, Recovery(options.recovery, ping_s=1)),
            "/other": Namespace(self.other, Recovery(options.recovery, ping_s=1)),
        }
        self.unknown_namespace: dict[str, object] = {"message": "not here"}
        self.tasks: set[asyncio.Task[None]] = set()
        self.session = Session(None, options, lambda _: None)
        self.client = Client(self.session, self)
        self.session.receiver = self.client

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self.tasks.add(task)
        return task

    async def take(self, *messages: str | bytes) -> list[str]:
        """Receive messages, let everything run, and return what is sent."""
        for message in messages:
            frame = (
                Frame(f"4{message}".encode()) if isinstance(message, str) else Frame(message, is_binary=True)
            )
            self.client.received(frame)
        async with asyncio.timeout(2):
            while pending := {task for task in self.tasks if not task.done()}:
                await asyncio.wait(pending)
        return [frame.payload.decode() for frame in self.session._take_unsent()]

    def counts(self) -> tuple[int, int]:
        return len(self.namespaces["/chat"].connections), len(self.namespaces["/other"].connections)


async def test_a_client_may_be_connected_to_several_namespaces() -> None:
    desk = Desk()
    chat, other = await desk.take("0/chat,", '0/other,{"token":"t"}')
    assert chat.startswith('40/chat,{"sid":"')
    assert other.startswith('40/other,{"sid":"')
    assert desk.counts() == (1, 1)
    assert await desk.take('2/other,1["echo"]', '2/chat,2["echo"]') == ["43/other,1[[]]", "43/chat,2[[]]"]
    assert desk.other.named("connect") == [({"token": "t"},)]
    desk.session.close(Reason.TRANSPORT_CLOSE)
    await desk.take()
    assert desk.counts() == (0, 0)
    assert (
        desk.other.named("disconnected") == desk.application.named("disconnected") == [("transport close",)]
    )


async def test_an_unknown_namespace_is_refused_and_others_stay_open() -> None:
    desk = Desk()
    assert await desk.take("0", "0/elsewhere,{}") == [
        '44{"message":"not here"}',
        '44/elsewhere,{"message":"not here"}',
    ]
    assert json.loads((await desk.take("0/chat,"))[0].removeprefix("40/chat,"))["sid"]


@pytest.mark.parametrize(
    ("before", "message"),
    [
        ((), '2/chat,["echo"]'),
        ((), '3/chat,1["echo"]'),
        ((), "1/chat,"),
        ((), '51-/chat,["echo",{"_placeholder":true,"num":0}]'),
        (("0/chat,",), '2["echo"]'),
        (("0/chat,",), "0/chat,"),
        (("0/chat,", "1/chat,"), '2/chat,["echo"]'),
        (("0/chat,",), '2/chat,["connect",{}]'),
        (("0/chat,",), "0/other,[]"),
    ],
)
async def test_a_packet_out_of_place_is_invalid(before: tuple[str, ...], message: str) -> None:
    desk = Desk()
    await desk.take(*before)
    with pytest.raises(InvalidPacketError):
        await desk.take(message, b"")


@pytest.mark.parametrize("message", ['2/chat,["echo"]', "0/chat,", '3/chat,1["echo"]'])
async def test_while_connect_decides_only_leaving_is_allowed(message: str) -> None:
    desk = Desk()
    desk.client.received(Frame(b"40/chat,"))
    with pytest.raises(InvalidPacketError):
        desk.client.received(Frame(f"4{message}".encode()))
    assert await desk.take("1/chat,") == []
    assert desk.counts() == (0, 0)


@pytest.mark.parametrize("namespace", ["/chat", "/elsewhere"])
async def test_the_connects_of_one_transport_are_counted(namespace: str) -> None:
    """Limits on new connections are on transports; who is refused or leaves may not go on for ever either."""
    desk = Desk()
    for _ in range(_MAX_CONNECTS - 1):
        assert (await desk.take(f"0{namespace},"))[0].startswith(f"4{'0' if namespace == '/chat' else '4'}")
        if namespace == "/chat":
            await desk.take("1/chat,")
    assert (await desk.take("0/other,"))[0].startswith("40/other,")
    with pytest.raises(InvalidPacketError):
        await desk.take("0/chat,")
    assert await desk.take('2/other,1["echo"]') == ["43/other,1[[]]"]


async def test_an_ack_to_nothing_is_ignored() -> None:
    desk = Desk()
    await desk.take("0/chat,")
    assert await desk.take("3/chat,99[]", '61-/chat,99[{"_placeholder":true,"num":0}]', b"x") == []
    assert desk.application.named("event") == []


async def test_what_was_under_way_when_the_server_disconnected_is_dropped() -> None:
    desk = Desk()
    await desk.take("0/chat,")
    desk.application.connections[0].disconnect()
    assert await desk.take('2/chat,1["echo"]', '3/chat,1["x"]', "1/chat,") == ["41/chat,"]
    assert desk.application.named("event") == []
    assert (await desk.take("0/chat,"))[0].startswith("40/chat,")
    assert await desk.take("1/chat,") == []
    with pytest.raises(InvalidPacketError):
        await desk.take('2/chat,1["echo"]')


async def test_attachments_arrive_as_bytes() -> None:
    desk = Desk()
    await desk.take("0/chat,")
    await desk.take('51-/chat,["echo",{"_placeholder":true,"num":0}]', b"\x00\xff")
    assert desk.application.named("event") == [("echo", [b"\x00\xff"], False)]


async def test_it_is_full_while_one_of_its_connections_is() -> None:
    desk = Desk(replace(OPTIONS, max_queued_events=1))
    await desk.take("0/chat,", "0/other,")
    desk.client.received(Frame(b'42/chat,["wait"]'))
    assert desk.client.is_full
    waiting = asyncio.create_task(desk.client.wait_for_room())
    await desk.application.until("event")
    assert not waiting.done()
    desk.application.gate.set()
    await asyncio.wait_for(waiting, 1)


async def test_a_session_that_nobody_connects_on_is_closed() -> None:
    async def decide(*_: object) -> None:
        await asyncio.Event().wait()

    for message in ("", "0/elsewhere,", "0/chat,"):
        desk = Desk(replace(OPTIONS, connect_timeout_s=0.01), Recorder(decide))
        if message:
            desk.client.received(Frame(f"4{message}".encode()))
        while desk.session.is_open:
            desk.session._changed.clear()
            await asyncio.wait_for(desk.session._changed.wait(), 1)
        await desk.take()
        assert desk.application.named("disconnected") == (
            [("connect timeout",)] if message == "0/chat," else []
        )


async def test_a_session_has_that_time_again_after_its_last_connection() -> None:
    desk = Desk()
    assert desk.client._timer is not None
    await desk.take("0/chat,", "0/other,")
    timers = [desk.client._timer]
    for leaving in ("1/chat,", "1/other,"):
        await desk.take(leaving)
        timers.append(desk.client._timer)
    assert timers[:2] == [None, None]
    assert timers[2] is not None
    desk.session.close(Reason.SHUTDOWN)
    assert timers[2].cancelled()
