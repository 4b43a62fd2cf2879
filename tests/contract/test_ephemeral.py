"""The guarantees of `Ephemeral`, held to by every implementation. Its clock is moved by hand."""

from collections.abc import Callable

import pytest

from server.ephemeral.base import Ephemeral, Typing
from server.ephemeral.memory import MemoryEphemeral
from tests.services import Clock

IMPLEMENTATIONS: dict[str, Callable[[Clock], Ephemeral]] = {
    "memory": lambda clock: MemoryEphemeral(clock=clock.s),
}
GRACE_S = 5.0
TTL_S = 6.0
MANY = 1_000


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=sorted(IMPLEMENTATIONS))
def ephemeral(request: pytest.FixtureRequest, clock: Clock) -> Ephemeral:
    return IMPLEMENTATIONS[request.param](clock)


async def test_the_first_connection_of_a_person_brings_them_online(ephemeral: Ephemeral) -> None:
    assert await ephemeral.arrive("juan", "1")
    assert not await ephemeral.arrive("juan", "2")
    assert await ephemeral.arrive("ana", "3")
    assert await ephemeral.online({"juan", "ana", "eva"}) == {"juan", "ana"}
    assert await ephemeral.online(set()) == set()


async def test_the_reaper_names_a_person_once_after_the_grace_of_the_last_connection(
    ephemeral: Ephemeral, clock: Clock
) -> None:
    for connection in ("1", "2"):
        await ephemeral.arrive("juan", connection)
    await ephemeral.leave("juan", "1", GRACE_S)
    clock.advance(1)
    await ephemeral.leave("juan", "2", GRACE_S)
    clock.advance(GRACE_S - 0.001)
    assert await ephemeral.reap() == []
    assert await ephemeral.online({"juan"}) == {"juan"}
    clock.advance(0.001)
    assert await ephemeral.reap() == ["juan"]
    assert await ephemeral.reap() == []
    assert await ephemeral.online({"juan"}) == set()
    assert await ephemeral.arrive("juan", "3")


async def test_who_comes_back_before_the_reaper_came_by_was_never_away(
    ephemeral: Ephemeral, clock: Clock
) -> None:
    await ephemeral.arrive("juan", "1")
    await ephemeral.leave("juan", "1", GRACE_S)
    clock.advance(10 * GRACE_S)
    assert not await ephemeral.arrive("juan", "2")
    assert await ephemeral.reap() == []


async def test_leaving_twice_or_without_having_come_changes_nothing(
    ephemeral: Ephemeral, clock: Clock
) -> None:
    await ephemeral.leave("juan", "1", GRACE_S)
    await ephemeral.arrive("juan", "1")
    await ephemeral.leave("juan", "2", GRACE_S)
    await ephemeral.leave("ana", "1", GRACE_S)
    clock.advance(GRACE_S)
    assert await ephemeral.reap() == []
    assert await ephemeral.online({"juan", "ana"}) == {"juan"}


async def test_typing_is_shown_until_it_runs_out(ephemeral: Ephemeral, clock: Clock) -> None:
    typing = Typing("room", "juan")
    assert await ephemeral.start_typing(typing, "1", TTL_S, MANY)
    clock.advance(TTL_S - 1)
    assert await ephemeral.start_typing(typing, "1", TTL_S, MANY)
    clock.advance(TTL_S - 0.001)
    assert await ephemeral.reap_typing() == []
    clock.advance(0.001)
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
