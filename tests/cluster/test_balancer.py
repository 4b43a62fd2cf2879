"""What nginx does with requests, by the file that is delivered: two servers stand behind it."""

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from tests.cluster.balancer import Balancer, make_balancer
from tests.harness import PATIENCE_S, ServerProcess, running_server, site_token
from tests.js_client import TRANSPORTS, js_client

pytestmark = pytest.mark.real_services
HANDSHAKE = "/socket.io/?EIO=4&transport=polling"


class Stub:
    """A server that only says who it is; `refuses` those who come with 503, as one that drains."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.refuses = False
        self.received: list[web.Request] = []
        self.peers: set[object] = set()
        self._runner: web.AppRunner | None = None
        self.address = ""

    async def start(self) -> None:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0]
        self.address = f"{host}:{port}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.received.append(request)
        assert request.transport is not None
        self.peers.add(request.transport.get_extra_info("peername"))
        if self.refuses:
            return web.Response(status=503, headers={"Retry-After": "1"})
        if request.headers.get("Upgrade") == "websocket":
            websocket = web.WebSocketResponse()
            await websocket.prepare(request)
            await websocket.send_str(self.name)
            await websocket.close()
            return websocket
        return web.Response(text=self.name)


class Behind:
    """nginx with two stubs behind it."""

    def __init__(self, balancer: Balancer, stubs: list[Stub]) -> None:
        self.balancer = balancer
        self.stubs = stubs

    def stub(self, name: str) -> Stub:
        return next(each for each in self.stubs if each.name == name)

    async def ask(self, path: str, *, method: str = "GET", address: str = "127.0.0.1") -> tuple[int, str]:
        """Status and answer of a request from this address, by a connection of its own."""
        connector = aiohttp.TCPConnector(local_addr=(address, 0))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(
                method, self.balancer.url + path, headers={"X-Forwarded-For": "203.0.113.9"}
            ) as answer,
        ):
            return answer.status, await answer.text()

    async def who(self, path: str, *, address: str = "127.0.0.1") -> str:
        """Which server answers."""
        status, name = await self.ask(path, address=address)
        assert status == 200, name
        return name

    async def open_websocket(self, query: str) -> str:
        """Which server a websocket reaches."""
        url = f"{self.balancer.url}/socket.io/?EIO=4&transport=websocket{query}"
        async with aiohttp.ClientSession() as session, session.ws_connect(url) as websocket:
            return await websocket.receive_str(timeout=PATIENCE_S)


@pytest_asyncio.fixture
async def behind(tmp_path: Path) -> AsyncIterator[Behind]:
    stubs = [Stub("one"), Stub("two")]
    async with contextlib.AsyncExitStack() as stack:
        for stub in stubs:
            await stub.start()
            stack.push_async_callback(stub.stop)
        balancer = make_balancer(tmp_path / "nginx", *(stub.address for stub in stubs))
        stack.callback(balancer.stop)
        yield Behind(balancer, stubs)


@contextlib.asynccontextmanager
async def balancer_of(folder: Path, *servers: ServerProcess) -> AsyncIterator[Balancer]:
    """Nginx before these servers, for the length of a block."""
    balancer = make_balancer(folder, *(server.url.removeprefix("http://") for server in servers))
    try:
        yield balancer
    finally:
        balancer.stop()


async def test_all_requests_of_a_polling_session_reach_one_server(behind: Behind) -> None:
    home = await behind.who(HANDSHAKE)
    paths = [f"{HANDSHAKE}&sid=s&t={number}" for number in range(20)]
    assert {await behind.who(path) for path in paths} == {home}
    assert await behind.open_websocket("&sid=s") == home


async def test_clients_are_spread_by_their_address(behind: Behind) -> None:
    addresses = [f"127.0.1.{last}" for last in range(1, 61)]
    homes = Counter([await behind.who(HANDSHAKE, address=address) for address in addresses])
    assert min(homes["one"], homes["two"]) >= 10, homes


async def test_sessions_that_begin_as_a_websocket_are_spread_behind_one_address(behind: Behind) -> None:
    homes = Counter([await behind.open_websocket("") for _ in range(60)])
    assert min(homes["one"], homes["two"]) >= 10, homes


async def test_who_is_refused_by_a_draining_server_is_let_in_by_the_other_one(behind: Behind) -> None:
    home = await behind.who(HANDSHAKE)
    behind.stub(home).refuses = True
    other = await behind.who(HANDSHAKE)
    assert other != home
    assert await behind.open_websocket("") == other


async def test_a_server_that_refused_keeps_its_polling_sessions(behind: Behind) -> None:
    home = behind.stub(await behind.who(HANDSHAKE))
    home.refuses = True
    await asyncio.gather(*(behind.who(HANDSHAKE) for _ in range(10)))
    home.refuses = False
    assert await behind.who(f"{HANDSHAKE}&sid=s") == home.name


async def test_a_refusal_by_all_is_passed_on_with_when_to_come_back(behind: Behind) -> None:
    for stub in behind.stubs:
        stub.refuses = True
    status, _ = await behind.ask(HANDSHAKE)
    assert status == 503
    assert sum(len(stub.received) for stub in behind.stubs) == 2


async def test_a_post_that_was_received_is_not_repeated(behind: Behind) -> None:
    for stub in behind.stubs:
        stub.refuses = True
    assert (await behind.ask("/api/rooms", method="POST"))[0] == 503
    assert sum(len(stub.received) for stub in behind.stubs) == 1


async def test_who_belonged_to_a_server_that_is_gone_goes_to_the_other_one(behind: Behind) -> None:
    home = behind.stub(await behind.who(HANDSHAKE))
    await home.stop()
    other = await behind.who(HANDSHAKE)
    assert other != home.name
    assert {await behind.who(f"{HANDSHAKE}&sid=s&t={number}") for number in range(5)} == {other}


async def test_a_server_is_told_the_address_of_the_client_and_not_what_the_client_claims(
    behind: Behind,
) -> None:
    home = await behind.who("/api/me", address="127.0.1.7")
    headers = behind.stub(home).received[-1].headers
    assert headers.getall("X-Forwarded-For") == ["127.0.1.7"]
    assert headers["X-Forwarded-Proto"] == "http"
    assert headers["X-Forwarded-Host"] == headers["Host"] == f"127.0.0.1:{behind.balancer.port}"


async def test_no_query_stands_in_a_log_even_where_no_server_answers(behind: Behind) -> None:
    await behind.ask(f"{HANDSHAKE}&token=hidden&sid=hidden")
    for stub in behind.stubs:
        await stub.stop()
    status, _ = await behind.ask(f"{HANDSHAKE}&token=hidden&sid=hidden")
    assert status == 502
    behind.balancer.stop()
    assert [line["path"] for line in behind.balancer.requests()] == ["/socket.io/", "/socket.io/"]
    assert "hidden" not in behind.balancer.said()


async def test_health_is_answered_and_not_logged_and_figures_are_kept_inside(behind: Behind) -> None:
    assert (await behind.ask("/healthz"))[0] == 200
    assert (await behind.ask("/metrics"))[0] == 404
    behind.balancer.stop()
    assert [line["path"] for line in behind.balancer.requests()] == ["/metrics"]


async def test_connections_to_a_server_are_used_again(behind: Behind) -> None:
    home = behind.stub(await behind.who("/one"))
    for _ in range(9):
        await behind.who("/one")
    assert len(home.received) == 10
    # Each of nginx' workers has connections of its own.
    assert len(home.peers) <= (os.cpu_count() or 1)


@pytest.mark.node
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_npm_client_talks_through_it_by_every_transport(tmp_path: Path, transport: str) -> None:
    """Of two servers that know nothing of each other: a request that went astray would be refused."""
    async with (
        running_server(tmp_path / "one") as one,
        running_server(tmp_path / "two") as two,
        balancer_of(tmp_path / "nginx", one, two) as balancer,
        js_client(balancer.url, {"token": site_token("juan")}, transport) as juan,
    ):
        await juan.on("connect")
        if transport == "upgrade":
            await juan.on("upgrade")
        made = await juan.call("create_room", {"kind": "group", "name": "Tapas"})
        for content in ("Hola!", "Adiós"):
            await juan.call("chat_message", {"room_id": made["room"]["id"], "content": content})
        await juan.note(lambda _: len(juan.messages()) == 2)
        assert [message["content"] for message in juan.messages()] == ["Hola!", "Adiós"]
