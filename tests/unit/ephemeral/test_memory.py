"""What only the memory of one process can show; the guarantees are in tests/contract/test_ephemeral.py."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from server.ephemeral.base import Typing
from server.ephemeral.memory import MemoryEphemeral
from tests.services import Clock

PEOPLE = st.sampled_from(["juan", "ana", "eva"])
ROOMS = st.sampled_from(["here", "there"])
CONNECTIONS = st.sampled_from(["1", "2", "3"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), PEOPLE, CONNECTIONS),
        st.tuples(st.just("leave"), PEOPLE, CONNECTIONS),
        st.tuples(st.just("type"), PEOPLE, CONNECTIONS, ROOMS),
        st.tuples(st.just("stop"), PEOPLE, ROOMS),
        st.tuples(st.just("end"), CONNECTIONS),
        st.tuples(st.just("claim"), ROOMS),
        st.tuples(st.just("pass"), st.floats(0, 7)),
    ),
    max_size=40,
)


async def act(ephemeral: MemoryEphemeral, clock: Clock, step: tuple[object, ...]) -> None:
    match step:
        case ("arrive", str(person), str(connection)):
            await ephemeral.arrive(person, f"{person} {connection}")
        case ("leave", str(person), str(connection)):
            await ephemeral.leave(person, f"{person} {connection}", 5)
        case ("type", str(person), str(connection), str(room)):
            await ephemeral.start_typing(Typing(room, person), connection, 6, 2)
        case ("stop", str(person), str(room)):
            await ephemeral.stop_typing(Typing(room, person))
        case ("end", str(connection)):
            await ephemeral.stop_typing_from(connection)
        case ("claim", str(name)):
            await ephemeral.claim(name, 6)
        case ("pass", float(seconds)):
            clock.advance(seconds)


@given(STEPS)
def test_nothing_is_remembered_of_those_who_are_gone(steps: list[tuple[object, ...]]) -> None:
    """Whatever happened, when everybody has left no table holds anything."""

    async def live() -> None:
        clock = Clock()
        ephemeral = MemoryEphemeral(clock=clock.s)
        for step in steps:
            await act(ephemeral, clock, step)
        for person in ("juan", "ana", "eva"):
            for connection in ("1", "2", "3"):
                await ephemeral.leave(person, f"{person} {connection}", 5)
        clock.advance(7)
        await ephemeral.reap()
        await ephemeral.reap_typing()
        assert (ephemeral._leases, ephemeral._typing, ephemeral._typing_from) == ({}, {}, {})
        assert not ephemeral._claims._ends

    asyncio.run(live())


@given(STEPS)
def test_whoever_holds_a_lease_is_online_and_nobody_else(steps: list[tuple[object, ...]]) -> None:
    """Checked against a plain list of leases."""

    async def live() -> None:
        clock = Clock()
        ephemeral = MemoryEphemeral(clock=clock.s)
        ends: dict[tuple[str, str], float] = {}
        for step in steps:
            match step:
                case ("arrive", str(person), str(connection)):
                    ends[person, connection] = float("inf")
                case ("leave", str(person), str(connection)) if (person, connection) in ends:
                    ends[person, connection] = clock.now_s + 5
            await act(ephemeral, clock, step)
            await ephemeral.reap()
            ends = {lease: end for lease, end in ends.items() if end > clock.now_s}
            online = await ephemeral.online({"juan", "ana", "eva"})
            assert online == {person for person, _ in ends}

    asyncio.run(live())
