"""One test for each way in which a Socket.IO server is known to go wrong, and this one must not."""

import asyncio
import logging
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from server.realtime.server import Connection, Options, TransportClosedError
from tests.conformance.wire import Recorder, Site, running


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with running() as site:
        yield site


def undecided() -> tuple[Recorder, asyncio.Event]:
    """An application that decides on no connection, and what tells that it has begun to."""
    begun = asyncio.Event()

    async def decide(connection: Connection, _auth: object) -> None:
        connection.enter("room")
        begun.set()
        await asyncio.Event().wait()

    return Recorder(decide), begun


async def test_one_clients_events_are_handled_in_the_order_sent(site: Site) -> None:
    socket, poller = await site.connected(), await site.poller()
    await poller.connect()
    await socket.send('42/chat,0["wait",0]', *[f'42/chat,{n}["echo",{n}]' for n in range(1, 50)])
    await poller.post('42/chat,0["wait",0]', *[f'42/chat,{n}["echo",{n}]' for n in range(1, 50)])
    await site.application.until("event", count=2)
    site.application.gate.set()
    acks = [await socket.receive() for _ in range(50)]
    assert acks == ["43/chat,0[0]", *[f"43/chat,{n}[[{n}]]" for n in range(1, 50)]]
    polled: list[str] = []
    while len(polled) < 50:
        polled += await poller.poll()
    assert polled == acks


async def test_clients_do_not_wait_for_one_another(site: Site) -> None:
    slow, quick = await site.connected(), await site.connected()
    await slow.send('42/chat,1["wait"]')
    await quick.send('42/chat,1["echo"]')
    assert await quick.receive() == "43/chat,1[[]]"


async def test_disconnect_and_close_act_while_a_handler_runs(site: Site) -> None:
    leaving, closing = await site.connected(), await site.connected()
    for socket in (leaving, closing):
        await socket.send('42/chat,["join","r"]', '42/chat,["wait"]')
    await site.application.until("event", count=4)
    await leaving.send("41/chat,")
    await closing.send("1")
    await closing.closed()
    await leaving.send("40/chat,")
    await leaving.receive_packet("40/chat,")
    assert site.server.connections_in("/chat", "r") == []
    assert site.application.named("disconnected") == []
    site.application.gate.set()
    assert sorted(await site.application.until("disconnected", count=2)) == [
        ("client namespace disconnect",),
        ("transport close",),
    ]


@pytest.mark.parametrize(
    "error", [ValueError("s3cret"), asyncio.CancelledError(), TypeError(), KeyError("x")]
)
async def test_a_connect_that_fails_leaves_no_client_that_never_authenticated(error: BaseException) -> None:
    async def decide(connection: Connection, _auth: object) -> None:
        connection.enter("room")
        raise error

    async with running(application=Recorder(decide)) as site:
        socket = await site.socket()
        await socket.send("40/chat,")
        refusal = await socket.receive_packet("44/chat,")
        assert refusal["data"]["code"] == "internal"
        assert "s3cret" not in str(refusal)
        assert site.server.connection_count == 0
        site.emit("members only", {}, "room")
        await socket.send('42/chat,["echo"]')
        await socket.closed()
        assert site.application.calls == [("connect", {})]


async def test_a_connect_may_close_the_transport_so_that_the_client_comes_back() -> None:
    async def decide(_connection: Connection, _auth: object) -> None:
        raise TransportClosedError

    async with running(application=Recorder(decide)) as site:
        socket = await site.socket()
        await socket.send("40/chat,")
        assert await socket.closed() == 1000
        await site.emptied()


async def test_a_polling_client_that_leaves_while_connect_decides_is_no_ghost() -> None:
    application, begun = undecided()
    async with running(application=application) as site:
        poller = await site.poller()
        await poller.post("40/chat,")
        await begun.wait()
        assert len(site.server.connections_in("/chat", "room")) == 1
        await poller.post("1")
        assert await application.until("disconnected") == [("transport close",)]
        await site.emptied()


async def test_a_polling_client_that_vanishes_while_connect_decides_is_no_ghost() -> None:
    application, begun = undecided()
    options = Options(ping_interval_s=0.05, ping_timeout_s=0.05)
    async with running(options, application) as site:
        poller = await site.poller()
        await poller.post("40/chat,")
        await begun.wait()
        assert await application.until("disconnected") == [("ping timeout",)]
        await site.emptied()


async def test_a_websocket_that_breaks_while_connect_decides_is_no_ghost() -> None:
    application, begun = undecided()
    async with running(application=application) as site:
        socket = await site.socket()
        await socket.send("40/chat,")
        await begun.wait()
        await socket.websocket.close()
        assert await application.until("disconnected") == [("transport close",)]
        await site.emptied()


async def test_a_client_that_goes_in_the_middle_of_its_handshake_is_no_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)
    async with running() as site:
        poller = await site.poller()
        where = urlsplit(site.url)
        for sid in ("", f"&sid={poller.handshake['sid']}"):
            _, writer = await asyncio.open_connection(where.hostname, where.port)
            writer.write(
                f"GET {where.path}?EIO=4&transport=websocket{sid} HTTP/1.1\r\n"
                "Host: here\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
            )
            writer.transport.abort()
        socket = await site.connected()
        await poller.post("1")
        await socket.send("1")
        await site.emptied()
    assert not caplog.records


async def test_no_event_reaches_who_is_in_no_room_or_not_accepted_yet() -> None:
    application, begun = undecided()
    async with running(application=application) as site:
        waiting, idle = await site.socket(), await site.socket()
        await waiting.send("40/chat,")
        await begun.wait()
        site.emit("secret", {}, "room")
        for socket in (waiting, idle):
            await socket.send("40/elsewhere,")
            assert await socket.receive() == '44/elsewhere,{"message":"Invalid namespace"}'
        with pytest.raises(ValueError, match="rooms"):
            site.emit("secret", {})


async def test_what_connect_emits_follows_the_connect_packet() -> None:
    async def decide(connection: Connection, _auth: object) -> None:
        connection.emit("welcome", {})
        await asyncio.sleep(0)

    async with running(application=Recorder(decide)) as site:
        poller = await site.poller()
        await poller.post("40/chat,")
        connect, welcome = await poller.poll()
        assert connect.startswith('40/chat,{"sid":')
        assert welcome == '42/chat,["welcome",{}]'


async def test_a_client_that_does_not_read_is_cut_off_and_costs_no_more_than_its_bound() -> None:
    options = Options(max_buffer_bytes=300_000)
    async with running(options) as site:
        socket, poller, healthy = await site.connected(), await site.poller(), await site.connected()
        await poller.connect()
        await poller.post('42/chat,["join","r"]')
        await socket.send('42/chat,["join","r"]')
        await healthy.send('42/chat,["join","r"]')
        await site.application.until("event", count=3)
        for _ in range(2_000):
            site.emit("news", "x" * 10_000, "r")
            await healthy.receive()
            if len(site.server.connections_in("/chat", "r")) == 1:
                break
        assert site.application.named("disconnected") == [("slow consumer",)] * 2
        assert (await poller.try_poll())[0] == 400
        assert not socket.websocket.closed


async def test_a_volatile_event_is_dropped_for_who_has_not_taken_the_last_packet(site: Site) -> None:
    poller = await site.poller()
    await poller.connect()
    await poller.post('42/chat,["join","r"]')
    await site.application.until("event")
    site.emit("typing", 1, "r", volatile=True)
    site.emit("typing", 2, "r", volatile=True)
    site.emit("message", 3, "r")
    assert await poller.poll() == ['42/chat,["typing",1]', '42/chat,["message",3]']


async def test_a_transport_that_joins_no_namespace_is_closed() -> None:
    async with running(Options(connect_timeout_s=0.05)) as site:
        socket, poller, refused = await site.socket(), await site.poller(), await site.socket()
        await refused.send("40/elsewhere,")
        assert await socket.closed() == 1000
        assert await refused.closed() == 1000
        assert (await poller.try_poll())[0] == 400
        await site.emptied()


async def test_a_transport_that_has_left_every_namespace_is_closed_too() -> None:
    async with running(Options(connect_timeout_s=0.5)) as site:
        leaving, ended = await site.connected(), await site.connected()
        await leaving.send("41/chat,")
        site.application.connections[1].disconnect()
        assert await ended.receive() == "41/chat,"
        for socket in (leaving, ended):
            assert await socket.closed() == 1000


async def test_what_was_received_before_the_connection_broke_is_still_handled(site: Site) -> None:
    socket = await site.connected()
    await socket.send(*[f'42/chat,["wait",{number}]' for number in range(5)])
    await site.application.until("event")
    await socket.websocket.close()
    site.application.gate.set()
    await site.application.until("disconnected")
    assert site.application.named("waited") == [([number],) for number in range(5)]
    assert site.application.calls[-1] == ("disconnected", "transport close")


async def test_no_packet_and_no_token_is_ever_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def decide(_connection: Connection, auth: object) -> None:
        raise ValueError(type(auth))

    async with running() as site:
        headers = {"Authorization": "Bearer s3cret"}
        poller = await site.poller()
        await site.http.get(f"{site.url}?EIO=4&transport=polling&token=s3cret", headers=headers)
        await site.http.get(f"{poller.url}x&token=s3cret", headers=headers)
        socket = await site.socket()
        await socket.connect(auth={"token": "s3cret"})
        await socket.send('42/chat,["fail","s3cret"]', '42/chat,["s3cret"', "s3cret")
        await socket.closed()
        site.application.on_connect = decide
        socket = await site.socket()
        await socket.send('40/chat,{"token":"s3cret"}')
        await socket.receive_packet("44/chat,")
        assert "s3cret" not in caplog.text
        assert poller.handshake["sid"] not in caplog.text
