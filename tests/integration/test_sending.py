"""Sending messages: sent once, in order, numbered without gaps; and what becomes of events that fail."""

import asyncio
import contextlib
import random
from collections.abc import Callable
from uuid import uuid4

import pytest

from tests.harness import Client, Json, ServerProcess, caught_up, connected, site_token

pytestmark = [pytest.mark.every_store, pytest.mark.clustered(1)]


def _people(server: ServerProcess, *user_ids: str) -> contextlib.AbstractAsyncContextManager[list[Client]]:
    return connected(server.url, *map(site_token, user_ids))


async def _group(owner: Client, *member_ids: str) -> str:
    made = await owner.call("create_room", {"kind": "group", "name": "Tapas", "member_ids": list(member_ids)})
    room_id: str = made["room"]["id"]
    return room_id


def _of_room(client: Client, room_id: str) -> list[Json]:
    messages: list[Json] = [told["message"] for told in client.received("chat_message")]
    return [message for message in messages if message["room_id"] == room_id]


async def test_a_repeated_client_msg_id_answers_the_first_message(server: ServerProcess) -> None:
    """From another connection too, and as the message stands now."""
    async with _people(server, "juan", "juan", "ana") as (juan, phone, ana):
        room_id = await _group(juan, "ana")
        said = {"room_id": room_id, "content": "Hola!", "client_msg_id": "m1"}
        first = await juan.call("chat_message", said)
        assert not first["duplicate"]
        assert await phone.call("chat_message", said) == {**first, "duplicate": True}
        target = {"room_id": room_id, "message_id": first["message"]["id"]}
        await juan.call("edit_message", {**target, "content": "edited"})
        again = await juan.call("chat_message", said)
        assert (again["message"]["content"], again["message"]["rev"], again["duplicate"]) == (
            "edited",
            2,
            True,
        )
        await juan.call("delete_message", target)
        gone = await juan.call("chat_message", said)
        assert (gone["message"]["content"], gone["message"]["seq"], gone["duplicate"]) == ("", 1, True)
        await caught_up(juan, room_id, ana)
        assert [message["seq"] for message in _of_room(ana, room_id)] == [1, 2]


async def test_a_client_msg_id_stands_for_one_content(server: ServerProcess) -> None:
    async with _people(server, "juan", "ana") as (juan, ana):
        room_id, other = await _group(juan, "ana"), await _group(juan, "ana")
        said = {"room_id": room_id, "content": "Hola!", "client_msg_id": "m1"}
        message = (await juan.call("chat_message", said))["message"]
        others = [{"content": "Adiós!"}, {"message_type": "file"}, {"reply_to": message["id"]}]
        for other_content in others:
            assert await juan.refused("chat_message", {**said, **other_content}) == "conflict"
        edited = {"room_id": room_id, "message_id": message["id"], "content": "Adiós!"}
        await juan.call("edit_message", edited)
        assert await juan.refused("chat_message", {**said, "content": "Adiós!"}) == "conflict", (
            "after an edit"
        )
        assert not (await ana.call("chat_message", said))["duplicate"], "another sender"
        assert not (await juan.call("chat_message", {**said, "room_id": other}))["duplicate"], "another room"
        without = {"room_id": room_id, "content": "Hola!"}
        seqs = [(await juan.call("chat_message", without))["message"]["seq"] for _ in range(2)]
        assert seqs == [3, 4], "without it a retry posts twice"


async def test_twenty_retries_at_once_give_one_message(server: ServerProcess) -> None:
    async with _people(server, *["juan"] * 5, "ana") as (*devices, ana):
        room_id = await _group(devices[0], "ana")
        said = {"room_id": room_id, "content": "Hola!", "client_msg_id": "m1"}
        sent = await asyncio.gather(*(device.call("chat_message", said) for device in devices * 4))
        assert {answer["message"]["id"] for answer in sent} == {sent[0]["message"]["id"]}
        assert sorted(answer["duplicate"] for answer in sent) == [False] + [True] * 19
        await caught_up(devices[0], room_id, ana, *devices)
        for client in (ana, *devices):
            assert [message["seq"] for message in _of_room(client, room_id)] == [1, 2]


async def test_pipelined_events_of_a_connection_are_handled_in_order(server: ServerProcess) -> None:
    """Without waiting for acks, of different kinds and with failures between."""
    async with _people(server, "juan", "ana") as (juan, ana):
        room_id = await _group(juan, "ana")
        acks: list[tuple[str, Json]] = []

        def noting(name: str) -> Callable[[Json], None]:
            return lambda answer: acks.append((name, answer))

        sent: list[str] = []
        kinds = random.Random(7)
        for number in range(300):
            kind = kinds.choice(["chat_message", "chat_message", "read_message", "history", "nonsense"])
            payload: Json = {"room_id": room_id}
            if kind == "chat_message":
                payload["content"] = str(number)
            if kind == "read_message":
                payload["seq"] = 1
            sent.append(kind)
            await juan.sio.emit(kind, payload, namespace="/chat", callback=noting(kind))
        await caught_up(juan, room_id, juan, ana)
        assert [name for name, _ in acks] == sent
        messages = [answer["data"]["message"] for name, answer in acks if name == "chat_message"]
        assert [message["seq"] for message in messages] == list(range(1, len(messages) + 1))
        contents = [message["content"] for message in messages]
        assert contents == sorted(contents, key=int)
        assert [message["content"] for message in _of_room(ana, room_id)][:-1] == contents
        newest = 0
        for name, answer in acks:
            if name == "chat_message":
                newest += 1
            elif name == "history" and newest:
                assert answer["data"]["messages"][-1]["seq"] == newest


@pytest.mark.heavy
async def test_many_senders_leave_no_gap_and_all_hear_one_order(server: ServerProcess) -> None:
    names = [f"user{number}" for number in range(6)]
    async with _people(server, *names) as people:
        room_id = await _group(people[0], *names)

        async def talk(person: Client) -> list[int]:
            seqs = []
            for number in range(30):
                message = (await person.call("chat_message", {"room_id": room_id, "content": "x"}))["message"]
                seqs.append(message["seq"])
                change = {"room_id": room_id, "message_id": message["id"]}
                if number % 3 == 0:
                    await person.call("react_message", {**change, "reaction_type": "like"})
                if number % 5 == 0:
                    await person.call("edit_message", {**change, "content": "y"})
                if number % 7 == 0:
                    await person.call("delete_message", change)
            return seqs

        spoken = await asyncio.gather(*map(talk, people))
        assert sorted(seq for seqs in spoken for seq in seqs) == list(range(1, 181))
        assert all(seqs == sorted(seqs) for seqs in spoken)
        await caught_up(people[0], room_id, *people)
        heard = [_revs(person) for person in people]
        assert heard[0] == list(range(1, 180 + 60 + 36 + 30 + 2)), "each change once, by ascending rev"
        assert all(revs == heard[0] for revs in heard)


async def test_a_change_that_changes_nothing_takes_no_rev_and_is_not_told(server: ServerProcess) -> None:
    async with _people(server, "juan", "ana") as (juan, ana):
        room_id = await _group(juan, "ana")
        message = (await juan.call("chat_message", {"room_id": room_id, "content": "x"}))["message"]
        target = {"room_id": room_id, "message_id": message["id"]}
        for event, more, rev in (
            ("edit_message", {"content": "x"}, 1),
            ("react_message", {"reaction_type": "like", "action": "remove"}, 1),
            ("react_message", {"reaction_type": "like", "action": "add"}, 2),
            ("react_message", {"reaction_type": "like", "action": "add"}, 2),
            ("react_message", {"reaction_type": "love"}, 3),
            ("react_message", {"reaction_type": "love"}, 4),
            ("delete_message", {}, 5),
            ("delete_message", {}, 5),
        ):
            answer = await juan.call(event, {**target, **more})
            assert answer["message"]["rev"] == rev, (event, more)
        await caught_up(juan, room_id, ana)
        assert _revs(ana) == [1, 2, 3, 4, 5, 6]


async def test_reading_goes_forward_only_and_sending_reads(server: ServerProcess) -> None:
    async with _people(server, "juan", "ana") as (juan, ana):
        room_id = await _group(juan, "ana")
        ids = []
        for number in range(5):
            sent = await juan.call("chat_message", {"room_id": room_id, "content": str(number)})
            ids.append(sent["message"]["id"])
        for asked, at in (({"seq": 3}, 3), ({"seq": 2}, 3), ({"message_id": ids[3]}, 4), ({"seq": 999}, 5)):
            assert await ana.call("read_message", {"room_id": room_id, **asked}) == {"last_read_seq": at}
        await caught_up(juan, room_id, juan)
        reads = [(told["user_id"], told["last_read_seq"]) for told in juan.received("message_read")]
        assert reads == [("ana", 3), ("ana", 4), ("ana", 5)], "none for what juan sent"
        for person, unread in ((juan, 0), (ana, 1)):
            (entry,) = (await person.call("sync"))["rooms"]
            assert entry["room"]["unread"] == unread
        for wrong in ({}, {"seq": 1, "message_id": ids[0]}, {"seq": -1}):
            assert await ana.refused("read_message", {"room_id": room_id, **wrong}) == "invalid"
        assert await ana.refused("read_message", {"room_id": room_id, "message_id": "none"}) == "not_found"


async def test_an_event_without_an_ack_is_done_and_its_failure_is_told(server: ServerProcess) -> None:
    async with _people(server, "juan", "juan", "ana") as (juan, phone, ana):
        room_id = await _group(juan, "ana")
        await juan.sio.emit("chat_message", {"room_id": room_id, "content": "done"}, namespace="/chat")
        await ana.heard("chat_message", lambda told: told["message"]["content"] == "done")
        events: list[tuple[str, object, str | None, str]] = [
            ("chat_message", {"room_id": room_id, "content": "", "client_msg_id": "m1"}, "m1", "invalid"),
            ("chat_message", {"room_id": "nowhere", "content": "x"}, None, "not_found"),
            ("chat_message", "text", None, "invalid"),
            ("nonsense", {"client_msg_id": "m2"}, "m2", "unknown_event"),
            (
                "chat_message",
                {"room_id": room_id, "content": "x", "client_msg_id": "m" * 65},
                None,
                "invalid",
            ),
        ]
        for event, payload, _, _ in events:
            await juan.sio.emit(event, payload, namespace="/chat")
        await caught_up(juan, room_id, juan, phone)
        failed = [
            (told["event"], told["client_msg_id"], told["error"]["code"])
            for told in juan.received("event_failed")
        ]
        assert failed == [(event, unique, code) for event, _, unique, code in events]
        assert juan.received("event_failed")[0]["error"]["field"] == "content"
        assert phone.received("event_failed") == [], "the connection that sent it, alone"


async def test_contents_come_back_as_they_were_sent(server: ServerProcess) -> None:
    contents = ["x", "😀" * 4000, "  spaces  ", "<b>&amp;</b>", "\n\t\u0001\u2028", "e\u0301é", '"\\"', "0"]
    async with _people(server, "juan", "ana") as (juan, ana):
        room_id = await _group(juan, "ana")
        for content in contents:
            message = (await juan.call("chat_message", {"room_id": room_id, "content": content}))["message"]
            assert message["content"] == content
        for content in ("", "x" * 4001, "a\0b", "\ud800"):
            said = {"room_id": room_id, "content": content, "client_msg_id": uuid4().hex}
            answer = await juan.ask("chat_message", said)
            assert (answer["error"]["code"], answer["error"]["field"]) == ("invalid", "content")
        await caught_up(juan, room_id, ana)
        assert [message["content"] for message in _of_room(ana, room_id)][:-1] == contents


def _revs(client: Client) -> list[int]:
    """The revs of a room's events, in the order heard."""
    changes = ("chat_message", "message_edited", "message_deleted", "message_reaction")
    return [told.get("message", told)["rev"] for name, told in client.events if name in changes]
