"""How a connection lives and ends: sockets of one room, logins that end, too many sockets, renewal."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from socketio.exceptions import ConnectionError as RefusedByServer

from tests.harness import (
    Api,
    Client,
    Json,
    ServerProcess,
    caught_up,
    connected,
    http_api,
    running_server,
    site_token,
)


def _people(server: ServerProcess, *user_ids: str) -> contextlib.AbstractAsyncContextManager[list[Client]]:
    return connected(server.url, *map(site_token, user_ids))


async def _group(owner: Client, *member_ids: str) -> str:
    made = await owner.call("create_room", {"kind": "group", "name": "Tapas", "member_ids": list(member_ids)})
    room_id: str = made["room"]["id"]
    return room_id


async def _refusal(server: ServerProcess, auth: Json | None) -> tuple[str, str]:
    """(code, retry) of a CONNECT that must be refused."""
    client = Client()
    refusals: list[Json] = []
    client.sio.on("connect_error", refusals.append, "/chat")
    with pytest.raises(RefusedByServer):
        await client.connect(server.url, auth)
    await client.close()
    data = refusals[0]["data"]
    assert refusals[0]["message"]
    return data["code"], data["retry"]


@contextlib.asynccontextmanager
async def _short_lived(folder: Path) -> AsyncIterator[tuple[ServerProcess, Api]]:
    """A server whose tokens live five seconds, with a notice three before."""
    env = {
        "TERTULIA_AUTH__ACCESS_TTL_S": "5",
        "TERTULIA_AUTH__EXPIRING_NOTICE_S": "3",
        "TERTULIA_AUTH__LEEWAY_S": "0",
    }
    async with running_server(folder, env) as server, http_api(server) as api:
        yield server, api


async def test_a_socket_of_one_room_is_in_that_room_alone(server: ServerProcess) -> None:
    async with _people(server, "juan", "ana") as (juan, ana):
        room_id, other = await _group(juan, "ana"), await _group(juan, "ana")
        async with connected(server.url, site_token("ana"), room_id=room_id) as (narrow,):
            await juan.call("chat_message", {"room_id": other, "content": "elsewhere"})
            await juan.call("chat_message", {"room_id": room_id, "content": "here"})
            await _group(juan, "ana")
            await caught_up(juan, room_id, ana, narrow)
            assert [told["message"]["room_id"] for told in narrow.received("chat_message")] == [room_id] * 2
            assert narrow.received("room_joined") == []
            synced = await narrow.call("sync", {"rooms": {room_id: 0, other: 0}})
            assert [entry["room"]["id"] for entry in synced["rooms"]] == [room_id]
            assert synced["left"] == [], "ana is still in the other room"
            assert (await narrow.call("sync"))["next"] is None


async def test_on_a_socket_of_one_room_events_mean_it(server: ServerProcess) -> None:
    """As a front end made for one WebSocket per room sends them: without room_id, with their type."""
    async with _people(server, "juan", "ana") as (juan, ana):
        room_id, other = await _group(juan, "ana"), await _group(juan, "ana")
        async with connected(server.url, site_token("juan"), room_id=room_id) as (narrow,):
            said = {"type": "chat_message", "content": "Hola!", "message_type": "text"}
            message = (await narrow.call("chat_message", said))["message"]
            assert message["room_id"] == room_id
            await ana.heard("chat_message", lambda told: told["message"]["id"] == message["id"])
            same = {"message_id": message["id"]}
            await narrow.call("edit_message", {**same, "content": "¡Hola!"})
            await narrow.call("react_message", {**same, "reaction_type": "like"})
            assert await narrow.call("read_message", {"seq": 1}) == {"last_read_seq": 1}
            await narrow.call("typing", {"type": "typing", "is_typing": True})
            assert (await ana.heard("typing_status"))["room_id"] == room_id
            assert len((await narrow.call("history"))["messages"]) == 1
            direct = (await narrow.call("chat_message", {"to_user_id": "ana", "content": "x"}))["message"]
            assert direct["room_id"] not in (room_id, other)
            named = await narrow.call("chat_message", {"room_id": other, "content": "x"})
            assert named["message"]["room_id"] == other
            wrong_type = {"type": "typing", "content": "x"}
            assert await narrow.refused("chat_message", wrong_type) == "invalid"
        with_type = {"type": "chat_message", "room_id": room_id, "content": "x"}
        assert await juan.refused("chat_message", with_type) == "invalid", "only there"


async def test_a_socket_of_one_room_is_refused_unless_the_user_is_in_it(server: ServerProcess) -> None:
    async with _people(server, "juan", "ana") as (juan, _ana):
        room_id = await _group(juan)
        for wrong in (room_id, "nowhere", ""):
            refused = await _refusal(server, {"token": site_token("ana"), "room_id": wrong})
            assert refused == ("not_found", "never"), wrong
        assert await _refusal(server, {"token": site_token("ana"), "room_id": 7}) == ("invalid", "never")


async def test_a_socket_of_one_room_hears_that_it_was_removed(server: ServerProcess) -> None:
    async with _people(server, "juan", "ana") as (juan, ana):
        room_id = await _group(juan, "ana")
        async with connected(server.url, site_token("ana"), room_id=room_id) as (narrow,):
            await juan.call("remove_member", {"room_id": room_id, "user_id": "ana"})
            for device in (ana, narrow):
                assert await device.heard("room_left") == {"room_id": room_id, "reason": "removed"}
            await juan.call("chat_message", {"room_id": room_id, "content": "secret"})
            await caught_up(juan, await _group(juan, "ana"), ana)
            assert await narrow.refused("history") == "not_found"
            assert narrow.received("chat_message") == []


async def test_logout_ends_the_sockets_of_that_login(server: ServerProcess, api: Api) -> None:
    first, ana = await api.register("juan"), await api.register("ana")
    body = {"username": "juan", "password": "juan has a password"}
    _, second = await api.call("POST", "/api/auth/login", body)
    tokens = (first["access_token"], first["access_token"], second["access_token"], ana["access_token"])
    async with connected(server.url, *tokens) as (one, one_too, other, anas):
        asked_at = time.monotonic()
        await api.call("POST", "/api/auth/logout", {}, token=first["access_token"])
        for ended in (one, one_too):
            told = await ended.heard("session_ended")
            assert (told["code"], told["retry"]) == ("token_revoked", "never")
            async with asyncio.timeout(2):
                await ended.ended.wait()
        assert time.monotonic() - asked_at < 2
        assert await _refusal(server, {"token": first["access_token"]}) == ("token_revoked", "never")
        body = {"refresh_token": first["refresh_token"]}
        assert (await api.call("POST", "/api/auth/refresh", body))[0] == 401
        for living in (other, anas):
            assert (await living.call("sync"))["rooms"] == []
            assert living.received("session_ended") == []


async def test_logout_everywhere_ends_all_of_the_user(server: ServerProcess, api: Api) -> None:
    first, ana = await api.register("juan"), await api.register("ana")
    body = {"username": "juan", "password": "juan has a password"}
    _, second = await api.call("POST", "/api/auth/login", body)
    tokens = (first["access_token"], second["access_token"], ana["access_token"])
    async with connected(server.url, *tokens) as (one, other, anas):
        await api.call("POST", "/api/auth/logout", {"everywhere": True}, token=first["access_token"])
        async with asyncio.timeout(2):
            for ended in (one, other):
                assert (await ended.heard("session_ended"))["code"] == "token_revoked"
                await ended.ended.wait()
        assert (await anas.call("sync"))["rooms"] == []
        _, again = await api.call("POST", "/api/auth/login", body)
        async with connected(server.url, again["access_token"]) as (back,):
            assert (await back.call("sync"))["me"]["username"] == "juan"


async def test_a_site_token_is_refused_after_its_logout(server: ServerProcess, api: Api) -> None:
    token = site_token("juan")
    async with connected(server.url, token) as (juan,):
        assert (await api.call("POST", "/api/auth/logout", {}, token=token))[0] == 200
        assert (await juan.heard("session_ended"))["code"] == "token_revoked"
    assert await _refusal(server, {"token": token}) == ("token_revoked", "never")


async def test_of_too_many_sockets_the_oldest_ends(tmp_path: Path) -> None:
    env = {"TERTULIA_LIMITS__SOCKETS_PER_USER": "2"}
    async with (
        running_server(tmp_path / "data", env) as server,
        _people(server, "ana", "juan", "juan", "juan") as (ana, oldest, second, third),
    ):
        told = await oldest.heard("session_ended")
        assert (told["code"], told["retry"]) == ("rate_limited", "never")
        async with asyncio.timeout(2):
            await oldest.ended.wait()
        async with _people(server, "juan") as (fourth,):
            assert (await second.heard("session_ended"))["code"] == "rate_limited"
            for living in (third, fourth, ana):
                assert (await living.call("sync"))["rooms"] == []
                assert living.received("session_ended") == []


async def test_a_refused_connect_says_whether_to_refresh(server: ServerProcess) -> None:
    table: list[tuple[Json | None, tuple[str, str]]] = [
        (None, ("unauthenticated", "never")),
        ({}, ("unauthenticated", "never")),
        ({"token": ""}, ("unauthenticated", "never")),
        ({"token": "x"}, ("token_invalid", "never")),
        ({"token": 7}, ("token_invalid", "never")),
        ({"token": site_token("juan", expires_in_s=-60)}, ("token_expired", "refresh")),
    ]
    for auth, refused in table:
        assert await _refusal(server, auth) == refused, auth


async def test_a_token_that_runs_out_is_renewed_in_place(tmp_path: Path) -> None:
    async with _short_lived(tmp_path / "data") as (server, api):
        juan, ana = await api.register("juan"), await api.register("ana")
        async with connected(server.url, juan["access_token"], ana["access_token"]) as (renewing, idle):
            assert (await renewing.heard("auth_expiring"))["expires_in"] in (2, 3)
            body = {"refresh_token": juan["refresh_token"]}
            _, fresh = await api.call("POST", "/api/auth/refresh", body)
            renewed = await renewing.call("auth_refresh", {"token": fresh["access_token"]})
            assert renewed["expires_in"] in (4, 5)
            told = await idle.heard("session_ended")
            assert (told["code"], told["retry"]) == ("token_expired", "refresh")
            async with asyncio.timeout(2):
                await idle.ended.wait()
            assert await _refusal(server, {"token": ana["access_token"]}) == ("token_expired", "refresh")
            assert renewing.received("session_ended") == []
            assert (await renewing.call("sync"))["me"]["username"] == "juan"
            await renewing.heard("session_ended", lambda each: each["code"] == "token_expired")
            assert len(renewing.received("auth_expiring")) == 2, "once a token"


async def test_only_a_good_token_of_the_same_user_renews(server: ServerProcess) -> None:
    async with _people(server, "juan", "ana") as (juan, _ana):
        for token, code in (
            (site_token("ana"), "forbidden"),
            (site_token("juan", expires_in_s=-60), "token_expired"),
            ("x", "token_invalid"),
            ("", "invalid"),
        ):
            assert await juan.refused("auth_refresh", {"token": token}) == code
        assert await juan.refused("auth_refresh", {}) == "invalid"
        assert (await juan.call("sync"))["me"]["id"] == "juan", "the connection stays whose it was"
        token = site_token("juan", expires_in_s=120)
        assert (await juan.call("auth_refresh", {"token": token}))["expires_in"] in (119, 120)
