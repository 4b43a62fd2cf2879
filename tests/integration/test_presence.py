"""Who is online and who is typing, told to those who share a room."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import pytest_asyncio

from tests.harness import (
    Client,
    Json,
    ServerProcess,
    caught_up,
    connected,
    http_api,
    running_server,
    site_token,
)

GRACE_S = 1.0
TYPING_TTL_S = 1.0


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    """A server on which people go offline and stop typing soon."""
    env = {
        "TERTULIA_LIMITS__ENABLED": "false",
        "TERTULIA_PRESENCE__GRACE_S": str(GRACE_S),
        "TERTULIA_PRESENCE__TYPING_TTL_S": str(TYPING_TTL_S),
    }
    async with running_server(tmp_path / "data", env) as running:
        yield running


def _people(server: ServerProcess, *user_ids: str) -> contextlib.AbstractAsyncContextManager[list[Client]]:
    return connected(server.url, *map(site_token, user_ids))


async def _group(owner: Client, *member_ids: str) -> str:
    made = await owner.call("create_room", {"kind": "group", "name": "Tapas", "member_ids": list(member_ids)})
    room_id: str = made["room"]["id"]
    return room_id


def _statuses(observer: Client, user_id: str) -> list[str]:
    return [told["status"] for told in observer.received("user_status") if told["user_id"] == user_id]


async def _offline(observer: Client, user_id: str) -> Json:
    def gone(told: Json) -> bool:
        return bool(told["user_id"] == user_id and told["status"] == "offline")

    return await observer.heard("user_status", gone)


def _typing(listener: Client) -> list[tuple[str, bool]]:
    return [(told["user_id"], told["is_typing"]) for told in listener.received("typing_status")]


def _ms(instant: str) -> float:
    return datetime.fromisoformat(instant).timestamp() * 1000


async def test_one_is_online_until_the_last_device_has_been_gone_for_the_grace(server: ServerProcess) -> None:
    async with _people(server, "juan", "ana", "ana", "clock") as (juan, ana, ana_phone, clock):
        room_id = await _group(juan, "ana", "clock")
        await ana.close()
        await clock.close()
        await _offline(juan, "clock")
        assert _statuses(juan, "ana") == [], "the phone holds"
        assert (await juan.call("sync", {"rooms": {room_id: None}}))["online"] == ["ana", "juan"]
        left_at = time.time() * 1000
        await ana_phone.close()
        told = await _offline(juan, "ana")
        assert time.time() * 1000 - left_at >= GRACE_S * 1000
        assert told["username"] == "ana"
        assert -50 < _ms(told["last_seen"]) - left_at < GRACE_S * 1000 / 2, "when the phone left"
        assert (await juan.call("sync", {"rooms": {room_id: None}}))["online"] == ["juan"]
        async with _people(server, "ana"):
            online = await juan.heard("user_status", lambda each: each["status"] == "online")
            assert (online["user_id"], online["last_seen"]) == ("ana", told["last_seen"])
        assert _statuses(juan, "ana") == ["offline", "online"]


async def test_a_quick_return_is_not_told(server: ServerProcess) -> None:
    async with _people(server, "juan", "ana", "clock") as (juan, ana, clock):
        await _group(juan, "ana", "clock")
        await ana.close()
        async with _people(server, "ana"):
            await clock.close()
            await _offline(juan, "clock")
            assert _statuses(juan, "ana") == []
        await _offline(juan, "ana")
        assert _statuses(juan, "ana") == ["offline"]


async def test_those_who_return_while_others_hear_that_they_went_stay_online(server: ServerProcess) -> None:
    crowd = [f"user{number}" for number in range(40)]
    async with _people(server, "juan", "clock") as (juan, clock), contextlib.AsyncExitStack() as back:
        async with _people(server, *crowd):
            room_id = await _group(juan, *crowd, "clock")
        await juan.heard("user_status", lambda told: told["status"] == "offline")
        for user_id in reversed(crowd):
            await back.enter_async_context(_people(server, user_id))
        await clock.close()
        await _offline(juan, "clock")
        synced = await juan.call("sync", {"rooms": {room_id: None}})
        assert sorted(synced["online"]) == sorted([*crowd, "juan"])
        last = {user_id: (_statuses(juan, user_id) or ["online"])[-1] for user_id in crowd}
        assert last == dict.fromkeys(crowd, "online")


async def test_presence_concerns_those_who_share_a_room(server: ServerProcess) -> None:
    """Own devices too, a direct room is one, and an event comes once however many rooms are shared."""
    async with _people(server, "juan", "eva") as (juan, eva):
        async with _people(server, "ana") as (ana,):
            room_id = await _group(juan, "ana")
            await _group(juan, "ana")
            await ana.call("open_direct", {"user_id": "juan"})
        await _offline(juan, "ana")
        async with _people(server, "ana") as (ana,):
            assert (await ana.heard("user_status"))["status"] == "online"
            await caught_up(juan, room_id, juan, ana)
            assert _statuses(juan, "ana") == ["offline", "online"]
        assert eva.events == []


async def test_the_profile_shows_presence(server: ServerProcess) -> None:
    async with http_api(server) as api, _people(server, "juan") as (juan,):
        async with _people(server, "ana") as (ana,):
            await _group(juan, "ana")
            _, found = await api.call("GET", "/api/users?query=ana", token=site_token("juan"))
            assert [(user["id"], user["status"]) for user in found["users"]] == [("ana", "online")]
            await ana.close()
            told = await _offline(juan, "ana")
        room = (await juan.call("open_direct", {"user_id": "ana"}))["room"]
        assert (room["peer"]["status"], room["peer"]["last_seen"]) == ("offline", told["last_seen"])


async def test_a_changed_profile_is_told_to_those_who_share_a_room(server: ServerProcess) -> None:
    async with http_api(server) as api, _people(server, "juan", "ana", "eva") as (juan, ana, eva):
        room_id = await _group(juan, "ana")
        sent = await juan.call("chat_message", {"room_id": room_id, "content": "x"})
        assert sent["message"]["sender"]["display_name"] == "juan"
        await api.call("PATCH", "/api/me", {"display_name": "Juan Pérez"}, token=site_token("juan"))
        for person in (juan, ana):
            assert (await person.heard("user_updated"))["user"]["display_name"] == "Juan Pérez"
        (message,) = (await ana.call("history", {"room_id": room_id}))["messages"]
        assert message["sender"]["display_name"] == "Juan Pérez"
        assert eva.events == []


async def test_typing_is_told_until_it_is_taken_back(server: ServerProcess) -> None:
    async with _people(server, "juan", "juan", "ana", "eva") as (juan, juan_phone, ana, eva):
        room_id = await _group(juan, "ana")
        for is_typing in (True, False, False):
            assert await juan.call("typing", {"room_id": room_id, "is_typing": is_typing}) == {}
        await caught_up(juan, room_id, juan_phone, ana)
        for person in (juan, juan_phone, ana):
            assert _typing(person) == [("juan", True), ("juan", False)]
        told = ana.received("typing_status")[0]
        assert told == {"room_id": room_id, "user_id": "juan", "username": "juan", "is_typing": True}
        assert eva.events == []


async def test_typing_expires_after_the_last_true(server: ServerProcess) -> None:
    async with _people(server, "juan", "ana") as (juan, ana):
        room_id = await _group(juan, "ana")
        for _ in range(3):
            await juan.call("typing", {"room_id": room_id, "is_typing": True})
            last_at = time.monotonic()
            await asyncio.sleep(TYPING_TTL_S * 0.6)
        await ana.heard("typing_status", lambda told: not told["is_typing"])
        assert TYPING_TTL_S - 0.05 <= time.monotonic() - last_at < TYPING_TTL_S + 1
        assert _typing(ana) == [("juan", True)] * 3 + [("juan", False)]


async def test_typing_ends_with_a_message_however_it_is_sent(server: ServerProcess) -> None:
    async with http_api(server) as api, _people(server, "juan", "ana") as (juan, ana):
        room_id = await _group(juan, "ana")
        elsewhere = await _group(juan, "ana")
        await juan.call("typing", {"room_id": elsewhere, "is_typing": True})
        for number in (1, 2):
            await juan.call("typing", {"room_id": room_id, "is_typing": True})
            said = {"content": str(number)}
            if number == 1:
                await juan.call("chat_message", {**said, "room_id": room_id})
            else:
                path = f"/api/rooms/{room_id}/messages"
                status, _ = await api.call("POST", path, said, token=site_token("juan"))
                assert status == 200
            await caught_up(ana, room_id, ana)
        await ana.heard("typing_status", lambda told: told["room_id"] == elsewhere and not told["is_typing"])
        here = [told["is_typing"] for told in ana.received("typing_status") if told["room_id"] == room_id]
        assert here == [True, False, True, False], "and nothing when it would have expired"


async def test_typing_ends_with_the_connection_that_typed(server: ServerProcess) -> None:
    async with _people(server, "juan", "juan", "ana") as (juan, juan_phone, ana):
        room_id = await _group(juan, "ana")
        await juan.call("typing", {"room_id": room_id, "is_typing": True})
        await juan_phone.close()
        await caught_up(ana, room_id, ana)
        assert _typing(ana) == [("juan", True)], "it was not the phone that typed"
        closed_at = time.monotonic()
        await juan.close()
        await ana.heard("typing_status", lambda told: not told["is_typing"])
        assert time.monotonic() - closed_at < TYPING_TTL_S / 2
