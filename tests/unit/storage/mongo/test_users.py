"""Logins are only ever added to; what is long past goes."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace
from pymongo.asynchronous.database import AsyncDatabase

from server.domain.errors import UnavailableError
from server.domain.models import Login
from server.storage.base import UsernameTakenError
from server.storage.mongo import pages
from server.storage.mongo.store import MongoStorage
from server.storage.mongo.users import LONG_PAST_MS
from tests.builders import CREATED_AT, user
from tests.unit.storage.mongo.held import holding

Inside = AsyncDatabase[dict[str, Any]]
LOGIN = Login(id="login", user_id="juan", n=0, rotated_at=CREATED_AT, expires_at=CREATED_AT + 1000)


async def test_a_rotation_is_an_insert_and_the_one_before_it_goes(
    storage: MongoStorage, inside: Inside
) -> None:
    await storage.create_login(LOGIN)
    for n in range(3):
        rotated = await storage.rotate_login("login", n, CREATED_AT + n, CREATED_AT + 2000 + n)
        assert rotated is not None
        assert rotated.n == n + 1
    assert [each["_id"] async for each in inside.rotations.find()] == ["login:3"]


async def test_a_rotation_that_comes_late_changes_nothing(storage: MongoStorage, inside: Inside) -> None:
    await storage.create_login(LOGIN)
    for n in range(2):
        await storage.rotate_login("login", n, CREATED_AT, CREATED_AT + 2000)
    await inside.rotations.insert_one(
        {"_id": "login:1", "login_id": "login", "n": 1, "rotated_at": 1, "expires_at": 1}
    )
    found = await storage.find_login("login")
    assert found == replace(LOGIN, n=2, rotated_at=CREATED_AT, expires_at=CREATED_AT + 2000)


async def test_only_what_is_long_past_is_forgotten(storage: MongoStorage, inside: Inside) -> None:
    await storage.create_login(replace(LOGIN, id="past"))
    await storage.create_login(replace(LOGIN, id="rotated"))
    await storage.rotate_login("rotated", 0, CREATED_AT, CREATED_AT + 10 * LONG_PAST_MS)
    await storage.revoke_login(replace(LOGIN, id="revoked"))
    storage._forgot_s = None
    await storage.create_login(replace(LOGIN, id="new", rotated_at=CREATED_AT + 2 * LONG_PAST_MS))
    assert {each["_id"] async for each in inside.logins.find()} == {"rotated", "new"}
    assert await inside.revocations.count_documents({}) == 0
    assert await storage.find_login("rotated") is not None


async def test_all_logins_of_a_user_are_revoked_however_many_they_are(
    storage: MongoStorage, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_AT_ONCE", 3)
    ids = [f"login-{n}" for n in range(7)]
    for each in ids:
        await storage.create_login(replace(LOGIN, id=each))
    await storage.revoke_login(replace(LOGIN, id="login-1"))
    await storage.rotate_login("login-4", 0, CREATED_AT, CREATED_AT + 5000)
    with holding(storage, "insert_in_order", "revocations") as held:
        revoking = asyncio.create_task(storage.revoke_logins("juan"))
        await held.come()
        await storage.revoke_login(replace(LOGIN, id="login-0"))  # in the middle of it
        held.go.set()
        await revoking
    assert sorted([each["_id"] async for each in inside.revocations.find()]) == ids
    found = await inside.revocations.find_one({"_id": "login-4"})
    assert found is not None
    assert found["expires_at"] == CREATED_AT + 5000


async def test_a_name_is_called_taken_only_where_it_can_be_seen(
    storage: MongoStorage, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands on the primary alone refuses an insert, and nobody can read it yet."""

    async def refused(_collection: str, _document: Any) -> bool:
        return False

    await storage.create_user(user("ana"), None)
    monkeypatch.setattr(storage._database, "insert", refused)
    with pytest.raises(UnavailableError):
        await storage.create_user(user("juan"), None)
    with pytest.raises(UsernameTakenError):
        await storage.create_user(replace(user("juan"), username="ana"), None)
    await inside.users.insert_one({"_id": "juan", "folded_username": "another"})
    with pytest.raises(UsernameTakenError):  # it will never decode, so that to wait is no use
        await storage.create_user(user("juan"), None)


async def test_a_login_is_not_said_to_stand_where_a_rotation_that_nobody_can_see_yet_is_in_the_way(
    storage: MongoStorage, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks again for an answer that was lost would be taken for a thief."""

    async def refused(_collection: str, _document: Any) -> bool:
        return False

    await storage.create_login(LOGIN)
    monkeypatch.setattr(storage._database, "insert", refused)
    with pytest.raises(UnavailableError):
        await storage.rotate_login("login", 0, CREATED_AT, CREATED_AT + 2000)
    await inside.rotations.insert_one({"_id": "login:1"})  # it will never decode
    assert await storage.rotate_login("login", 0, CREATED_AT, CREATED_AT + 2000) == LOGIN
