"""What a crash between two steps leaves is right, or is made right."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace
from pymongo.asynchronous.database import AsyncDatabase

from server.domain.errors import NotFoundError
from server.storage.mongo.rooms import _to_document
from server.storage.mongo.store import MongoStorage
from tests.builders import member, room

Inside = AsyncDatabase[dict[str, Any]]


async def roles(storage: MongoStorage) -> dict[str, str]:
    return {each.user_id: each.role for each in await storage.members("room", (0, ""), 100)}


async def test_members_of_a_room_that_was_not_made_are_not_seen(
    storage: MongoStorage, inside: Inside
) -> None:
    await inside.members.insert_one(_to_document(member("room", "juan", role="owner")))
    assert await storage.memberships("juan") == []
    assert await storage.find_member("room", "juan") is None
    assert await storage.members("room", (0, ""), 10) == []
    made = room("room")
    assert await storage.create_room(made, [member("room", "juan", role="owner")]) == (made, True)
    assert await storage.find_member("room", "juan") is not None


async def test_who_loses_the_race_for_a_key_leaves_no_members(storage: MongoStorage, inside: Inside) -> None:
    await storage.create_room(room("room"), [member("room", "juan")])
    await storage.create_room(room("late", key="key-room"), [member("late", "ana")])
    assert await inside.members.count_documents({"room_id": "late"}) == 0


async def test_a_deletion_that_was_cut_off_holds_at_once_and_is_finished_at_the_next_start(
    storage: MongoStorage, inside: Inside
) -> None:
    await storage.create_room(room("room"), [member("room", "juan", role="owner"), member("room", "ana")])
    await inside.rooms.update_one({"_id": "room"}, {"$set": {"deleted_at": 5, "is_emptying": True}})
    assert await storage.find_member("room", "juan") is None
    assert await storage.memberships("ana") == []
    with pytest.raises(NotFoundError):
        await storage.add_member(member("room", "eva"))
    await storage.close()
    await storage.open()
    assert await inside.members.count_documents({}) == 0
    assert await inside.rooms.count_documents({"is_emptying": True}) == 0


async def test_who_is_added_while_the_room_is_deleted_is_not_in_it(
    storage: MongoStorage, inside: Inside
) -> None:
    await storage.create_room(room("room"), [member("room", "juan", role="owner")])
    adding = [asyncio.create_task(storage.add_member(member("room", f"user-{n}"))) for n in range(10)]
    await storage.update_room("room", deleted_at=5)
    answers = await asyncio.gather(*adding, return_exceptions=True)
    assert all(not isinstance(each, BaseException) or isinstance(each, NotFoundError) for each in answers)
    assert await inside.members.count_documents({}) == 0


async def test_a_room_left_without_owner_gets_one_with_the_next_removal(
    storage: MongoStorage, inside: Inside
) -> None:
    people = [member("room", each, joined_at=at) for at, each in enumerate(["ana", "eva", "leo"])]
    await storage.create_room(room("room"), [*people, member("room", "juan", role="owner")])
    await inside.members.delete_one({"_id": "room:juan"})
    assert await storage.remove_member("room", "juan") is None
    assert await roles(storage) == {"ana": "owner", "eva": "member", "leo": "member"}


async def test_one_of_many_who_remove_somebody_at_once_did_it(storage: MongoStorage) -> None:
    await storage.create_room(room("room"), [member("room", "juan", role="owner"), member("room", "ana")])
    answers = await asyncio.gather(*(storage.remove_member("room", "ana") for _ in range(8)))
    assert [each.user_id for each in answers if each] == ["ana"]


async def test_what_is_no_longer_a_room_or_member_is_skipped_and_counted(
    storage: MongoStorage, inside: Inside
) -> None:
    await storage.create_room(room("room"), [member("room", "juan"), member("room", "ana")])
    await inside.members.update_one({"_id": "room:ana"}, {"$set": {"role": 5}})
    assert list(await roles(storage)) == ["juan"]
    await inside.rooms.update_one({"_id": "room"}, {"$set": {"kind": "unknown"}})
    assert await storage.find_rooms(["room"]) == {}
    assert await storage.count_undecodable() >= 2


async def test_a_query_no_pattern_can_have_finds_nothing(storage: MongoStorage) -> None:
    await storage.create_room(replace(room("room", kind="public"), name="a"), [])
    assert await storage.public_rooms("a\0", "", 10) == []
