"""The store as a whole: opened again, and closed whatever happened."""

import pytest

from server.domain.errors import UnavailableError
from server.storage.mongo.store import MongoStorage
from tests.builders import message_change
from tests.mongodb import is_real_mongod


async def test_only_a_server_that_stands_alone_is_warned_of(
    storage: MongoStorage, caplog: pytest.LogCaptureFixture
) -> None:
    await storage.close()
    await storage.open()
    assert ("store.not_replicated" in caplog.text) is not is_real_mongod()


async def test_a_store_may_be_opened_again(storage: MongoStorage) -> None:
    await storage.append([message_change("room", 1)])
    await storage.close()
    with pytest.raises(UnavailableError):
        await storage.ping()
    await storage.open()
    assert (await storage.heads(["room"]))["room"].rev == 1
