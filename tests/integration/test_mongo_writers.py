"""Several server processes write one room at once: its log is as if there were one, whatever befalls them."""

import asyncio
import json
import os
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest

from server.storage.mongo.store import MongoStorage
from tests.fault_proxy import FAULTS, Fault, FaultProxy
from tests.harness import ROOT
from tests.mongo_writer import ROOM, SENDERS
from tests.mongodb import MongoServer, make_server

PROCESSES = 4
MESSAGES = int(os.environ.get("TERTULIA_TEST_MESSAGES", "500"))
PATIENCE_S = 540
FAULT_CHANCE = 0.15
SEED = 20_261_130

pytestmark = pytest.mark.real_services


class Writers:
    """Server processes that write `messages` each; `acked` is what they were answered: rev by key."""

    def __init__(self, messages: int) -> None:
        self.messages = messages
        self.acked: dict[str, int] = {}
        self._begun: set[int] = set()
        self._grew = asyncio.Condition()

    @asynccontextmanager
    async def writing(self, url: str, *, timeout_s: float = 4) -> AsyncIterator[None]:
        """They begin with the block; at its end they have finished."""
        processes = [await self._start(url, f"node-{n}", timeout_s) for n in range(PROCESSES)]
        try:
            async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
                for process in processes:
                    group.create_task(self._follow(process))
                yield
        finally:
            for process in processes:
                if process.returncode is None:
                    process.kill()
                    await process.wait()

    @property
    def have_all_begun(self) -> bool:
        """Whether each was answered something: a start makes too many calls to do well among faults."""
        return len(self._begun) == PROCESSES

    async def reach(self, part: float) -> None:
        """Return once this part of the messages was acknowledged; some are still to come then."""
        wanted = int(part * PROCESSES * self.messages)
        async with self._grew:
            await self._grew.wait_for(lambda: len(self.acked) >= wanted)
        assert len(self.acked) < PROCESSES * self.messages

    async def _start(self, url: str, name: str, timeout_s: float) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.mongo_writer",
            url,
            name,
            str(self.messages),
            str(timeout_s),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )

    async def _follow(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            key, rev = json.loads(line)
            async with self._grew:
                self.acked[key] = rev
                self._begun.add(process.pid)
                self._grew.notify_all()
        assert await process.wait() == 0


async def check(url: str, writers: Writers) -> None:
    """Every number once, everything acknowledged where it was said to be, each sender's order kept."""
    storage = MongoStorage(url, is_alone=False, timeout_s=20)
    await storage.open()
    log = await storage.changes_after(ROOM, 0, 100_000)
    await storage.close()
    assert [change.rev for change in log] == list(range(1, len(log) + 1))
    sent = [change.message for change in log if change.kind == "message"]
    assert [message.seq for message in sent] == list(range(1, PROCESSES * writers.messages + 1))
    by_key = {change.key: change.rev for change in log}
    assert len(by_key) == len(log)
    assert writers.acked.items() <= by_key.items()
    for sender in {message.sender_id for message in sent}:
        own = [message.content for message in sent if message.sender_id == sender]
        assert own == [f"{number:04d}" for number in range(writers.messages // SENDERS)]
    assert {change.kind for change in log} == {"message", "edit", "react"}


@pytest.fixture
async def mongodb() -> AsyncIterator[MongoServer]:
    server = await asyncio.to_thread(make_server)
    yield server
    await asyncio.to_thread(server.stop)


@pytest.fixture
def database() -> str:
    return f"test_{uuid4().hex[:8]}"


async def test_four_processes_write_one_room_without_gap_or_double(
    mongodb: MongoServer, database: str
) -> None:
    writers, url = Writers(MESSAGES), mongodb.url(database)
    async with writers.writing(url):
        pass
    await check(url, writers)
    assert len(writers.acked) == PROCESSES * SENDERS * _changes_of(MESSAGES // SENDERS)


async def test_a_store_that_crashes_under_load_loses_nothing_acknowledged(
    mongodb: MongoServer, database: str
) -> None:
    writers, url = Writers(MESSAGES // 5), mongodb.url(database)
    async with writers.writing(url):
        for part in (0.2, 0.5):
            await writers.reach(part)
            await asyncio.to_thread(mongodb.kill)
            await asyncio.to_thread(mongodb.start)
    await check(url, writers)


@pytest.mark.parametrize("fault", FAULTS)
async def test_connections_that_break_lose_and_double_nothing(
    mongodb: MongoServer, database: str, fault: Fault
) -> None:
    chance = random.Random(SEED)
    writers = Writers(MESSAGES // 5)
    # A request that is delayed arrives when its sender has given up: a late write.
    proxy = FaultProxy(mongodb.port, delay_s=1.5)
    proxy.choose = lambda: fault if writers.have_all_begun and chance.random() < FAULT_CHANCE else "none"
    async with proxy.listening():
        async with writers.writing(mongodb.url(database, port=proxy.port), timeout_s=1):
            pass
        assert proxy.met[fault] > 0
    await check(mongodb.url(database), writers)


def _changes_of(messages: int) -> int:
    """How many entries a sender makes: of ten messages one is edited, and one is reacted to."""
    return messages + len(range(0, messages, 10)) + len(range(3, messages, 10))
