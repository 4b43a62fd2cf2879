import pytest

from server.realtime.bus import Emit, SourceAwayError
from server.realtime.redis_streams.tracks import Tracks
from tests.conformance.cluster import Log


class World:
    """Tracks, what they told and owe, and where somebody is."""

    def __init__(self) -> None:
        self.log = Log()
        self.told: list[object] = []
        self.owed: list[tuple[str, int, int]] = []
        self.anew: list[str] = []
        self.wanted = {"r"}
        self.tracks = Tracks(self.log, self._tell, self.wanted.__contains__, self._owe, self.anew.extend)

    async def take(self, number: int, *, is_live: bool = True) -> None:
        if await self.tracks.admit("r", number, is_live=is_live):
            self.told.append(number)

    async def follow(self, *, stored: int) -> "World":
        self.store(stored)
        await self.tracks.follow(["r"])
        return self

    def store(self, count: int) -> None:
        for _ in range(count):
            self.log.say("r")

    def _tell(self, emit: Emit) -> None:
        self.told.append(f"{emit.data} read")

    def _owe(self, key: str, first: int, last: int) -> None:
        self.owed.append((key, first, last))


@pytest.fixture
def world() -> World:
    return World()


async def test_what_comes_in_order_is_told_once(world: World) -> None:
    await world.follow(stored=0)
    world.store(3)
    for number in (1, 2, 2, 1, 3):
        await world.take(number)
    assert world.told == [1, 2, 3]


async def test_a_gap_is_read_and_what_follows_told(world: World) -> None:
    await world.follow(stored=1)
    world.store(5)
    await world.take(2)
    await world.take(6)
    assert world.told == [2, "3 read", "4 read", "5 read", "6 read"]
    assert not world.tracks.ahead


async def test_where_nothing_was_seen_the_head_shows_a_gap(world: World) -> None:
    await world.follow(stored=2)
    world.store(2)
    await world.take(4)
    assert world.told == ["3 read", "4 read"]


async def test_what_the_stream_brings_late_is_told_to_who_comes_meanwhile(world: World) -> None:
    await world.take(1)
    await world.follow(stored=3)
    await world.take(2)
    await world.take(3)
    assert world.told == [1, 2, 3]


async def test_what_was_read_ahead_is_not_told_again_and_owed(world: World) -> None:
    await world.follow(stored=1)
    await world.take(1)
    world.store(2)
    await world.tracks.repair()
    assert world.owed == [("r", 2, 3)]
    assert world.tracks.ahead == {"r": 3}
    await world.take(2)
    assert world.tracks.ahead == {"r": 3}
    await world.take(3)
    assert not world.tracks.ahead
    assert world.told == [1, "2 read", "3 read"]


async def test_a_repair_without_news_leaves_open_where_the_stream_begins(world: World) -> None:
    await world.follow(stored=2)
    await world.tracks.repair()
    await world.take(2)
    assert world.told == [2]


async def test_who_went_on_here_begins_anew_when_nobody_knows_what_it_lacks(world: World) -> None:
    await world.follow(stored=2)
    assert not world.tracks.is_known("r")
    world.store(1)
    await world.tracks.repair()
    assert world.anew == ["r"]
    assert world.told == ["3 read"]
    assert world.tracks.is_known("r")
    world.store(1)
    await world.tracks.repair()
    assert world.anew == ["r"]


async def test_nothing_is_told_beyond_a_gap_that_cannot_be_read(world: World) -> None:
    await world.follow(stored=0)
    world.store(4)
    world.log.is_away = True
    await world.take(2)
    await world.take(3)
    assert world.told == []
    assert world.tracks.broken == {"r"}
    with pytest.raises(SourceAwayError):
        await world.tracks.repair()
    world.log.is_away = False
    await world.tracks.repair(world.tracks.broken)
    await world.take(4)
    assert world.told == ["1 read", "2 read", "3 read", "4 read"]
    assert not world.tracks.broken


async def test_nobody_asks_again_and_again_for_a_gap_that_cannot_be_read(world: World) -> None:
    await world.follow(stored=0)
    world.log.is_away = True
    await world.take(2)
    world.log.is_away = False
    world.store(3)
    await world.take(3)
    assert world.told == []


async def test_what_nobody_has_any_more_stops_nothing(world: World) -> None:
    await world.follow(stored=0)
    await world.take(1)
    await world.take(5)
    assert world.told == [1, 5]


async def test_a_source_that_lost_its_beginning_is_not_asked_for_ever(world: World) -> None:
    await world.follow(stored=0)
    world.store(3)
    world.log.emits["r"][0:1] = [world.log.emits["r"][2]]
    await world.tracks.repair()
    assert world.told == []


async def test_what_nobody_wants_is_not_broken(world: World) -> None:
    await world.follow(stored=0)
    world.log.is_away = True
    await world.take(2)
    world.wanted.clear()
    world.log.is_away = False
    await world.tracks.repair(world.tracks.broken)
    assert not world.tracks.broken


async def test_in_another_stream_all_that_was_told_lately_is_owed(world: World) -> None:
    await world.follow(stored=0)
    world.store(2)
    await world.take(1)
    await world.take(2)
    world.tracks.begin_anew()
    assert world.owed == [("r", 2, 2)]
    assert world.tracks.ahead == {"r": 2}
    world.tracks.passed("r", 1)
    assert world.tracks.ahead
    world.tracks.passed("r", 2)
    assert not world.tracks.ahead


async def test_what_was_told_before_is_not_told_again_by_another_stream(world: World) -> None:
    await world.follow(stored=0)
    world.store(2)
    await world.take(1)
    await world.take(2)
    world.tracks.begin_anew()
    await world.take(2)
    assert world.told == [1, 2]


async def test_what_is_not_live_is_only_noted(world: World) -> None:
    await world.take(7, is_live=False)
    await world.follow(stored=9)
    await world.take(8)
    assert world.told == [8]


async def test_keys_that_nobody_wants_are_forgotten(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.realtime.redis_streams.tracks._IDLE_S", -1.0)
    await world.follow(stored=1)
    world.tracks.prune()
    assert world.tracks._tracks
    world.wanted.clear()
    world.tracks.prune()
    assert not world.tracks._tracks


async def test_the_numbers_seen_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.realtime.redis_streams.tracks._MOST_SEEN", 2)
    for key in "abc":
        await world.tracks.admit(key, 1, is_live=False)
    assert list(world.tracks._seen) == ["b", "c"]


async def test_nothing_of_the_source_is_told_before_it_is_settled_who_hears_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is told was read before that, so that nobody who was out by then hears it."""
    await world.follow(stored=0)
    world.store(2)
    settled: list[tuple[str, list[object]]] = []

    async def settle(key: str) -> None:
        settled.append((key, list(world.told)))
        world.log.say(key)

    monkeypatch.setattr(world.log, "settle", settle)
    await world.tracks.repair()
    assert settled == [("r", [])]
    assert world.told == ["1 read", "2 read"]
