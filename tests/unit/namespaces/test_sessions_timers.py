"""When a session is warned and when it ends, by the clock of its token."""

import asyncio

import pytest

from namespaces.sessions import Session
from server.views import ExpiresData
from tests.services import Site
from tests.unit.namespaces.world import World, codes, connection_of


@pytest.fixture
async def world(site: Site, monkeypatch: pytest.MonkeyPatch) -> World:
    site.clock.drive(monkeypatch)
    await site.people("ana")
    return World(site)


def warnings(session: Session) -> list[int]:
    """The seconds left that the session was told, each time."""
    sent = connection_of(session).emitted("auth_expiring")
    return [data.expires_in for data in sent if isinstance(data, ExpiresData)]


def next_look_s(session: Session) -> float:
    """The seconds until the session is looked at again."""
    assert session.timer is not None
    return session.timer.when() - asyncio.get_running_loop().time()


async def test_a_token_that_expires_is_announced_a_minute_before_and_ends_after_its_leeway(
    world: World,
) -> None:
    session = await world.connect("ana")
    await world.site.clock.elapse(839)
    assert warnings(session) == []
    await world.site.clock.elapse(1)
    assert warnings(session) == [60]
    assert 64 < next_look_s(session) <= 65
    await world.site.clock.elapse(64)
    assert codes(session) == []
    await world.site.clock.elapse(1)
    assert codes(session) == [("token_expired", "refresh")]
    assert connection_of(session).ending() == ["close"]
    assert warnings(session) == [60]


@pytest.mark.parametrize(("left_s", "told"), [(60, 60), (30, 30), (0, 0), (-4, 0)])
async def test_a_token_in_its_last_minute_is_announced_at_once(world: World, left_s: int, told: int) -> None:
    session = await world.connect("ana", identity=world.site.identity("ana", lasts_s=left_s))
    assert warnings(session) == [told]
    await world.site.clock.elapse(left_s + 5)
    assert codes(session) == [("token_expired", "refresh")]


async def test_a_token_past_its_leeway_ends_at_once(world: World) -> None:
    session = await world.connect("ana", identity=world.site.identity("ana", lasts_s=-5))
    assert codes(session) == [("token_expired", "refresh")]
    assert warnings(session) == []


@pytest.mark.parametrize("at_s", [100, 850, 904])
async def test_a_renewal_starts_both_clocks_anew(world: World, at_s: int) -> None:
    session = await world.connect("ana")
    await world.site.clock.elapse(at_s)
    before = len(warnings(session))
    assert world.sessions.renew(session, world.site.identity("ana")) == 900
    await world.site.clock.elapse(839)
    assert (len(warnings(session)), codes(session)) == (before, [])
    await world.site.clock.elapse(1)
    assert len(warnings(session)) == before + 1
    await world.site.clock.elapse(65)
    assert codes(session) == [("token_expired", "refresh")]


async def test_a_token_may_last_for_years(world: World) -> None:
    years_s = 2_500_000_000
    session = await world.connect("ana", identity=world.site.identity("ana", lasts_s=years_s))
    for step_s in (24 * 3600, years_s - 24 * 3600 - 61):
        assert next_look_s(session) <= 24 * 3600
        await world.site.clock.elapse(step_s)
    assert (warnings(session), codes(session)) == ([], [])
    await world.site.clock.elapse(1)
    assert warnings(session) == [60]


async def test_a_session_that_is_over_leaves_no_timer(world: World) -> None:
    session = await world.connect("ana")
    world.sessions.remove(session)
    assert session.timer is not None
    assert session.timer.cancelled()
    assert world.sessions._people == {}
