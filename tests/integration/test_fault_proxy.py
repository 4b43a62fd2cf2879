"""The proxy that breaks connections breaks them as it says."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from tests.fault_proxy import Fault, FaultProxy

PATIENCE_S = 10


class Echo:
    """A server that answers each line with itself and keeps what it got; held back while `gate` is shut."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self._grew = asyncio.Condition()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            async with self._grew:
                self.lines.append(line)
                self._grew.notify_all()
            await self.gate.wait()
            writer.write(line)
        writer.close()

    async def got(self, *lines: bytes) -> None:
        async with asyncio.timeout(PATIENCE_S), self._grew:
            await self._grew.wait_for(lambda: self.lines == list(lines))


Ask = Callable[[bytes], Awaitable[bytes]]


@asynccontextmanager
async def echoing(*faults: Fault, delay_s: float = 0.05) -> AsyncIterator[tuple[Echo, FaultProxy, Ask]]:
    """An echo behind a proxy; `ask` sends a line and answers with what comes back (b"": an end)."""
    echo, coming = Echo(), iter(faults)
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    proxy = FaultProxy(port, choose=lambda: next(coming, "none"), delay_s=delay_s)
    async with proxy.listening():
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)

        async def ask(line: bytes) -> bytes:
            writer.write(line)
            async with asyncio.timeout(PATIENCE_S):
                try:
                    return await reader.readline()
                except ConnectionError:
                    return b""

        yield echo, proxy, ask
        writer.transport.abort()
    server.close()
    await server.wait_closed()


async def test_what_meets_no_fault_passes_both_ways_unchanged() -> None:
    async with echoing() as (_, proxy, ask):
        for line in (b"one\n", b"x" * 60_000 + b"\n"):
            assert await ask(line) == line
        assert set(proxy.met) == {"none"}


async def test_a_delayed_request_arrives_late_and_is_answered() -> None:
    async with echoing("delay", delay_s=0.3) as (_, _, ask):
        loop = asyncio.get_running_loop()
        since_s = loop.time()
        assert await ask(b"one\n") == b"one\n"
        assert loop.time() - since_s >= 0.3


@pytest.mark.parametrize("fault", ["cut after the request", "cut before the reply"])
async def test_a_request_that_is_cut_reaches_the_server_alone(fault: Fault) -> None:
    async with echoing("none", fault) as (echo, _, ask):
        assert await ask(b"one\n") == b"one\n"
        assert await ask(b"two\n") == b""
        await echo.got(b"one\n", b"two\n")


async def test_only_a_cut_before_the_reply_waits_until_the_server_has_done_it() -> None:
    async with echoing("cut before the reply") as (echo, _, ask):
        echo.gate.clear()
        asking = asyncio.ensure_future(ask(b"one\n"))
        await echo.got(b"one\n")
        assert not asking.done()
        echo.gate.set()
        assert await asking == b""
    async with echoing("cut after the request") as (echo, _, ask):
        echo.gate.clear()
        assert await ask(b"one\n") == b""
        echo.gate.set()


async def test_nothing_passes_a_blackhole_which_stays_open_until_it_is_cut() -> None:
    async with echoing("none", "blackhole") as (echo, proxy, ask):
        await ask(b"one\n")
        silent = asyncio.ensure_future(ask(b"two\n"))
        done, _ = await asyncio.wait([silent], timeout=0.2)
        assert not done
        assert echo.lines == [b"one\n"]
        proxy.cut()
        assert await silent == b""


async def test_who_comes_while_the_server_is_away_is_refused() -> None:
    async with echoing() as (_, proxy, ask):
        await ask(b"one\n")
        proxy.to_port = 1
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.read() == b""
        writer.transport.abort()
