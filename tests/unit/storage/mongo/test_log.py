"""The log's reads where they are not simple: messages of many entries, pages cut off, broken documents."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from pymongo.asynchronous.database import AsyncDatabase

from server.domain.errors import UnavailableError
from server.domain.models import Change, Message
from server.storage.base import CollisionError, Slot
from server.storage.mongo import log as mongo_log
from server.storage.mongo.database import Document
from server.storage.mongo.store import MongoStorage
from tests.builders import delete_change, member, message_change, react_change, room

Inside = AsyncDatabase[dict[str, Any]]
MESSAGES = 20


def busy_room(reactions: int) -> tuple[list[Change], list[Message]]:
    """A log of 20 messages with so many reactions each; and the messages as they end."""
    log: list[Change] = []
    present: list[Message] = []
    for seq in range(1, MESSAGES + 1):
        change = message_change("room", len(log) + 1, seq=seq, key=f"key-{seq}")
        log.append(change)
        for number in range(reactions):
            change = react_change(change.message, len(log) + 1, by=f"user-{number}", last_seq=seq)
            log.append(change)
        present.append(change.message)
    return log, present


@pytest.mark.parametrize("reactions", [0, 2, 9])
async def test_messages_are_found_whatever_the_number_of_their_entries(
    storage: MongoStorage, reactions: int
) -> None:
    log, present = busy_room(reactions)
    await storage.append(log)
    assert await storage.messages_between("room", 1, 2**53) == present
    assert await storage.messages_between("room", 7, 15) == present[6:15]
    by_seq = await storage.messages_at([("room", seq) for seq in range(1, MESSAGES + 5)])
    assert [by_seq["room", seq] for seq in range(1, MESSAGES + 1)] == present
    assert len(by_seq) == MESSAGES
    own = await storage.own_reactions([("room", "user-1", seq) for seq in range(1, MESSAGES + 1)])
    assert len(own) == (MESSAGES if reactions > 1 else 0)


async def test_a_head_is_found_when_another_server_has_written_much(url: str) -> None:
    ours, theirs = (MongoStorage(url, is_alone=False, timeout_s=10) for _ in range(2))
    await asyncio.gather(ours.open(), theirs.open())
    for last in (3, 5, 60):
        head = (await ours.heads(["room", "empty"]))["room"]
        await theirs.append([message_change("room", rev) for rev in range(head.rev + 1, last + 1)])
        assert (await ours.heads(["room", "empty"]))["room"].rev == last
    await asyncio.gather(ours.close(), theirs.close())


async def test_an_entry_that_does_not_decode_is_skipped_and_counted(
    storage: MongoStorage, inside: Inside
) -> None:
    await storage.append([message_change("room", rev) for rev in range(1, 6)])
    await inside.changes.update_one({"_id": "room:3"}, {"$set": {"state": "broken"}})
    assert [each.rev for each in await storage.changes_after("room", 0, 4)] == [1, 2, 4, 5]
    assert [each.seq for each in await storage.messages_between("room", 1, 5)] == [1, 2, 4, 5]
    assert await storage.count_undecodable() == 1


async def test_nothing_is_numbered_after_a_head_that_cannot_be_read(
    storage: MongoStorage, inside: Inside
) -> None:
    await storage.append([message_change("room", 1), message_change("other", 1)])
    await inside.changes.update_one({"_id": "room:1"}, {"$set": {"last_seq": "broken"}})
    assert (await storage.heads(["room", "other", "empty"])).keys() == {"other", "empty"}
    await storage.create_room(room("room"), [])
    with pytest.raises(UnavailableError):
        await storage.add_member(member("room", "juan"))


async def test_a_collision_behind_what_a_batch_has_stored_already_is_not_that_of_its_first_entry(
    storage: MongoStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mongo_log, "_MOST_BYTES", 1)  # each in an insert of its own
    await storage.append([message_change("room", 2, seq=2)])
    with pytest.raises(CollisionError) as behind:
        await storage.append([message_change("room", rev, key=f"other-{rev}") for rev in (1, 2, 3)])
    assert behind.value.slot is None
    with pytest.raises(CollisionError) as first:
        await storage.append([message_change("room", rev, key=f"another-{rev}") for rev in (1, 3)])
    assert first.value.slot == Slot("room", 1)
    assert (await storage.changes_after("room", 0, 1))[0].key == "other-1"


async def test_what_was_stored_without_an_answer_is_followed_up_once_it_is_found(
    storage: MongoStorage, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    await storage.create_room(room("room"), [member("room", "juan")])
    change, answered = message_change("room", 1), storage._database.insert_in_order

    async def unanswered(collection: str, documents: Sequence[Document]) -> None:
        await answered(collection, documents)
        raise UnavailableError("the answer was lost")

    monkeypatch.setattr(storage._database, "insert_in_order", unanswered)
    for each in (change, delete_change(change.message, 2)):
        with pytest.raises(UnavailableError):
            await storage.append([each])
        await storage.find_by_keys([(each.room_id, each.key)])
    await storage.close()
    assert await inside.changes.count_documents({"is_unblanked": True}) == 0
    assert await inside.members.count_documents({"_id": "room:juan", "last_read_seq": 1}) == 1


async def test_a_message_that_is_deleted_while_it_is_read_is_shown_as_deleted(
    storage: MongoStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other = message_change("room", 1, content="a secret"), message_change("room", 2, seq=2)
    like = react_change(first.message, 3, by="ana", last_seq=2)
    gone = delete_change(like.message, 4, last_seq=2)
    await storage.append([first, other, like])
    given = storage._database.find
    asked = 0

    async def find(*args: Any, **options: Any) -> Any:
        nonlocal asked
        asked += 1
        found = await given(*args, **options)
        if asked == 1:  # its last entry is the reaction; the text stands in the first one
            await storage.append([gone])
        return found

    monkeypatch.setattr(storage._database, "find", find)
    assert await storage.messages_at([("room", 1), ("room", 2)]) == {
        ("room", 1): gone.message,
        ("room", 2): other.message,
    }


async def test_no_read_fails_whatever_is_broken_in_an_entry(storage: MongoStorage, inside: Inside) -> None:
    log = [message_change("room", 1, attachments=({"id": "1"},))]
    log.append(react_change(log[0].message, 2, by="ana"))
    await storage.append([*log, message_change("room", 3, seq=2)])
    for document in await inside.changes.find({}).to_list(2):
        for field in document.keys() - {"_id"}:
            rest = {name: value for name, value in document.items() if name != field}
            for broken in (rest, rest | {field: "broken"}, rest | {field: -1}):
                await inside.changes.replace_one({"_id": document["_id"]}, broken)
                await read_everything(storage, log)
        await inside.changes.replace_one({"_id": document["_id"]}, document)


async def read_everything(storage: MongoStorage, log: Sequence[Change]) -> None:
    """Each answers with what is left."""
    keys = [("room", each.key) for each in log]
    await storage.find_by_keys(keys)
    await storage.find_messages(keys)
    await storage.messages_between("room", 1, 10)
    await storage.messages_at([("room", 1), ("room", 2)])
    await storage.changes_after("room", 0, 10)
    await storage.own_reactions([("room", "ana", 1)])
    await storage.heads(["room"])
