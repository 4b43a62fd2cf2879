"""Who is in a room and who owns it, when others write at the same time, late, or not to their end."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pymongo.asynchronous.database import AsyncDatabase

from server.domain.errors import UnavailableError
from server.storage.mongo import rooms
from server.storage.mongo.store import MongoStorage
from tests.builders import member, room
from tests.unit.storage.mongo.held import holding

Inside = AsyncDatabase[dict[str, Any]]


@pytest.fixture
async def other(url: str, storage: MongoStorage) -> AsyncIterator[MongoStorage]:
    """Another server on the database of `storage`."""
    await storage.close()
    storage._is_alone = False
    opened = MongoStorage(url, is_alone=False, timeout_s=10)
    await asyncio.gather(storage.open(), opened.open())
    yield opened
    await opened.close()


async def roles(storage: MongoStorage) -> dict[str, str]:
    return {each.user_id: each.role for each in await storage.members("room", (0, ""), 100)}


async def made(storage: MongoStorage, *owners: str) -> None:
    await storage.create_room(room("room"), [member("room", each, role="owner") for each in owners])


async def test_who_joins_while_the_last_owner_leaves_becomes_the_owner(
    storage: MongoStorage, other: MongoStorage
) -> None:
    await made(storage, "juan")
    with holding(other, "insert", "members") as held:
        joining = asyncio.create_task(other.add_member(member("room", "ana")))
        await held.come()
        await storage.remove_member("room", "juan")
        held.go.set()
        assert (await joining).role == "owner"
    assert await roles(storage) == {"ana": "owner"}


async def test_who_joins_before_the_last_owner_is_removed_follows(
    storage: MongoStorage, other: MongoStorage
) -> None:
    await made(storage, "juan")
    with holding(other, "delete", "members") as held:
        leaving = asyncio.create_task(other.remove_member("room", "juan"))
        await held.come()
        await storage.add_member(member("room", "ana"))
        await storage.add_member(member("room", "eva"))
        held.go.set()
        await leaving
    assert await roles(storage) == {"ana": "owner", "eva": "member"}


async def test_a_successor_who_leaves_at_once_has_a_successor(
    storage: MongoStorage, other: MongoStorage
) -> None:
    await made(storage, "juan")
    for at, each in enumerate(["ana", "eva"]):
        await storage.add_member(member("room", each, joined_at=at))
    with holding(other, "delete", "members") as held:
        leaving = asyncio.create_task(other.remove_member("room", "ana"))
        await held.come()  # as a member; then the owner leaves it the room
        await storage.remove_member("room", "juan")
        assert await roles(storage) == {"ana": "owner", "eva": "member"}
        held.go.set()
        await leaving
    assert await roles(storage) == {"eva": "owner"}


async def come_late_into_an_empty_room(storage: MongoStorage, other: MongoStorage) -> None:
    """Ana is added by an insert that nobody waits for any more."""
    await made(storage, "juan")
    await storage.remove_member("room", "juan")
    with holding(other, "insert", "members", is_late=True) as held:
        with pytest.raises(UnavailableError):
            await other.add_member(member("room", "ana"))
        await held.land()


async def test_a_join_that_was_cut_off_has_an_owner_at_the_next_start(
    storage: MongoStorage, other: MongoStorage
) -> None:
    await come_late_into_an_empty_room(storage, other)
    await storage.close()
    await storage.open()
    assert await roles(storage) == {"ana": "owner"}


async def test_an_owner_steps_down_late_only_while_another_is_left(
    storage: MongoStorage, other: MongoStorage
) -> None:
    await made(storage, "juan", "ana")
    await storage.add_member(member("room", "eva"))
    given, late = other._database.update, []

    async def update(collection: str, query: Any, change: Any) -> int:
        if collection == "members" and change["$set"].get("role") == "member":
            late.append((collection, query, change))
            raise UnavailableError("nobody answers")
        return await given(collection, query, change)

    other._database.update = update  # type: ignore[method-assign,assignment]
    with pytest.raises(UnavailableError):
        await other.set_role("room", "juan", "member")
    await storage.remove_member("room", "ana")
    assert await roles(storage) == {"juan": "owner", "eva": "member"}
    assert [await given(*each) for each in late] == [0]
    assert await roles(storage) == {"juan": "owner", "eva": "member"}


async def test_an_owner_is_removed_late_only_while_another_is_left(
    storage: MongoStorage, other: MongoStorage
) -> None:
    await made(storage, "juan", "ana")
    await storage.add_member(member("room", "eva"))
    with holding(other, "delete", "members", is_late=True) as held:
        with pytest.raises(UnavailableError):
            await other.remove_member("room", "juan")
        await storage.remove_member("room", "ana")
        assert await held.land() == 0
    assert await roles(storage) == {"juan": "owner", "eva": "member"}


async def test_a_role_that_was_taken_away_does_not_come_back_late(
    storage: MongoStorage, other: MongoStorage
) -> None:
    await made(storage, "juan")
    await storage.add_member(member("room", "ana"))
    with holding(other, "update", "members", is_late=True) as held:
        with pytest.raises(UnavailableError):
            await other.set_role("room", "ana", "owner")
        assert await storage.set_role("room", "ana", "member")
        await held.land()
    assert await roles(storage) == {"juan": "owner", "ana": "member"}


async def test_who_was_removed_does_not_come_back_with_a_late_insert(
    storage: MongoStorage, other: MongoStorage, inside: Inside
) -> None:
    await made(storage, "juan")
    with holding(other, "insert", "members", is_late=True) as held:
        with pytest.raises(UnavailableError):
            await other.add_member(member("room", "ana", incarnation="first"))
        second = await other.add_member(member("room", "ana", incarnation="second"))
        assert await storage.remove_member("room", "ana") == second
        await held.land()
    assert await storage.find_member("room", "ana") is None
    assert await storage.memberships("ana") == []
    assert await storage.member_counts(["room"]) == {"room": 1}
    assert await storage.advance_cursors([("room", "ana", 1)]) == [0]
    assert await storage.count_undecodable() == 0
    third = await storage.add_member(member("room", "ana", incarnation="third"))
    assert await other.find_member("room", "ana") == third
    assert await inside.members.count_documents({}) == 2


async def test_a_late_insert_in_the_middle_of_a_removal_is_removed_too(
    storage: MongoStorage, other: MongoStorage
) -> None:
    await made(storage, "juan")
    with holding(other, "insert", "members", is_late=True) as late, pytest.raises(UnavailableError):
        await other.add_member(member("room", "ana", incarnation="first"))
    await other.add_member(member("room", "ana", incarnation="second"))
    with holding(storage, "insert", "members") as held:
        removing = asyncio.create_task(storage.remove_member("room", "ana"))
        await held.come()
        await late.land()
        held.go.set()
        assert await removing is not None
    assert await roles(storage) == {"juan": "owner"}


@pytest.mark.parametrize("asked", ["add_member", "keep_member"])
async def test_who_is_said_to_be_there_is_not_removed_late(
    storage: MongoStorage, other: MongoStorage, asked: str
) -> None:
    await made(storage, "juan")
    ana = await storage.add_member(member("room", "ana"))
    with holding(other, "delete", "members", is_late=True) as held:
        with pytest.raises(UnavailableError):
            await other.remove_member("room", "ana")
        if asked == "add_member":
            assert await storage.add_member(member("room", "ana", incarnation="second")) == ana
        else:
            assert await storage.keep_member("room", "ana") == ana
        await held.land()
    assert await storage.find_member("room", "ana") == ana
    assert await other.remove_member("room", "ana") == ana
    assert await storage.keep_member("room", "ana") is None
    assert await roles(storage) == {"juan": "owner"}


async def test_who_came_late_into_an_empty_room_owns_it_when_somebody_looks(
    storage: MongoStorage, other: MongoStorage
) -> None:
    await come_late_into_an_empty_room(storage, other)
    found = await storage.find_member("room", "ana")
    assert found is not None
    assert found.role == "owner"


async def test_the_last_owner_who_is_looked_at_while_leaving_leaves(
    storage: MongoStorage, other: MongoStorage
) -> None:
    await made(storage, "juan")
    with holding(other, "delete", "members") as held:
        leaving = asyncio.create_task(other.remove_member("room", "juan"))
        await held.come()
        assert (await roles(storage)) == {"juan": "owner"}
        assert await storage.find_member("room", "juan") is not None
        held.go.set()
        assert await leaving is not None
    await storage.add_member(member("room", "ana"))
    assert await roles(storage) == {"ana": "owner"}


async def test_that_somebody_was_removed_is_forgotten_when_nothing_comes_any_more(
    storage: MongoStorage, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    await made(storage, "juan")
    for each in ("ana", "eva"):
        await storage.add_member(member("room", each))
    await storage.remove_member("room", "ana")
    assert await inside.members.count_documents({"gone": "room-ana"}) == 1
    monkeypatch.setattr(rooms, "GONE_FOR_MS", -1000)
    monkeypatch.setattr(rooms, "_FORGET_AFTER_S", 0)
    await storage.remove_member("room", "eva")
    assert await inside.members.count_documents({"gone": "room-ana"}) == 0
