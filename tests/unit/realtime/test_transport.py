import asyncio
from collections.abc import AsyncIterator
from itertools import chain

import pytest
from aiohttp import WSServerHandshakeError
from msgspec.structs import replace

from server.realtime.packets import Frame, encoded
from server.realtime.session import Reason
from tests.conformance.wire import eventually
from tests.unit.realtime.engine_site import OPTIONS, EngineSite, running


@pytest.fixture
async def site() -> AsyncIterator[EngineSite]:
    async with running() as site:
        yield site


@pytest.mark.parametrize(
    ("method", "query", "status"),
    [
        ("GET", "?EIO=4&transport=polling", 200),
        ("OPTIONS", "?EIO=4&transport=polling", 204),
        ("GET", "?transport=polling", 400),
        ("GET", "?EIO=3&transport=polling", 400),
        ("GET", "?EIO=4", 400),
        ("GET", "?EIO=4&transport=carrier-pigeon", 400),
        ("GET", "?EIO=4&transport=websocket", 400),
        ("GET", "?EIO=4&transport=polling&j=0", 400),
        ("GET", "?EIO=4&transport=polling&sid=unknown", 400),
        ("GET", "?EIO=4&transport=polling&sid=", 400),
        ("POST", "?EIO=4&transport=polling", 400),
        ("POST", "?EIO=4&transport=polling&sid=unknown", 400),
        ("PUT", "?EIO=4&transport=polling", 400),
        ("DELETE", "?EIO=4&transport=polling", 400),
    ],
)
async def test_only_a_proper_handshake_opens_a_session(
    site: EngineSite, method: str, query: str, status: int
) -> None:
    assert await site.status(method, query) == status
    assert len(site.echoes) == (status == 200)


async def test_only_transports_that_are_on_are_served() -> None:
    async with running(replace(OPTIONS, transports=("websocket",))) as site:
        assert await site.status("GET", "?EIO=4&transport=polling") == 400
        await (await site.socket()).websocket.close()
    async with running(replace(OPTIONS, transports=("polling",))) as site:
        poller = await site.poller()
        assert poller.handshake["sid"]
        with pytest.raises(WSServerHandshakeError):
            await site.socket()
        with pytest.raises(WSServerHandshakeError):
            await site.socket(sid=poller.handshake["sid"])


async def test_frames_go_by_polling_and_back(site: EngineSite) -> None:
    poller = await site.poller()
    assert await poller.post("4hello", "bAQIDBA==") == (200, "ok")
    assert site.echoes[0].frames == [Frame(b"4hello"), Frame(b"\x01\x02\x03\x04", is_binary=True)]
    assert await poller.poll() == ["4hello", "bAQIDBA=="]


async def test_a_poll_is_held_open_until_there_is_something(site: EngineSite) -> None:
    poller = await site.poller()
    polling = asyncio.create_task(poller.poll())
    await poller.post("4hello")
    assert await polling == ["4hello"]


async def test_a_request_may_carry_any_number_of_frames_and_an_answer_16(site: EngineSite) -> None:
    poller = await site.poller()
    sent = [f"4{number}" for number in range(200)]
    assert await poller.post(*sent) == (200, "ok")
    assert [frame.payload.decode() for frame in site.echoes[0].frames] == sent
    answers: list[list[str]] = []
    while sum(map(len, answers)) < len(sent):
        answers.append(await poller.poll())
    assert list(chain(*answers)) == sent
    assert max(map(len, answers)) == 16


async def test_all_that_was_queued_is_polled_before_the_session_is_over(site: EngineSite) -> None:
    poller = await site.poller()
    transport = site.echoes[0].transport
    transport.send(encoded(*[Frame(b"4x")] * 20))
    transport.close(Reason.FORCED_CLOSE)
    assert await poller.poll() == ["4x"] * 16
    assert await poller.poll() == ["4x"] * 4
    assert (await poller.try_poll())[0] == 400


async def test_frames_go_by_websocket_and_back(site: EngineSite) -> None:
    socket = await site.socket()
    await socket.send("4hello", b"\x01\x02")
    assert [await socket.receive(), await socket.receive()] == ["4hello", b"\x01\x02"]
    await socket.websocket.close()
    assert await site.reason() == "transport close"


async def test_a_lost_websocket_ends_the_session(site: EngineSite) -> None:
    socket = await site.socket()
    connection = socket.websocket._response.connection
    assert connection is not None
    assert connection.transport is not None
    connection.transport.abort()
    assert await site.reason() == "transport close"


async def test_the_connection_of_a_websocket_is_not_compressed(site: EngineSite) -> None:
    url = f"{site.url}?EIO=4&transport=websocket"
    async with site.http.ws_connect(url, compress=15) as websocket:
        assert "Sec-WebSocket-Extensions" not in websocket._response.headers
        assert websocket.compress == 0


@pytest.mark.parametrize("packet", ["", "x", "4invalid", "2", "0{}", "b!"])
async def test_an_invalid_packet_closes_a_polling_session(site: EngineSite, packet: str) -> None:
    poller = await site.poller()
    polling = asyncio.create_task(poller.try_poll())
    assert (await poller.post("4before", packet))[0] == 400
    assert await polling == (200, "4before\x1e1")
    assert (await poller.try_poll())[0] == 400
    assert await site.reason() == "parse error"


@pytest.mark.parametrize("packet", ["", "x", "4invalid", "2", "0{}", "b!"])
async def test_an_invalid_packet_closes_a_websocket(site: EngineSite, packet: str) -> None:
    socket = await site.socket()
    await socket.send("4before", packet)
    assert await socket.receive() == "4before"
    assert await socket.closed() == 1000
    assert await site.reason() == "parse error"


async def test_two_polls_at_a_time_close_the_session(site: EngineSite) -> None:
    poller = await site.poller()
    first = asyncio.create_task(poller.try_poll())
    await eventually(lambda: site.echoes[0].transport._is_polled)
    assert (await poller.try_poll())[0] == 400
    assert await first == (200, "1")
    assert (await poller.try_poll())[0] == 400
    assert await site.reason() == "transport error"


async def test_two_posts_at_a_time_close_the_session(site: EngineSite) -> None:
    poller = await site.poller()
    site.echoes[0].room.clear()
    first = asyncio.create_task(poller.post("4one", "4two"))
    await eventually(lambda: site.echoes[0].transport._is_posted)
    assert (await poller.post("4three"))[0] == 400
    assert await first == (200, "ok")
    assert site.echoes[0].frames == [Frame(b"4one")]
    await poller.try_poll()
    assert await site.reason() == "transport error"


async def test_a_client_closes_its_session_and_its_poll_is_released(site: EngineSite) -> None:
    poller = await site.poller()
    polling = asyncio.create_task(poller.poll())
    await eventually(lambda: site.echoes[0].transport._is_polled)
    assert await poller.post("1", "4too late") == (200, "ok")
    assert await polling == ["6"]
    assert (await poller.try_poll())[0] == 400
    assert await site.reason() == "transport close"
    assert site.echoes[0].frames == []


async def test_a_client_closes_its_websocket_by_a_packet(site: EngineSite) -> None:
    socket = await site.socket()
    await socket.send("1")
    assert await socket.closed() == 1000
    assert await site.reason() == "transport close"


async def test_reading_stops_while_the_receiver_is_full(site: EngineSite) -> None:
    socket, poller = await site.socket(), await site.poller()
    for echo in site.echoes:
        echo.room.clear()
    await socket.send("4a", "4b")
    posting = asyncio.create_task(poller.post("4a", "4b"))
    await eventually(lambda: all(echo.frames for echo in site.echoes))
    assert not posting.done()
    assert [echo.frames for echo in site.echoes] == [[Frame(b"4a")]] * 2
    for echo in site.echoes:
        echo.room.set()
    assert await posting == (200, "ok")
    assert [await socket.receive(), await socket.receive()] == ["4a", "4b"]


async def test_close_sends_what_is_queued_and_waits_for_the_next_poll(site: EngineSite) -> None:
    poller = await site.poller()
    transport = site.echoes[0].transport
    transport.send(encoded(Frame(b"4last")))
    closing = asyncio.create_task(site.engine.close())
    await asyncio.sleep(0)
    assert await poller.post("4too late") == (200, "ok")
    assert await poller.poll() == ["4last"]
    await asyncio.wait_for(closing, 1)
    assert await site.status("GET", "?EIO=4&transport=polling") == 503
