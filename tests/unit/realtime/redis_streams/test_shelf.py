import asyncio

import msgspec
import pytest

from server.realtime.packet_log import Stay
from server.realtime.recovery import Trail
from server.realtime.redis_streams import shelf as module
from server.realtime.redis_streams.fallback import stop
from server.realtime.redis_streams.shelf import Record, Shelf
from server.redis_client import FAILURES, Client, make_client
from tests.conformance.wire import eventually


@pytest.fixture
def shelf(client: Client, name: str) -> Shelf:
    return Shelf(client, name, max_away_s=60, ping_s=5)


def trail(owner: str = "ana", sid: str = "sid") -> Trail:
    return Trail(sid, owner, 5)


async def put(shelf: Shelf, **of: str) -> Trail:
    made = trail(**of)
    shelf.put(made)
    await shelf.flush()
    return made


async def test_who_is_away_is_taken_once_with_all_that_is_known(shelf: Shelf) -> None:
    made = trail()
    made.received, made.kept = 9, {"r": Stay(since=6, tag="1")}
    shelf.put(made)
    taken = await shelf.take(made.pid, "ana")
    assert taken is not None
    assert (taken.generation, taken.is_whole) == (2, True)
    record = msgspec.msgpack.decode(taken.record or b"", type=Record)
    assert record == Record("sid", 5, 9, made.stays, made.kept)
    again = await shelf.take(made.pid, "ana")
    assert again is not None
    assert (again.is_away, again.record) == (False, None)


async def test_two_that_take_at_the_same_time_are_two_generations(
    shelf: Shelf, client: Client, name: str
) -> None:
    made = await put(shelf)
    other = Shelf(client, name, max_away_s=60, ping_s=5)
    taken = await asyncio.gather(shelf.take(made.pid, "ana"), other.take(made.pid, "ana"))
    assert sorted(each.is_away for each in taken if each) == [False, True]


async def test_by_force_one_of_a_known_generation_is_taken_and_no_other(shelf: Shelf) -> None:
    made = trail()
    made.current = lambda: {"r": Stay(since=7)}
    shelf.note(made)
    wrong = await shelf.take(made.pid, "ana", by_force_of=2)
    assert wrong is not None
    assert not wrong.is_away
    taken = await shelf.take(made.pid, "ana", by_force_of=1)
    assert taken is not None
    assert (taken.is_away, taken.is_whole, taken.generation) == (True, False, 2)
    assert msgspec.msgpack.decode(taken.record or b"", type=Record).kept == {"r": Stay(since=7)}


@pytest.mark.parametrize(("pid", "owner"), [("forged", "ana"), (None, "eva")])
async def test_nothing_is_taken_of_others(shelf: Shelf, pid: str | None, owner: str) -> None:
    made = await put(shelf)
    assert await shelf.take(pid or made.pid, owner) is None


async def test_who_lost_it_writes_no_more_and_learns_so(shelf: Shelf, client: Client, name: str) -> None:
    made = await put(shelf)
    other = Shelf(client, name, max_away_s=60, ping_s=5)
    assert await other.take(made.pid, "ana")
    shelf.remove(made)
    await shelf.flush()
    shelf.put(made)
    await shelf.flush()
    assert made.is_forgotten
    known = await other.take(made.pid, "ana")
    assert known is not None
    assert known.generation == 2


async def test_what_is_over_leaves_nothing(shelf: Shelf, client: Client, name: str) -> None:
    made = await put(shelf)
    shelf.remove(made)
    await shelf.flush()
    assert await shelf.take(made.pid, "ana") is None
    assert [key async for key in client.scan_iter(match=f"{name}*")] == []


@pytest.mark.parametrize("by", ["sid", "owner"])
async def test_what_is_forgotten_is_not_taken_even_if_it_is_written_again(
    shelf: Shelf, client: Client, name: str, by: str
) -> None:
    made = await put(shelf)
    other = Shelf(client, name, max_away_s=60, ping_s=5)
    other.forget("sid") if by == "sid" else other.forget_away("ana")
    await other.flush()
    assert await shelf.take(made.pid, "ana") is None
    shelf.note(made)
    await shelf.flush()
    assert made.is_forgotten
    assert await shelf.take(made.pid, "ana") is None


async def test_who_is_here_is_not_forgotten_with_those_away(shelf: Shelf) -> None:
    made = trail()
    shelf.note(made)
    shelf.forget_away("ana")
    assert await shelf.take(made.pid, "ana") is not None


async def test_who_was_here_as_those_away_were_forgotten_is_not_taken_by_force(shelf: Shelf) -> None:
    """Their server has died and does nothing about it; one that lives has kept whom it lets go of."""
    dead, living = trail(), trail()
    for each in (dead, living):
        shelf.note(each)
    shelf.forget_away("ana")
    await shelf.flush()
    for each in (dead, living):
        shelf.note(each)
    await shelf.flush()
    shelf.put(living)
    assert await shelf.take(dead.pid, "ana", by_force_of=1) is None
    taken = await shelf.take(living.pid, "ana")
    assert taken is not None
    assert taken.is_away
    again = await shelf.take(living.pid, "ana", by_force_of=2)
    assert again is not None
    assert again.is_away


async def test_what_waits_is_forgotten_too(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAGE", 2)
    made = [trail() for _ in range(5)]
    for each in made:
        shelf.put(each)
    shelf.forget_away("ana")
    await shelf.flush()
    assert [await shelf.take(each.pid, "ana") for each in made] == [None] * 5


async def test_the_newest_of_a_connection_is_what_is_written(shelf: Shelf) -> None:
    made = trail()
    shelf.note(made)
    shelf.put(made)
    assert len(shelf._waiting) == 1
    taken = await shelf.take(made.pid, "ana")
    assert taken is not None
    assert taken.is_whole


async def test_everything_ends_by_itself(shelf: Shelf, client: Client, name: str) -> None:
    await put(shelf)
    keys = [key async for key in client.scan_iter(match=f"{name}*")]
    assert len(keys) == 3
    assert all([0 < await client.ttl(key) <= 70 for key in keys])


async def test_an_index_forgets_what_expired_although_its_owner_stays(client: Client, name: str) -> None:
    short = Shelf(client, name, max_away_s=0, ping_s=0.05)
    for _ in range(3):
        short.note(trail())
        await short.flush()
    long = Shelf(client, name, max_away_s=60, ping_s=5)
    index = f"{name}:away-by-owner:ana"
    await client.zadd(index, {f"old {number}": 1 for number in range(100)})
    long.note(trail())
    await long.flush()
    assert await client.zcard(index) <= 4


async def test_while_redis_is_away_the_newest_wait_and_are_written_then(
    name: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RETRY_S", 0.01)
    broken = make_client("redis://127.0.0.1:1/0", timeout_s=1)
    shelf = Shelf(broken, name, max_away_s=60, ping_s=5)
    made = trail()
    shelf.put(made)
    with pytest.raises(FAILURES):
        await shelf.flush()
    assert shelf._waiting
    await broken.aclose()
    back = Shelf(client, name, max_away_s=60, ping_s=5)
    back._waiting = shelf._waiting
    task = asyncio.create_task(back.run())
    back._filled.set()
    await eventually(lambda: not back._waiting)
    await stop([task])
    assert await back.take(made.pid, "ana")


async def test_what_waits_is_bounded(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_WAITING", 2)
    for _ in range(4):
        shelf.put(trail())
    assert len(shelf._waiting) == 2
    shelf._waiting.clear()
