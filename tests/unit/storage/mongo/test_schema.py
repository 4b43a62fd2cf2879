"""Which databases are taken, and what is in them then."""

import asyncio
from typing import Any

import pytest
from pymongo.asynchronous.database import AsyncDatabase

from server.storage.base import StoreRefusedError
from server.storage.mongo.schema import INDEXES, VERSION
from server.storage.mongo.store import MongoStorage

Inside = AsyncDatabase[dict[str, Any]]


async def test_every_index_is_made_and_starting_again_makes_none(
    storage: MongoStorage, inside: Inside
) -> None:
    await storage.close()
    await storage.open()
    for collection, indexes in INDEXES.items():
        present = await inside[collection].index_information()
        assert {index.document["name"] for index in indexes} <= present.keys()
    assert (await inside.changes.index_information())["room_id_rev"]["unique"] is True
    assert (await inside.changes.index_information())["room_id_key"]["unique"] is True


async def test_a_newer_database_is_refused_and_left_as_it_is(url: str, inside: Inside) -> None:
    await inside.meta.insert_one({"_id": "schema", "version": VERSION + 1, "epoch": "x"})
    with pytest.raises(StoreRefusedError, match=f"schema version {VERSION + 1}"):
        await MongoStorage(url).open()
    assert await inside.list_collection_names() == ["meta"]


async def test_a_start_that_another_has_only_announced_is_not_another_programs(
    url: str, inside: Inside
) -> None:
    await inside.nodes.insert_one({"_id": "another", "beat": 1, "starting_at": 1})
    await inside.meta.insert_one({"_id": "lock:other"})
    storage = MongoStorage(url, is_alone=False, timeout_s=10)
    await storage.open()
    await storage.close()


async def test_a_database_of_another_program_is_refused(url: str, inside: Inside) -> None:
    await inside.users.insert_one({"name": "somebody else's"})
    with pytest.raises(StoreRefusedError, match=r"another program \(users\)"):
        await MongoStorage(url).open()


async def test_several_servers_may_be_the_first_at_once(url: str) -> None:
    servers = [MongoStorage(url, is_alone=False, timeout_s=10) for _ in range(3)]
    await asyncio.gather(*(each.open() for each in servers))
    assert len({await each.epoch() for each in servers}) == 1
    for each in servers:
        await each.close()


async def test_a_first_start_that_was_cut_off_is_gone_on_with(url: str, inside: Inside) -> None:
    await inside.meta.insert_one({"_id": "schema", "version": VERSION, "epoch": "first"})
    storage = MongoStorage(url, lease_s=3)
    await storage.open()
    assert await storage.epoch() == "first"
    await storage.close()
