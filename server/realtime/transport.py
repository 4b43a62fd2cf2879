"""Engine.IO 4 over aiohttp: long-polling, a websocket, or first one and then the other."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Literal, TypeAlias

from aiohttp import WSMsgType, hdrs, web
from aiohttp.http_websocket import WSMessageNoDecodeText

from server.realtime import packets
from server.realtime.hold import Hold
from server.realtime.packets import Frame, InvalidPacketError
from server.realtime.session import LINGER_S, Options, Reason, Receiver, Session

Request: TypeAlias = web.Request
Response: TypeAlias = web.StreamResponse
_WebSocket: TypeAlias = "web.WebSocketResponse[Literal[False]]"

# The Python client drops an answer that holds more.
_MAX_POLLED_FRAMES = 16
_UPGRADE_TIMEOUT_S = 10.0
_HIGH_WATER_BYTES = 65_536
_BODY_TIMEOUT_S = 20.0
# The codes of the JavaScript server.
_ERRORS = {
    0: "Transport unknown",
    1: "Session ID unknown (sticky sessions?)",
    2: "Bad handshake method",
    3: "Bad request",
    5: "Unsupported protocol version",
}


class Transport(Session):
    """A session and the requests that serve it."""

    def __init__(
        self, request: Request, options: Options, forget: Callable[[Session], None], hold: Hold
    ) -> None:
        super().__init__(request, options, forget, hold)
        self._is_posted = self._is_upgrading = False
        self._websocket_request: Request | None = None
        self._poll_request: Request | None = None
        # What waits for the client's next frame, to be woken when the session ends.
        self._awaited: asyncio.Timeout | None = None

    @property
    def is_websocket(self) -> bool:
        """Whether a websocket serves it, from the start or by now."""
        return self._is_websocket

    async def poll(self, request: Request) -> web.Response:
        """Answer with what is unsent, as soon as there is something."""
        if self._is_polled:
            # Two polls at a time would take each other's frames.
            self.close(Reason.TRANSPORT_ERROR)
            return _bad_request(3)
        self._is_polled, self._poll_request = True, request
        try:
            while self.is_open and not (self._unsent or self._is_upgrading or self._is_websocket):
                self._changed.clear()
                await self._changed.wait()
        finally:
            self._is_polled = False
        if request.transport is None or request.transport.is_closing():
            # What was taken now would be lost, and the next poll would go on behind it.
            self.abort(Reason.TRANSPORT_CLOSE)
        if self._is_websocket or (self._is_upgrading and self.is_open):
            return _payload([packets.NOOP])
        frames = self._take_unsent(_MAX_POLLED_FRAMES)
        if not self.is_open and not self._unsent:
            self._finish()
        return _payload(frames or [packets.NOOP])

    async def post(self, request: Request) -> web.Response:
        """Receive the frames of a request, however many."""
        if self._is_posted:
            # Two at a time would be received in any order.
            self.close(Reason.TRANSPORT_ERROR)
            return _bad_request(3)
        self._is_posted = True
        try:
            return await self._receive_body(request)
        finally:
            self._is_posted = False

    async def _receive_body(self, request: Request) -> web.Response:
        length = request.content_length
        if length is None and request.can_read_body:
            return web.Response(status=411)
        if (length or 0) > self._options.max_packet_bytes:
            return web.Response(status=413)
        if hdrs.CONTENT_ENCODING in request.headers:
            return web.Response(status=415)
        try:
            async with asyncio.timeout(_BODY_TIMEOUT_S):
                body = await request.read()
        except (TimeoutError, ConnectionError):
            return web.Response(status=408)
        try:
            for frame in packets.decode_payload(body):
                if self.is_open:
                    self.receive(frame)
                    await self.wait_for_room()
        except InvalidPacketError:
            self.close(Reason.PARSE_ERROR)
            return _bad_request(3)
        return web.Response(text="ok")

    async def serve(self, websocket: _WebSocket, request: Request) -> None:
        """Send and receive by a websocket, that of `request`, until the session ends."""
        self._is_websocket = True
        self._websocket_request = request
        tcp = request.transport
        try:
            # One that has been lost meanwhile raises on uvloop.
            if tcp is not None and not tcp.is_closing():
                self._open(tcp)
            self._changed.set()
            async with asyncio.timeout(None) as self._awaited:
                await self._read(websocket)
        except TimeoutError:
            # The session ended while the client was silent.
            pass
        finally:
            self._awaited = None
            self._end(Reason.TRANSPORT_CLOSE)
            if tcp is not None:
                # It is closed soon, but that waits for a peer that may be dead.
                asyncio.get_running_loop().call_later(LINGER_S, tcp.abort)
            try:
                await websocket.close()
            finally:
                self._finish()

    def _open(self, tcp: asyncio.Transport) -> None:
        # So that `drained` waits before the bound on unsent bytes is near.
        tcp.set_write_buffer_limits(min(_HIGH_WATER_BYTES, self._options.max_buffer_bytes // 2))
        tcp.write(packets.encoded(*self._take_unsent()).wire)
        self.outlet.open(tcp)

    async def drained(self) -> None:
        """As above; below a websocket it is the system that takes it."""
        await super().drained()
        if self._websocket_request is not None:
            with suppress(ConnectionError):
                await self._websocket_request.writer.drain()

    async def upgrade(self, websocket: _WebSocket, request: Request) -> None:
        """Move from polling to a websocket and serve it; if the client does not go on, polling does."""
        if self._is_websocket or self._awaited is not None or not self.is_open:
            return
        try:
            is_proven = await self._probe(websocket)
        except (TimeoutError, ConnectionError):
            return
        finally:
            self._is_upgrading, self._awaited = False, None
        if is_proven and self.is_open:
            await self.serve(websocket, request)

    async def _probe(self, websocket: _WebSocket) -> bool:
        async with asyncio.timeout(_UPGRADE_TIMEOUT_S) as self._awaited:
            if _frame(await websocket.receive()) != packets.PING_PROBE:
                return False
            # Releases the poll that is held open: a client upgrades when it has none.
            self._is_upgrading = True
            self._changed.set()
            await websocket.send_frame(packets.PONG_PROBE.payload, WSMsgType.TEXT)
            return _frame(await websocket.receive()) == packets.UPGRADE

    async def _read(self, websocket: _WebSocket) -> None:
        while self.is_open:
            message = await websocket.receive()
            if message.type not in {WSMsgType.TEXT, WSMsgType.BINARY}:
                return
            try:
                self.receive(_frame(message))
            except InvalidPacketError:
                self.close(Reason.PARSE_ERROR)
            await self.wait_for_room()

    def _end(self, reason: Reason) -> bool:
        if self._awaited is not None and not self._awaited.expired():
            self._awaited.reschedule(asyncio.get_running_loop().time())
        return super()._end(reason)


class Engine:
    """Answers the requests to one path: begins transports, and hands a transport's requests to it."""

    def __init__(self, options: Options, accept: Callable[[Transport], Receiver]) -> None:
        self.hold = Hold()
        """What is sent to websockets while it is on is written together."""
        self._options = options
        self._accept = accept
        self._transports: dict[str, Transport] = {}
        self._is_closing = False
        self._emptied = asyncio.Event()

    async def handle(self, request: Request) -> Response:
        """Answer a request of any method; one that becomes a websocket is answered when that has ended."""
        if request.method == hdrs.METH_OPTIONS:
            return web.Response(status=204)
        transport = self._transports.get(request.query.get("sid", ""))
        fault = self._find_fault(request, transport)
        if fault is not None:
            return _bad_request(fault)
        try:
            if transport is None:
                return await self._begin(request)
            if _is_websocket(request):
                return await self._upgrade(request, transport)
        except ConnectionResetError:  # before its websocket was open: nobody is there to read this
            return web.Response(status=400)
        is_poll = request.method == hdrs.METH_GET
        return await (transport.poll(request) if is_poll else transport.post(request))

    def _find_fault(self, request: Request, transport: Transport | None) -> int | None:
        """The code to refuse it with."""
        query, is_websocket = request.query, _is_websocket(request)
        is_post = request.method == hdrs.METH_POST and not is_websocket and "sid" in query
        checks = {
            2: request.method == hdrs.METH_GET or is_post,
            0: query.get("transport") in self._options.transports,
            # JSONP ("j") would show any page what only its own origin may see.
            3: is_websocket == (query.get("transport") == "websocket") and "j" not in query,
            5: "sid" in query or query.get("EIO") == "4",
            1: "sid" not in query or transport is not None,
        }
        fault = next((code for code, holds in checks.items() if not holds), None)
        if fault is None and transport is not None and transport.is_websocket and not is_websocket:
            return 3
        return fault

    async def close(self) -> None:
        """End all transports and wait, at most LINGER_S, until their clients know. New ones get 503."""
        self._is_closing = True
        for transport in list(self._transports.values()):
            transport.close(Reason.SHUTDOWN)
        if self._transports:
            with suppress(TimeoutError):
                async with asyncio.timeout(LINGER_S):
                    await self._emptied.wait()
        for transport in list(self._transports.values()):
            transport.abort(Reason.SHUTDOWN)

    async def _begin(self, request: Request) -> Response:
        if self._is_closing:
            return web.Response(status=503)
        websocket = await self._open_websocket(request) if _is_websocket(request) else None
        transport = Transport(request, self._options, self._forget, self.hold)
        self._transports[transport.sid] = transport
        self._emptied.clear()
        transport.receiver = self._accept(transport)
        transport.start(is_websocket=websocket is not None)
        if websocket is None:
            return await transport.poll(request)
        await transport.serve(websocket, request)
        return websocket

    async def _upgrade(self, request: Request, transport: Transport) -> Response:
        websocket = await self._open_websocket(request)
        await transport.upgrade(websocket, request)
        await websocket.close()
        return websocket

    async def _open_websocket(self, request: Request) -> _WebSocket:
        websocket: _WebSocket = web.WebSocketResponse(
            timeout=LINGER_S,
            compress=False,
            # The session ends before its websocket does, so that nothing is written behind a close frame.
            autoclose=False,
            # aiohttp refuses what reaches its limit.
            max_msg_size=self._options.max_packet_bytes + 1,
            decode_text=False,
        )
        await websocket.prepare(request)
        return websocket

    def _forget(self, session: Session) -> None:
        self._transports.pop(session.sid, None)
        if not self._transports:
            self._emptied.set()


def _is_websocket(request: Request) -> bool:
    return request.headers.get(hdrs.UPGRADE, "").lower() == "websocket"


def _bad_request(code: int) -> web.Response:
    return web.json_response({"code": code, "message": _ERRORS[code]}, status=400)


def _payload(frames: list[Frame]) -> web.Response:
    headers = {hdrs.CONTENT_TYPE: "text/plain; charset=UTF-8", hdrs.CACHE_CONTROL: "no-store"}
    return web.Response(body=packets.encode_payload(frames), headers=headers)


def _frame(message: WSMessageNoDecodeText) -> Frame:
    """What a websocket received; empty, thus no packet, where that was its end."""
    is_binary = message.type is WSMsgType.BINARY
    return Frame(message.data, is_binary) if is_binary or message.type is WSMsgType.TEXT else Frame(b"")
