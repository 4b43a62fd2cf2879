"""Who opens a connection and sends no request is let go; who has asked something is not."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest_asyncio

from server.app import Tertulia
from server.settings_load import load
from tests.harness import NAMESPACE, PATIENCE_S, SECRET, site_token

IDLE_S = 0.5
POLLING = "/socket.io/?EIO=4&transport=polling"


@pytest_asyncio.fixture
async def port(tmp_path: Path) -> AsyncIterator[int]:
    """Where a server listens that waits half a second for a request."""
    env = {
        "TERTULIA_SERVER__PORT": "0",
        "TERTULIA_SERVER__DEVELOPMENT": "true",
        "TERTULIA_DATABASE__URL": f"sqlite:///{tmp_path / 'chat.db'}",
    }
    server = Tertulia(load(None, env), SECRET, idle_timeout_s=IDLE_S)
    try:
        yield await server.start()
    finally:
        await server.close()


@contextlib.asynccontextmanager
async def opened(port: int, sent: bytes) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection on which these bytes were sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        await writer.drain()
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def lifetime_s(port: int, sent: bytes, *, drip: bytes = b"") -> float:
    """How long the server keeps a connection of a client that sends this, and then `drip` again and again."""
    began = time.monotonic()
    async with asyncio.timeout(PATIENCE_S), opened(port, sent) as (reader, writer):
        while not reader.at_eof():
            with contextlib.suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(IDLE_S / 5):
                    await reader.read(65_536)
            writer.write(drip)
        return time.monotonic() - began


async def test_a_request_that_does_not_come_whole_is_waited_for_so_long(port: int) -> None:
    asked = b"GET /healthz HTTP/1.1\r\nHost: chat\r\n\r\n"
    lifetimes = await asyncio.gather(
        lifetime_s(port, b""),
        lifetime_s(port, b"GET /healthz HTTP/1.1\r\nHost: chat\r\n"),
        lifetime_s(port, b"GET /healthz HTTP/1.1\r\n", drip=b"X: y\r\n"),
        lifetime_s(port, asked),
        lifetime_s(port, asked + b"GET /heal"),
    )
    assert all(IDLE_S * 0.9 <= each < IDLE_S * 4 for each in lifetimes), lifetimes


async def test_a_websocket_and_a_long_poll_are_waited_for_as_long_as_they_like(port: int) -> None:
    url = f"http://127.0.0.1:{port}"
    connect = f'40{NAMESPACE},{{"token":"{site_token("eva")}"}}'
    async with asyncio.timeout(PATIENCE_S), aiohttp.ClientSession(url) as session:
        async with session.get(POLLING) as response:
            sid = (await response.text()).partition('"sid":"')[2].partition('"')[0]
        polling = asyncio.create_task(session.get(f"{POLLING}&sid={sid}"))
        async with session.ws_connect("/socket.io/?EIO=4&transport=websocket") as websocket:
            assert (await websocket.receive_str()).startswith("0{")
            for _ in range(2):
                await lifetime_s(port, b"")
            assert not polling.done()
            await websocket.send_str(connect)
            assert (await websocket.receive_str()).startswith(f"40{NAMESPACE},")
            async with session.post(f"{POLLING}&sid={sid}", data=connect) as response:
                assert response.status == 200
            async with await polling as response:
                assert (await response.text()).startswith(f"40{NAMESPACE},")
