"""An engine alone, without Socket.IO, on a port of the loopback."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientSession, web

from server.realtime.packets import Frame, InvalidPacketError, encoded
from server.realtime.session import Options, Reason
from server.realtime.transport import Engine, Transport
from tests.conformance.wire import TIMEOUT_S, Poller, Socket, eventually

OPTIONS = Options(max_packet_bytes=1_000)


class Echo:
    """A receiver that sends back what it gets, except `4invalid`; it is full while there is no room."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.frames: list[Frame] = []
        self.ended: asyncio.Future[Reason] = asyncio.get_running_loop().create_future()
        self.room = asyncio.Event()
        self.room.set()

    @property
    def is_full(self) -> bool:
        return not self.room.is_set()

    def answered(self) -> None: ...

    async def wait_for_room(self) -> None:
        await self.room.wait()

    def received(self, frame: Frame) -> None:
        if frame.payload == b"4invalid":
            raise InvalidPacketError("invalid")
        self.frames.append(frame)
        self.transport.send(encoded(frame))

    def closed(self, reason: Reason) -> None:
        self.ended.set_result(reason)
        self.room.set()


class EngineSite:
    """An engine that echoes, and clients of it."""

    def __init__(self, options: Options) -> None:
        self.engine = Engine(options, self._accept)
        self.echoes: list[Echo] = []
        self.http: ClientSession
        self.url = ""

    def _accept(self, transport: Transport) -> Echo:
        self.echoes.append(Echo(transport))
        return self.echoes[-1]

    async def poller(self) -> Poller:
        async with self.http.get(f"{self.url}?EIO=4&transport=polling") as response:
            text = await response.text()
        sid = self.echoes[-1].transport.sid
        assert f'"sid":"{sid}"' in text
        return Poller(self.http, self.url, {"sid": sid})

    async def upgraded(self) -> Socket:
        """A client that began by polling and has a websocket by now."""
        poller = await self.poller()
        # While a poll is held open, the websocket gets a connection of its own.
        polling = asyncio.create_task(poller.poll())
        await eventually(lambda: self.echoes[-1].transport._is_polled)
        socket = await self.socket(sid=poller.handshake["sid"])
        await socket.send("2probe")
        assert await socket.receive() == "3probe"
        assert await polling == ["6"]
        await socket.send("5")
        await eventually(lambda: self.echoes[-1].transport.outlet.is_open)
        return socket

    async def socket(self, *, sid: str | None = None) -> Socket:
        suffix = f"&sid={sid}" if sid else ""
        socket = Socket(await self.http.ws_connect(f"{self.url}?EIO=4&transport=websocket{suffix}"))
        if sid is None:
            socket.handshake = await socket.receive_packet("0")
        return socket

    async def status(self, method: str, query: str, **request: Any) -> int:
        async with self.http.request(method, f"{self.url}{query}", **request) as response:
            return response.status

    async def reason(self) -> str:
        """Why the last session ended; nothing is left of it."""
        reason = await asyncio.wait_for(self.echoes[-1].ended, TIMEOUT_S)
        await eventually(lambda: not self.engine._transports)
        return reason.value


@asynccontextmanager
async def running(options: Options = OPTIONS) -> AsyncIterator[EngineSite]:
    site = EngineSite(options)
    app = web.Application()
    app.router.add_route("*", "/socket.io/", site.engine.handle)
    runner = web.AppRunner(app, shutdown_timeout=1, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    site.url = f"http://{host}:{port}/socket.io/"
    async with ClientSession() as site.http:
        try:
            yield site
        finally:
            for echo in site.echoes:
                echo.transport.abort(Reason.SHUTDOWN)
            await site.engine.close()
            await runner.cleanup()
