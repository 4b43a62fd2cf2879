import pytest

from server.services.health import Health
from tests.services import Clock, Site, break_


@pytest.fixture
def health(site: Site) -> Health:
    site.health.is_started = True
    return site.health


def state(health: Health) -> tuple[bool, list[str]]:
    """(whether somebody is let in, why nobody should be sent here)."""
    return health.can_admit, health.unready_because()


def test_nobody_is_let_in_before_the_start(site: Site) -> None:
    assert state(site.health) == (False, ["starting"])
    site.health.is_started = True
    assert state(site.health) == (True, [])


def test_a_server_that_leaves_still_lets_people_in_until_it_drains(health: Health) -> None:
    health.is_leaving = True
    assert state(health) == (True, ["draining"])
    health.is_draining = True
    assert state(health) == (False, ["draining"])


async def test_a_store_that_fails_shuts_the_door_at_once_and_is_reported_after_ten_seconds(
    site: Site, health: Health
) -> None:
    mend = break_(site.storage, "ping")
    for _ in range(10):
        await health.tick()
        assert state(health) == (False, [])
        site.clock.advance(1)
    assert state(health) == (False, ["store"])
    mend()
    await health.tick()
    assert state(health) == (True, [])


async def test_a_failure_seen_elsewhere_is_believed_until_the_store_answers(
    site: Site, health: Health
) -> None:
    health.store_failed()
    site.clock.advance(9)
    health.store_failed()
    site.clock.advance(1)
    assert state(health) == (False, ["store"])
    await health.tick()
    assert state(health) == (True, [])


async def test_the_store_is_asked_once_a_second(site: Site, health: Health) -> None:
    await health.tick()
    break_(site.storage, "ping")
    await health.tick()
    assert state(health) == (True, [])
    site.clock.advance(1)
    await health.tick()
    assert state(health) == (False, [])


async def test_a_bug_is_not_taken_for_a_store_that_is_away(site: Site, health: Health) -> None:
    break_(site.storage, "ping", error=ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        await health.tick()
    assert state(health) == (True, [])


async def test_what_does_not_decode_is_counted_also_while_the_store_is_away(
    site: Site, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def count() -> int:
        return 3

    monkeypatch.setattr(site.storage, "count_undecodable", count)
    break_(site.storage, "ping")
    await health.tick()
    assert health.undecodable == 3


async def test_the_first_tick_asks_whatever_the_clock_says(site: Site) -> None:
    """A monotonic clock may begin near zero."""
    clock = Clock()
    clock.now_s = 0.0
    health = Health(site.storage, site.storage, clock=clock.s)
    health.is_started = True
    break_(site.storage, "ping")
    await health.tick()
    assert state(health) == (False, [])


class Ears:
    """Whether this server and another one hear the bus."""

    own = others = True


@pytest.fixture
def ears() -> Ears:
    return Ears()


@pytest.fixture
def listening(site: Site, ears: Ears) -> Health:
    health = Health(
        site.storage,
        site.storage,
        clock=site.clock.s,
        is_heard=lambda: ears.own,
        do_others_hear=lambda: ears.others,
    )
    health.is_started = True
    return health


async def test_a_server_that_alone_is_deaf_should_get_nobody(
    site: Site, listening: Health, ears: Ears
) -> None:
    await listening.tick()
    ears.own = False
    site.clock.advance(4.9)
    assert (listening.unready_because(), listening.degraded()) == ([], ["bus"])
    site.clock.advance(0.1)
    assert (listening.unready_because(), listening.degraded()) == (["bus"], [])
    ears.own = True
    assert (listening.unready_because(), listening.degraded()) == ([], [])


async def test_where_nobody_hears_every_server_is_as_good_as_any(
    site: Site, listening: Health, ears: Ears
) -> None:
    ears.own = ears.others = False
    site.clock.advance(60)
    assert (listening.unready_because(), listening.degraded()) == ([], ["bus"])
