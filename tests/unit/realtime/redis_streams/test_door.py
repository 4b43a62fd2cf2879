import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from server.realtime.redis_streams.door import Door
from server.redis_client import Client, make_client
from tests.redis_server import shared_redis_url
from tests.unit.realtime.redis_streams.outs import change, passage


@pytest.fixture
async def door(client: Client, name: str) -> AsyncIterator[Door]:
    made = Door(client, name, retention_s=60, most_entries=1_000)
    yield made
    made.close()


async def fields(client: Client, door: Door) -> list[dict[bytes, bytes]]:
    untyped: Any = client  # the library types each answer for every option at once
    return [each for _, each in await untyped.xrange(door.stream)]


async def data(client: Client, door: Door) -> list[bytes]:
    return [each[b"d"] for each in await fields(client, door)]


async def test_changes_of_a_key_come_in_each_once_behind_the_one_before(client: Client, door: Door) -> None:
    assert await door.publish([change(1, data=b"1"), change(2, data=b"2")]) == [None, None]
    assert await door.publish([change(2, data=b"again"), change(3, data=b"3")]) == [0, None]
    assert await data(client, door) == [b"1", b"2", b"3"]


async def test_behind_what_is_too_early_nothing_comes_in(client: Client, door: Door) -> None:
    await door.publish([change(1)])
    assert await door.publish([change(4), passage(1)]) == [1]
    assert len(await data(client, door)) == 1


async def test_other_entries_come_in_unless_a_later_one_has(client: Client, door: Door) -> None:
    await door.publish([passage(5, data=b"5")])
    assert await door.publish(
        [passage(3), passage(5), passage(9, data=b"9"), passage(1, "other", data=b"1")]
    ) == [
        0,
        0,
        None,
        None,
    ]
    assert await data(client, door) == [b"5", b"9", b"1"]


async def test_the_first_of_an_unknown_key_is_marked_unless_it_is_the_very_first(
    client: Client, door: Door
) -> None:
    await door.publish([change(1, "a"), change(2, "a"), change(7, "b"), change(8, "b"), passage(7)])
    assert [each[b"f"] for each in await fields(client, door)] == [b"", b"", b"1", b"", b""]


async def test_a_retry_in_its_epoch_begins_no_other(client: Client, door: Door) -> None:
    epoch = await door.begin_epoch("")
    await door.publish([passage(1, tried_in=epoch)])
    assert (await fields(client, door))[0][b"e"].decode() == epoch


async def test_a_retry_from_an_epoch_before_begins_one_more(client: Client, door: Door) -> None:
    await door.publish([passage(1)])
    await door.publish([passage(2, tried_in="before"), passage(3, tried_in="before")])
    epochs = [each[b"e"] for each in await fields(client, door)]
    assert epochs[0] != epochs[1] == epochs[2]


async def test_a_retry_that_was_in_changes_nothing(client: Client, door: Door) -> None:
    await door.publish([passage(1)])
    assert await door.publish([passage(1, tried_in="before"), passage(2)]) == [0, None]
    assert len({each[b"e"] for each in await fields(client, door)}) == 1


async def test_of_several_servers_one_begins_the_epoch(door: Door) -> None:
    first = await door.begin_epoch("")
    assert await door.begin_epoch("") == first
    second = await door.begin_epoch(first)
    assert second != first
    assert await door.begin_epoch(first) == second


async def test_what_is_too_old_or_too_much_leaves_the_stream(client: Client, name: str) -> None:
    door = Door(client, name, retention_s=60, most_entries=100)
    await client.xadd(door.stream, {"d": "old"}, id="1-0")
    for number in range(1, 10):
        await door.publish([passage(100 * number + each) for each in range(100)])
    # Trimming goes by whole nodes of a hundred.
    assert len(await data(client, door)) <= 200
    assert b"old" not in await data(client, door)
    door.close()


async def test_all_keys_begin_with_the_name(client: Client, door: Door, name: str) -> None:
    await door.publish([passage(1), change(1)])
    keys = [key async for key in client.scan_iter(match=f"*{name[1:-1]}*")]
    assert len(keys) == 5
    assert all(key.startswith(name.encode()) for key in keys)
    assert await client.ttl(f"{name}:last:gapless:r") > 3_600


async def test_what_comes_in_is_published_with_what_is_before_it(client: Client, name: str) -> None:
    heard = asyncio.Queue[bytes]()
    door = Door(client, name, retention_s=60, most_entries=100, heard=heard.put_nowait)
    await door.publish([passage(1, data=b"a\n"), change(7, data=b"bc")])
    await door.publish([passage(1)])
    await door.publish([passage(2, data=b"d")])
    untyped: Any = client
    ids = [each for each, _ in await untyped.xrange(door.stream)]
    epoch = (await fields(client, door))[0][b"e"]
    assert [await heard.get() for _ in range(2)] == [
        b"1 0-0 %b %b 0 2 %b 1 2\na\nbc" % (epoch, ids[0], ids[1]),
        b"1 %b %b %b 0 1\nd" % (ids[1], epoch, ids[2]),
    ]
    assert heard.empty()
    door.close()


async def test_what_comes_into_another_database_of_the_same_redis_is_not_heard(
    client: Client, name: str
) -> None:
    heard = asyncio.Queue[bytes]()
    url = urlsplit(await asyncio.to_thread(shared_redis_url))
    other = make_client(url._replace(path="/2" if url.path == "/1" else "/1").geturl(), timeout_s=3)
    here = Door(client, name, retention_s=60, most_entries=100, heard=heard.put_nowait)
    there = Door(other, name, retention_s=60, most_entries=100)
    await here.open()
    await there.publish([passage(1, data=b"of others")])
    await here.publish([passage(1, data=b"own")])
    assert (await heard.get()).endswith(b"\nown")
    await there.publish([passage(2)])
    await here.publish([passage(2, data=b"own too")])
    assert (await heard.get()).endswith(b"\nown too")
    for each in (here, there):
        each.close()
    await other.aclose()


async def test_of_two_epochs_in_a_batch_each_is_published_for_itself(client: Client, name: str) -> None:
    heard = asyncio.Queue[bytes]()
    door = Door(client, name, retention_s=60, most_entries=100, heard=heard.put_nowait)
    await door.publish([passage(1)])
    await door.publish([passage(2), passage(3, tried_in="before")])
    epochs = [each[b"e"] for each in await fields(client, door)]
    assert epochs[1] != epochs[2]
    async with asyncio.timeout(5):
        told = [(await heard.get()).split(b" ")[1:4] for _ in range(3)]
    assert [epoch for _, epoch, _ in told] == epochs
    assert [before for before, _, _ in told[1:]] == [last for _, _, last in told[:2]]
    door.close()


async def test_a_redis_that_was_another_one_begins_an_epoch(client: Client, door: Door, name: str) -> None:
    await door.publish([passage(1)])
    door.close()
    await door.publish([passage(2)])
    await client.set(f"{name}:primary", "master_replid:another")
    door.close()
    await door.publish([passage(3)])
    epochs = [each[b"e"] for each in await fields(client, door)]
    assert epochs[0] == epochs[1] != epochs[2]
