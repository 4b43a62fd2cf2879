"""Documents that no longer decode: skipped, or the start is refused with the reason; never a stack trace."""

import asyncio
from typing import Any

import pytest
from bson.datetime_ms import DatetimeMS
from msgspec.structs import replace
from pymongo.asynchronous.database import AsyncDatabase

from server.domain.errors import UnavailableError
from server.domain.models import Login
from server.storage import base
from server.storage.base import StoreRefusedError
from server.storage.mongo import followup
from server.storage.mongo.entries import to_document
from server.storage.mongo.store import MongoStorage
from tests.builders import CREATED_AT, delete_change, member, message_change, room, user
from tests.unit.storage.mongo.held import holding

Inside = AsyncDatabase[dict[str, Any]]
LOGIN = Login(id="login", user_id="juan", n=0, rotated_at=CREATED_AT, expires_at=2 * CREATED_AT)
GONE = delete_change(message_change("room", 1, content="a secret").message, 2)


async def test_deletions_that_cannot_be_read_do_not_keep_others_from_being_blanked(
    storage: MongoStorage, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followup, "_AT_ONCE", 2)
    broken = [{"_id": f"a{n}", "key": f"{n}", "rev": n, "is_unblanked": True} for n in range(3)]
    change = message_change("room", 1, content="a secret")
    await inside.changes.insert_many([*broken, to_document(change), to_document(GONE)])
    await storage.close()
    await storage.open()
    assert "a secret" not in str(await inside.changes.find_one({"_id": "room:1"}))
    assert await storage.count_undecodable() == 3


@pytest.mark.parametrize("schema", [{}, {"version": "1", "epoch": "x"}, {"version": 1}])
async def test_a_schema_version_that_cannot_be_read_is_refused(
    url: str, inside: Inside, schema: dict[str, Any]
) -> None:
    await inside.meta.insert_one({"_id": "schema"} | schema)
    with pytest.raises(StoreRefusedError, match="schema version cannot be read"):
        await MongoStorage(url).open()


async def test_an_epoch_that_was_lost_since_is_not_made_up(storage: MongoStorage, inside: Inside) -> None:
    await inside.meta.update_one({"_id": "schema"}, {"$unset": {"epoch": ""}})
    with pytest.raises(UnavailableError):
        await storage.epoch()


async def test_documents_that_break_an_index_are_refused_with_its_name(url: str, inside: Inside) -> None:
    await inside.meta.insert_one({"_id": "schema", "version": 1, "epoch": "x"})
    await inside.users.insert_many([{"_id": each, "folded_username": "juan"} for each in ("a", "b")])
    with pytest.raises(StoreRefusedError, match="the index folded_username of the collection users"):
        await MongoStorage(url, lease_s=0.5).open()


async def test_servers_whose_reports_cannot_be_read_are_left_out(
    url: str, storage: MongoStorage, inside: Inside
) -> None:
    await storage.close()
    await inside.nodes.insert_many([{"_id": "none"}, {"_id": "broken", "beat": "x", "at": 1, "is_heard": 5}])
    await inside.changes.insert_one({"_id": "x", "node": "a", "at": 5, "room_id": "room", "key": "x"})
    joined = MongoStorage(url, is_alone=False, timeout_s=10)
    await joined.open()
    assert [each.node for each in await joined.report("a", at=1, is_heard=True)] == ["a"]
    assert await joined.written_by("a", 0) == []
    assert await joined.count_undecodable() == 3
    await joined.close()
    alone = MongoStorage(url, lease_s=0.1)
    await alone.open()
    await alone.close()


async def test_a_login_that_cannot_be_read_is_not_taken_for_an_older_one(
    storage: MongoStorage, inside: Inside
) -> None:
    await storage.create_login(LOGIN)
    await storage.rotate_login("login", 0, CREATED_AT, 2 * CREATED_AT)
    await inside.rotations.update_one({"_id": "login:1"}, {"$set": {"expires_at": "broken"}})
    assert await storage.find_login("login") is None
    await inside.rotations.delete_many({})
    await inside.revocations.insert_one({"_id": "login"})
    found = await storage.find_login("login")
    assert found is not None
    assert found.is_revoked


async def test_credentials_that_cannot_be_read_let_nobody_in(storage: MongoStorage, inside: Inside) -> None:
    await storage.create_user(user("juan"), "hash")
    for broken in ({"$unset": {"password_hash": ""}}, {"$set": {"password_hash": 5}}):
        await inside.users.update_one({"_id": "juan"}, broken)
        found = await storage.find_credentials("juan")
        assert found is None or found[1] is None


async def test_a_room_that_cannot_be_read_keeps_its_key_and_its_members(
    storage: MongoStorage, inside: Inside
) -> None:
    await storage.create_room(room("room"), [member("room", "juan")])
    await inside.rooms.update_one({"_id": "room"}, {"$set": {"kind": "broken"}})
    for again in (room("another", key="key-room"), room("room")):
        with pytest.raises(UnavailableError):
            await storage.create_room(again, [member(again.id, "juan")])
    assert [each["_id"] async for each in inside.members.find()] == ["room:juan"]


async def test_locks_and_leases_that_cannot_be_read_are_taken_over(
    url: str, storage: MongoStorage, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.storage.mongo.lock.ABANDONED_AFTER_S", 0.3)
    await storage.create_room(room("room"), [member("room", "juan", role="owner")])
    await storage.close()
    await inside.meta.insert_many([{"_id": "lease"}, {"_id": "lock:room"}])
    alone = MongoStorage(url, lease_s=2)
    await alone.open()
    assert await alone.set_role("room", "juan", "member") is False
    await alone.close()


async def test_a_date_that_no_calendar_has_spoils_nothing_but_its_document(
    storage: MongoStorage, inside: Inside
) -> None:
    ages_from_now = {"$set": {"at": DatetimeMS(2**62), "joined_at": DatetimeMS(2**62)}}
    for each in ("room", "other"):
        await storage.create_room(room(each), [member(each, "juan"), member(each, "ana")])
        await storage.append([message_change(each, rev) for rev in (1, 2)])
    await inside.changes.update_one({"_id": "room:2"}, ages_from_now)
    await inside.members.update_one({"_id": "room:ana"}, ages_from_now)
    assert (await storage.heads(["room", "other"])).keys() == {"other"}
    assert [each.seq for each in await storage.messages_between("room", 1, 2)] == [1]
    assert [each.rev for each in await storage.changes_after("room", 0, 5)] == [1]
    assert [each.user_id for each in await storage.members("room", (0, ""), 5)] == ["juan"]
    assert [each.room.id for each in await storage.memberships("ana")] == ["other"]
    assert await storage.find_member("room", "ana") is None


async def test_a_broken_document_is_counted_once_however_often_it_is_read(
    storage: MongoStorage, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "MOST_COUNTED", 3)
    for each in range(5):
        await storage.create_user(user(f"user-{each}"), None)
    await inside.users.update_one({"_id": "user-0"}, {"$set": {"created_at": "broken"}})
    for _ in range(3):
        assert await storage.find_users(["user-0"]) == {}
    assert await storage.count_undecodable() == 1
    await inside.users.update_many({}, {"$set": {"created_at": "broken"}})
    assert await storage.find_users([f"user-{each}" for each in range(5)]) == {}
    assert await storage.count_undecodable() == 3


async def test_a_room_that_breaks_while_somebody_is_added_keeps_its_members(
    storage: MongoStorage, inside: Inside
) -> None:
    await storage.create_room(room("room"), [member("room", "juan", role="owner")])
    with holding(storage, "insert", "members") as held:
        adding = asyncio.create_task(storage.add_member(member("room", "ana")))
        await held.come()
        await inside.rooms.update_one({"_id": "room"}, {"$set": {"kind": "broken"}})
        held.go.set()
        with pytest.raises(UnavailableError):
            await adding
    assert await inside.members.count_documents({}) == 2


async def test_an_owner_who_cannot_be_read_is_followed_by_one_who_can(
    storage: MongoStorage, inside: Inside
) -> None:
    people = [member("room", each, joined_at=at) for at, each in enumerate(["juan", "ana", "eva"])]
    await storage.create_room(room("room"), [replace(people[0], role="owner"), *people[1:]])
    await inside.members.update_one({"_id": "room:juan"}, {"$set": {"incarnation": 5}})
    await storage.remove_member("room", "eva")
    found = await storage.find_member("room", "ana")
    assert found is not None
    assert found.role == "owner"
