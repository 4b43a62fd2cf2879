"""The standard Python client, as it comes, over both transports."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import socketio
from aiohttp import ClientSession

from server.realtime.server import Connection, RefusedError
from tests.conformance.wire import TIMEOUT_S, Site, running

TRANSPORTS = pytest.mark.parametrize(
    "transports",
    [["websocket"], ["polling"], ["polling", "websocket"]],
    ids=["websocket", "polling", "upgrade"],
)


class Client:
    """A standard client that writes down what happens to it."""

    def __init__(self, http: ClientSession) -> None:
        # With a session of its own it would leave one unclosed at each reconnection.
        self.socket = socketio.AsyncClient(reconnection_delay=0.01, handle_sigint=False, http_session=http)
        self.seen: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        self.socket.on("*", self._note, namespace="/chat")
        self.socket.on("connect", lambda: self._note("connect"), namespace="/chat")
        self.socket.on("disconnect", lambda reason: self._note("disconnect", reason), namespace="/chat")

    async def connect(self, site: Site, transports: list[str], **auth: Any) -> None:
        url = site.url.removesuffix("/socket.io/")
        await self.socket.connect(url, auth=auth, transports=transports, namespaces=["/chat"])

    async def next(self) -> tuple[Any, ...]:
        return await asyncio.wait_for(self.seen.get(), TIMEOUT_S)

    def _note(self, *happening: object) -> None:
        self.seen.put_nowait(happening)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with running() as site:
        yield site


@pytest.fixture
async def client(site: Site) -> AsyncIterator[Client]:
    client = Client(site.http)
    yield client
    await client.socket.shutdown()


@TRANSPORTS
async def test_calls_are_answered_and_events_arrive(
    site: Site, client: Client, transports: list[str]
) -> None:
    await client.connect(site, transports, token="t")
    assert await client.next() == ("connect",)
    assert site.application.named("connect") == [({"token": "t"},)]
    answer = await client.socket.call("note", {"text": "ñ", "raw": b"\x00\xff"}, namespace="/chat")
    assert answer == {"text": "ñ", "raw": b"\x00\xff"}
    await client.socket.call("join", "r", namespace="/chat")
    for number in range(100):
        site.emit("news", {"number": number}, "r")
    assert [await client.next() for _ in range(100)] == [("news", {"number": n}) for n in range(100)]
    await client.socket.disconnect()
    assert len(await site.application.until("disconnected")) == 1
    await site.emptied()


@TRANSPORTS
async def test_a_burst_of_events_arrives_whole_and_in_order(
    site: Site, client: Client, transports: list[str]
) -> None:
    await client.connect(site, transports)
    for number in range(200):
        await client.socket.emit("note", number, namespace="/chat")
    await client.socket.call("echo", None, namespace="/chat")
    notes = [args for name, args, _ in site.application.named("event") if name == "note"]
    assert notes == [[number] for number in range(200)]


@TRANSPORTS
async def test_a_client_that_was_closed_comes_back(site: Site, client: Client, transports: list[str]) -> None:
    await client.connect(site, transports)
    assert await client.next() == ("connect",)
    site.application.connections[0].emit("last", {})
    site.application.connections[0].close()
    happenings = [await client.next(), await client.next(), await client.next()]
    assert ("last", {}) in happenings
    assert [name for name, *_ in happenings if name != "last"] == ["disconnect", "connect"]
    assert len(site.application.connections) == 2


@TRANSPORTS
async def test_a_client_that_was_disconnected_stays_away(
    site: Site, client: Client, transports: list[str]
) -> None:
    await client.connect(site, transports)
    assert await client.next() == ("connect",)
    site.application.connections[0].disconnect()
    assert await client.next() == ("disconnect", "server disconnect")
    await asyncio.wait_for(client.socket.wait(), TIMEOUT_S)
    await site.emptied()
    assert len(site.application.connections) == 1


@TRANSPORTS
async def test_a_client_that_is_refused_learns_why(site: Site, client: Client, transports: list[str]) -> None:
    async def refuse(_connection: Connection, _auth: object) -> None:
        raise RefusedError("log in", {"code": "token_invalid", "retry": "never"})

    refusals: list[object] = []
    client.socket.on("connect_error", refusals.append, namespace="/chat")
    site.application.on_connect = refuse
    with pytest.raises(socketio.exceptions.ConnectionError):
        await client.connect(site, transports)
    assert refusals == [{"message": "log in", "data": {"code": "token_invalid", "retry": "never"}}]
    await site.emptied()
