"""What the transport relies on in aiohttp; where that changes, the transport needs another look."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType, web
from aiohttp.abc import AbstractStreamWriter

from server.realtime.packets import Frame, encoded
from tests.conformance.wire import TIMEOUT_S

EXPECTED = (
    "aiohttp has changed: see server/realtime/transport.py and docs/decisions/0001-own-socketio-layer.md"
)
MOST_BYTES = 10
OPTIONS = {
    "timeout": 1,
    "compress": False,
    "autoclose": False,
    "max_msg_size": MOST_BYTES,
    "decode_text": False,
}

Received = list[tuple[WSMsgType, object]]
Serve = Callable[[web.Request, "web.WebSocketResponse[bool]"], Awaitable[None]]


@asynccontextmanager
async def served(serve: Serve) -> AsyncIterator[ClientWebSocketResponse]:
    """A client whose websocket is served so, with the options of the transport."""

    async def handle(request: web.Request) -> web.StreamResponse:
        websocket: web.WebSocketResponse[bool] = web.WebSocketResponse(**OPTIONS)  # type: ignore[arg-type]
        await websocket.prepare(request)
        await serve(request, websocket)
        return websocket

    app = web.Application()
    app.router.add_get("/", handle)
    runner = web.AppRunner(app, shutdown_timeout=1, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    try:
        async with (
            asyncio.timeout(TIMEOUT_S),
            ClientSession() as http,
            # It offers compression.
            http.ws_connect(f"http://{host}:{port}/", compress=15) as client,
        ):
            yield client
    finally:
        await runner.cleanup()


def test_its_members_are_there() -> None:
    parameters = set(inspect.signature(web.WebSocketResponse.__init__).parameters)
    assert set(OPTIONS) <= parameters, EXPECTED
    for owner, names in {
        web.WebSocketResponse: ("prepare", "receive", "send_frame", "close"),
        web.Request: ("transport", "writer", "content_length", "can_read_body", "read"),
        AbstractStreamWriter: ("drain",),
    }.items():
        missing = [name for name in names if not hasattr(owner, name)]
        assert not missing, f"{EXPECTED}: {owner.__name__} has no {missing}"


async def test_what_is_written_below_a_websocket_is_in_order_with_what_it_writes_itself() -> None:
    """It keeps no frames back, and sends them to the same transport."""

    async def serve(request: web.Request, websocket: "web.WebSocketResponse[bool]") -> None:
        assert request.transport is not None
        for number in range(0, 10, 2):
            request.transport.write(encoded(Frame(b"%d" % number)).wire)
            await websocket.send_frame(b"%d" % (number + 1), WSMsgType.TEXT)
        await request.writer.drain()
        await websocket.receive()

    async with served(serve) as client:
        assert client.compress == 0, EXPECTED
        assert [await client.receive_str() for _ in range(10)] == [str(n) for n in range(10)], EXPECTED


async def test_texts_come_as_bytes_and_the_close_frame_is_not_answered_unasked() -> None:
    received: Received = []

    async def serve(request: web.Request, websocket: "web.WebSocketResponse[bool]") -> None:
        for _ in range(3):
            message = await websocket.receive()
            received.append((message.type, message.data))
        assert request.transport is not None
        request.transport.write(encoded(Frame(b"late")).wire)
        await websocket.close()

    async with served(serve) as client:
        await client.send_str("ñ")
        await client.send_bytes(b"\xff")
        await client._writer.close(1000)
        assert (await client.receive()).data == "late", EXPECTED
        assert (await client.receive()).type is WSMsgType.CLOSE, EXPECTED
    texts = [(WSMsgType.TEXT, "ñ".encode()), (WSMsgType.BINARY, b"\xff"), (WSMsgType.CLOSE, 1000)]
    assert received == texts, EXPECTED


async def test_a_message_that_reaches_the_limit_is_refused_with_1009() -> None:
    """So the transport gives one byte more than it takes."""
    received: Received = []

    async def serve(_request: web.Request, websocket: "web.WebSocketResponse[bool]") -> None:
        for _ in range(2):
            message = await websocket.receive()
            received.append((message.type, len(message.data) if message.type is WSMsgType.BINARY else None))

    async with served(serve) as client:
        for size_bytes in (MOST_BYTES - 1, MOST_BYTES):
            await client.send_bytes(bytes(size_bytes))
        assert ((await client.receive()).type, client.close_code) == (WSMsgType.CLOSE, 1009), EXPECTED
    assert received == [(WSMsgType.BINARY, MOST_BYTES - 1), (WSMsgType.ERROR, None)], EXPECTED
