"""The server on MongoDB: what it says at the start, and how it goes on while the store is away."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp
import pytest
from pymongo import MongoClient
from socketio.exceptions import ConnectionError  # noqa: A004 - its name

from tests.fault_proxy import FaultProxy
from tests.harness import (
    PATIENCE_S,
    ROOT,
    SECRET,
    Client,
    Json,
    ServerProcess,
    connected,
    running_server,
    site_token,
)
from tests.mongodb import MongoServer, is_real_mongod, make_server, shared_url

PASSWORD = "hunter2-secret"
URL = "TERTULIA_DATABASE__URL"

pytestmark = pytest.mark.real_services


async def complaint(folder: Path, env: Mapping[str, str]) -> str:
    """The line on which the server ends that cannot start."""
    fixed = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TERTULIA_AUTH__SECRET": SECRET}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server", "run", "--port", "0"),
        cwd=folder,
        env={**fixed, **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(2 * PATIENCE_S):
        printed, complained = await process.communicate()
    assert (process.returncode, printed) == (1, b"")
    assert PASSWORD not in complained.decode()
    line = complained.decode().splitlines()[-1]
    assert line.startswith("database.url: ")
    return line


@pytest.fixture
def url() -> str:
    return shared_url(f"test_{uuid4().hex[:16]}")


async def test_a_store_that_cannot_be_reached_is_said_in_time_with_the_key_and_the_remedy(
    tmp_path: Path,
) -> None:
    env = {URL: f"mongodb://juan:{PASSWORD}@127.0.0.1:1/chat", "TERTULIA_DATABASE__TIMEOUT_S": "1"}
    line = await complaint(tmp_path, env)
    assert "cannot be reached within 1 s. Start it, or correct the host, the port" in line


async def test_a_store_that_accepts_and_stays_silent_is_said_in_time_too(tmp_path: Path, url: str) -> None:
    port = urlsplit(url).port
    assert port is not None
    async with FaultProxy(port, choose=lambda: "blackhole").listening() as silent:
        env = {URL: f"mongodb://127.0.0.1:{silent.port}/chat", "TERTULIA_DATABASE__TIMEOUT_S": "1"}
        assert "cannot be reached within 1 s" in await complaint(tmp_path, env)


async def test_a_wrong_password_is_said_without_showing_it(tmp_path: Path, url: str) -> None:
    head, _, rest = url.partition("://")
    line = await complaint(tmp_path, {URL: f"{head}://juan:{PASSWORD}@{rest}"})
    assert "does not accept the user or the password" in line


async def test_a_database_made_by_a_newer_version_is_refused(tmp_path: Path, url: str) -> None:
    client: MongoClient[Json] = MongoClient(url)
    with client:
        client.get_default_database().meta.insert_one({"_id": "schema", "version": 99, "epoch": "x"})
        assert "schema version 99, made by a newer Tertulia" in await complaint(tmp_path, {URL: url})
        assert client.get_default_database().list_collection_names() == ["meta"]


async def test_a_second_server_without_a_bus_is_refused_and_the_first_goes_on(
    tmp_path: Path, url: str
) -> None:
    env = {URL: url}
    async with running_server(tmp_path, env) as first, connected(first.url, site_token("eva")) as (eva,):
        assert "another server uses this database" in await complaint(tmp_path, env)
        assert (await eva.call("sync"))["me"]["id"] == "eva"
        assert await first.stop() == 0
    async with running_server(tmp_path, env) as second:  # at once: the first one gave its lease back
        is_warned = any(line["event"] == "store.not_replicated" for line in second.log_lines())
        assert is_warned is not is_real_mongod()


class Away:
    """A server whose store is behind a proxy, with two people in a room; both databases are its own."""

    def __init__(self, server: ServerProcess, proxy: FaultProxy, mongodb: MongoServer) -> None:
        self.server = server
        self.proxy = proxy
        self.mongodb = mongodb

    async def status(self, path: str) -> tuple[int, Json, str | None]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(self.server.url + path, timeout=aiohttp.ClientTimeout(PATIENCE_S)) as response,
        ):
            retry_after = response.headers.get("Retry-After")
            return response.status, await response.json(content_type=None), retry_after

    async def becomes(self, path: str, status: int) -> Json:
        """The body, once this path answers with the status."""
        async with asyncio.timeout(3 * PATIENCE_S):
            while (answer := await self.status(path))[0] != status:  # noqa: ASYNC110 - a probe, as balancers do
                await asyncio.sleep(0.1)
        return answer[1]


HANDSHAKE = "/socket.io/?EIO=4&transport=polling"


@pytest.fixture
async def away(tmp_path: Path) -> AsyncIterator[Away]:
    mongodb = await asyncio.to_thread(make_server)
    async with FaultProxy(mongodb.port).listening() as proxy:
        env = {
            URL: mongodb.url("chat", port=proxy.port),
            "TERTULIA_LIMITS__ENABLED": "false",
            "TERTULIA_DATABASE__TIMEOUT_S": "1.5",
            "TERTULIA_REALTIME__EVENT_DEADLINE_S": "3",
        }
        async with running_server(tmp_path, env) as server:
            yield Away(server, proxy, mongodb)
    await asyncio.to_thread(mongodb.stop)


async def say(juan: Client, room_id: str, unique: str) -> None:
    """Send, and repeat with the same id while the answer is `unavailable`, as clients do."""
    said = {"room_id": room_id, "content": unique, "client_msg_id": unique}
    async with asyncio.timeout(3 * PATIENCE_S):
        while not (answer := await juan.ask("chat_message", said))["ok"]:
            assert answer["error"]["code"] == "unavailable", answer


async def arrive(url: str, token: str) -> Client:
    """Connect, and try again while the handshake is answered 503: what still waited may fail once more."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await Client().connect(url, {"token": token})
            except ConnectionError:
                await asyncio.sleep(0.2)


@pytest.mark.parametrize("how", ["killed", "silent"])
async def test_while_the_store_is_away_clients_are_told_so_and_all_is_well_when_it_is_back(
    away: Away, how: str
) -> None:
    tokens = (site_token("juan"), site_token("ana"))
    async with connected(away.server.url, *tokens) as (juan, ana):
        made = await juan.call("create_room", {"kind": "group", "name": "Tapas", "member_ids": ["ana"]})
        room_id = made["room"]["id"]
        await say(juan, room_id, "before")
        accepted, since_s = away.proxy.accepted, asyncio.get_running_loop().time()
        if how == "killed":
            await asyncio.to_thread(away.mongodb.kill)
        else:
            away.proxy.choose = lambda: "blackhole"
        said = {"room_id": room_id, "content": "while", "client_msg_id": "while"}
        assert await juan.refused("chat_message", said) == "unavailable"
        await away.becomes(HANDSHAKE, 503)
        assert (await away.status(HANDSHAKE))[2] is not None, "Retry-After"
        assert (await away.becomes("/readyz", 503))["reasons"] == ["store"]
        assert await away.status("/healthz") == (200, {"ok": True}, None)
        away_s = asyncio.get_running_loop().time() - since_s
        assert away.proxy.accepted - accepted < 20 + 5 * away_s, "no storm of connections"
        retried = asyncio.create_task(say(juan, room_id, "while"))
        if how == "killed":
            await asyncio.to_thread(away.mongodb.start)
        else:
            away.proxy.choose = lambda: "none"
            away.proxy.cut()
        await retried
        await away.becomes("/readyz", 200)
        await say(juan, room_id, "after")
        await ana.heard("chat_message", lambda told: told["message"]["content"] == "after")
        told = [each["message"] for each in ana.received("chat_message")]
        said_in_order = [(1, "before"), (2, "while"), (3, "after")]
        assert [(each["seq"], each["content"]) for each in told] == said_in_order
    eva = await arrive(away.server.url, site_token("eva"))
    assert (await eva.call("sync"))["me"]["id"] == "eva"
    await eva.close()
    assert not [line for line in away.server.log_lines() if "exception" in line]
