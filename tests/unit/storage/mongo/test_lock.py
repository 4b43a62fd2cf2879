"""One at a time, also after a crash."""

import asyncio
from typing import Any

import pytest
from pymongo.asynchronous.database import AsyncDatabase

from server.domain.errors import UnavailableError
from server.storage.mongo import lock
from server.storage.mongo.lock import locked
from server.storage.mongo.store import MongoStorage
from tests.unit.storage.mongo.held import holding

Inside = AsyncDatabase[dict[str, Any]]


async def test_one_at_a_time_is_in_the_block(storage: MongoStorage) -> None:
    inside_now = 0

    async def enter() -> None:
        nonlocal inside_now
        async with locked(storage._database, "room"):
            inside_now += 1
            await storage.ping()
            assert inside_now == 1
            inside_now -= 1

    await asyncio.gather(*(enter() for _ in range(8)))


async def test_a_lock_whose_holder_is_gone_is_taken_over_and_given_back(
    storage: MongoStorage, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "ABANDONED_AFTER_S", 0.3)
    await inside.meta.insert_one({"_id": "lock:room", "holder": "crashed"})
    async with locked(storage._database, "room"):
        pass
    assert await inside.meta.count_documents({"_id": "lock:room"}) == 0


async def test_who_is_cancelled_while_taking_it_leaves_no_lock(storage: MongoStorage, inside: Inside) -> None:
    async def enter() -> None:
        async with locked(storage._database, "room"):
            pytest.fail("it was cancelled before")

    entering = asyncio.create_task(enter())
    for _ in range(3):  # the insert is on its way
        await asyncio.sleep(0)
    assert storage._database._calls
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    await storage.close()  # which waits for what is on its way
    assert await inside.meta.count_documents({"_id": "lock:room"}) == 0


async def test_what_was_done_holds_when_the_lock_cannot_be_given_back(storage: MongoStorage) -> None:
    with holding(storage, "delete", "meta", is_late=True) as held:
        async with locked(storage._database, "room"):
            pass
        await held.land()


async def test_whom_others_keep_waiting_is_told_so(
    storage: MongoStorage, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "ABANDONED_AFTER_S", 0.3)
    await inside.meta.insert_one({"_id": "lock:room", "holder": "0"})

    async def change_hands() -> None:
        for number in range(1, 1_000):
            await inside.meta.update_one({"_id": "lock:room"}, {"$set": {"holder": str(number)}})

    others = asyncio.create_task(change_hands())
    with pytest.raises(UnavailableError):
        async with locked(storage._database, "room"):
            pass
    others.cancel()
    await asyncio.gather(others, return_exceptions=True)
