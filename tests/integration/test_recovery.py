"""Connection state recovery of the whole server, as the unmodified npm client sees it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.storage.sqlite.store import SqliteStorage
from tests.builders import member, room, user
from tests.harness import (
    PATIENCE_S,
    Api,
    Client,
    Json,
    ServerProcess,
    connected,
    http_api,
    running_server,
    site_token,
)
from tests.js_client import TRANSPORTS, JsClient, js_client

pytestmark = pytest.mark.node

LONG = "😀" * 4_000
MOST_ANSWER_BYTES = 256 * 1024


class Line:
    """The way from a client to a server. While it is down nobody gets through."""

    def __init__(self, url: str) -> None:
        _, _, address = url.partition("//")
        host, _, port = address.partition(":")
        self._address = (host, int(port))
        self._ends: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_up = True
        self.url = ""

    async def cut(self, *, is_noticed: bool = True) -> None:
        """Break every connection; unless it is noticed, the server's end of it stays as it was."""
        self._is_up = False
        for to_client, to_server in self._ends:
            to_client.transport.abort()
            if is_noticed:
                to_server.transport.abort()

    def mend(self) -> None:
        self._is_up = True

    @contextlib.asynccontextmanager
    async def laid(self) -> AsyncIterator["Line"]:
        listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        host, port = listener.sockets[0].getsockname()
        self.url = f"http://{host}:{port}"
        try:
            yield self
        finally:
            listener.close()
            await self.cut()
            # Who was just getting through finds it down, and nothing is left open.
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await listener.wait_closed()

    def _accept(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(from_client, to_client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: to_client.transport.abort())

    async def _carry(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(*self._address)
        if not self._is_up:  # asked here, since it may break while the other half is being opened
            to_client.transport.abort()
            to_server.transport.abort()
            return
        self._ends.append((to_client, to_server))
        await asyncio.gather(_pump(from_client, to_server), _pump(from_server, to_client))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def over_line(url: str, *transports: str) -> AsyncIterator[tuple[list[JsClient], Line]]:
    """A client with recovery for each transport, all over one line; users are named as their transports."""
    async with Line(url).laid() as line, contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                js_client(line.url, {"token": site_token(transport), "recovery": True}, transport)
            )
            for transport in transports
        ]
        for client, transport in zip(clients, transports, strict=True):
            await client.on("connect")
            if transport == "upgrade":
                await client.on("upgrade")
        yield clients, line


async def group(owner: Client, *member_ids: str) -> str:
    made = await owner.call("create_room", {"kind": "group", "name": "Tapas", "member_ids": list(member_ids)})
    room_id: str = made["room"]["id"]
    return room_id


async def say(sender: Client, room_id: str, *contents: str) -> list[Json]:
    said = ({"room_id": room_id, "content": content} for content in contents)
    return [(await sender.call("chat_message", each))["message"] for each in said]


async def told_until(client: JsClient, last: Json) -> list[list[object]]:
    """Every event that it was told until that message, without the offsets."""
    await client.note(lambda note: note.get("event") == "chat_message" and _is(note["args"][0], last))
    return [[note["event"], note["args"][0]] for note in client.all("event")]


def _is(payload: Json, message: Json) -> bool:
    return bool(payload["message"]["id"] == message["id"])


async def one_of_everything(api: Api, ana: Client, eva: Client, room_id: str) -> None:
    """Each kind of event that members of a room are told and that is kept."""
    first, second, third = await say(ana, room_id, "one", "two", "three")
    await ana.call("edit_message", {"room_id": room_id, "message_id": first["id"], "content": "uno"})
    await ana.call("react_message", {"room_id": room_id, "message_id": first["id"], "reaction_type": "like"})
    await ana.call("delete_message", {"room_id": room_id, "message_id": second["id"]})
    await eva.call("read_message", {"room_id": room_id, "seq": third["seq"]})
    await ana.call("add_member", {"room_id": room_id, "user_id": "leo"})
    await ana.call("remove_member", {"room_id": room_id, "user_id": "leo"})
    status, _ = await api.call("PATCH", f"/api/rooms/{room_id}", {"name": "x"}, token=site_token("ana"))
    assert status == 200


@pytest.mark.parametrize("is_noticed", [True, False], ids=["noticed", "half-open"])
async def test_clients_whose_line_breaks_go_on_and_are_told_what_they_missed(
    tmp_path: Path, *, is_noticed: bool
) -> None:
    """As who was there all the time is told it."""
    tokens = map(site_token, ("ana", "eva", "leo"))
    env = {"TERTULIA_LIMITS__ENABLED": "false", "TERTULIA_PRESENCE__GRACE_S": "60"}
    async with (
        running_server(tmp_path / "data", env) as server,
        http_api(server) as api,
        connected(server.url, *tokens) as (ana, eva, _),
        over_line(server.url, *TRANSPORTS) as (clients, line),
    ):
        room_id = await group(ana, "eva", *TRANSPORTS)
        for turn in (2, 3):
            await line.cut(is_noticed=is_noticed)
            for client in clients:
                await client.on("disconnect", count=turn - 1)
            await one_of_everything(api, ana, eva, room_id)
            line.mend()
            for client in clients:
                back = await client.on("connect", count=turn)
                assert back == {"on": "connect", "id": client.all("connect")[0]["id"], "recovered": True}
            await one_of_everything(api, ana, eva, room_id)
        (last,) = await say(ana, room_id, "the last one")
        await eva.heard("chat_message", lambda told: told["message"]["id"] == last["id"])
        there_all_the_time = [[event, payload] for event, payload in eva.events]
        assert {event for event, _ in there_all_the_time} == {
            *("chat_message", "message_edited", "message_deleted", "message_reaction", "message_read"),
            *("member_joined", "member_left", "room_updated", "room_joined"),
        }
        for client in clients:
            assert await told_until(client, last) == there_all_the_time


async def test_a_quick_return_is_not_told(tmp_path: Path) -> None:
    async with (
        running_server(tmp_path / "data", {"TERTULIA_PRESENCE__GRACE_S": "2"}) as server,
        connected(server.url, site_token("ana"), site_token("clock")) as (ana, clock),
        over_line(server.url, "websocket") as ((juan,), line),
    ):
        await group(ana, "websocket", "clock")
        for turn in (2, 3):
            await line.cut(is_noticed=turn == 2)
            line.mend()
            assert (await juan.on("connect", count=turn))["recovered"]
        await clock.close()
        await ana.heard("user_status", lambda told: told["user_id"] == "clock")
        assert [told["user_id"] for told in ana.received("user_status")] == ["clock"]


async def test_who_was_removed_while_away_is_told_nothing_but_that(server: ServerProcess) -> None:
    async with (
        connected(server.url, site_token("ana")) as (ana,),
        over_line(server.url, "websocket") as ((juan,), line),
    ):
        left, rejoined, kept = [await group(ana, "websocket") for _ in range(3)]
        (first,) = await say(ana, kept, "here")
        before = len(await told_until(juan, first))
        await line.cut()
        await juan.on("disconnect")
        for room_id in (left, rejoined):
            await ana.call("remove_member", {"room_id": room_id, "user_id": "websocket"})
            await say(ana, room_id, "a secret")
        await ana.call("add_member", {"room_id": rejoined, "user_id": "websocket"})
        line.mend()
        assert (await juan.on("connect", count=2))["recovered"]
        await say(ana, left, "a secret")
        await say(ana, rejoined, "for all")
        (last,) = await say(ana, kept, "here again")
        told = [
            (event, payload.get("room_id") or payload["message"]["content"])
            for event, payload in (await told_until(juan, last))[before:]
            if isinstance(payload, dict)
        ]
        assert told == [
            ("room_left", left),
            ("room_left", rejoined),
            ("room_joined", rejoined),
            ("chat_message", "for all"),
            ("chat_message", "here again"),
        ]


@pytest.mark.parametrize("is_another", [True, False])
async def test_who_takes_one_room_and_is_back_in_it_anew_is_told_to_read_it(
    server: ServerProcess, *, is_another: bool
) -> None:
    people = map(site_token, ("ana", "juan"))
    async with connected(server.url, *people) as (ana, _), Line(server.url).laid() as line:
        room_id = await group(ana, "juan")
        auth = {"token": site_token("juan"), "recovery": True, "room_id": room_id}
        async with js_client(line.url, auth, "websocket") as juan:
            await juan.on("connect")
            (first,) = await say(ana, room_id, "here")
            before = len(await told_until(juan, first))
            await line.cut()
            await juan.on("disconnect")
            if is_another:
                await ana.call("remove_member", {"room_id": room_id, "user_id": "juan"})
            await say(ana, room_id, "meanwhile")
            if is_another:
                await ana.call("add_member", {"room_id": room_id, "user_id": "juan"})
            line.mend()
            assert (await juan.on("connect", count=2))["recovered"]
            (last,) = await say(ana, room_id, "here again")
            told = [event for event, _ in (await told_until(juan, last))[before:]]
        assert told == ["room_joined" if is_another else "chat_message", "chat_message"]


async def test_after_a_logout_there_is_nothing_to_go_on_with(server: ServerProcess) -> None:
    async with (
        http_api(server) as api,
        Line(server.url).laid() as line,
    ):
        signed = await api.register("juan")
        password = {"username": "juan", "password": "juan has a password"}
        asked = {"token": signed["access_token"], "recovery": True}
        async with js_client(line.url, asked, "websocket") as juan:
            first = await juan.on("connect")
            await line.cut()
            await juan.on("disconnect")
            everywhere = {"everywhere": True}
            status, _ = await api.call("POST", "/api/auth/logout", everywhere, token=signed["access_token"])
            assert status == 200
            line.mend()
            refused = await juan.on("connect_error", count=len(juan.all("connect_error")) + 1)
            while refused.get("data") is None:
                refused = await juan.on("connect_error", count=len(juan.all("connect_error")) + 1)
            assert (refused["data"]["code"], refused["active"]) == ("token_revoked", False)
            _, again = await api.call("POST", "/api/auth/login", password)
            await juan.do("auth", auth={**asked, "token": again["access_token"]})
            await juan.do("connect")
            second = await juan.on("connect", count=2)
            assert (second["recovered"], second["id"] != first["id"]) == (False, True)


async def test_who_comes_back_with_a_new_token_goes_on_and_is_not_told_of_the_old_one(tmp_path: Path) -> None:
    env = {
        "TERTULIA_AUTH__ACCESS_TTL_S": "2",
        "TERTULIA_AUTH__EXPIRING_NOTICE_S": "1",
        "TERTULIA_AUTH__LEEWAY_S": "0",
    }
    async with (
        running_server(tmp_path / "data", env) as server,
        http_api(server) as api,
        Line(server.url).laid() as line,
    ):
        signed = await api.register("juan")
        refresh = signed["refresh_token"]
        async with js_client(line.url, {"recovery": True}, "websocket", refresh=refresh) as juan:
            first = await juan.on("connect")
            await juan.heard("session_ended")
            second = await juan.on("connect", count=2)
            assert second == {**first, "recovered": True}
            await line.cut(is_noticed=False)
            line.mend()
            assert await juan.on("connect", count=3) == second
            room = await juan.call("create_room", {"kind": "group", "name": "Tapas"})
            await juan.call("chat_message", {"room_id": room["room"]["id"], "content": "x"})
            await juan.heard("chat_message")
            told = [note["event"] for note in juan.all("event")]
            assert told.count("session_ended") == len(juan.all("connect")) - 2


async def test_five_megabytes_that_were_missed_come_over_one_connection(server: ServerProcess) -> None:
    async with (
        connected(server.url, site_token("ana")) as (ana,),
        over_line(server.url, *TRANSPORTS) as (clients, line),
    ):
        room_id = await group(ana, *TRANSPORTS)
        await line.cut()
        for client in clients:
            await client.on("disconnect")
        said = {"room_id": room_id, "content": LONG}
        await asyncio.gather(*(ana.call("chat_message", said) for _ in range(320)))
        line.mend()
        for client in clients:
            assert (await client.on("connect", count=2))["recovered"]
        (*_, last) = await say(ana, room_id, *map(str, range(20)))
        for client in clients:
            await told_until(client, last)
            assert [message["seq"] for message in client.messages()] == list(range(1, 341))
            assert (len(client.all("connect")), len(client.all("disconnect"))) == (2, 1)


async def test_what_is_asked_for_first_comes_over_one_connection(tmp_path: Path) -> None:
    """A thousand rooms, and a hundred of the longest messages: page by page."""
    await seed(tmp_path / "data" / "var" / "tertulia.db")
    env = {"TERTULIA_LIMITS__ENABLED": "false"}
    async with (
        running_server(tmp_path / "data", env) as server,
        connected(server.url, site_token("websocket")) as (owner,),
        over_line(server.url, *TRANSPORTS) as (clients, _),
    ):
        said = {"room_id": "room-0", "content": LONG}
        await asyncio.gather(*(owner.call("chat_message", said) for _ in range(100)))
        for client in clients:
            assert set(await all_rooms(client)) == {f"room-{number}" for number in range(1_000)}
            assert await all_seqs(client, "room-0") == list(range(1, 101))
            assert (len(client.all("connect")), client.all("disconnect")) == (1, [])


async def seed(path: Path) -> None:
    """A store in which each user is in a thousand rooms."""
    storage = SqliteStorage(path, readers=1, timeout_s=10)
    await storage.open()
    for user_id in TRANSPORTS:
        await storage.create_user(user(user_id), None)
    for number in range(1_000):
        room_id = f"room-{number}"
        await storage.create_room(room(room_id), [member(room_id, user_id) for user_id in TRANSPORTS])
    await storage.close()


async def all_rooms(client: JsClient) -> list[str]:
    found = list[str]()
    page: Json = {"next": None}
    while page["next"] is not None or not found:
        page = await client.call("sync", {"cursor": page["next"]} if page["next"] else {})
        assert _size(page) <= MOST_ANSWER_BYTES
        found += [each["room"]["id"] for each in page["rooms"]]
    return found


async def all_seqs(client: JsClient, room_id: str) -> list[int]:
    found = list[int]()
    page: Json = {"has_more": True}
    while page["has_more"]:
        asked = {"room_id": room_id, "before_seq": min(found, default=101), "limit": 100}
        page = await client.call("history", asked)
        assert _size(page) <= MOST_ANSWER_BYTES
        found = [message["seq"] for message in page["messages"]] + found
    return found


def _size(answer: Json) -> int:
    return len(json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode())


async def test_the_python_client_is_served_with_it_and_without(server: ServerProcess) -> None:
    """It knows nothing of recovery: who asks for it all the same gets the offsets, and begins anew."""
    async with connected(server.url, site_token("ana"), site_token("juan")) as (ana, _):
        room_id = await group(ana, "juan")
        for asks in (False, True):
            line = Line(server.url)
            async with line.laid():
                juan = Client()
                heard = asyncio.get_running_loop().create_future()
                juan.sio.on("chat_message", lambda *args, of=heard: of.set_result(args), namespace="/chat")
                await juan.connect(line.url, {"token": site_token("juan"), "recovery": asks})
                (said,) = await say(ana, room_id, "x")
                message, *offset = await asyncio.wait_for(heard, PATIENCE_S)
                assert _is(message, said)
                assert len(offset) == asks
            await juan.ended.wait()
