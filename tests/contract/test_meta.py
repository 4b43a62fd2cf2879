"""The laws of the store as a whole."""

from collections.abc import Callable

import pytest

from server.domain.errors import UnavailableError
from server.storage.base import Storage, StoreRefusedError
from tests.builders import member, message_change, room, user


async def test_everything_is_there_after_closing_and_opening_again(
    make_storage: Callable[[], Storage],
) -> None:
    before = make_storage()
    await before.open()
    epoch = await before.epoch()
    await before.create_user(user("juan"), "hash")
    await before.create_room(room("room"), [member("room", "juan", role="owner")])
    change = message_change("room", 1, by="juan")
    await before.append([change])
    await before.close()

    after = make_storage()
    await after.open()
    assert await after.epoch() == epoch
    assert await after.find_credentials("juan") == (user("juan"), "hash")
    assert await after.changes_after("room", 0, 10) == [change]
    found = await after.find_member("room", "juan")
    assert found is not None
    assert found.last_read_seq == 1
    await after.close()


async def test_a_second_server_is_refused_while_the_first_lives(
    storage: Storage, make_storage: Callable[[], Storage]
) -> None:
    second = make_storage()
    with pytest.raises(StoreRefusedError, match="another server"):
        await second.open()
    await storage.append([message_change("room", 1)])  # the refusal did not disturb the first
    with pytest.raises(StoreRefusedError, match="another server"):
        await make_storage().open()
    await storage.close()
    await second.open()
    assert (await second.heads(["room"]))["room"].rev == 1
    await second.close()


async def test_closing_twice_does_nothing_and_a_closed_store_is_unavailable(storage: Storage) -> None:
    await storage.close()
    await storage.close()
    with pytest.raises(UnavailableError):
        await storage.ping()
    with pytest.raises(UnavailableError):
        await storage.append([message_change("room", 1)])


async def test_a_store_that_was_never_opened_is_unavailable_and_may_be_closed(
    make_storage: Callable[[], Storage],
) -> None:
    unopened = make_storage()
    with pytest.raises(UnavailableError):
        await unopened.ping()
    await unopened.close()


async def test_an_open_store_answers_a_ping_and_has_skipped_nothing(storage: Storage) -> None:
    await storage.ping()
    assert await storage.count_undecodable() == 0
    assert await storage.epoch()
