"""A server with a small application, and clients that speak in raw Engine.IO frames."""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from socket import SO_SNDBUF, SOL_SOCKET, create_server
from typing import Any

from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType, web

from server.realtime.recovery import Recovery
from server.realtime.server import Connection, Options, Server
from server.realtime.session import Reason
from server.realtime.transport import Transport

TIMEOUT_S = 5.0

Connect = Callable[[Connection, object], Awaitable[None]]


class Recorder:
    """An application that writes down what it is called with.

    It answers `echo` with its arguments and others with their first one; `fail` raises; `join` enters a room;
    `wait` returns when the gate is open. `on_connect` decides on connections.
    """

    def __init__(self, on_connect: Connect | None = None) -> None:
        self.on_connect = on_connect
        self.calls: list[tuple[Any, ...]] = []
        self.connections: list[Connection] = []
        self.gate = asyncio.Event()
        self._changed = asyncio.Event()

    async def authenticate(self, _connection: Connection, auth: Mapping[str, object]) -> str:
        return str(auth.get("user", "somebody"))

    async def connect(self, connection: Connection, auth: object) -> None:
        self.connections.append(connection)
        self._note("connect", auth)
        if self.on_connect is not None:
            await self.on_connect(connection, auth)

    def connected(self, connection: Connection) -> None:
        self._note("connected", connection.namespace)

    async def event(
        self, connection: Connection, name: str, args: list[object], *, wants_ack: bool
    ) -> object | None:
        self._note("event", name, args, wants_ack)
        match name:
            case "echo":
                return args
            case "fail":
                raise ValueError("the handler failed")
            case "join":
                connection.enter(str(args[0]))
            case "wait":
                await self.gate.wait()
                self._note("waited", args)
        return args[0] if args else None

    async def disconnected(self, connection: Connection, reason: str) -> None:
        self._note("disconnected", reason)
        connection.state = "told"

    def named(self, kind: str) -> list[tuple[Any, ...]]:
        """What came with the calls of one kind."""
        return [call[1:] for call in self.calls if call[0] == kind]

    async def until(self, kind: str, *, count: int = 1) -> list[tuple[Any, ...]]:
        """Wait for so many calls of one kind."""
        async with asyncio.timeout(TIMEOUT_S):
            while len(self.named(kind)) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.named(kind)

    def _note(self, *call: object) -> None:
        self.calls.append(call)
        self._changed.set()


class Club(Recorder):
    """Who connects enters the rooms of its user: `rooms` names each with the tag of the membership."""

    def __init__(self) -> None:
        super().__init__(self._admit)
        self.rooms: dict[str, dict[str, str]] = defaultdict(lambda: {"r": "1"})

    async def _admit(self, connection: Connection, auth: Any) -> None:
        for room, tag in self.rooms[auth["user"]].items():
            connection.enter(room, tag=tag)


class Socket:
    """A websocket client; it receives texts, and the bytes of attachments. Pings are answered unseen."""

    def __init__(self, websocket: ClientWebSocketResponse) -> None:
        self.websocket = websocket
        self.handshake: dict[str, Any] = {}
        self.is_answering = True

    async def send(self, *messages: str | bytes) -> None:
        for message in messages:
            if isinstance(message, str):
                await self.websocket.send_str(message)
            else:
                await self.websocket.send_bytes(message)

    async def receive(self) -> str | bytes:
        while True:
            message = await self.websocket.receive(TIMEOUT_S)
            assert message.type in {WSMsgType.TEXT, WSMsgType.BINARY}, f"closed: {message}"
            if message.data == "2" and self.is_answering:
                await self.send("3")
            else:
                data: str | bytes = message.data
                return data

    async def receive_packet(self, head: str) -> Any:
        """The JSON of the next message, which begins so."""
        text = await self.receive()
        assert isinstance(text, str)
        assert text.startswith(head), text
        return json.loads(text.removeprefix(head))

    async def connect(self, namespace: str = "/chat", auth: dict[str, Any] | None = None) -> str:
        """CONNECT and be accepted. Returns the sid."""
        await self.send(f"40{namespace},{json.dumps(auth) if auth is not None else ''}")
        sid: str = (await self.receive_packet(f"40{namespace},"))["sid"]
        return sid

    async def closed(self) -> int | None:
        """Read to the end. Returns the close code."""
        while True:
            message = await self.websocket.receive(TIMEOUT_S)
            if message.type in {WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.CLOSING, WSMsgType.ERROR}:
                return self.websocket.close_code


class Poller:
    """A long-polling client."""

    def __init__(self, http: ClientSession, url: str, handshake: dict[str, Any]) -> None:
        self.http = http
        self.handshake = handshake
        self.url = f"{url}?EIO=4&transport=polling&sid={handshake['sid']}"

    async def poll(self) -> list[str]:
        """The packets of one poll."""
        status, text = await self.try_poll()
        assert status == 200, text
        return text.split("\x1e")

    async def try_poll(self) -> tuple[int, str]:
        async with asyncio.timeout(TIMEOUT_S), self.http.get(self.url) as response:
            return response.status, await response.text()

    async def post(self, *packets: str) -> tuple[int, str]:
        body = "\x1e".join(packets).encode()
        async with asyncio.timeout(TIMEOUT_S), self.http.post(self.url, data=body) as response:
            return response.status, await response.text()

    async def connect(self, namespace: str = "/chat") -> str:
        assert await self.post(f"40{namespace},") == (200, "ok")
        (answer,) = await self.poll()
        head = f"40{namespace},"
        assert answer.startswith(head)
        sid: str = json.loads(answer.removeprefix(head))["sid"]
        return sid


class Returning:
    """A client with recovery that comes back as standard clients do.

    `heard` is every event that it was sent, in order, each as its list of arguments without the offset.
    """

    def __init__(self, site: "Site", user: str = "ana", **auth: object) -> None:
        self.site = site
        self.auth: dict[str, object] = {"user": user, "recovery": True, **auth}
        self.sid = ""
        self.pid: object = None
        self.offset: object = None
        self.heard: list[list[Any]] = []
        self.socket: Socket
        self._fences = 0

    async def come(self) -> bool:
        """Connect by a websocket of its own; whether it was recovered."""
        self.socket = await self.site.socket()
        await self.socket.send(f"40/chat,{json.dumps(self.ticket())}")
        return self.accepted(await self.socket.receive_packet("40/chat,"))

    def ticket(self) -> dict[str, object]:
        """What it sends with CONNECT."""
        known = {"pid": self.pid, "offset": self.offset}
        return {**self.auth, **{name: value for name, value in known.items() if value is not None}}

    def accepted(self, answer: dict[str, str]) -> bool:
        """Take the answer to its CONNECT; whether it was recovered."""
        is_recovered = answer["pid"] == self.pid
        assert is_recovered == (answer["sid"] == self.sid)
        self.sid, self.pid = answer["sid"], answer["pid"]
        return is_recovered

    async def hear(self) -> list[Any]:
        """The next event, with what it has attached."""
        text = await self.socket.receive()
        assert isinstance(text, str)
        attachments: list[bytes] = []
        if text.startswith("45"):
            for _ in range(int(text[2 : text.index("-")])):
                attachment = await self.socket.receive()
                assert isinstance(attachment, bytes)
                attachments.append(attachment)
        return self.note(text, attachments)

    def note(self, text: str, attachments: list[bytes] | None = None) -> list[Any]:
        """Take an event."""
        assert text.startswith("42/chat,[") or attachments, text
        *args, offset = json.loads(text[text.index("[") :])
        assert _place(offset) >= _place(self.offset), "offsets never go back"
        self.offset = offset
        event = [*args, *(attachments or [])]
        if args[0] != "fence":
            self.heard.append(event)
        return event

    async def catch_up(self) -> list[Any]:
        """Hear all that it is sent up to now; the data of every event heard so far."""
        self._fences += 1
        self.site.connection(self.sid).emit("fence", self._fences)
        while await self.hear() != ["fence", self._fences]:
            pass
        return self.data()

    def data(self) -> list[Any]:
        """The first argument of every event heard so far."""
        return [event[1] for event in self.heard]

    def drop(self) -> None:
        """Lose the connection without a word."""
        connection = self.socket.websocket._response.connection
        assert connection is not None
        assert connection.transport is not None
        connection.transport.abort()


def _place(offset: object) -> int:
    return int(str(offset).rpartition(".")[2], 16) if offset is not None else 0


class Site:
    """A running server with one application at /chat."""

    def __init__(self, server: Server, application: Recorder, url: str, http: ClientSession) -> None:
        self.server = server
        self.application = application
        self.url = url
        self.http = http

    async def socket(self, *, sid: str | None = None) -> Socket:
        """A websocket; with `sid` one that is to take over from polling, else with a handshake of its own."""
        suffix = f"&sid={sid}" if sid else ""
        socket = Socket(await self.http.ws_connect(f"{self.url}?EIO=4&transport=websocket{suffix}"))
        if sid is None:
            socket.handshake = await socket.receive_packet("0")
        return socket

    async def connected(self, namespace: str = "/chat") -> Socket:
        """A websocket that is connected."""
        socket = await self.socket()
        await socket.connect(namespace)
        return socket

    async def poller(self) -> Poller:
        """A long-polling session."""
        async with self.http.get(f"{self.url}?EIO=4&transport=polling") as response:
            text = await response.text()
        assert text.startswith("0"), text
        return Poller(self.http, self.url, json.loads(text[1:]))

    def emit(self, event: str, data: object, *rooms: str, volatile: bool = False) -> None:
        self.server.emit(event, data, namespace="/chat", rooms=rooms, volatile=volatile)

    def connection(self, sid: str) -> Connection:
        """The server's side of the client of that sid."""
        (connection,) = [each for each in self.server.namespaces["/chat"].connections if each.sid == sid]
        return connection

    def transport(self) -> Transport:
        """The server's side of the only client."""
        (transport,) = self.server._engine._transports.values()
        return transport

    def is_empty(self) -> bool:
        """Whether nothing is left of any client."""
        namespaces = self.server.namespaces.values()
        return not (
            self.server.connection_count
            or self.server._tasks
            or self.server._engine._transports
            or any(namespace.rooms._members or namespace.rooms._rooms for namespace in namespaces)
        )

    async def emptied(self) -> None:
        """Wait until nothing is left of any client."""
        await eventually(self.is_empty)


async def eventually(holds: Callable[[], object]) -> None:
    """Wait for what no event tells of."""
    async with asyncio.timeout(TIMEOUT_S):
        while not holds():  # noqa: ASYNC110 - there is no event: tables and flags inside of the server
            await asyncio.sleep(0.005)


@asynccontextmanager
async def running(
    options: Options | None = None,
    application: Recorder | None = None,
    *,
    send_buffer_bytes: int | None = None,
    recovery: Recovery | None = None,
) -> AsyncIterator[Site]:
    """A site on a free port of the loopback; the system takes `send_buffer_bytes` for each client."""
    application = application or Recorder()
    server = Server(options or Options())
    server.register("/chat", application, recovery=recovery)
    app = web.Application()
    app.router.add_route("*", "/socket.io/", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=1, access_log=None)
    await runner.setup()
    listener = create_server(("127.0.0.1", 0))
    if send_buffer_bytes is not None:
        listener.setsockopt(SOL_SOCKET, SO_SNDBUF, send_buffer_bytes)
    await web.SockSite(runner, listener).start()
    host, port = runner.addresses[0]
    async with ClientSession() as http:
        try:
            yield Site(server, application, f"http://{host}:{port}/socket.io/", http)
        finally:
            application.gate.set()
            for transport in list(server._engine._transports.values()):
                # Else a client that does not read or poll any more would be waited for.
                transport.abort(Reason.SHUTDOWN)
            await server.close()
            await runner.cleanup()
