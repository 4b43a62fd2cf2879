"""Several servers that write to one room: a busy one does not keep the others out."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

import pytest

from server.domain.models import Change, Head
from server.storage.base import CollisionError, Slot
from server.storage.commit import Committer
from server.storage.contention import Contention
from tests.drafts import Told, committing, post
from tests.memory_log import MemoryLog
from tests.virtual_time import in_virtual_time

BUS_S = 0.004


class FarLog(MemoryLog):
    """The log of one room at a distance: what is sent takes `way_s` to it, and its answer as long."""

    def __init__(self, way_s: float) -> None:
        super().__init__()
        self._way_s = way_s
        self._by_key: dict[tuple[str, str], Change] = {}

    async def heads(self, room_ids: Sequence[str]) -> dict[str, Head]:
        await asyncio.sleep(self._way_s)
        head = self.entries[-1].head if self.entries else Head()
        await asyncio.sleep(self._way_s)
        return dict.fromkeys(room_ids, head)

    async def find_by_keys(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Change]:
        await asyncio.sleep(self._way_s)
        found = {key: self._by_key[key] for key in keys if key in self._by_key}
        await asyncio.sleep(self._way_s)
        return found

    async def append(self, changes: Sequence[Change]) -> None:
        self.appends.append(list(changes))
        await asyncio.sleep(self._way_s)
        is_refused = changes[0].rev != len(self.entries) + 1
        if not is_refused:
            self.entries += changes
            self._by_key |= {(change.room_id, change.key): change for change in changes}
        await asyncio.sleep(self._way_s)
        if is_refused:
            raise CollisionError(Slot(changes[0].room_id, changes[0].rev))


class Bus(Told):
    """What is told comes to all servers."""

    def __init__(self) -> None:
        super().__init__()
        self.servers: list[Committer] = []

    async def __call__(self, changes: Sequence[Change]) -> None:
        await super().__call__(changes)
        for server in self.servers:
            asyncio.get_running_loop().call_later(BUS_S, server.learn, "room", changes[-1].head)


async def _talk(server: Committer, *, until_s: float) -> list[float]:
    """One message after the other; how long each took."""
    loop = asyncio.get_running_loop()
    took_s = []
    while loop.time() < until_s:
        began_s = loop.time()
        await server.append(post())
        took_s.append(loop.time() - began_s)
    return took_s


@pytest.mark.parametrize("way_s", [0.002, 0.02])
@pytest.mark.parametrize("servers", [2, 4])
@pytest.mark.parametrize("told", [Told, Bus], ids=["without the bus", "with the bus"])
@in_virtual_time
async def test_all_servers_get_a_word_in_while_each_is_busy(
    servers: int, way_s: float, told: Callable[[], Told]
) -> None:
    random.seed(7)
    log, bus = FarLog(way_s), told()
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(committing(log, bus, node=f"{n}", is_alone=False))
            for n in range(servers)
        ]
        if isinstance(bus, Bus):
            bus.servers = nodes
        until_s = asyncio.get_running_loop().time() + 8
        took_s = await asyncio.gather(*(_talk(node, until_s=until_s) for node in nodes for _ in range(3)))
    assert [entry.rev for entry in log.entries] == list(range(1, len(log.entries) + 1))
    assert max(each for sender in took_s for each in sender) < 6
    said = [len(sender) for sender in took_s]
    assert min(said) * servers * 3 > sum(said) / 3, "nobody has less than a third of a fair share"


@in_virtual_time
async def test_who_hears_of_others_does_not_collide_with_them() -> None:
    """Two people at two servers, who answer each other."""
    log, bus = FarLog(0.001), Bus()
    async with (
        committing(log, bus, node="one", is_alone=False) as one,
        committing(log, bus, node="other", is_alone=False) as other,
    ):
        bus.servers = [one, other]
        for _ in range(10):
            for server in (one, other):
                await server.append(post())
                await asyncio.sleep(0.1)
    assert len(log.appends) == 20


@in_virtual_time
async def test_what_is_learned_late_is_no_step_back() -> None:
    log, told = MemoryLog(), Told()
    async with committing(log, told, is_alone=False) as server:
        first = (await server.append(post())).change
        assert first is not None
        await server.append(post())
        server.learn("room", first.head)
        await server.append(post())
    assert len(log.appends) == 3


@in_virtual_time
async def test_a_head_that_is_learned_while_an_append_is_refused_is_kept() -> None:
    """Else it would be read, and meanwhile be another one."""
    log, told = MemoryLog(), Told()
    async with committing(log, told, is_alone=False) as server:
        head = (await server.append(post("one"))).change
        assert head is not None
        log.gate.clear()
        log.arrived.clear()
        refused = asyncio.create_task(server.append(post("three")))
        await log.arrived.wait()
        async with committing(other := MemoryLog(), Told(), node="other") as elsewhere:
            other.entries = log.entries
            two = (await elsewhere.append(post("two"))).change
        assert two is not None
        server.learn("room", two.head)
        reads = log.attempts
        log.gate.set()
        assert (await refused).message.seq == 3
        assert log.attempts == reads + 1, "the append alone"


async def _pauses(write: Callable[[], Awaitable[None]], *, writes: int) -> list[float]:
    contention, loop = Contention(), asyncio.get_running_loop()
    pauses_s = []
    for _ in range(writes):
        began_s = loop.time()
        await contention.let_others_in()
        pauses_s.append(loop.time() - began_s)
        await write()
        contention.wrote()
    return pauses_s


@in_virtual_time
async def test_who_writes_without_end_pauses_now_and_then() -> None:
    pauses_s = await _pauses(lambda: asyncio.sleep(0.005), writes=1_000)
    assert 8 <= len([each for each in pauses_s if each]) <= 12, "twice in a second"
    assert max(pauses_s) == pytest.approx(0.035)


@in_virtual_time
async def test_who_is_idle_between_its_writes_never_pauses() -> None:
    async def write() -> None:
        await asyncio.sleep(0.005)

    contention = Contention()
    for _ in range(200):
        began_s = asyncio.get_running_loop().time()
        await contention.let_others_in()
        assert asyncio.get_running_loop().time() == began_s
        await write()
        contention.wrote()
        await asyncio.sleep(0.04)


@in_virtual_time
async def test_a_slow_write_does_not_count_as_a_pause() -> None:
    pauses_s = await _pauses(lambda: asyncio.sleep(0.3), writes=10)
    assert max(pauses_s) == pytest.approx(0.25)
