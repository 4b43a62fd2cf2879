"""The guarantees of `Ephemeral`, held to by every implementation. Its time passes when it is told to."""

from collections.abc import AsyncIterator, Callable

import pytest

from server.ephemeral.base import Ephemeral, StatusChange, Typing
from tests.ephemeral_worlds import EphemeralWorld, MemoryWorld, RedisWorld

IMPLEMENTATIONS: dict[str, Callable[[pytest.FixtureRequest], EphemeralWorld]] = {
    "memory": lambda _: MemoryWorld(),
    "redis": lambda request: RedisWorld(request.getfixturevalue("redis_url")),
}
GRACE_S = 5.0
TTL_S = 6.0
MANY = 1_000


@pytest.fixture(
    params=[
        pytest.param(name, marks=[pytest.mark.real_services] if name == "redis" else [])
        for name in sorted(IMPLEMENTATIONS)
    ]
)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[EphemeralWorld]:
    made = IMPLEMENTATIONS[request.param](request)
    await made.start()
    yield made
    await made.close()


@pytest.fixture
def ephemeral(world: EphemeralWorld) -> Ephemeral:
    return world.ephemeral


async def reaped(ephemeral: Ephemeral) -> list[str]:
    """Who is named as offline."""
    changes = await ephemeral.reap()
    assert not [change for change in changes if change.is_online]
    return sorted(change.user_id for change in changes)


async def came(ephemeral: Ephemeral, user_id: str, connection_id: str) -> StatusChange:
    """The change that an arrival made."""
    arrival = await ephemeral.arrive(user_id, connection_id)
    assert arrival.change is not None
    assert (arrival.change.user_id, arrival.change.is_online) == (user_id, True)
    return arrival.change


async def test_the_first_connection_of_a_person_brings_them_online(ephemeral: Ephemeral) -> None:
    await came(ephemeral, "juan", "1")
    assert (await ephemeral.arrive("juan", "2")).change is None
    await came(ephemeral, "ana", "3")
    assert await ephemeral.online({"juan", "ana", "eva"}) == {"juan", "ana"}
    assert await ephemeral.online(set()) == set()


async def test_the_reaper_names_a_person_once_after_the_grace_of_the_last_connection(
    ephemeral: Ephemeral, world: EphemeralWorld
) -> None:
    for connection in ("1", "2"):
        await ephemeral.arrive("juan", connection)
    await ephemeral.leave("juan", "1", GRACE_S)
    await world.elapse(2)
    await ephemeral.leave("juan", "2", GRACE_S)
    await world.elapse(GRACE_S - 1)
    assert await reaped(ephemeral) == []
    assert await ephemeral.online({"juan"}) == {"juan"}
    await world.elapse(1)
    assert await reaped(ephemeral) == ["juan"]
    assert await reaped(ephemeral) == []
    assert await ephemeral.online({"juan"}) == set()
    await came(ephemeral, "juan", "3")


async def test_the_reaper_says_how_long_ago_the_last_lease_ran_out(
    ephemeral: Ephemeral, world: EphemeralWorld
) -> None:
    for connection in ("1", "2"):
        await ephemeral.arrive("juan", connection)
    await ephemeral.leave("juan", "2", GRACE_S)
    await world.elapse(3)
    await ephemeral.leave("juan", "1", GRACE_S)
    await world.elapse(GRACE_S + 40)
    (change,) = await ephemeral.reap()
    assert change.ago_s == pytest.approx(40, abs=1.5)


async def test_what_a_person_does_later_has_a_greater_version(
    ephemeral: Ephemeral, world: EphemeralWorld
) -> None:
    versions = []
    for connection in ("1", "1", "2"):
        versions.append((await came(ephemeral, "juan", connection)).version)
        await ephemeral.leave("juan", connection, 0)
        await world.elapse(0.1)
        versions += [change.version for change in await ephemeral.reap()]
    assert len(versions) == 6
    assert versions == sorted(set(versions))


async def test_who_comes_back_before_the_reaper_came_by_was_never_away(
    ephemeral: Ephemeral, world: EphemeralWorld
) -> None:
    await ephemeral.arrive("juan", "1")
    await ephemeral.leave("juan", "1", GRACE_S)
    await world.elapse(10 * GRACE_S)
    assert (await ephemeral.arrive("juan", "2")).change is None
    assert await reaped(ephemeral) == []
    assert await ephemeral.online({"juan"}) == {"juan"}


async def test_a_connection_that_is_taken_up_again_holds_as_before(
    ephemeral: Ephemeral, world: EphemeralWorld
) -> None:
    await ephemeral.arrive("juan", "1")
    await ephemeral.leave("juan", "1", GRACE_S)
    assert (await ephemeral.arrive("juan", "1")).change is None
    await world.elapse(GRACE_S + 1)
    assert await reaped(ephemeral) == []
    await ephemeral.leave("juan", "1", GRACE_S)
    await world.elapse(GRACE_S)
    assert await reaped(ephemeral) == ["juan"]


async def test_leaving_twice_or_without_having_come_changes_nothing(
    ephemeral: Ephemeral, world: EphemeralWorld
) -> None:
    await ephemeral.leave("juan", "1", GRACE_S)
    await ephemeral.arrive("juan", "1")
    await ephemeral.leave("juan", "2", GRACE_S)
    await ephemeral.leave("ana", "1", GRACE_S)
    await world.elapse(GRACE_S)
    assert await reaped(ephemeral) == []
    assert await ephemeral.online({"juan", "ana"}) == {"juan"}


async def test_of_too_many_connections_the_oldest_are_named(
    ephemeral: Ephemeral, world: EphemeralWorld
) -> None:
    for connection, surplus in (("1", []), ("2", []), ("3", ["1"]), ("4", ["1", "2"])):
        assert (await ephemeral.arrive("juan", connection, 2)).surplus == surplus
    assert (await ephemeral.arrive("ana", "5", 2)).surplus == []
    assert (await ephemeral.arrive("juan", "6")).surplus == []
    for connection in ("1", "3", "4"):
        await ephemeral.leave("juan", connection, GRACE_S)
    assert (await ephemeral.arrive("juan", "7", 2)).surplus == ["2"]
    await world.elapse(GRACE_S)
    assert await reaped(ephemeral) == []
    # Taken up again it is the newest.
    await ephemeral.leave("juan", "6", GRACE_S)
    await ephemeral.leave("juan", "2", GRACE_S)
    assert (await ephemeral.arrive("juan", "2", 1)).surplus == ["7"]


async def test_typing_is_shown_until_it_runs_out(ephemeral: Ephemeral, world: EphemeralWorld) -> None:
    typing = Typing("room", "juan")
    assert await ephemeral.start_typing(typing, "1", TTL_S, MANY)
    await world.elapse(TTL_S - 1)
    assert await ephemeral.start_typing(typing, "1", TTL_S, MANY)
    await world.elapse(TTL_S - 1)
    assert await ephemeral.reap_typing() == []
    await world.elapse(1)
    assert await ephemeral.reap_typing() == [typing]
    assert await ephemeral.reap_typing() == []
    assert not await ephemeral.stop_typing(typing)


async def test_typing_is_ended_once(ephemeral: Ephemeral) -> None:
    typing = Typing("room", "juan")
    await ephemeral.start_typing(typing, "1", TTL_S, MANY)
    assert not await ephemeral.stop_typing(Typing("other room", "juan"))
    assert await ephemeral.stop_typing(typing)
    assert not await ephemeral.stop_typing(typing)
    assert await ephemeral.stop_typing_from("1") == []


async def test_a_connection_takes_with_it_what_it_began_last(ephemeral: Ephemeral) -> None:
    here, there, anas = Typing("here", "juan"), Typing("there", "juan"), Typing("here", "ana")
    for typing, connection in ((here, "1"), (there, "1"), (anas, "2"), (there, "3")):
        await ephemeral.start_typing(typing, connection, TTL_S, MANY)
    assert await ephemeral.stop_typing_from("1") == [here]
    assert await ephemeral.stop_typing_from("1") == []
    assert await ephemeral.stop_typing_from("3") == [there]
    assert await ephemeral.stop_typing(anas)


async def test_only_so_many_are_shown_typing_in_a_room(ephemeral: Ephemeral) -> None:
    first, second, third = (Typing("room", name) for name in ("juan", "ana", "eva"))
    for typing in (first, second):
        assert await ephemeral.start_typing(typing, typing.user_id, TTL_S, 2)
    assert not await ephemeral.start_typing(third, "eva", TTL_S, 2)
    assert await ephemeral.start_typing(first, "juan", TTL_S, 2)
    assert await ephemeral.start_typing(Typing("other room", "eva"), "eva", TTL_S, 2)
    await ephemeral.stop_typing(second)
    assert await ephemeral.start_typing(third, "eva", TTL_S, 2)


async def test_a_name_is_claimed_once_until_its_time_is_over(
    ephemeral: Ephemeral, world: EphemeralWorld
) -> None:
    assert await ephemeral.claim("one", 3)
    assert not await ephemeral.claim("one", 3)
    assert await ephemeral.claim("other", 30)
    await world.elapse(2)
    await ephemeral.reap()
    assert not await ephemeral.claim("one", 3)
    await world.elapse(1.1)
    assert await ephemeral.claim("one", 3)
    assert not await ephemeral.claim("other", 3)
