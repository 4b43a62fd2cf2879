"""Clients over real sockets who come, upgrade, stall and vanish, and what they heard."""

import asyncio
import json
from collections import defaultdict
from contextlib import suppress
from http import HTTPStatus
from itertools import count
from typing import Any

from aiohttp import ClientError, ClientWebSocketResponse, WSMsgType

from server.realtime.server import Connection
from tests.conformance.wire import TIMEOUT_S, Club, Site


class Host(Club):
    """A club that knows each user's connection, and what each connection is owed, by its sid.

    `ask` is answered with an event and, behind it, an ack, both of the next number.
    """

    def __init__(self) -> None:
        super().__init__()
        self.numbers = count(1)
        self.owed: dict[str, list[int]] = defaultdict(list)
        self.current: dict[str, Connection] = {}
        self.users: dict[Connection, str] = {}
        # Those whose event was sent at once, so that nothing can come between it and the ack.
        self.at_once: set[int] = set()

    async def connect(self, connection: Connection, auth: Any) -> None:
        self.users[connection] = auth["user"]
        await super().connect(connection, auth)

    def connected(self, connection: Connection) -> None:
        self.current[self.users[connection]] = connection

    async def event(
        self, connection: Connection, name: str, args: list[object], *, wants_ack: bool
    ) -> object | None:
        assert (name, args, wants_ack) == ("ask", [], True)
        is_at_once = connection._phase.name == "OPEN"
        number = self.tell(connection)
        if is_at_once:
            self.at_once.add(number)
        return number

    def tell(self, connection: Connection) -> int:
        """Send an event to one connection alone; its number."""
        number = next(self.numbers)
        if connection.is_open:
            self.owed[connection.sid].append(number)
        connection.emit("e", {"n": number})
        return number


class Link:
    """One transport of a visitor, or two, as it is upgraded."""

    def __init__(self, site: Site, transport: str) -> None:
        self.site = site
        self.is_polling = transport == "polling"
        self.accepted: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
        self.is_over = False
        # Events and acks, in the order of their arrival.
        self.heard: list[tuple[str, int]] = []
        self.offset: object = None
        self._url = ""
        self._websocket: ClientWebSocketResponse | None = None
        self._reading: asyncio.Task[None] | None = None

    async def open(self, auth: dict[str, object]) -> None:
        """Begin a session and send CONNECT."""
        text = f"40/chat,{json.dumps(auth)}"
        if self.is_polling:
            async with self.site.http.get(f"{self.site.url}?EIO=4&transport=polling") as response:
                sid = json.loads((await response.text())[1:])["sid"]
            self._url = f"{self.site.url}?EIO=4&transport=polling&sid={sid}"
            await self.send(text)
        else:
            self._websocket = await self.site.http.ws_connect(f"{self.site.url}?EIO=4&transport=websocket")
            await self.send(text)
        self._reading = asyncio.create_task(self._read())

    async def send(self, text: str) -> None:
        if self._websocket is not None:
            await self._websocket.send_str(text)
        else:
            async with self.site.http.post(self._url, data=text.encode()) as response:
                await response.read()

    async def upgrade(self) -> None:
        """As clients do: probe, let the poll that is held open end, go on by the websocket."""
        assert self._reading is not None
        url = self._url.replace("transport=polling", "transport=websocket")
        websocket = await self.site.http.ws_connect(url)
        await websocket.send_str("2probe")
        assert (await websocket.receive(TIMEOUT_S)).data == "3probe"
        self.is_polling = False
        await self._reading
        self._websocket = websocket
        await websocket.send_str("5")
        self._reading = asyncio.create_task(self._read())

    def stall(self, *, is_stalled: bool) -> None:
        """Read nothing more for now; or read on."""
        if transport := self._transport():
            (transport.pause_reading if is_stalled else transport.resume_reading)()

    async def vanish(self) -> None:
        """Lose the transport without a word; a poll's is closed, which the server need not notice."""
        self.is_over = True
        if transport := self._transport():
            transport.abort()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        if self._websocket is not None:
            await self._websocket.close()

    def _transport(self) -> asyncio.Transport | None:
        """What is below its websocket, if it has one."""
        connection = self._websocket._response.connection if self._websocket is not None else None
        return connection.transport if connection is not None else None

    async def _read(self) -> None:
        try:
            if self._websocket is not None:
                while (message := await self._websocket.receive()).type is WSMsgType.TEXT:
                    self._take(message.data)
                self.is_over = True
            while self.is_polling and not self.is_over:
                async with self.site.http.get(self._url) as response:
                    self.is_over = response.status != HTTPStatus.OK
                    for text in (await response.text()).split("\x1e") if not self.is_over else ():
                        self._take(text)
        except (ClientError, OSError):
            self.is_over = True
        if self.is_over and not self.accepted.done():
            # Cut off for what it was sent before it was decided on.
            self.accepted.set_result({})

    def _take(self, text: str) -> None:
        if text.startswith("42/chat,"):
            name, data, *offset = json.loads(text.removeprefix("42/chat,"))
            assert name == "e"
            self.heard.append(("event", data["n"]))
            self.offset = offset[0] if offset else None
        elif text.startswith("43/chat,"):
            self.heard.append(("ack", *json.loads(text[text.index("[") :])))
        elif text.startswith("40/chat,"):
            self.accepted.set_result(json.loads(text.removeprefix("40/chat,")))
        else:
            assert text in ("6", "1") or text.startswith("0"), text


class Visitor:
    """A user and the only client that they have. `heard` and `links` are by the connection's sid."""

    def __init__(self, site: Site, name: str, *, is_recoverable: bool) -> None:
        self.site = site
        self.name = name
        self.is_recoverable = is_recoverable
        self.link: Link | None = None
        self.links: dict[str, list[Link]] = defaultdict(list)
        self._pid: object = None
        self._offset: object = None
        self._coming: asyncio.Task[None] | None = None

    @property
    def is_here(self) -> bool:
        """Whether it was accepted and knows of no end."""
        return self.link is not None and self.link.accepted.done() and not self.link.is_over

    def come(self, transport: str) -> None:
        """Begin to connect, unless it is connected or about to be."""
        if (self.link is None or self.link.is_over) and (self._coming is None or self._coming.done()):
            self.link = Link(self.site, transport)
            self._coming = asyncio.create_task(self._come(self.link))

    async def arrived(self) -> None:
        """Wait until it has been accepted, if it has come."""
        if self._coming is not None:
            await self._coming

    async def _come(self, link: Link) -> None:
        auth: dict[str, object] = {"user": self.name, "recovery": self.is_recoverable}
        if self._pid is not None:
            auth |= {"pid": self._pid} | ({"offset": self._offset} if self._offset is not None else {})
        async with asyncio.timeout(TIMEOUT_S):
            await link.open(auth)
            answer = await link.accepted
        if not answer:
            return
        assert self._pid in (None, answer.get("pid")), "it is recovered"
        self._pid = answer.get("pid")
        self.links[answer["sid"]].append(link)

    async def leave(self) -> None:
        """Vanish, and remember what was heard last."""
        await self.arrived()
        if self.link is not None:
            await self.link.vanish()
            self.remember()

    def remember(self) -> None:
        """Where to go on, as the client knows it."""
        if self.link is not None:
            self._offset = self.link.offset or self._offset

    async def upgrade(self) -> None:
        """If it polls."""
        if self.is_here and self.link is not None and self.link.is_polling:
            with suppress(ClientError):
                await self.link.upgrade()

    def stall(self, *, is_stalled: bool) -> None:
        if self.is_here and self.link is not None:
            self.link.stall(is_stalled=is_stalled)

    async def ask(self) -> None:
        """Have an event and an ack sent by the server."""
        if self.is_here and self.link is not None:
            with suppress(ClientError):
                await self.link.send('42/chat,1["ask"]')

    async def come_home(self) -> Link:
        """Be connected, by a websocket if it is not, and read."""
        for _ in range(5):
            await self.arrived()
            self.stall(is_stalled=False)
            await asyncio.sleep(0)
            if self.is_here and self.link is not None:
                return self.link
            await self.leave()
            self.come("websocket")
        raise AssertionError("it is cut off again and again")
