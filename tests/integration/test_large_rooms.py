"""What is not told in rooms over `presence.max_room_size`: here over three members."""

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest_asyncio

from tests.harness import Client, Json, ServerProcess, caught_up, connected, running_server, site_token

CROWD = [f"user{number}" for number in range(7)]
MOST_TYPING = 5


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    """A server on which four members make a large room."""
    env = {
        "TERTULIA_LIMITS__ENABLED": "false",
        "TERTULIA_PRESENCE__MAX_ROOM_SIZE": "3",
        "TERTULIA_PRESENCE__GRACE_S": "0.5",
        "TERTULIA_PRESENCE__TYPING_TTL_S": "2",
    }
    async with running_server(tmp_path / "data", env) as running:
        yield running


def _people(server: ServerProcess, *user_ids: str) -> contextlib.AbstractAsyncContextManager[list[Client]]:
    return connected(server.url, *map(site_token, user_ids))


async def _public(owner: Client, *member_ids: str) -> str:
    made = await owner.call(
        "create_room", {"kind": "public", "name": "Plaza", "member_ids": list(member_ids)}
    )
    room_id: str = made["room"]["id"]
    return room_id


def _of_room(client: Client, event: str, room_id: str) -> list[Json]:
    return [told for told in client.received(event) if told["room_id"] == room_id]


def _with_rev(rev: int) -> Callable[[Json], bool]:
    return lambda told: bool(told["rev"] == rev)


async def test_nobody_is_told_who_comes_and_goes(server: ServerProcess) -> None:
    async with _people(server, "juan", "ana", *CROWD) as (juan, ana, *crowd):
        large = await _public(juan, *CROWD)
        small = await _public(juan, "ana", CROWD[0])
        room = (await ana.call("join_room", {"room_id": large}))["room"]
        assert room["member_count"] == len(CROWD) + 2
        await ana.call("leave_room", {"room_id": large})
        for member in crowd[:2]:
            await member.close()
        await ana.heard("user_status", lambda told: told["user_id"] == CROWD[0])
        await caught_up(juan, large, juan, *crowd[2:])
        for told_of, member in (("member_joined", juan), ("member_left", juan), ("member_joined", crowd[2])):
            assert _of_room(member, told_of, large) == []
        assert [told["user_id"] for told in juan.received("user_status")] == [CROWD[0]]
        assert crowd[2].received("user_status") == []
        assert len(_of_room(ana, "member_joined", small)) == 3
        assert await ana.heard("room_left") == {"room_id": large, "reason": "left"}


async def test_the_rule_begins_with_the_member_who_makes_a_room_large(server: ServerProcess) -> None:
    async with _people(server, "juan", *CROWD) as (juan, *crowd):
        room_id = await _public(juan)
        for count, member in enumerate(crowd[:4], 2):
            await member.call("join_room", {"room_id": room_id})
            synced = await juan.call("sync", {"rooms": {room_id: None}})
            assert (synced["rooms"][0]["read"] is None) == (count > 3)
            assert synced["online"] == ([] if count > 3 else sorted(["juan", *CROWD[: count - 1]]))
        await crowd[3].call("leave_room", {"room_id": room_id})
        await crowd[2].call("leave_room", {"room_id": room_id})
        await caught_up(juan, room_id, juan)
        assert [told["user"]["id"] for told in juan.received("member_joined")] == ["juan", *CROWD[:2]]
        assert [told["user"]["id"] for told in juan.received("member_left")] == [CROWD[2]]


async def test_read_marks_go_to_the_readers_own_devices(server: ServerProcess) -> None:
    async with _people(server, "juan", "juan", *CROWD) as (juan, juan_phone, *crowd):
        room_id = await _public(juan, *CROWD)
        await crowd[0].call("chat_message", {"room_id": room_id, "content": "x"})
        assert await juan.call("read_message", {"room_id": room_id, "seq": 1}) == {"last_read_seq": 1}
        for device in (juan, juan_phone):
            told = {"room_id": room_id, "user_id": "juan", "last_read_seq": 1}
            assert await device.heard("message_read") == told
        await caught_up(juan, room_id, *crowd)
        assert [member.received("message_read") for member in crowd] == [[]] * len(crowd)


async def test_at_most_five_are_shown_typing(server: ServerProcess) -> None:
    async with _people(server, "juan", *CROWD) as (juan, *crowd):
        room_id = await _public(juan, *CROWD)
        typing, still = {"room_id": room_id, "is_typing": True}, {"room_id": room_id, "is_typing": False}
        for member in crowd:
            assert await member.call("typing", typing) == {}
        await caught_up(juan, room_id, juan)
        assert [told["user_id"] for told in juan.received("typing_status")] == CROWD[:MOST_TYPING]
        await crowd[6].call("typing", still)
        await crowd[0].call("typing", still)
        await crowd[5].call("typing", typing)
        await crowd[6].call("typing", typing)
        await caught_up(juan, room_id, juan)
        after = [(told["user_id"], told["is_typing"]) for told in juan.received("typing_status")]
        assert after[MOST_TYPING:] == [("user0", False), ("user5", True)]
        await juan.heard("typing_status", lambda told: told["user_id"] == "user5" and not told["is_typing"])
        ended = [told["user_id"] for told in juan.received("typing_status") if not told["is_typing"]]
        assert sorted(ended) == CROWD[: MOST_TYPING + 1]


async def test_reactions_are_told_at_most_once_a_second_a_message_with_the_newest_state(
    server: ServerProcess,
) -> None:
    async with _people(server, "juan", *CROWD) as (juan, *crowd):
        room_id = await _public(juan, *CROWD)
        ids = [
            (await juan.call("chat_message", {"room_id": room_id, "content": "x"}))["message"]["id"]
            for _ in range(2)
        ]
        heard_at: list[tuple[float, Json]] = []

        async def note(told: Json) -> None:
            heard_at.append((time.monotonic(), told))
            await juan._record("message_reaction", told)

        juan.sio.on("message_reaction", note, "/chat")
        began_at = time.monotonic()
        while time.monotonic() - began_at < 2.5:
            for member, message_id in ((member, message_id) for member in crowd for message_id in ids):
                payload = {"room_id": room_id, "message_id": message_id, "reaction_type": "like"}
                await member.call("react_message", payload)
        reacted = {"room_id": room_id, "reaction_type": "love", "action": "add"}
        last = [
            (await crowd[0].call("react_message", {**reacted, "message_id": message_id}))["message"]
            for message_id in ids
        ]
        for message in last:
            await juan.heard("message_reaction", _with_rev(message["rev"]))
            told = [(at, each) for at, each in heard_at if each["message_id"] == message["id"]]
            assert told[-1][1]["reaction_counts"] == message["reaction_counts"]
            assert told[-1][1]["user_id"] == CROWD[0]
            assert told[-1][1]["reaction_type"] == "love"
            # The server tells them a second apart or more; how long one takes to arrive is not its doing.
            assert 2 <= len(told) <= told[-1][0] - told[0][0] + 2
            revs = [each["rev"] for _, each in told]
            assert revs == sorted(set(revs))
