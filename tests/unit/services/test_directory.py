import asyncio

import pytest

from server.domain.errors import NotFoundError, UnavailableError
from server.services.directory import _MOST_KEPT, Directory, _Kept
from server.services.notices import LoginEnded, MembershipChanged, ProfileChanged, RoomChanged
from tests.services import Site, break_, hold_answer


@pytest.fixture
async def room_id(site: Site) -> str:
    """A room of Juan's with Ana."""
    await site.people("juan", "ana", "eva")
    return await site.group("juan", "ana")


async def test_a_room_opens_to_its_members_alone(site: Site, room_id: str) -> None:
    access = await site.directory.get_access(room_id, "ana")
    assert (access.room.id, access.member.user_id, access.member.role) == (room_id, "ana", "member")
    for room, user_id in ((room_id, "eva"), (room_id, "nobody"), ("no room", "juan")):
        with pytest.raises(NotFoundError) as refused:
            await site.directory.get_access(room, user_id)
        assert refused.value.field == "room_id"


async def test_what_was_looked_up_once_needs_no_store(site: Site, room_id: str) -> None:
    await site.directory.get_access(room_id, "ana")
    counts = await site.directory.member_counts([room_id])
    profiles = await site.directory.profiles(["juan", "ana"])
    break_(site.storage, "find_member", "find_rooms", "member_counts", "find_users")
    assert (await site.directory.get_access(room_id, "ana")).member.user_id == "ana"
    assert await site.directory.member_counts([room_id]) == counts == {room_id: 2}
    assert await site.directory.profiles(["juan"]) == {"juan": profiles["juan"]}
    with pytest.raises(UnavailableError):
        await site.directory.get_access(room_id, "juan")


async def test_that_somebody_is_not_there_is_never_kept(site: Site, room_id: str) -> None:
    """A look-up just before somebody comes must not shut them out."""
    with pytest.raises(NotFoundError):
        await site.directory.get_access(room_id, "eva")
    with pytest.raises(NotFoundError):
        await site.directory.get_profile("new")
    await site.rooms.add_member("juan", room_id, "eva")
    await site.people("new")
    assert (await site.directory.get_access(room_id, "eva")).member.user_id == "eva"
    assert (await site.directory.get_profile("new")).id == "new"


async def test_a_notice_drops_what_it_says_has_changed_and_no_more(site: Site, room_id: str) -> None:
    other_id = await site.group("ana", "eva")
    for each in (room_id, other_id):
        await site.directory.get_access(each, "ana")
    await site.directory.member_counts([room_id, other_id])
    await site.directory.profiles(["juan", "ana"])
    await site.storage.remove_member(room_id, "ana")
    await site.storage.update_user("ana", display_name="Ana María")
    await site.directory.forget(LoginEnded(user_id="ana", login_id=None))
    assert (await site.directory.get_access(room_id, "ana")).member.user_id == "ana"
    for notice in (MembershipChanged(room_id=room_id, user_ids=frozenset()), ProfileChanged(user_id="ana")):
        await site.directory.forget(notice)
    with pytest.raises(NotFoundError):
        await site.directory.get_access(room_id, "ana")
    assert await site.directory.member_count(room_id) == 1
    assert (await site.directory.get_profile("ana")).display_name == "Ana María"
    break_(site.storage, "find_member", "member_counts", "find_users")
    assert (await site.directory.get_access(other_id, "ana")).room.id == other_id
    assert await site.directory.member_count(other_id) == 2
    assert (await site.directory.get_profile("juan")).display_name == "Juan"


async def test_a_role_holds_from_its_notice_on(site: Site, room_id: str) -> None:
    await site.directory.get_access(room_id, "ana")
    await site.storage.set_role(room_id, "ana", "admin")
    await site.directory.forget(RoomChanged(room_id=room_id))
    assert (await site.directory.get_access(room_id, "ana")).member.role == "admin"


@pytest.mark.parametrize("method", ["find_member", "find_rooms"])
async def test_access_that_was_being_read_when_it_ended_is_not_kept(
    site: Site, room_id: str, method: str
) -> None:
    gate = hold_answer(site.storage, method)
    reading = asyncio.create_task(site.directory.get_access(room_id, "ana"))
    await gate.reached()
    await site.rooms.remove_member("juan", room_id, "ana")
    gate.open()
    assert (await reading).member.user_id == "ana"
    with pytest.raises(NotFoundError):
        await site.directory.get_access(room_id, "ana")


async def test_a_count_or_profile_that_was_being_read_when_it_changed_is_not_kept(
    site: Site, room_id: str
) -> None:
    for notice in (RoomChanged(room_id=room_id), ProfileChanged(user_id="ana")):
        await site.directory.forget(notice)
    count_gate = hold_answer(site.storage, "member_counts")
    counting = asyncio.create_task(site.directory.member_count(room_id))
    profile_gate = hold_answer(site.storage, "find_users")
    looking = asyncio.create_task(site.directory.get_profile("ana"))
    await count_gate.reached()
    await profile_gate.reached()
    await site.storage.remove_member(room_id, "ana")
    await site.storage.update_user("ana", display_name="Ana María")
    await site.publisher.publish(MembershipChanged(room_id=room_id, user_ids=frozenset(["ana"])))
    await site.publisher.publish(ProfileChanged(user_id="ana"))
    count_gate.open()
    profile_gate.open()
    assert (await counting, (await looking).display_name) == (2, "Ana")
    assert await site.directory.member_count(room_id) == 1
    assert (await site.directory.get_profile("ana")).display_name == "Ana María"


async def test_a_removed_member_is_refused_from_the_answer_on(site: Site, room_id: str) -> None:
    for _ in range(2):
        await site.say("ana", room_id)
    await site.rooms.remove_member("juan", room_id, "ana")
    with pytest.raises(NotFoundError):
        await site.say("ana", room_id)


async def test_nobody_has_access_to_a_deleted_room(site: Site, room_id: str) -> None:
    await site.directory.get_access(room_id, "ana")
    await site.rooms.delete("juan", room_id)
    for user_id in ("juan", "ana"):
        with pytest.raises(NotFoundError):
            await site.directory.get_access(room_id, user_id)


async def test_all_of_several_people_must_exist(site: Site, room_id: str) -> None:
    assert room_id
    await site.directory.require_users(["juan", "ana"], field="member_ids")
    with pytest.raises(NotFoundError) as refused:
        await site.directory.require_users(["juan", "nobody"], field="member_ids")
    assert refused.value.field == "member_ids"


def test_the_oldest_entry_makes_room_for_a_new_one() -> None:
    kept: _Kept[int, int] = _Kept()
    for number in range(_MOST_KEPT + 1):
        kept.keep(number, number, kept.generation)
    assert len(kept.entries) == _MOST_KEPT
    assert (0 in kept.entries, _MOST_KEPT in kept.entries) == (False, True)


async def test_while_notices_do_not_come_the_store_is_asked_who_is_in_a_room(
    site: Site, room_id: str
) -> None:
    is_heard = True
    directory = Directory(site.storage, site.storage, is_heard=lambda: is_heard)
    await directory.get_access(room_id, "ana")
    is_heard = False
    await site.storage.remove_member(room_id, "ana")
    with pytest.raises(NotFoundError):
        await directory.get_access(room_id, "ana")
    await directory.get_access(room_id, "juan")
    is_heard = True
    await site.storage.remove_member(room_id, "juan")
    with pytest.raises(NotFoundError):  # what was read meanwhile was not kept
        await directory.get_access(room_id, "juan")


async def test_what_may_have_changed_unheard_is_all_forgotten(site: Site, room_id: str) -> None:
    await site.directory.get_access(room_id, "ana")
    await site.directory.member_counts([room_id])
    await site.storage.remove_member(room_id, "ana")
    await site.storage.update_user("juan", display_name="Another")
    site.directory.forget_all()
    with pytest.raises(NotFoundError):
        await site.directory.get_access(room_id, "ana")
    assert await site.directory.member_count(room_id) == 1
    assert (await site.directory.get_profile("juan")).display_name == "Another"
