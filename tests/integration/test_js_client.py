"""The unmodified npm client, over each of its transports."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness import (
    PATIENCE_S,
    Api,
    Json,
    ServerProcess,
    connected,
    http_api,
    running_server,
    site_token,
    start_server,
)
from tests.node import JS_DIR, require_node

pytestmark = pytest.mark.node

BURST = 200
MOST_PACKET_BYTES = 64 * 1024
TRANSPORTS: dict[str, Json] = {
    "websocket": {"transports": ["websocket"]},
    "polling": {"transports": ["polling"]},
    "upgrade": {"transports": ["polling", "websocket"]},
}
# A poll is not closed but answered that there is no such session.
TRANSPORT_GONE = {"transport close", "transport error"}
each_transport = pytest.mark.parametrize("transport", TRANSPORTS)


class JsClient:
    """A Node process with one client; `notes` is what it told, in order."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.notes: list[Json] = []
        self._noted = asyncio.Condition()
        self._next_id = 0

    async def read(self) -> None:
        """Take notes until the process ends."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            async with self._noted:
                self.notes.append(json.loads(line))
                self._noted.notify_all()

    async def note(self, matches: Callable[[Json], bool]) -> Json:
        """Wait for a note, taken already or to come."""
        async with asyncio.timeout(PATIENCE_S), self._noted:
            while True:
                for note in self.notes:
                    if matches(note):
                        return note
                await self._noted.wait()

    async def on(self, what: str, count: int = 1) -> Json:
        """The `count`th note of a kind."""

        def is_it(note: Json) -> bool:
            return note.get("on") == what and len(self.all(what)) >= count

        await self.note(is_it)
        return self.all(what)[count - 1]

    async def heard(self, event: str) -> Json:
        """The first event of this name: its payload."""
        note = await self.note(lambda note: note.get("event") == event)
        payload: Json = note["args"][0]
        return payload

    def all(self, what: str) -> list[Json]:
        """The notes of a kind so far."""
        return [note for note in self.notes if note.get("on") == what]

    def messages(self) -> list[Json]:
        """The messages heard so far."""
        heard = [note for note in self.all("event") if note["event"] == "chat_message"]
        return [note["args"][0]["message"] for note in heard]

    async def do(self, name: str, **arguments: Any) -> Any:
        """Have a command done; its result."""
        self._next_id += 1
        number = self._next_id
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, "do": name, **arguments}).encode() + b"\n")
        answer = await self.note(lambda note: note.get("id") == number and "on" not in note)
        assert "error" not in answer, answer
        return answer.get("result")

    async def call(self, event: str, payload: object = None) -> Json:
        """Send an event; its data."""
        answer = await self.do("call", event=event, payload=payload)
        assert answer["ok"], answer
        data: Json = answer["data"]
        return data


@contextlib.asynccontextmanager
async def js_client(
    url: str, auth: Json, transport: str, *, refresh: str | None = None
) -> AsyncIterator[JsClient]:
    """A client that connects now and comes back quickly, for the length of a block."""
    options = {**TRANSPORTS[transport], "reconnectionDelay": 50, "reconnectionDelayMax": 200}
    process = await asyncio.create_subprocess_exec(
        require_node(),
        "client.mjs",
        cwd=JS_DIR,
        env={"PATH": os.environ["PATH"]},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**22,
    )
    client = JsClient(process)
    reading = asyncio.create_task(client.read())
    try:
        await client.do("open", url=url, auth=auth, refresh=refresh, options=options)
        yield client
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


async def _room_with_ana(juan: JsClient) -> str:
    made = await juan.call("create_room", {"kind": "group", "name": "Tapas", "member_ids": ["ana"]})
    room_id: str = made["room"]["id"]
    return room_id


@each_transport
async def test_two_hundred_messages_in_one_tick_arrive_complete_and_in_order(
    server: ServerProcess, transport: str
) -> None:
    async with (
        connected(server.url, site_token("ana")) as (ana,),
        js_client(server.url, {"token": site_token("juan")}, transport) as juan,
    ):
        await juan.on("connect")
        room_id = await _room_with_ana(juan)
        contents = [str(number) for number in range(BURST)]
        payloads = [{"room_id": room_id, "content": content} for content in contents]
        answers = await juan.do("burst", event="chat_message", payloads=payloads)
        sent = [answer["data"]["message"] for answer in answers]
        assert [(message["seq"], message["content"]) for message in sent] == list(enumerate(contents, 1))
        await ana.heard("chat_message", lambda told: told["message"]["seq"] == BURST)
        await juan.note(lambda _: len(juan.messages()) == BURST)
        heard_by_ana = [told["message"] for told in ana.received("chat_message")]
        for heard in (heard_by_ana, juan.messages()):
            assert [message["rev"] for message in heard] == list(range(1, BURST + 1))
            assert [message["content"] for message in heard] == contents
        if transport == "upgrade":
            assert (await juan.on("upgrade"))["transport"] == "websocket"
        assert juan.all("engine") == [{"on": "engine", "transport": TRANSPORTS[transport]["transports"][0]}]


async def test_events_keep_their_order_through_the_upgrade(server: ServerProcess) -> None:
    async with (
        connected(server.url, site_token("ana")),
        js_client(server.url, {"token": site_token("juan")}, "upgrade") as juan,
    ):
        await juan.on("connect")
        payloads = [{"to_user_id": "ana", "content": str(number)} for number in range(BURST)]
        answers = await juan.do("burst", event="chat_message", payloads=payloads)
        assert [answer["data"]["message"]["seq"] for answer in answers] == list(range(1, BURST + 1))
        await juan.on("upgrade")
        await juan.note(lambda _: len(juan.messages()) == BURST)
        assert [message["seq"] for message in juan.messages()] == list(range(1, BURST + 1))


@each_transport
async def test_a_refused_connect_carries_its_code_and_is_not_repeated(
    server: ServerProcess, transport: str
) -> None:
    for token, code, retry in (
        ("nonsense", "token_invalid", "never"),
        (site_token("juan", expires_in_s=-60), "token_expired", "refresh"),
    ):
        async with js_client(server.url, {"token": token}, transport) as juan:
            refused = await juan.on("connect_error")
            assert refused["data"] == {"code": code, "retry": retry}
            assert refused["message"]
            assert not refused["active"], "it does not try again by itself"


@each_transport
async def test_an_expired_token_is_replaced_by_the_auth_function(tmp_path: Path, transport: str) -> None:
    env = {
        "TERTULIA_AUTH__ACCESS_TTL_S": "2",
        "TERTULIA_AUTH__EXPIRING_NOTICE_S": "1",
        "TERTULIA_AUTH__LEEWAY_S": "0",
    }
    async with running_server(tmp_path / "data", env) as server, http_api(server) as api:
        signed = await api.register("juan")
        async with js_client(server.url, {}, transport, refresh=signed["refresh_token"]) as juan:
            first = await juan.on("connect")
            assert (await juan.heard("auth_expiring"))["expires_in"] in (0, 1)
            told = await juan.heard("session_ended")
            assert (told["code"], told["retry"]) == ("token_expired", "refresh")
            gone = await juan.on("disconnect")
            assert (gone["reason"] in TRANSPORT_GONE, gone["active"]) == (True, True)
            second = await juan.on("connect", count=2)
            assert second["id"] != first["id"]
            assert (await juan.call("sync"))["me"]["id"] == signed["user"]["id"]
            assert juan.all("connect_error") == []


@each_transport
async def test_a_revoked_login_ends_and_stays_away(server: ServerProcess, api: Api, transport: str) -> None:
    signed = await api.register("juan")
    token = signed["access_token"]
    async with js_client(server.url, {"token": token}, transport) as juan:
        await juan.on("connect")
        await api.call("POST", "/api/auth/logout", {}, token=token)
        told = await juan.heard("session_ended")
        assert (told["code"], told["retry"]) == ("token_revoked", "never")
        gone = await juan.on("disconnect")
        assert (gone["reason"], gone["active"]) == ("io server disconnect", False)
        assert [note["on"] for note in juan.notes if "on" in note][-2:] == ["event", "disconnect"]


@each_transport
async def test_a_draining_server_sends_its_clients_to_the_next_one(tmp_path: Path, transport: str) -> None:
    folder = tmp_path / "data"
    async with running_server(folder) as server:
        port = server.url.rpartition(":")[2]
        async with js_client(server.url, {"token": site_token("juan")}, transport) as juan:
            await juan.on("connect")
            made = await juan.call("create_room", {"kind": "group", "name": "Tapas"})
            room_id = made["room"]["id"]
            await juan.call("chat_message", {"room_id": room_id, "content": "before"})
            assert await server.stop(signal.SIGTERM) == 0
            assert (await juan.heard("server_draining"))["reconnect_in_ms"] >= 0
            gone = await juan.on("disconnect")
            assert (gone["reason"] in TRANSPORT_GONE, gone["active"]) == (True, True)
            await juan.on("reconnect_attempt", count=3)
            following = await start_server(folder, {"TERTULIA_SERVER__PORT": port})
            try:
                assert following.url == server.url
                await juan.on("connect", count=2)
                synced = await juan.call("sync", {"rooms": {room_id: 0}})
                assert [each["content"] for each in synced["rooms"][0]["changes"]] == ["before"]
            finally:
                await following.stop()


@each_transport
async def test_a_packet_over_64_kib_ends_the_connection_and_the_client_comes_back(
    server: ServerProcess, transport: str
) -> None:
    around = len('42/chat,["chat_message",{"content":""}]')
    async with js_client(server.url, {"token": site_token("juan")}, transport) as juan:
        await juan.on("connect")
        if transport == "upgrade":
            await juan.on("upgrade")
        for size, goes_through in ((MOST_PACKET_BYTES, True), (MOST_PACKET_BYTES + 1, False)):
            await juan.do("emit", event="chat_message", payload={"content": "x" * (size - around)})
            if goes_through:
                failed = await juan.heard("event_failed")
                assert (failed["error"]["code"], failed["error"]["field"]) == ("invalid", "content")
                assert juan.all("disconnect") == []
        gone = await juan.on("disconnect")
        if transport == "polling":
            assert gone["reason"] == "transport error"
        else:
            assert (gone["reason"], gone["code"]) == ("transport close", 1009)
        await juan.on("connect", count=2)
        assert len(juan.all("event")) == 1
