"""A TCP proxy that does to connections what networks do, in front of a store or a bus.

It forwards byte for byte. Of each request (what one read from the client gives: as a rule a whole command) it
asks `choose` what befalls it:

- "delay": it reaches the server `delay_s` late, also when the client has given up and gone;
- "cut after the request": it reaches the server, and the client's connection ends at once;
- "cut before the reply": the same, once the server has answered;
- "blackhole": neither it nor anything else passes on this connection, which stays open.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Literal, Self

Fault = Literal["none", "delay", "cut after the request", "cut before the reply", "blackhole"]

FAULTS: tuple[Fault, ...] = ("delay", "cut after the request", "cut before the reply", "blackhole")
_READ_BYTES = 1 << 20


def no_fault() -> Fault:
    """Forward everything."""
    return "none"


def _look_away(_request: bytes) -> None:
    """Requests are nobody's business."""


class FaultProxy:
    """Listens on `port` of the loopback while the block of `listening` lasts.

    `see` is given each request before `choose` is asked. `met` counts what befell, `accepted` the
    connections. `to_port` may change: of connections to come.
    """

    def __init__(self, to_port: int, *, choose: Callable[[], Fault] = no_fault, delay_s: float = 0.1) -> None:
        self.choose = choose
        self.delay_s = delay_s
        self.see: Callable[[bytes], None] = _look_away
        self.met: Counter[Fault] = Counter()
        self.accepted = 0
        self.port = 0
        self.to_port = to_port
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Self]:
        """Listen, and break every connection in the end."""
        listener = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_READ_BYTES)
        self.port = listener.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            listener.close()
            self.cut()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await listener.wait_closed()

    def cut(self) -> None:
        """Break every connection there is, on both sides."""
        for link in self._links:
            link.abort()

    def next_fault(self, request: bytes) -> Fault:
        """What befalls the request that has just come."""
        self.see(request)
        fault = self.choose()
        self.met[fault] += 1
        return fault

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.create_task(self._serve(reader, writer), name="fault_proxy.serve")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # It may be cancelled before it has begun.
        task.add_done_callback(lambda _: writer.transport.abort())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server = await asyncio.open_connection("127.0.0.1", self.to_port, limit=_READ_BYTES)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(self, (reader, writer), server)
        self._links.add(link)
        try:
            await link.run()
        finally:
            link.abort()
            self._links.discard(link)


class _Link:
    """One connection: the client's stream and the server's."""

    def __init__(
        self,
        proxy: FaultProxy,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._proxy = proxy
        self._from_client, self._to_client = client
        self._from_server, self._to_server = server
        self._is_silent = False
        self._cuts_at_reply = False

    async def run(self) -> None:
        """Carry both ways until one side has ended."""
        with suppress(ConnectionError):
            requests = asyncio.create_task(self._carry_requests(), name="fault_proxy.requests")
            try:
                await self._carry_replies()
            finally:
                requests.cancel()
                await asyncio.gather(requests, return_exceptions=True)

    def abort(self) -> None:
        self._to_client.transport.abort()
        self._to_server.transport.abort()

    async def _carry_requests(self) -> None:
        while request := await self._from_client.read(_READ_BYTES):
            fault = self._proxy.next_fault(request)
            if fault == "delay":
                await asyncio.sleep(self._proxy.delay_s)
            self._is_silent = self._is_silent or fault == "blackhole"
            if self._is_silent:
                continue
            self._cuts_at_reply = fault.startswith("cut")
            self._to_server.write(request)
            await self._to_server.drain()
            if fault == "cut after the request":
                self._to_client.transport.abort()
                return  # the server goes on with it, and its answer ends the connection
        # The client has gone.
        self._to_server.write_eof()

    async def _carry_replies(self) -> None:
        while reply := await self._from_server.read(_READ_BYTES):
            if self._cuts_at_reply:
                return
            if not self._is_silent:
                self._to_client.write(reply)
                await self._to_client.drain()
