from typing import Any

import pytest
from pymongo.asynchronous.database import AsyncDatabase

from server.storage.mongo import pages
from server.storage.mongo.store import MongoStorage
from tests.builders import member, room, user

Inside = AsyncDatabase[dict[str, Any]]


async def test_a_page_goes_on_behind_what_cannot_be_read(storage: MongoStorage, inside: Inside) -> None:
    """A short page would look like the last one."""
    ids = ["a", "b", "c", "d", "e"]
    for at, each in enumerate(ids):
        await storage.create_room(room(each, kind="public"), [])
        await storage.create_user(user(each), None)
        await storage.add_member(member("a", each, joined_at=at))
    for broken in ("b", "c"):
        await inside.rooms.update_one({"_id": broken}, {"$set": {"created_at": "broken"}})
        await inside.users.update_one({"_id": broken}, {"$set": {"created_at": "broken"}})
        await inside.members.update_one({"_id": f"a:{broken}"}, {"$set": {"incarnation": 5}})
    assert [each.id for each in await storage.public_rooms("", "", 2)] == ["a", "d"]
    assert [each.id for each in await storage.public_rooms("", "d", 2)] == ["e"]
    assert [each.user_id for each in await storage.members("a", (0, ""), 2)] == ["a", "d"]
    assert [each.user_id for each in await storage.members("a", (3, "d"), 2)] == ["e"]
    assert [each.id for each in await storage.search_users("", "", 2)] == ["a", "d"]
    assert [each.id for each in await storage.search_users("", "d", 2)] == ["e"]


async def test_what_cannot_be_read_is_not_read_past_for_ever(
    storage: MongoStorage, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_MOST_BROKEN", 3)
    await inside.rooms.insert_many(
        [{"_id": f"{n}", "key": f"{n}", "kind": "public", "deleted_at": None} for n in range(9)]
    )
    await storage.create_room(room("room", kind="public"), [])
    assert await storage.public_rooms("", "", 2) == []
    assert await storage.count_undecodable() == 4


async def test_somebody_is_in_all_their_rooms_however_many_they_are(
    storage: MongoStorage, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_AT_ONCE", 2)
    ids = [f"room-{n}" for n in range(7)]
    for each in ids:
        await storage.create_room(room(each), [member(each, "juan"), member(each, "ana")])
    await inside.members.update_one({"_id": "room-3:juan"}, {"$set": {"role": "broken"}})
    await storage.update_room("room-4", deleted_at=1)
    found = await storage.memberships("juan")
    assert [each.room.id for each in found] == ["room-0", "room-1", "room-2", "room-5", "room-6"]
