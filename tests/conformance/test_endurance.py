"""What very many connections leave behind: a real process is looked at from outside and from inside."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import ClientSession, TCPConnector

from bench.process import Server as Measured
from tests.conformance.wire import TIMEOUT_S, Poller, Socket

ROOT = Path(__file__).parent.parent.parent
CYCLES = 2_000
WARM_UP = 1_000
AT_A_TIME = 20
# What an allocator may do: 2 KB a cycle. A connection that stayed would be over 20.
MOST_GROWTH_BYTES = CYCLES * 2_000
# An object a cycle would be a leak.
MOST_NEW_OBJECTS = CYCLES // 4
PATIENCE_S = 30.0


class Lone:
    """The server's process, and clients of it."""

    def __init__(self, process: Process, url: str, http: ClientSession) -> None:
        self._process = process
        self._measured = Measured(process.pid, 0)
        self.url = url
        self.http = http

    async def tables(self) -> dict[str, int]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        async with asyncio.timeout(TIMEOUT_S):
            told: dict[str, int] = json.loads(await self._process.stdout.readline())
        return told

    async def emptied(self) -> dict[str, int]:
        """Wait until nobody is connected, or away any more."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                # Who was away for too long is forgotten when somebody comes, the packets when nobody is left.
                last = await Guest(self, recovery=True).by_websocket()
                await last.send("41/chat,")
                await last.websocket.close()
                tables = await self.tables()
                if not (tables["transports"] or tables["away"] or tables["tasks"] > 1):
                    return tables
                await asyncio.sleep(0.1)

    def rss_bytes(self) -> int:
        return self._measured.rss_bytes()


@asynccontextmanager
async def lone_server() -> AsyncIterator[Lone]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.conformance.lone_server"),
        cwd=ROOT,
        env={**os.environ, "MALLOC_ARENA_MAX": "1"},
        stdin=PIPE,
        stdout=PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            url = (await process.stdout.readline()).decode().strip()
        async with ClientSession(connector=TCPConnector(limit=0, force_close=True)) as http:
            yield Lone(process, url, http)
    finally:
        process.kill()
        await process.wait()


class Guest:
    """A client for one visit."""

    def __init__(self, server: Lone, *, recovery: bool = False) -> None:
        self.server = server
        self.auth: dict[str, object] = {"user": "ana", "recovery": recovery}
        self.socket: Socket
        self.poller: Poller

    async def by_websocket(self, *, sid: str | None = None) -> Socket:
        """A websocket that is connected; with `sid` one that takes over from polling."""
        suffix = f"&sid={sid}" if sid else ""
        url = f"{self.server.url}?EIO=4&transport=websocket{suffix}"
        self.socket = Socket(await self.server.http.ws_connect(url))
        if sid is None:
            await self.heard("0{")
            await self.connect()
        return self.socket

    async def connect(self) -> None:
        await self.socket.send(f"40/chat,{json.dumps(self.auth)}")
        answer = await self.heard("40/chat,")
        self.auth["pid"] = json.loads(answer.removeprefix("40/chat,")).get("pid")

    async def heard(self, head: str) -> str:
        """What begins so; what comes before it is of other clients."""
        while True:
            text = await self.socket.receive()
            if isinstance(text, str) and text.startswith(head):
                return text

    async def by_polling(self) -> Poller:
        async with self.server.http.get(f"{self.server.url}?EIO=4&transport=polling") as response:
            self.poller = Poller(self.server.http, self.server.url, json.loads((await response.text())[1:]))
        assert await self.poller.post(f"40/chat,{json.dumps(self.auth)}") == (200, "ok")
        while not any(text.startswith("40/chat,") for text in await self.poller.poll()):
            pass
        return self.poller

    def drop(self) -> None:
        connection = self.socket.websocket._response.connection
        assert connection is not None
        assert connection.transport is not None
        connection.transport.abort()


async def a_websocket_that_is_closed(guest: Guest) -> None:
    await (await guest.by_websocket()).websocket.close()


async def a_websocket_that_is_lost(guest: Guest) -> None:
    await guest.by_websocket()
    guest.drop()


async def a_websocket_that_is_disconnected(guest: Guest) -> None:
    await (await guest.by_websocket()).send('42/chat,["leave"]')
    await guest.heard("41/chat,")
    await guest.socket.websocket.close()


async def a_websocket_that_the_server_closes(guest: Guest) -> None:
    await (await guest.by_websocket()).send('42/chat,["shut"]')
    await guest.socket.closed()


async def a_malformed_packet(guest: Guest) -> None:
    await (await guest.by_websocket()).send("42/chat,{}")
    await guest.socket.closed()


async def a_packet_too_large(guest: Guest) -> None:
    await (await guest.by_websocket()).send("4" * 70_000)
    await guest.socket.closed()


async def a_malformed_frame(guest: Guest) -> None:
    writer = (await guest.by_websocket()).websocket._writer
    # A reserved bit and no such opcode.
    writer.transport.write(b"\xfb\x80\x00\x00\x00\x00")
    await guest.socket.closed()


async def an_attachment_that_does_not_come(guest: Guest) -> None:
    await (await guest.by_websocket()).send('451-/chat,["say",{"_placeholder":true,"num":0}]')
    guest.drop()


async def a_refused_namespace(guest: Guest) -> None:
    await (await guest.by_websocket()).send("40/elsewhere,")
    await guest.heard("44/elsewhere,")
    await guest.socket.websocket.close()


async def polling_that_ends(guest: Guest) -> None:
    await (await guest.by_polling()).post("41/chat,", "1")


async def polling_that_stops(guest: Guest) -> None:
    await guest.by_polling()


async def a_malformed_post(guest: Guest) -> None:
    poller = await guest.by_polling()
    assert (await poller.post("4", "b!"))[0] == 400
    await poller.try_poll()


async def an_upgrade(guest: Guest) -> None:
    sid = (await guest.by_polling()).handshake["sid"]
    await (await guest.by_websocket(sid=sid)).send("2probe")
    await guest.heard("3probe")
    await guest.socket.send("5", '42/chat,1["echo"]')
    await guest.heard("43/chat,1")
    await guest.socket.websocket.close()


async def an_upgrade_that_fails(guest: Guest) -> None:
    sid = (await guest.by_polling()).handshake["sid"]
    await (await guest.by_websocket(sid=sid)).send("2probe")
    await guest.heard("3probe")
    guest.drop()
    await guest.poller.post("1")


async def a_return(guest: Guest) -> None:
    await a_websocket_that_is_lost(guest)
    pid = guest.auth["pid"]
    await (await guest.by_websocket()).send('42/chat,["say",1]')
    assert guest.auth["pid"] == pid, "recovered, if it asked to be"
    await guest.heard('42/chat,["said"')


async def a_return_that_is_lost(guest: Guest) -> None:
    await a_return(guest)
    guest.drop()


async def a_return_that_ends(guest: Guest) -> None:
    await a_return(guest)
    await guest.socket.send("41/chat,", "1")
    await guest.socket.closed()


WAYS: list[Callable[[Guest], Awaitable[None]]] = [
    a_websocket_that_is_closed,
    a_websocket_that_is_lost,
    a_websocket_that_is_disconnected,
    a_websocket_that_the_server_closes,
    a_malformed_packet,
    a_packet_too_large,
    a_malformed_frame,
    an_attachment_that_does_not_come,
    a_refused_namespace,
    polling_that_ends,
    polling_that_stops,
    a_malformed_post,
    an_upgrade,
    an_upgrade_that_fails,
    a_return_that_is_lost,
    a_return_that_ends,
]


async def visit(server: Lone, count: int) -> None:
    """So many clients in turn, some at a time; every way of ending with recovery and without."""
    numbers = iter(range(count))

    async def come_and_go() -> None:
        for number in numbers:
            guest = Guest(server, recovery=number // len(WAYS) % 2 == 0)
            async with asyncio.timeout(PATIENCE_S):
                await WAYS[number % len(WAYS)](guest)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_A_TIME):
            group.create_task(come_and_go())


def without_the_objects(tables: Mapping[str, int]) -> dict[str, int]:
    return {name: size for name, size in tables.items() if name != "objects"}


async def test_two_thousand_connections_leave_memory_and_tables_as_they_were() -> None:
    async with lone_server() as server:
        await visit(server, WARM_UP)
        before = await server.emptied()
        rss_bytes = server.rss_bytes()
        await visit(server, CYCLES)
        after = await server.emptied()
        assert without_the_objects(after) == without_the_objects(before)
        assert after["objects"] - before["objects"] < MOST_NEW_OBJECTS
        assert server.rss_bytes() - rss_bytes < MOST_GROWTH_BYTES
