import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from server.realtime.redis_streams import reader as module
from server.realtime.redis_streams.fallback import stop
from server.realtime.redis_streams.reader import Reader, Taken
from server.redis_client import Client
from tests.conformance.wire import eventually


class World:
    """A stream, its reader, and what that took."""

    def __init__(self, client: Client, name: str) -> None:
        self.client: Any = client
        self.stream = f"{name}:stream"
        self.taken: list[Taken] = []
        self.lost: list[int] = []
        self.skipped: list[int] = []
        self.failing = 0
        self.reader = Reader(client, self.stream, self._take, self._lose, self.skipped.append)
        self.task: asyncio.Task[None] | None = None

    async def _take(self, taken: Taken) -> None:
        self.taken.append(taken)

    async def _lose(self, position: int) -> None:
        if self.failing:
            self.failing -= 1
            raise ConnectionError
        self.lost.append(position)

    async def add(self, data: str, identity: str = "*", **fields: str) -> None:
        await self.client.xadd(self.stream, {"v": "1", "e": "one", "d": data, "f": "", **fields}, id=identity)

    async def replace(self, data: str, identity: str) -> None:
        """Another stream in the place of this one, which nobody sees missing."""
        async with self.client.pipeline(transaction=True) as pipeline:
            pipeline.delete(self.stream)
            pipeline.xadd(self.stream, {"v": "1", "e": "one", "d": data, "f": ""}, id=identity)
            await pipeline.execute()

    def run(self) -> None:
        self.task = asyncio.create_task(self.reader.run())

    async def heard(self, *data: bytes) -> None:
        await eventually(lambda: [each.data for each in self.taken] == list(data))


@pytest.fixture
async def world(client: Client, name: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(module, "_SILENT_S", 0.02)
    made = World(client, name)
    yield made
    if made.task is not None:
        await stop([made.task])


async def test_what_stands_in_the_stream_is_taken_before_what_comes(world: World) -> None:
    await world.add("a", "5-0")
    await world.add("b", "5-1", f="1")
    assert await world.reader.open() == (5 << 20) - 1
    await world.reader.catch_up()
    world.run()
    await world.add("c")
    await world.heard(b"a", b"b", b"c")
    assert [each.is_first for each in world.taken] == [False, True, False]
    assert world.taken[1].position == (5 << 20) + 1
    assert {each.epoch for each in world.taken} == {"one"}


async def test_an_empty_stream_begins_where_it_ended(world: World) -> None:
    assert await world.reader.open() == 0
    await world.add("a", "7-3")
    await world.client.xtrim(world.stream, maxlen=0)
    assert await world.reader.open() == (7 << 20) + 3


async def test_more_than_a_page_is_taken_whole_and_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAGE", 3)
    for number in range(8):
        await world.add(f"{number}")
    await world.reader.open()
    await world.reader.catch_up()
    world.run()
    for number in range(8, 15):
        await world.add(f"{number}")
    await world.heard(*(f"{number}".encode() for number in range(15)))
    assert world.lost == []


async def test_what_is_of_another_form_is_skipped_and_said_to_be(world: World) -> None:
    world.run()
    await world.add("a", "5-0", v="2")
    await world.add("b")
    await world.heard(b"b")
    assert world.skipped == [5 << 20]


async def test_a_stream_that_lost_what_was_read_is_read_on_from_its_end(world: World) -> None:
    world.run()
    await world.add("a", "9-0")
    await world.heard(b"a")
    await world.replace("unread", "5-0")
    await eventually(lambda: world.lost == [5 << 20])
    await world.add("b", "6-0")
    await world.heard(b"a", b"b")


async def test_a_loss_that_could_not_be_told_is_told_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAUSES_S", (0.0,))
    world.failing = 2
    world.run()
    await world.add("a", "9-0")
    await world.heard(b"a")
    await world.replace("unread", "5-0")
    await eventually(lambda: world.lost == [5 << 20])


async def test_who_lags_behind_the_trimming_notices(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAGE", 2)
    await world.add("a", "1-0")
    await world.reader.open()
    await world.reader.catch_up()
    for number in range(2, 8):
        await world.add(f"{number}", f"{number}-0")
    await world.client.xtrim(world.stream, minid="4-0", approximate=False)
    world.run()
    await eventually(lambda: world.lost == [7 << 20])
    await world.add("b")
    await world.heard(b"a", b"b")


async def test_a_reader_goes_on_when_its_connection_broke(
    world: World, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAUSES_S", (0.0,))
    await client.client_setname("reader")
    world.run()
    await world.add("a")
    await world.heard(b"a")
    names = {each["name"]: each["id"] for each in await world.client.client_list()}
    await world.client.client_kill_filter(_id=names["reader"])
    await world.add("b")
    await world.heard(b"a", b"b")
    assert world.lost == []


class Heard(World):
    """Asks the stream for nothing unless it has to: `asked` counts how often."""

    def __init__(self, client: Client, name: str) -> None:
        super().__init__(client, name)
        self.listens = 0
        self.reader = Reader(
            client, self.stream, self._take, self._lose, self.skipped.append, listen=self._listen
        )

    async def _listen(self) -> None:
        self.listens += 1


@pytest.fixture
async def ear(client: Client, name: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Heard]:
    """One that has read "a" as 5-0, and to which silence is never long."""
    monkeypatch.setattr(module, "_SILENT_S", 60)
    made = Heard(client, name)
    await made.add("a", "5-0")
    made.run()
    await made.heard(b"a")
    yield made
    assert made.task is not None
    await stop([made.task])


async def test_what_is_heard_behind_what_was_read_is_taken_from_there(ear: Heard) -> None:
    ear.reader.heard(b"1 5-0 two 6-0 0 2 6-1 1 3\nb\nccc")
    ear.reader.heard(b"1 6-1 two 7-0 0 1\nd")
    await ear.heard(b"a", b"b\n", b"ccc", b"d")
    assert [each.position for each in ear.taken[1:]] == [6 << 20, (6 << 20) + 1, 7 << 20]
    assert [(each.epoch, each.is_first) for each in ear.taken[1:3]] == [("two", False), ("two", True)]
    assert ear.listens == 1


async def test_a_silence_counts_from_what_was_heard_last(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SILENT_S", 0.2)
    await world.add("a", "5-0")
    world.run()
    await world.heard(b"a")
    for before, now in (("5-0", "6-0"), ("6-0", "7-0")):
        await asyncio.sleep(0.1)
        await world.add("b", now)
        world.reader.heard(f"1 {before} one {now} 0 1\nb".encode())
    await world.heard(b"a", b"b", b"b")
    await world.add("c", "8-0")
    await world.heard(b"a", b"b", b"b", b"c")


async def test_what_is_missing_before_what_is_heard_is_read(ear: Heard) -> None:
    await ear.add("b", "6-0")
    await ear.add("c", "7-0")
    ear.reader.heard(b"1 6-0 one 7-0 0 1\nc")
    await ear.heard(b"a", b"b", b"c")
    ear.reader.heard(b"1 6-0 one 7-0 0 1\nc")
    ear.reader.heard(b"1 7-0 one 8-0 0 1\nd")
    await ear.heard(b"a", b"b", b"c", b"d")
    assert (ear.lost, ear.listens) == ([], 2)


async def test_what_is_heard_in_another_form_is_read(ear: Heard) -> None:
    await ear.add("b", "6-0")
    ear.reader.heard(b"2 something new")
    await ear.heard(b"a", b"b")


async def test_what_is_heard_of_another_stream_is_not_taken(ear: Heard) -> None:
    await ear.replace("other", "6-0")
    ear.reader.heard(b"1 0-0 one 6-0 0 5\nother")
    await eventually(lambda: ear.lost == [6 << 20])
    ear.reader.heard(b"1 6-0 one 7-0 0 1\nb")
    await ear.heard(b"a", b"b")


async def test_who_hears_no_more_reads_and_listens_again(ear: Heard) -> None:
    await ear.add("b", "6-0")
    ear.reader.doubt()
    await ear.heard(b"a", b"b")
    assert ear.listens == 2


async def test_more_than_can_be_kept_is_read(ear: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_HEARD", 2)
    for number in range(6, 9):
        await ear.add(f"{number}", f"{number}-0")
        ear.reader.heard(b"1 %d-0 one %d-0 0 1\n%d" % (number - 1, number, number))
    await ear.heard(b"a", b"6", b"7", b"8")


async def test_what_was_first_and_is_trimmed_before_it_is_read_is_lost(world: World) -> None:
    await world.add("a", "5-0")
    await world.add("b", "6-0")
    await world.reader.open()
    await world.client.xtrim(world.stream, maxlen=1, approximate=False)
    await world.reader.catch_up()
    assert (world.taken, world.lost) == ([], [6 << 20])
