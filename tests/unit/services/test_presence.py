import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.domain.errors import NotFoundError, UnavailableError
from server.ephemeral.base import StatusChange, Typing
from server.events import TypingPayload
from server.services.notices import Notice, Place, SocketsEnded
from server.services.views import iso
from server.views import TypingStatus, UserStatus
from tests import builders
from tests.services import Site, SiteRules, break_, hold_answer, open_site


@pytest.fixture
async def room_id(site: Site) -> str:
    """A room of Juan's with Ana."""
    await site.people("juan", "ana")
    room_id = await site.group("juan", "ana")
    site.publisher.forget()
    return room_id


def statuses(site: Site) -> list[tuple[str, str]]:
    """Who was told to be what, in order."""
    told = [tell.data for tell in site.publisher.told("user_status")]
    return [(data.user_id, data.status) for data in told if isinstance(data, UserStatus)]


def typing(site: Site) -> list[tuple[str, bool]]:
    """Who was told to be typing or not, in order."""
    told = [tell.data for tell in site.publisher.told("typing_status")]
    return [(data.user_id, data.is_typing) for data in told if isinstance(data, TypingStatus)]


async def type_in(site: Site, room_id: str, user_id: str, *, is_typing: bool = True) -> None:
    wanted = TypingPayload(room_id=room_id, is_typing=is_typing)
    await site.presence.typing(user_id, wanted, f"{user_id} 1")


async def test_a_person_is_online_from_the_first_connection_until_the_grace_after_the_last(
    site: Site, room_id: str
) -> None:
    juan = builders.user("juan")
    for connection in ("phone", "laptop"):
        await site.presence.arrive(juan, connection)
    await site.presence.leave("juan", "phone")
    site.clock.advance(60)
    await site.presence.tick()
    assert statuses(site) == [("juan", "online")]
    left_at = site.clock.ms()
    await site.presence.leave("juan", "laptop")
    site.clock.advance(4.9)
    await site.presence.tick()
    assert statuses(site) == [("juan", "online")]
    site.clock.advance(0.1)
    for _ in range(2):
        await site.presence.tick()
    assert statuses(site) == [("juan", "online"), ("juan", "offline")]
    told = site.publisher.told("user_status")[-1]
    assert told.rooms == {room_id}
    assert told.data == UserStatus(user_id="juan", username="juan", status="offline", last_seen=iso(left_at))
    assert (await site.accounts.me("juan")).last_seen == iso(left_at)


async def test_when_a_person_was_seen_last_counts_from_their_leaving_however_late_it_is_noticed(
    site: Site, room_id: str
) -> None:
    assert room_id
    await site.presence.arrive(builders.user("juan"), "1")
    left_at = site.clock.ms()
    await site.presence.leave("juan", "1")
    site.clock.advance(65)
    await site.presence.tick()
    assert (await site.accounts.me("juan")).last_seen == iso(left_at)


async def test_every_status_of_a_person_has_a_place_behind_the_one_before(site: Site, room_id: str) -> None:
    """So no older one is told behind a newer one, whichever server tells it."""
    assert room_id
    for connection in ("1", "2"):
        await site.presence.arrive(builders.user("juan"), connection)
        await site.presence.leave("juan", connection)
        site.clock.advance(5)
        await site.presence.tick()
    places = [tell.place for tell in site.publisher.told("user_status") if tell.place is not None]
    assert len(places) == 4
    assert {(place.key, place.is_gapless) for place in places} == {("status:juan", False)}
    numbers = [place.number for place in places]
    assert numbers == sorted(set(numbers))


async def test_what_the_reaper_names_again_is_told_with_the_same_place(site: Site, room_id: str) -> None:
    """Whoever was to tell it may have done so before it died."""
    assert room_id
    gone = StatusChange(user_id="juan", is_online=False, version=7)

    async def reap() -> list[StatusChange]:
        return [gone]

    site.ephemeral.reap = reap  # type: ignore[method-assign]  # as after the death of another server
    for _ in range(2):
        await site.presence.tick()
    places = [tell.place for tell in site.publisher.told("user_status")]
    assert places == [Place("status:juan", 7, is_gapless=False)] * 2


async def test_who_is_named_late_by_the_reaper_is_not_told_behind_what_is_newer(
    site: Site, room_id: str
) -> None:
    assert room_id
    await site.presence.arrive(builders.user("juan"), "1")
    gone = StatusChange(user_id="juan", is_online=False, version=0)

    async def reap() -> list[StatusChange]:
        return [gone]

    site.ephemeral.reap = reap  # type: ignore[method-assign]  # as of a server that was slow
    await site.presence.tick()
    assert statuses(site) == [("juan", "online")]


async def test_with_one_connection_too_many_the_oldest_ends(tmp_path: Path) -> None:
    async with open_site(tmp_path, SiteRules(sockets_per_user=2)) as site:
        await site.people("juan", "ana")
        for connection in ("1", "2"):
            await site.presence.arrive(builders.user("juan"), connection)
            await site.presence.arrive(builders.user("ana"), f"ana {connection}")
        assert site.publisher.controls() == []
        await site.presence.arrive(builders.user("juan"), "3")
        ended = SocketsEnded(user_id="juan", connection_ids=frozenset(["1"]), limit=2)
        assert site.publisher.controls() == [ended]


async def test_who_comes_back_within_the_grace_was_never_away(site: Site, room_id: str) -> None:
    assert room_id
    juan = builders.user("juan")
    await site.presence.arrive(juan, "1")
    for connection in range(1, 4):
        await site.presence.leave("juan", str(connection))
        site.clock.advance(4.9)
        await site.presence.tick()
        await site.presence.arrive(juan, str(connection + 1))
        site.clock.advance(5)
        await site.presence.tick()
    assert statuses(site) == [("juan", "online")]


@pytest.mark.parametrize("method", ["set_last_seen", "find_users"])
async def test_who_comes_back_as_the_grace_ends_is_told_last_to_be_online(
    site: Site, room_id: str, method: str
) -> None:
    assert room_id
    juan = builders.user("juan")
    await site.presence.arrive(juan, "1")
    await site.presence.leave("juan", "1")
    site.clock.advance(5)
    gate = hold_answer(site.storage, method)
    ticking = asyncio.create_task(site.presence.tick())
    await gate.reached()
    await site.presence.arrive(juan, "2")
    gate.open()
    await ticking
    assert statuses(site) == [("juan", "online")] * 2
    assert (await site.accounts.me("juan")).status == "online"


async def test_nobody_is_left_online_by_a_store_that_was_away(site: Site, room_id: str) -> None:
    assert room_id
    await site.presence.arrive(builders.user("juan"), "1")
    await site.presence.leave("juan", "1")
    site.clock.advance(5)
    mend = break_(site.storage, "set_last_seen")
    with pytest.raises(UnavailableError):
        await site.presence.tick()
    mend()
    await site.presence.tick()
    assert statuses(site) == [("juan", "online"), ("juan", "offline")]


@pytest.mark.parametrize("part", ["storage.memberships", "publisher.publish"])
async def test_who_came_while_it_could_not_be_told_is_told_of_later(
    site: Site, room_id: str, part: str
) -> None:
    """Their connection failed, and the next one within the grace is not the first."""
    assert room_id
    juan, (owner, method) = builders.user("juan"), part.split(".")
    mend = break_(getattr(site, owner), method)
    with pytest.raises(UnavailableError):
        await site.presence.arrive(juan, "1")
    await site.presence.leave("juan", "1")
    await site.presence.arrive(juan, "2")
    with pytest.raises(UnavailableError):
        await site.presence.tick()
    mend()
    for _ in range(2):
        await site.presence.tick()
    assert statuses(site) == [("juan", "online")]


async def test_who_left_while_they_came_is_told_of_when_they_are_back(site: Site, room_id: str) -> None:
    assert room_id
    juan = builders.user("juan")
    gate = hold_answer(site.storage, "memberships")
    coming = asyncio.create_task(site.presence.arrive(juan, "1"))
    await gate.reached()
    coming.cancel()
    await asyncio.gather(coming, return_exceptions=True)
    await site.presence.leave("juan", "1")
    await site.presence.arrive(juan, "2")
    await site.presence.tick()
    assert statuses(site) == [("juan", "online")]


async def test_who_came_and_went_untold_is_not_told_to_be_online(site: Site, room_id: str) -> None:
    assert room_id
    mend = break_(site.publisher, "publish")
    with pytest.raises(UnavailableError):
        await site.presence.arrive(builders.user("juan"), "1")
    mend()
    await site.presence.leave("juan", "1")
    site.clock.advance(5)
    await site.presence.tick()
    assert statuses(site) == [("juan", "offline")]
    assert not site.presence._untold


async def test_an_account_that_is_gone_is_not_told_of(site: Site) -> None:
    await site.presence.arrive(builders.user("ghost"), "1")
    await site.presence.leave("ghost", "1")
    site.clock.advance(5)
    await site.presence.tick()
    assert not site.presence._untold


async def test_of_several_who_went_each_is_told_once_although_one_could_not_be(
    site: Site, room_id: str
) -> None:
    assert room_id
    for user_id in ("juan", "ana"):
        await site.presence.arrive(builders.user(user_id), user_id)
        await site.presence.leave(user_id, user_id)
    site.clock.advance(5)
    site.publisher.forget()
    publish, told = site.publisher.publish, 0

    async def once(*notices: Notice) -> None:
        nonlocal told
        told += 1
        if told == 2:
            raise UnavailableError("the others cannot be told")
        await publish(*notices)

    site.publisher.publish = once  # type: ignore[method-assign]  # fails in between, which break_ cannot
    with pytest.raises(UnavailableError):
        await site.presence.tick()
    for _ in range(2):
        await site.presence.tick()
    assert sorted(statuses(site)) == [("ana", "offline"), ("juan", "offline")]


async def test_typing_is_told_until_it_ends_by_itself_or_is_ended(site: Site, room_id: str) -> None:
    await type_in(site, room_id, "juan")
    site.clock.advance(5)
    await type_in(site, room_id, "juan")
    site.clock.advance(5.9)
    await site.presence.tick()
    assert typing(site) == [("juan", True), ("juan", True)]
    site.clock.advance(0.1)
    for _ in range(2):
        await site.presence.tick()
    assert typing(site)[2:] == [("juan", False)]
    await type_in(site, room_id, "juan")
    for _ in range(2):
        await type_in(site, room_id, "juan", is_typing=False)
    assert typing(site)[3:] == [("juan", True), ("juan", False)]
    assert {tell.rooms for tell in site.publisher.told()} == {frozenset([room_id])}


async def test_typing_ends_with_the_connection_that_it_came_from(site: Site, room_id: str) -> None:
    juan = builders.user("juan")
    for connection in ("juan 1", "juan 2"):
        await site.presence.arrive(juan, connection)
    await type_in(site, room_id, "juan")
    await site.presence.leave("juan", "juan 2")
    assert typing(site) == [("juan", True)]
    await site.presence.leave("juan", "juan 1")
    assert typing(site) == [("juan", True), ("juan", False)]


async def test_a_message_ends_the_typing_that_is_known_here_and_else_costs_nothing(
    site: Site, room_id: str
) -> None:
    asked = list[Typing]()
    stop_typing = site.ephemeral.stop_typing

    async def counted(typing: Typing) -> bool:
        asked.append(typing)
        return await stop_typing(typing)

    site.ephemeral.stop_typing = counted  # type: ignore[method-assign]  # counts
    await type_in(site, room_id, "juan")
    for user_id in ("ana", "juan", "juan"):
        await site.presence.said(room_id, user_id)
    assert typing(site) == [("juan", True), ("juan", False)]
    assert asked == [Typing(room_id, "juan")]
    await type_in(site, room_id, "juan")
    site.clock.advance(6)
    await site.presence.tick()
    await site.presence.said(room_id, "juan")
    await site.presence.arrive(builders.user("ana"), "ana 1")
    await type_in(site, room_id, "ana")
    await site.presence.leave("ana", "ana 1")
    await site.presence.said(room_id, "ana")
    assert len(asked) == 1
    assert typing(site)[2:] == [("juan", True), ("juan", False), ("ana", True), ("ana", False)]


async def test_a_message_that_another_server_took_ends_the_typing_that_began_here_before_it(
    site: Site, room_id: str
) -> None:
    await type_in(site, room_id, "juan")
    for user_id, ms in (("juan", 0), ("ana", 1)):
        site.presence.passed(room_id, user_id, site.clock.ms() + ms)
    await site.presence.tick()
    assert typing(site) == [("juan", True)]
    site.presence.passed(room_id, "juan", site.clock.ms() + 1)
    await type_in(site, room_id, "juan")
    await site.presence.tick()
    assert typing(site) == [("juan", True)] * 2, "it began anew"
    site.presence.passed(room_id, "juan", site.clock.ms() + 1)
    for _ in range(2):
        await site.presence.tick()
    assert typing(site)[2:] == [("juan", False)]


async def test_nobody_types_in_a_room_that_they_are_not_in(site: Site, room_id: str) -> None:
    await site.people("eva")
    for is_typing in (True, False):
        with pytest.raises(NotFoundError):
            await type_in(site, room_id, "eva", is_typing=is_typing)
    assert site.publisher.told() == []


@pytest.fixture
async def crowd(tmp_path: Path) -> AsyncIterator[Site]:
    """A site where a room of three is large, and two may be shown typing in it."""
    async with open_site(tmp_path, SiteRules(quiet_above=2, most_typing=2)) as opened:
        await opened.people("juan", "ana", "eva")
        yield opened


async def test_who_comes_and_goes_is_told_in_small_rooms_alone(crowd: Site) -> None:
    large_id = await crowd.group("juan", "ana", "eva")
    eva = builders.user("eva")
    await crowd.presence.arrive(eva, "1")
    assert statuses(crowd) == []
    small_id = await crowd.group("juan", "eva")
    await crowd.presence.leave("eva", "1")
    crowd.clock.advance(5)
    await crowd.presence.tick()
    told = crowd.publisher.told("user_status")
    assert [(tell.rooms, large_id in tell.rooms) for tell in told] == [(frozenset([small_id]), False)]


async def test_in_a_large_room_a_few_are_shown_typing_and_others_when_these_end(crowd: Site) -> None:
    room_id = await crowd.group("juan", "ana", "eva")
    for _ in range(2):
        for user_id in ("juan", "ana", "eva"):
            await type_in(crowd, room_id, user_id)
    assert typing(crowd) == [("juan", True), ("ana", True)] * 2
    await crowd.presence.stop_typing(room_id, "ana")
    await type_in(crowd, room_id, "eva")
    assert typing(crowd)[4:] == [("ana", False), ("eva", True)]
