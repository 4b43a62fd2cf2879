"""The limits of single requests and messages, and the pings."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from server.realtime.server import Options
from tests.conformance.wire import TIMEOUT_S, Poller, Site, eventually, running

OPTIONS = Options(max_packet_bytes=1_000)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with running(OPTIONS) as site:
        yield site


async def raw_status(site: Site, poller: Poller, headers: str, *chunks: bytes) -> int:
    """Send a POST by hand. Returns the status of its answer, for which no more than this was sent."""
    host, _, port = site.url.removeprefix("http://").partition("/")[0].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    path = poller.url.removeprefix(f"http://{host}:{port}")
    writer.write(f"POST {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n\r\n".encode())
    for chunk in chunks:
        writer.write(chunk)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return int((await reader.readline()).split()[1])
    finally:
        writer.close()
        await writer.wait_closed()


async def test_a_post_over_the_limit_is_answered_413_before_its_body(site: Site) -> None:
    poller = await site.poller()
    await poller.connect()
    assert await raw_status(site, poller, "Content-Length: 1001") == 413
    assert await poller.post('42/chat,1["echo"]') == (200, "ok")
    assert await poller.poll() == ["43/chat,1[[]]"]


async def test_a_post_of_unknown_length_is_answered_411(site: Site) -> None:
    poller = await site.poller()
    await poller.connect()
    chunk = b"4\r\n42[1\r\n"
    assert await raw_status(site, poller, "Transfer-Encoding: chunked", chunk) == 411
    assert await poller.post('42/chat,1["echo"]') == (200, "ok")


async def test_a_post_that_is_compressed_is_answered_415(site: Site) -> None:
    poller = await site.poller()
    headers = "Content-Length: 9\r\nContent-Encoding: gzip"
    assert await raw_status(site, poller, headers, b"123456789") == 415


async def test_a_post_that_stalls_is_answered_408(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.realtime.transport._BODY_TIMEOUT_S", 0.05)
    poller = await site.poller()
    assert await raw_status(site, poller, "Content-Length: 9", b"1234") == 408
    await poller.connect()


async def test_a_client_that_goes_away_in_the_middle_of_a_post_does_no_harm(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    poller = await site.poller()
    await poller.connect()
    host, _, port = site.url.removeprefix("http://").partition("/")[0].partition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    path = poller.url.removeprefix(f"http://{host}:{port}")
    writer.write(f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 9\r\n\r\n1234".encode())
    await eventually(lambda: site.transport()._is_posted)
    writer.transport.abort()
    await eventually(lambda: not site.transport()._is_posted)
    assert await poller.post('42/chat,1["echo"]') == (200, "ok")
    assert not caplog.records


async def test_a_packet_may_be_as_large_as_the_limit_and_no_larger(site: Site) -> None:
    poller, socket = await site.poller(), await site.connected()
    await poller.connect()
    assert socket.handshake["maxPayload"] == 1_000
    largest = f'42/chat,["echo","{"x" * (1_000 - 19)}"]'
    assert len(largest) == 1_000
    assert await poller.post(largest) == (200, "ok")
    await socket.send(largest)
    await site.application.until("event", count=2)
    assert (await poller.post(f"{largest} "))[0] == 413
    await socket.send(f"{largest} ")
    assert await socket.closed() == 1009
    assert await site.application.until("disconnected") == [("transport close",)]


async def test_a_message_far_over_the_limit_is_closed_with_1009(site: Site) -> None:
    socket = await site.connected()
    await socket.send("42" + "x" * 500_000)
    assert await socket.closed() == 1009


async def test_more_than_16_packets_of_a_post_are_all_delivered(site: Site) -> None:
    poller = await site.poller()
    await poller.connect()
    assert await poller.post(*[f'42/chat,["echo",{number}]' for number in range(40)]) == (200, "ok")
    events = await site.application.until("event", count=40)
    assert [args for _, args, _ in events] == [[number] for number in range(40)]


async def test_compression_is_not_negotiated(site: Site) -> None:
    async with site.http.ws_connect(f"{site.url}?EIO=4&transport=websocket", compress=15) as websocket:
        assert websocket.compress == 0


async def test_a_fraction_of_a_second_is_announced_as_it_is() -> None:
    options = replace(OPTIONS, ping_interval_s=0.3, ping_timeout_s=0.2)
    async with running(options) as site:
        for handshake in ((await site.socket()).handshake, (await site.poller()).handshake):
            assert (handshake["pingInterval"], handshake["pingTimeout"]) == (300, 200)


async def test_a_client_that_answers_pings_stays() -> None:
    async with running(replace(OPTIONS, ping_interval_s=0.02, ping_timeout_s=0.5)) as site:
        socket, poller = await site.socket(), await site.poller()
        socket.is_answering = False
        for _ in range(3):
            assert await socket.receive() == "2"
            await socket.send("3")
            assert await poller.poll() == ["2"]
            await poller.post("3")


async def test_a_client_that_does_not_is_closed_in_time() -> None:
    async with running(replace(OPTIONS, ping_interval_s=0.1, ping_timeout_s=0.1)) as site:
        begun = asyncio.get_running_loop().time()
        socket, poller = await site.connected(), await site.poller()
        socket.is_answering = False
        assert await socket.receive() == "2"
        assert await socket.closed() == 1000
        assert 0.19 < asyncio.get_running_loop().time() - begun < 2
        assert site.application.named("disconnected") == [("ping timeout",)]
        await site.emptied()
        assert (await poller.try_poll())[0] == 400


async def test_slow_handlers_end_no_healthy_client() -> None:
    """Eight pipelined events that take longer together than a ping may stay unanswered."""
    async with running(replace(OPTIONS, ping_interval_s=0.05, ping_timeout_s=0.25)) as site:
        socket = await site.connected()
        socket.is_answering = False
        await socket.send(*[f'42/chat,{number}["wait",{number}]' for number in range(8)])
        for _ in range(8):
            assert await socket.receive() == "2"
            await socket.send("3")
        site.application.gate.set()
        socket.is_answering = True
        for number in range(8):
            assert await socket.receive_packet(f"43/chat,{number}") == [number]


async def test_a_paused_client_is_not_given_up_and_is_read_again() -> None:
    options = replace(OPTIONS, ping_interval_s=0.05, ping_timeout_s=0.2, max_queued_events=2)
    async with running(options) as site:
        socket = await site.connected()
        await socket.send(*[f'42/chat,{number}["wait",{number}]' for number in range(6)])
        other = await site.connected()
        other.is_answering = False
        await other.closed()
        assert site.application.named("disconnected") == [("ping timeout",)]
        (connection,) = site.server.namespaces["/chat"].connections
        assert connection._events._count == 2
        site.application.gate.set()
        for number in range(6):
            assert await socket.receive_packet(f"43/chat,{number}") == [number]
        assert json.dumps(site.application.named("waited")) == json.dumps([[[number]] for number in range(6)])


async def test_a_poll_whose_connection_broke_takes_no_event_with_it(site: Site) -> None:
    """The session ends: else the next poll would go on behind what was lost."""
    poller = await site.poller()
    sid = await poller.connect()
    site.connection(sid).enter("r")
    host, _, port = site.url.removeprefix("http://").partition("/")[0].partition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    path = poller.url.removeprefix(f"http://{host}:{port}")
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    transport = site.transport()
    await eventually(lambda: transport._is_polled)
    writer.transport.abort()
    request = transport._poll_request
    assert request is not None
    await eventually(lambda: request.transport is None)
    site.emit("said", {}, "r")
    assert await site.application.until("disconnected") == [("transport close",)]
    assert (await poller.try_poll())[0] == 400


async def test_who_polls_elsewhere_is_asked_whether_sessions_are_sticky(site: Site) -> None:
    async with site.http.get(f"{site.url}?EIO=4&transport=polling&sid=unknown") as response:
        assert response.status == 400
        assert await response.json() == {"code": 1, "message": "Session ID unknown (sticky sessions?)"}
