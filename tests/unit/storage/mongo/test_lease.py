"""One server alone: who lives keeps the database, who is gone loses it."""

import asyncio
import time
from typing import Any

import pytest
from pymongo.asynchronous.database import AsyncDatabase

from server.domain.errors import UnavailableError
from server.domain.models import Login
from server.storage.base import StoreRefusedError
from server.storage.mongo.store import MongoStorage
from tests.builders import CREATED_AT, member, message_change, room, user

LOGIN = Login(id="login", user_id="juan", n=0, rotated_at=CREATED_AT, expires_at=2 * CREATED_AT)
Inside = AsyncDatabase[dict[str, Any]]


async def becomes(storage: MongoStorage, *, is_refused: bool) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                await storage.ping()
            except UnavailableError:
                if is_refused:
                    return
            else:
                if not is_refused:
                    return
            await asyncio.sleep(0.05)


async def test_the_lease_of_a_server_that_crashed_is_taken_over(url: str, inside: Inside) -> None:
    await inside.meta.insert_one({"_id": "schema", "version": 1, "epoch": "x"})
    await inside.meta.insert_one({"_id": "lease", "holder": "crashed", "beat": 7})
    storage = MongoStorage(url, lease_s=1.5)
    await storage.open()
    await storage.append([message_change("room", 1)])
    await storage.close()
    assert await inside.meta.find_one({"_id": "lease"}) is None


async def test_servers_that_hear_of_each_other_share_a_database(url: str) -> None:
    both = [MongoStorage(url, is_alone=False, timeout_s=10) for _ in range(2)]
    for each in both:
        await each.open()
    await both[0].append([message_change("room", 1)])
    assert (await both[1].heads(["room"]))["room"].rev == 1
    for each in both:
        await each.close()


async def test_who_lost_the_lease_stores_nothing_until_it_is_free_again(
    storage: MongoStorage, inside: Inside
) -> None:
    await storage.create_room(room("own"), [member("own", "juan")])
    await inside.meta.update_one({"_id": "lease"}, {"$set": {"holder": "another"}})
    await becomes(storage, is_refused=True)
    writes = (
        storage.append([message_change("room", 1)]),
        storage.create_user(user("ana"), None),
        storage.update_user("juan", display_name="Juan"),
        storage.create_room(room("room"), []),
        storage.advance_cursors([("room", "juan", 1)]),
        storage.remove_member("own", "juan"),
        storage.revoke_login(LOGIN),
    )
    for call in (storage.ping(), *writes):
        with pytest.raises(UnavailableError, match="another server"):
            await call
    await inside.meta.delete_one({"_id": "lease"})
    await becomes(storage, is_refused=False)


async def test_who_was_stopped_for_long_writes_nothing_before_the_lease_is_seen_again(
    storage: MongoStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await storage.create_user(user("juan"), None)
    real = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + 5)
    with pytest.raises(UnavailableError, match="another server"):
        await storage.create_user(user("ana"), None)
    await becomes(storage, is_refused=False)


async def test_a_refused_server_leaves_the_lease_alone(
    url: str, storage: MongoStorage, inside: Inside
) -> None:
    before = await inside.meta.find_one({"_id": "lease"})
    with pytest.raises(StoreRefusedError):
        await MongoStorage(url, lease_s=3).open()
    after = await inside.meta.find_one({"_id": "lease"})
    assert before is not None
    assert after is not None
    assert after["holder"] == before["holder"]
    await storage.ping()
