"""The unmodified npm client, over each of its transports."""

import signal
from pathlib import Path

import pytest

from tests.harness import (
    Api,
    ServerProcess,
    connected,
    http_api,
    running_server,
    site_token,
    start_server,
)
from tests.js_client import TRANSPORTS, JsClient, js_client

pytestmark = pytest.mark.node

BURST = 200
MOST_PACKET_BYTES = 64 * 1024
# A poll is not closed but answered that there is no such session.
TRANSPORT_GONE = {"transport close", "transport error"}
each_transport = pytest.mark.parametrize("transport", TRANSPORTS)


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
