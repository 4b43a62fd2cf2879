"""`sync`: what somebody who was away learns, page by page and within the size of an answer."""

import asyncio
import contextlib
import json

import pytest

from tests.harness import Client, Json, ServerProcess, connected, site_token

pytestmark = pytest.mark.every_store

MOST_BYTES = 256 * 1024
LONG = "😀" * 4_000


def _people(server: ServerProcess, *user_ids: str) -> contextlib.AbstractAsyncContextManager[list[Client]]:
    return connected(server.url, *map(site_token, user_ids))


async def _group(owner: Client, *member_ids: str) -> str:
    made = await owner.call("create_room", {"kind": "group", "name": "Tapas", "member_ids": list(member_ids)})
    room_id: str = made["room"]["id"]
    return room_id


async def _say(sender: Client, room_id: str, *contents: str) -> list[Json]:
    return [
        (await sender.call("chat_message", {"room_id": room_id, "content": content}))["message"]
        for content in contents
    ]


async def _fill(sender: Client, room_id: str, content: str, count: int) -> None:
    said = {"room_id": room_id, "content": content}
    await asyncio.gather(*(sender.call("chat_message", said) for _ in range(count)))


async def _sync_room(client: Client, room_id: str, rev: int | None) -> Json:
    """The entry of one room that is named."""
    synced = await client.call("sync", {"rooms": {room_id: rev}})
    (entry,) = [each for each in synced["rooms"] if each["room"]["id"] == room_id]
    return dict(entry)


def _size(answer: object) -> int:
    return len(json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode())


async def test_a_room_that_is_not_named_comes_as_its_head_alone(server: ServerProcess) -> None:
    async with _people(server, "juan", "ana") as (juan, ana):
        room_id = await _group(juan, "ana")
        await _say(juan, room_id, "one", "x" * 1000)
        synced = await ana.call("sync")
        assert (synced["me"]["id"], synced["me"]["status"]) == ("ana", "online")
        assert (synced["left"], synced["online"], synced["next"]) == ([], ["ana", "juan"], None)
        (entry,) = synced["rooms"]
        assert {name: value for name, value in entry.items() if name != "room"} == {
            "rev": 2,
            "changes": [],
            "read": None,
            "truncated": False,
            "reset": False,
        }
        room = entry["room"]
        assert (room["unread"], room["last_seq"], room["last_read_seq"], room["role"]) == (2, 2, 0, "member")
        assert room["last_message"]["content"] == "x" * 200


async def test_a_room_named_null_comes_with_its_newest_fifty(server: ServerProcess) -> None:
    async with _people(server, "juan", "ana") as (juan, ana):
        room_id = await _group(juan, "ana")
        messages = await _say(juan, room_id, *map(str, range(60)))
        await juan.call(
            "edit_message", {"room_id": room_id, "message_id": messages[30]["id"], "content": "!"}
        )
        await ana.call("read_message", {"room_id": room_id, "seq": 7})
        entry = await _sync_room(ana, room_id, None)
        assert [message["seq"] for message in entry["changes"]] == [*range(11, 31), *range(32, 61), 31]
        assert (entry["rev"], entry["truncated"], entry["reset"]) == (61, False, False)
        assert entry["read"] == {"juan": 60, "ana": 7}


async def test_a_room_named_with_a_rev_comes_with_the_present_state_of_what_changed(
    server: ServerProcess,
) -> None:
    async with _people(server, "juan", "ana") as (juan, ana):
        room_id = await _group(juan, "ana")
        first, second, third = [each["id"] for each in await _say(juan, room_id, "one", "two", "three")]
        known = (await _sync_room(ana, room_id, 0))["rev"]
        await juan.call("edit_message", {"room_id": room_id, "message_id": first, "content": "uno"})
        await juan.call("react_message", {"room_id": room_id, "message_id": third, "reaction_type": "love"})
        await juan.call("delete_message", {"room_id": room_id, "message_id": second})
        await ana.call("react_message", {"room_id": room_id, "message_id": first, "reaction_type": "wow"})
        entry = await _sync_room(ana, room_id, known)
        states = [(m["rev"], m["seq"], m["content"], m["my_reaction"]) for m in entry["changes"]]
        assert states == [(5, 3, "three", None), (6, 2, "", None), (7, 1, "uno", "wow")]
        assert entry["changes"][1]["deleted_at"] is not None
        assert (entry["rev"], entry["truncated"], entry["reset"]) == (7, False, False)
        assert (await _sync_room(ana, room_id, 7))["changes"] == []
        assert [m["seq"] for m in (await _sync_room(ana, room_id, 0))["changes"]] == [3, 2, 1]


async def test_a_rev_that_cannot_be_continued_resets_the_room(server: ServerProcess) -> None:
    async with _people(server, "juan") as (juan,):
        room_id = await _group(juan)
        await _fill(juan, room_id, "x", 1001)
        for rev, must_reset in ((1, False), (0, True), (1002, True), (2**53 - 1, True)):
            entry = await _sync_room(juan, room_id, rev)
            assert entry["reset"] is must_reset, rev
            seqs = [message["seq"] for message in entry["changes"]]
            if must_reset:
                assert (seqs, entry["rev"], entry["truncated"]) == (list(range(952, 1002)), 1001, False)
            else:
                assert seqs == list(range(2, entry["rev"] + 1))


async def test_long_messages_come_in_a_chain_of_truncated_answers(server: ServerProcess) -> None:
    async with _people(server, "juan", "ana") as (juan, ana):
        room_id = await _group(juan, "ana")
        await _fill(juan, room_id, LONG, 50)
        rev, changes, calls = 0, list[Json](), 0
        while True:
            answer = await ana.ask("sync", {"rooms": {room_id: rev}})
            calls += 1
            assert _size(answer) <= MOST_BYTES
            (entry,) = answer["data"]["rooms"]
            changes += entry["changes"]
            assert entry["rev"] == changes[-1]["rev"] > rev
            rev = entry["rev"]
            if not entry["truncated"]:
                break
        assert [message["seq"] for message in changes] == list(range(1, 51))
        assert all(message["content"] == LONG for message in changes)
        assert calls == 4, "fifteen such messages fit into an answer"


async def test_named_null_a_room_of_long_messages_gives_the_newest_that_fit(server: ServerProcess) -> None:
    async with _people(server, "juan") as (juan,):
        room_ids = [await _group(juan) for _ in range(3)]
        for room_id in room_ids:
            await _fill(juan, room_id, LONG, 20)
        wanted: Json = {"rooms": dict.fromkeys(room_ids)}
        pages = []
        while True:
            answer = await juan.ask("sync", wanted)
            assert _size(answer) <= MOST_BYTES
            pages.append(answer["data"])
            wanted["cursor"] = answer["data"]["next"]
            if wanted["cursor"] is None:
                break
        entries = {entry["room"]["id"]: entry for page in pages for entry in page["rooms"]}
        assert entries.keys() == set(room_ids)
        for entry in entries.values():
            seqs = [message["seq"] for message in entry["changes"]]
            assert seqs == list(range(21 - len(seqs), 21))
            assert 10 <= len(seqs) < 20
            assert not entry["truncated"]
            assert not entry["reset"]


async def test_an_answer_about_five_hundred_lost_rooms_is_not_too_large(server: ServerProcess) -> None:
    async with _people(server, "juan") as (juan,):
        room_id = await _group(juan)
        await _fill(juan, room_id, LONG, 20)
        lost = [f"{number:0>80}" for number in range(499)]
        answer = await juan.ask("sync", {"rooms": {**dict.fromkeys(lost, 3), room_id: 0}})
        assert _size(answer) <= MOST_BYTES
        assert answer["data"]["left"] == lost
        assert len(answer["data"]["rooms"][0]["changes"]) > 5
        assert await juan.refused("sync", {"rooms": dict.fromkeys([*lost, "one", "two"], 3)}) == "invalid"


@pytest.mark.heavy
async def test_three_hundred_rooms_come_by_pages_and_what_moves_up_is_not_missed(
    server: ServerProcess,
) -> None:
    async with _people(server, "juan", "ana") as (juan, ana):
        made = [await _group(juan, "ana") for _ in range(300)]
        wanted: Json = {"rooms": dict.fromkeys(made, 0)}
        pages = [await ana.call("sync", wanted)]
        first = [entry["room"]["id"] for entry in pages[0]["rooms"]]
        assert set(first) == set(made[-len(first) :]), "the newest"
        moved = [made[0], first[3], made[1]]
        said = {room_id: (await _say(juan, room_id, "moved"))[0]["id"] for room_id in moved}
        while pages[-1]["next"] is not None:
            pages.append(await ana.call("sync", {**wanted, "cursor": pages[-1]["next"]}))
        later = {entry["room"]["id"]: entry for page in pages[1:] for entry in page["rooms"]}
        assert later.keys() | set(first) == set(made)
        for room_id, message_id in said.items():
            assert [message["id"] for message in later[room_id]["changes"]] == [message_id]
        assert len(pages) <= 6, "three pages, and those of what moved up"
        undisturbed = [await ana.call("sync", wanted)]
        while undisturbed[-1]["next"] is not None:
            undisturbed.append(await ana.call("sync", {**wanted, "cursor": undisturbed[-1]["next"]}))
        listed = [entry["room"]["id"] for page in undisturbed for entry in page["rooms"]]
        assert listed[:3] == moved[::-1]
        assert sorted(listed) == sorted(made), "each once"


async def test_left_names_the_rooms_one_is_no_longer_in(server: ServerProcess) -> None:
    async with _people(server, "juan", "ana") as (juan, ana):
        kept, left = await _group(juan, "ana"), await _group(juan, "ana")
        await ana.call("leave_room", {"room_id": left})
        synced = await ana.call("sync", {"rooms": {kept: 0, left: 0, "never": None}})
        assert synced["left"] == sorted([left, "never"])
        assert [entry["room"]["id"] for entry in synced["rooms"]] == [kept]


async def test_a_page_names_those_online_in_its_rooms(server: ServerProcess) -> None:
    async with _people(server, "juan", "ana", "eva") as (juan, _ana, eva):
        await _group(juan, "ana")
        await _group(eva)
        assert (await juan.call("sync"))["online"] == ["ana", "juan"]
        assert (await eva.call("sync"))["online"] == ["eva"]


async def test_the_epoch_stays_and_a_cursor_of_another_make_is_refused(server: ServerProcess) -> None:
    async with _people(server, "juan", "ana") as (juan, ana):
        assert (await juan.call("sync"))["epoch"] == (await ana.call("sync"))["epoch"] != ""
        for cursor in ("", "x", "1.2", "1.2.x.y.r", "\N{SUPERSCRIPT TWO}.1.x.1.r", "-1.0.x.0."):
            assert await juan.refused("sync", {"cursor": cursor}) == "invalid", cursor


async def test_events_of_a_room_and_sync_agree_while_others_talk(server: ServerProcess) -> None:
    """Of two states the greater rev holds: what was heard and what was asked for make the room complete."""
    async with _people(server, "juan", "eva") as (juan, eva):
        room_id = await _group(juan, "eva", *[])
        await _fill(eva, room_id, "before", 30)
        async with asyncio.TaskGroup() as group:
            group.create_task(_fill(juan, room_id, "during", 300))
            group.create_task(_fill(eva, room_id, "during", 300))
            async with _people(server, "eva") as (late,):
                entry = await _sync_room(late, room_id, 0)
                held = {message["seq"] for message in entry["changes"]}
                await late.heard("chat_message", lambda told: told["message"]["seq"] == 630)
                heard = [told["message"]["seq"] for told in late.received("chat_message")]
        assert held | set(heard) == set(range(1, 631))
        assert heard == sorted(heard)
