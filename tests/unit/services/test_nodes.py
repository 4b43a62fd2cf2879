import pytest

from server.domain.errors import UnavailableError
from server.services.nodes import Nodes
from server.storage.base import NodeReport, NodeStore
from tests.services import Clock

OWN, OTHER = "own", "other"


class Shared(NodeStore):
    """What servers say of themselves, in memory. `written` is what each wrote: (at, room, rev)."""

    def __init__(self) -> None:
        self.reports: dict[str, NodeReport] = {}
        self.written: dict[str, list[tuple[int, str, int]]] = {}
        self.is_away = False

    async def report(self, node: str, *, at: int, is_heard: bool) -> list[NodeReport]:
        if self.is_away:
            raise UnavailableError("away")
        beat = self.reports[node].beat + 1 if node in self.reports else 1
        self.reports[node] = NodeReport(node=node, beat=beat, at=at, is_heard=is_heard)
        return list(self.reports.values())

    async def forget_node(self, node: str) -> None:
        if self.is_away:
            raise UnavailableError("away")
        self.reports.pop(node, None)

    async def written_by(self, node: str, since: int) -> list[tuple[str, int]]:
        return [(room_id, rev) for at, room_id, rev in self.written.get(node, []) if at >= since]


class World:
    """This server among others; `retold` and `anew` are what it had told again."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = Shared()
        self.hears = True
        self.retold: list[tuple[str, int, int]] = []
        self.anew = 0
        self.nodes = Nodes(
            self.store,
            self,
            node=OWN,
            is_heard=lambda: self.hears,
            clock=self.clock.ms,
            monotonic=self.clock.s,
        )

    def retell(self, room_id: str, first: int, last: int) -> None:
        self.retold.append((room_id, first, last))

    def read_anew(self) -> None:
        self.anew += 1

    async def pass_s(self, seconds: int, *, beating: bool = False, hears: bool = True) -> None:
        """Let time pass, in which the other server reports or does not."""
        for _ in range(seconds):
            self.clock.advance(1)
            if beating:
                await self.store.report(OTHER, at=self.clock.ms(), is_heard=hears)
            await self.nodes.tick()


@pytest.fixture
def world() -> World:
    return World()


async def test_a_server_reports_once_a_second_whether_it_hears(world: World) -> None:
    for hears in (True, False):
        world.hears = hears
        await world.pass_s(1)
        await world.nodes.tick()
        assert world.store.reports[OWN].is_heard is hears
    assert world.store.reports[OWN].beat == 2


async def test_what_a_dead_server_wrote_of_late_is_told_for_it_once(world: World) -> None:
    await world.pass_s(1, beating=True)
    died_ms = world.clock.ms()
    world.store.written[OTHER] = [
        (died_ms - 60_001, "long told", 1),
        (died_ms - 60_000, "a", 3),
        (died_ms, "a", 5),
        (died_ms + 500, "b", 7),
    ]
    await world.pass_s(14)
    assert (world.retold, world.anew) == ([], 0)
    await world.pass_s(5)
    assert (sorted(world.retold), world.anew) == ([("a", 3, 5), ("b", 7, 7)], 1)
    assert OTHER not in world.store.reports


async def test_what_a_server_writes_that_does_not_hear_is_told_for_it_once_by_one_that_does(
    world: World,
) -> None:
    world.store.written[OTHER] = [(world.clock.ms(), "a", 3)]
    await world.pass_s(2, beating=True)
    assert not world.retold
    await world.pass_s(2, beating=True, hears=False)
    world.store.written[OTHER] += [(world.clock.ms(), "a", 5), (world.clock.ms(), "a", 6)]
    await world.pass_s(20, beating=True, hears=False)
    assert (world.retold, world.anew) == ([("a", 3, 3), ("a", 5, 6)], 0)
    world.hears = False
    world.store.written[OTHER] += [(world.clock.ms(), "a", 7)]
    await world.pass_s(2, beating=True, hears=False)
    assert len(world.retold) == 2
    world.hears = True
    await world.pass_s(1, beating=True, hears=False)
    assert world.retold[2:] == [("a", 7, 7)]


async def test_a_server_that_goes_on_reporting_is_not_dead_however_wrong_its_clock_is(world: World) -> None:
    for _ in range(40):
        world.clock.advance(1)
        await world.store.report(OTHER, at=0, is_heard=True)
        await world.nodes.tick()
    assert (world.retold, world.anew) == ([], 0)


async def test_whether_others_hear_is_asked_of_those_that_live(world: World) -> None:
    seen = [world.nodes.do_others_hear]
    for seconds, hears in ((1, False), (1, True)):
        await world.pass_s(seconds, beating=True, hears=hears)
        seen.append(world.nodes.do_others_hear)
    await world.pass_s(16)
    assert [*seen, world.nodes.do_others_hear] == [False, False, True, False]


async def test_who_never_reported_leaves_without_a_word(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A start that was refused, by the store perhaps."""
    world.store.is_away = True
    await world.nodes.leave()
    assert caplog.records == []


async def test_who_leaves_is_not_taken_for_dead_and_leaves_without_the_store_too(world: World) -> None:
    await world.pass_s(1)
    await world.nodes.leave()
    assert not world.store.reports
    world.store.is_away = True
    await world.nodes.leave()
    with pytest.raises(UnavailableError):
        await world.pass_s(1)
