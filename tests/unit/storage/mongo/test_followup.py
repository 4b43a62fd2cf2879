"""What follows an append: cursors once a second, deleted texts blanked, now or at the next start."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from pymongo.asynchronous.database import AsyncDatabase

from server.domain.errors import UnavailableError
from server.storage.mongo import followup
from server.storage.mongo.entries import to_document
from server.storage.mongo.store import MongoStorage
from tests.builders import delete_change, edit_change, member, message_change, room
from tests.unit.storage.mongo.held import holding

Inside = AsyncDatabase[dict[str, Any]]

MESSAGE = message_change("room", 1, content="a secret", attachments=({"id": "secret"},))
EDIT = edit_change(MESSAGE.message, 2, "another secret")
GONE = delete_change(EDIT.message, 3)


async def becomes(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await holds():  # noqa: ASYNC110 - a database says nothing when it changes
            await asyncio.sleep(0.02)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followup, "INTERVAL_S", 0.05)


async def texts(inside: Inside) -> list[str]:
    return [str(each) async for each in inside.changes.find()]


async def test_a_deleted_text_leaves_the_database_with_the_deletion(
    storage: MongoStorage, inside: Inside
) -> None:
    other = message_change("room", 4, seq=2, content="kept")
    await storage.append([MESSAGE, EDIT, GONE, other])
    assert await inside.changes.count_documents({"is_unblanked": True}) == 0
    found = await texts(inside)
    assert not any("secret" in each for each in found)
    assert any("kept" in each for each in found)


async def test_a_blanking_that_failed_is_done_later(
    storage: MongoStorage, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followup, "_PATIENCE_S", 0)
    await storage.append([MESSAGE, EDIT, GONE])

    async def is_blanked() -> bool:
        return await inside.changes.count_documents({"is_unblanked": True}) == 0

    await becomes(is_blanked)
    assert not any("secret" in each for each in await texts(inside))


async def test_a_blanking_that_was_missed_is_done_at_the_next_start(url: str, inside: Inside) -> None:
    storage = MongoStorage(url, lease_s=3, timeout_s=10)
    await storage.open()
    await storage.close()
    await inside.changes.insert_many([to_document(change) for change in (MESSAGE, EDIT, GONE)])
    await storage.open()
    assert not any("secret" in each for each in await texts(inside))
    assert (await storage.messages_between("room", 1, 1)) == [GONE.message]
    await storage.close()


async def test_what_is_much_is_followed_up_in_parts_and_what_was_done_is_not_done_again(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followup, "_AT_ONCE", 2)
    monkeypatch.setattr(followup, "INTERVAL_S", 3600)
    storage = MongoStorage(url, is_alone=False, timeout_s=10)
    await storage.open()
    people = [f"user-{number}" for number in range(5)]
    await storage.create_room(room("room"), [member("room", each) for each in people])
    await storage.append([message_change("room", rev, by=each) for rev, each in enumerate(people, start=1)])
    given, sent = storage._database.update_each, []

    async def update_each(collection: str, updates: Sequence[Any], *, is_many: bool = False) -> None:
        sent.append(len(updates))
        if len(sent) == 2:
            raise UnavailableError("the store is away")
        await given(collection, updates, is_many=is_many)

    monkeypatch.setattr(storage._database, "update_each", update_each)
    await storage._follow_up._try()
    await storage._follow_up._try()
    assert sent == [2, 2, 2, 1]
    assert [each.last_read_seq for each in await storage.members("room", (0, ""), 10)] == [1, 2, 3, 4, 5]
    await storage.close()


async def test_senders_cursors_are_stored_together_and_at_the_latest_when_closing(
    storage: MongoStorage, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    await storage.create_room(room("room"), [member("room", "juan"), member("room", "ana")])
    await storage.append([message_change("room", rev, by="juan") for rev in range(1, 4)])

    async def is_stored() -> bool:
        return await inside.members.count_documents({"_id": "room:juan", "last_read_seq": 3}) == 1

    await becomes(is_stored)
    monkeypatch.setattr(followup, "INTERVAL_S", 3600)
    await storage.append([message_change("room", 4, by="ana"), message_change("room", 5, by="nobody")])
    found = await storage.find_member("room", "ana")
    assert found is not None
    assert found.last_read_seq == 4
    await storage.close()
    assert await inside.members.count_documents({"_id": "room:ana", "last_read_seq": 4}) == 1


async def test_a_cursor_that_moves_while_it_is_being_stored_is_stored_again(
    storage: MongoStorage, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followup, "INTERVAL_S", 3600)
    await storage.create_room(room("room"), [member("room", "juan")])
    await storage.append([message_change("room", 1, by="juan")])
    with holding(storage, "update_each", "members") as held:
        moving = asyncio.create_task(storage._follow_up._try())
        await held.come()
        await storage.append([message_change("room", 2, by="juan")])
        held.go.set()
        await moving
    await storage.close()
    assert await inside.members.count_documents({"_id": "room:juan", "last_read_seq": 2}) == 1
