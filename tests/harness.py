"""A real server in a process of its own, and clients to talk to it."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import jwt
import socketio

from tests.conformance.wire import Socket

ROOT = Path(__file__).resolve().parent.parent
NAMESPACE = "/chat"
SECRET = "a secret for tests, of more than 32 bytes"
# What is waited for comes at once; a machine that is busy with other work may still take its time.
PATIENCE_S = 60.0

Json = dict[str, Any]


class ServerProcess:
    """A running server. `url` has no trailing slash; `log_path` is what it wrote to stderr."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, log_path: Path) -> None:
        self.process = process
        self.url = url
        self.log_path = log_path

    def log_lines(self) -> list[Json]:
        """The JSON lines of its log so far; the last one may still be being written."""
        lines = self.log_path.read_text().split("\n")[:-1]
        return [json.loads(line) for line in lines if line.startswith("{")]

    def faults(self) -> list[Json]:
        """What it logged as an error or with a stack trace; nothing that a client sends may cause that."""
        return [line for line in self.log_lines() if line["level"] == "error" or "exception" in line]

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal and wait for the end; the exit code."""
        if self.process.returncode is None:
            self.process.send_signal(how)
        async with asyncio.timeout(PATIENCE_S):
            return await self.process.wait()


async def start_server(folder: Path, env: Mapping[str, str] | None = None) -> ServerProcess:
    """Start a server whose data is in `folder`, on a free port; it serves when this returns."""
    os.makedirs(folder, exist_ok=True)  # noqa: PTH103 - pathlib's own is taken for blocking in a coroutine
    log_path = folder / "server.log"
    with log_path.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "server",
            cwd=folder,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(ROOT),
                "TERTULIA_SERVER__PORT": "0",
                "TERTULIA_SERVER__DEVELOPMENT": "true",
                "TERTULIA_AUTH__SECRET": SECRET,
                "TERTULIA_LOG__FORMAT": "json",
                **(env or {}),
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE_S):
            line = (await process.stdout.readline()).decode()
        assert line.startswith("Tertulia is at "), line + log_path.read_text()
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    return ServerProcess(process, line.removeprefix("Tertulia is at ").strip(), log_path)


@contextlib.asynccontextmanager
async def running_server(folder: Path, env: Mapping[str, str] | None = None) -> AsyncIterator[ServerProcess]:
    """A server for the length of a block; it is stopped in every case."""
    server = await start_server(folder, env)
    try:
        yield server
    finally:
        if server.process.returncode is None:
            server.process.kill()
            await server.process.wait()


class Api:
    """The HTTP API of a server. `call` answers (status, body)."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.session = session

    async def call(
        self, method: str, path: str, body: object = None, *, token: str | None = None, **headers: str
    ) -> tuple[int, Json]:
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        async with self.session.request(
            method, self.url + path, json=body, headers=headers, timeout=aiohttp.ClientTimeout(PATIENCE_S)
        ) as response:
            return response.status, await response.json()

    async def register(self, username: str) -> Json:
        """Sign up: {user, access_token, expires_in, refresh_token}."""
        body = {"username": username, "password": f"{username} has a password"}
        status, signed = await self.call("POST", "/api/auth/register", body)
        assert status == 200, signed
        return signed


@contextlib.asynccontextmanager
async def http_api(server: ServerProcess) -> AsyncIterator[Api]:
    """The HTTP API for the length of a block."""
    async with aiohttp.ClientSession() as session:
        yield Api(server.url, session)


def site_token(user_id: str, *, expires_in_s: int = 3600) -> str:
    """A token as a site with its own users signs it: the user of this id, made when it is first used."""
    now = int(time.time())
    return jwt.encode({"sub": user_id, "iat": now, "exp": now + expires_in_s}, SECRET, algorithm="HS256")


class ErrorAnswerError(Exception):
    """An event was answered with an error; `error` is the answer's."""

    def __init__(self, error: Json) -> None:
        super().__init__(error)
        self.error = error


_preferred: ContextVar[list[str] | None] = ContextVar("preferred", default=None)


@contextlib.contextmanager
def preferring(transports: list[str]) -> Iterator[None]:
    """Clients that are not told otherwise use these transports."""
    token = _preferred.set(transports)
    try:
        yield
    finally:
        _preferred.reset(token)


class Client:
    """The official Python client with its received events kept in order."""

    def __init__(self) -> None:
        self.sio = socketio.AsyncClient(reconnection=False)
        self.events: list[tuple[str, Any]] = []
        self._heard = asyncio.Condition()
        self.sio.on("*", self._record, namespace=NAMESPACE)
        self.sio.on("disconnect", self._gone, namespace=NAMESPACE)
        self.ended = asyncio.Event()

    async def connect(self, url: str, auth: Json | None, *, transports: list[str] | None = None) -> "Client":
        """Connect to /chat; raises socketio.exceptions.ConnectionError when refused."""
        await self.sio.connect(
            url,
            auth=auth,
            namespaces=[NAMESPACE],
            transports=transports or _preferred.get() or ["websocket"],
            wait_timeout=PATIENCE_S,
        )
        return self

    async def ask(self, event: str, payload: object = None) -> Json:
        """Send an event and return its whole ack."""
        answer: Json = await self.sio.call(event, payload, namespace=NAMESPACE, timeout=PATIENCE_S)
        return answer

    async def call(self, event: str, payload: object = None) -> Json:
        """Send an event and return its data. Raises ErrorAnswerError."""
        answer = await self.ask(event, payload)
        if not answer["ok"]:
            raise ErrorAnswerError(answer["error"])
        data: Json = answer["data"]
        return data

    async def refused(self, event: str, payload: object = None) -> str:
        """Send an event that must fail; the error's code."""
        answer = await self.ask(event, payload)
        assert not answer["ok"], answer
        code: str = answer["error"]["code"]
        return code

    async def heard(self, event: str, matches: Callable[[Json], bool] = lambda _: True) -> Json:
        """Wait for an event, received already or to come; its payload."""
        async with asyncio.timeout(PATIENCE_S), self._heard:
            while True:
                for name, payload in self.events:
                    if name == event and matches(payload):
                        found: Json = payload
                        return found
                await self._heard.wait()

    def received(self, event: str) -> list[Json]:
        """The payloads of an event received so far."""
        return [payload for name, payload in self.events if name == event]

    async def close(self) -> None:
        """Disconnect."""
        await self.sio.disconnect()

    async def _record(self, event: str, payload: Any = None) -> None:
        async with self._heard:
            self.events.append((event, payload))
            self._heard.notify_all()

    async def _gone(self, _reason: str) -> None:
        self.ended.set()


@contextlib.asynccontextmanager
async def raw_socket(
    api: Api, auth: Json | None = None, *, query: str = "", headers: Mapping[str, str] | None = None
) -> AsyncIterator[Socket]:
    """A websocket for frames written by hand, after OPEN; where `auth` is given, connected to /chat."""
    url = f"{api.url}/socket.io/?EIO=4&transport=websocket{query}"
    async with api.session.ws_connect(url, headers=headers) as websocket:
        socket = Socket(websocket)
        await socket.receive_packet("0")
        if auth is not None:
            await socket.connect(NAMESPACE, auth)
        yield socket


async def receive_until(socket: Socket, head: str) -> Any:
    """The JSON behind `head` in the next frame that begins with it; frames before it are dropped."""
    while True:
        frame = await socket.receive()
        if isinstance(frame, str) and frame.startswith(head):
            return json.loads(frame.removeprefix(head))


async def refusal(
    url: str, auth: Json | None, *, namespace: str = NAMESPACE, headers: Mapping[str, str] | None = None
) -> Json:
    """What the official client is told when its CONNECT is refused: {message, data}."""
    sio = socketio.AsyncClient(reconnection=False)
    told: list[Json] = []
    sio.on("connect_error", told.append, namespace=namespace)
    with contextlib.suppress(socketio.exceptions.ConnectionError):
        await sio.connect(
            url,
            headers=headers or {},
            auth=auth,
            namespaces=[namespace],
            transports=["websocket"],
            wait_timeout=PATIENCE_S,
        )
        await sio.disconnect()
    (refused,) = told
    return refused


@contextlib.asynccontextmanager
async def connected(url: str, *tokens: str, **auth: Any) -> AsyncIterator[list[Client]]:
    """A connected client for each token, for the length of a block."""
    async with contextlib.AsyncExitStack() as stack:
        clients: list[Client] = []
        for token in tokens:
            client = await Client().connect(url, {"token": token, **auth})
            stack.push_async_callback(client.close)
            clients.append(client)
        yield clients


async def caught_up(sender: Client, room_id: str, *listeners: Client) -> None:
    """Return once the listeners, members of the room, have heard all that was told before this call."""
    marker = uuid4().hex
    await sender.call("chat_message", {"room_id": room_id, "content": marker})
    for listener in listeners:
        await listener.heard("chat_message", lambda told: told["message"]["content"] == marker)
