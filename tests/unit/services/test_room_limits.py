"""Limits of rooms and members, for what comes at the same time."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.domain.errors import ForbiddenError, UnavailableError
from tests.services import Site, SiteRules, break_, hold_call, open_site


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[Site]:
    """Two rooms a person, three members a room."""
    async with open_site(tmp_path, SiteRules(rooms_per_user=2, members_per_room=3)) as opened:
        await opened.people("juan", "ana", "eva", "leo")
        yield opened


async def test_a_limit_of_members_holds_for_those_who_come_at_once(small: Site) -> None:
    crowd = [f"user{n}" for n in range(8)]
    await small.people(*crowd)
    room_id = await small.group("juan", kind="public")
    comings = [small.rooms.join(user_id, room_id) for user_id in crowd[:4]]
    comings += [small.rooms.add_member("juan", room_id, user_id) for user_id in crowd[4:]]
    answers = await asyncio.gather(*comings, return_exceptions=True)
    assert sum(isinstance(answer, ForbiddenError) for answer in answers) == 6
    assert (await small.rooms.get("juan", room_id)).member_count == 3


async def test_a_limit_of_rooms_holds_for_all_that_one_does_at_once(small: Site) -> None:
    """Entering, being added and making rooms count alike; direct rooms do not count."""
    joined, added = await small.group("ana", kind="public"), await small.group("eva", kind="public")
    answers = await asyncio.gather(
        small.rooms.join("juan", joined),
        small.rooms.add_member("eva", added, "juan"),
        *(small.group("juan") for _ in range(3)),
        *(small.group(owner, "juan") for owner in ("ana", "eva", "leo")),
        small.rooms.open_direct("juan", "leo"),
        return_exceptions=True,
    )
    assert sum(isinstance(answer, ForbiddenError) for answer in answers) == 6
    assert len((await small.rooms.mine("juan", "", "", 10))[0]) == 3


async def test_who_enters_twice_at_once_is_in_the_room_although_it_is_full_then(small: Site) -> None:
    room_id = await small.group("juan", "ana", kind="public")
    rooms = await asyncio.gather(
        *(small.rooms.join("eva", room_id) for _ in range(3)), small.rooms.add_member("juan", room_id, "eva")
    )
    assert [room.member_count for room in rooms] == [3] * 4


async def test_a_place_is_taken_until_its_write_is_done_though_nobody_waits_for_it(small: Site) -> None:
    room_id = await small.group("juan", "ana", kind="public")
    gate = hold_call(small.storage, "add_member")
    leaving = asyncio.create_task(small.rooms.join("eva", room_id))
    await gate.reached()
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    late = asyncio.create_task(small.rooms.join("leo", room_id))
    await small.storage.ping()
    gate.open()
    with pytest.raises(ForbiddenError):
        await late
    assert (await small.rooms.get("eva", room_id)).role == "member"


async def test_who_is_in_the_store_counts_although_it_was_not_told(small: Site) -> None:
    room_id = await small.group("juan", "ana", kind="public")
    assert await small.directory.member_count(room_id) == 2
    mend = break_(small.publisher, "publish")
    with pytest.raises(UnavailableError):
        await small.rooms.join("eva", room_id)
    mend()
    with pytest.raises(ForbiddenError):
        await small.rooms.join("leo", room_id)
