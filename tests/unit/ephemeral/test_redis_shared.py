"""What several servers count together: connections of a person, people typing in a room, claims."""

import pytest

from server.ephemeral.base import Typing
from server.ephemeral.redis import RedisEphemeral
from tests.ephemeral_worlds import RedisWorld

pytestmark = pytest.mark.real_services

GRACE_S = 5.0
TTL_S = 6.0


async def test_too_many_connections_are_counted_on_all_servers(
    here: RedisEphemeral, there: RedisEphemeral
) -> None:
    assert (await here.arrive("juan", "1", 2)).surplus == []
    assert (await there.arrive("juan", "2", 2)).surplus == []
    assert (await here.arrive("juan", "3", 2)).surplus == ["1"]
    await here.leave("juan", "1", GRACE_S)
    # The second has moved, which its old server has not noticed.
    assert (await here.arrive("juan", "2", 2)).surplus == []
    assert (await there.arrive("juan", "4", 2)).surplus == ["3"]


async def test_who_types_on_one_server_can_end_it_on_another(
    here: RedisEphemeral, there: RedisEphemeral
) -> None:
    typing = Typing("room", "juan")
    assert await here.start_typing(typing, "1", TTL_S, 2)
    assert await there.start_typing(Typing("room", "ana"), "2", TTL_S, 2)
    for server in (here, there):
        assert not await server.start_typing(Typing("room", "eva"), "3", TTL_S, 2)
    assert await there.stop_typing(typing)
    assert await here.stop_typing_from("1") == []
    assert await here.start_typing(Typing("room", "eva"), "3", TTL_S, 2)


async def test_a_connection_that_went_on_typing_elsewhere_ends_nothing_here(
    here: RedisEphemeral, there: RedisEphemeral
) -> None:
    typing = Typing("room", "juan")
    await here.start_typing(typing, "1", TTL_S, 2)
    await there.start_typing(typing, "1", TTL_S, 2)
    assert await here.stop_typing_from("1") == []
    assert await there.stop_typing_from("1") == [typing]


async def test_typing_runs_out_by_whoever_began_it_and_by_others_after_their_death(
    world: RedisWorld, here: RedisEphemeral, there: RedisEphemeral
) -> None:
    first, second = Typing("room", "juan"), Typing("room", "ana")
    await here.start_typing(first, "1", TTL_S, 2)
    await world.elapse(TTL_S)
    assert await there.reap_typing() == []
    assert await here.reap_typing() == [first]
    await here.start_typing(second, "2", TTL_S, 2)
    await world.die(here)
    await world.elapse(TTL_S)
    assert await there.reap_typing() == []
    await world.elapse(2)
    assert await there.reap_typing() == [second]
    assert await there.start_typing(first, "3", TTL_S, 1)


async def test_a_claim_holds_on_every_server(
    world: RedisWorld, here: RedisEphemeral, there: RedisEphemeral
) -> None:
    assert await here.claim("message", 2)
    assert not await there.claim("message", 2)
    await world.elapse(1.5)
    assert not await here.claim("message", 2)
    assert not await there.claim("message", 2)
    await world.elapse(1)
    assert sorted([await here.claim("message", 2), await there.claim("message", 2)]) == [False, True]
