import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pytest

from server.domain.errors import (
    ChatError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)
from server.domain.models import Role
from server.events import CreateRoom
from server.services.notices import MembershipChanged, Notice, RoomChanged, Tell
from server.views import MemberChanged
from tests.services import Site, SiteRules, break_, hold_answer, hold_call, open_site


@pytest.fixture
async def people(site: Site) -> Site:
    await site.people("juan", "ana", "eva", "leo")
    return site


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[Site]:
    """A site of narrow limits, where a room of three is large."""
    rules = SiteRules(rooms_per_user=2, members_per_room=3, quiet_above=2)
    async with open_site(tmp_path, rules) as opened:
        await opened.people("juan", "ana", "eva", "leo")
        yield opened


async def why(call: Awaitable[object]) -> tuple[type[ChatError], str | None]:
    """The refusal: its class and its field."""
    with pytest.raises(ChatError) as refused:
        await call
    return type(refused.value), refused.value.field


def brief(notice: Notice) -> tuple[Any, ...]:
    """What a notice is about and whom it goes to."""
    match notice:
        case Tell():
            return (notice.event, sorted(notice.users) or sorted(notice.rooms))
        case MembershipChanged():
            return ("membership", sorted(notice.user_ids), notice.left_because)
        case _:
            return (type(notice).__name__,)


async def test_a_new_room_has_its_creator_for_owner_and_its_people_enter_before_they_are_told(
    people: Site,
) -> None:
    wanted = CreateRoom(kind="group", name=" Friends ", member_ids=["ana", "juan", "eva", "ana"])
    room = await people.rooms.create("juan", wanted)
    assert (room.kind, room.name, room.role, room.member_count) == ("group", "Friends", "owner", 3)
    assert [brief(notice) for notice in people.publisher.notices] == [
        ("membership", ["ana", "eva", "juan"], None),
        ("room_joined", ["ana", "eva", "juan"]),
        *[("member_joined", [room.id])] * 3,
    ]
    members, _ = await people.rooms.members("ana", room.id, (0, ""), 100)
    assert {each.user.id: each.role for each in members} == {
        "juan": "owner",
        "ana": "member",
        "eva": "member",
    }


async def test_a_repeat_answers_the_first_room_and_tells_nothing_anew(people: Site) -> None:
    wanted = CreateRoom(kind="group", name="Friends", member_ids=["ana"], client_msg_id="1")
    rooms = await asyncio.gather(*(people.rooms.create("juan", wanted) for _ in range(5)))
    assert len({room.id for room in rooms}) == 1
    assert [tell.event for tell in people.publisher.told("room_joined")] == ["room_joined"]
    other = CreateRoom(kind="group", name="Foes", client_msg_id="1")
    assert await why(people.rooms.create("juan", other)) == (ConflictError, "client_msg_id")
    await people.rooms.rename("juan", rooms[0].id, "Foes")
    assert (await people.rooms.create("juan", wanted)).id == rooms[0].id
    assert await why(people.rooms.create("juan", other)) == (ConflictError, "client_msg_id")
    await people.storage._database.write(lambda file: file.execute("UPDATE rooms SET digest = ''").rowcount)
    assert (await people.rooms.create("juan", other)).id == rooms[0].id  # made before it was kept
    assert (await people.rooms.create("ana", other)).name == "Foes"


async def test_a_repeat_shows_nothing_of_a_group_that_its_maker_is_no_longer_in(people: Site) -> None:
    wanted = CreateRoom(kind="group", name="Friends", member_ids=["ana"], client_msg_id="1")
    room = await people.rooms.create("juan", wanted)
    await people.rooms.leave("juan", room.id)
    assert await why(people.rooms.create("juan", wanted)) == (ConflictError, "client_msg_id")


@pytest.mark.parametrize(
    ("wanted", "refusal"),
    [
        (CreateRoom(kind="group", name=" "), (InvalidError, "name")),
        (CreateRoom(kind="group", name="a" * 101), (InvalidError, "name")),
        (CreateRoom(kind="public", name="a", member_ids=["ana", "ghost"]), (NotFoundError, "member_ids")),
    ],
)
async def test_a_room_that_breaks_a_rule_is_not_made(
    people: Site, wanted: CreateRoom, refusal: tuple[type[ChatError], str]
) -> None:
    assert await why(people.rooms.create("juan", wanted)) == refusal
    assert await people.rooms.incarnations("juan") == {}


async def test_two_people_have_one_direct_room_whoever_asks_first(people: Site) -> None:
    rooms = await asyncio.gather(
        *(people.rooms.open_direct(*pair) for pair in [("juan", "ana"), ("ana", "juan")] * 4)
    )
    assert len({room.id for room in rooms}) == 1
    assert {room.kind for room in rooms} == {"direct"}
    told = [brief(notice) for notice in people.publisher.notices]
    # Whoever asks meanwhile is in the room before the answer too; nobody is told twice.
    assert told.count(("room_joined", ["ana", "juan"])) == 1
    assert told.count(("membership", ["ana", "juan"], None)) == len(rooms)
    people.clock.advance(60)
    people.publisher.notices.clear()
    await people.rooms.open_direct("juan", "ana")
    assert people.publisher.notices == []
    assert await why(people.rooms.open_direct("juan", "juan")) == (InvalidError, "user_id")
    assert await why(people.rooms.open_direct("juan", "ghost")) == (NotFoundError, "user_id")


async def test_a_direct_room_keeps_its_two_people(people: Site) -> None:
    room_id = (await people.rooms.open_direct("juan", "ana")).id
    rooms = people.rooms
    for refused in (
        rooms.add_member("juan", room_id, "eva"),
        rooms.remove_member("juan", room_id, "ana"),
        rooms.set_role("juan", room_id, "ana", "owner"),
        rooms.rename("juan", room_id, "Us"),
        rooms.delete("juan", room_id),
    ):
        assert (await why(refused))[0] is ForbiddenError
    for refused in (rooms.leave("juan", room_id), rooms.remove_member("juan", room_id, "juan")):
        assert (await why(refused))[0] is ConflictError


async def test_anybody_joins_a_public_room_once(people: Site) -> None:
    room_id = await people.group("juan", kind="public")
    await people.say("juan", room_id)
    people.publisher.forget()
    rooms = await asyncio.gather(*(people.rooms.join("ana", room_id) for _ in range(3)))
    assert {(room.role, room.last_read_seq, room.unread) for room in rooms} == {("member", 1, 0)}
    assert len(people.publisher.told("room_joined")) == 1
    assert len(people.publisher.told("member_joined")) == 1


async def test_a_group_is_not_there_for_those_who_are_not_in_it(people: Site) -> None:
    room_id = await people.group("juan", "ana")
    rooms = people.rooms
    for target in (room_id, "no such room"):
        for refused in (
            rooms.join("eva", target),
            rooms.get("eva", target),
            rooms.leave("eva", target),
            rooms.add_member("eva", target, "leo"),
            rooms.remove_member("eva", target, "ana"),
            rooms.set_role("eva", target, "ana", "admin"),
            rooms.rename("eva", target, "Mine"),
            rooms.delete("eva", target),
            rooms.members("eva", target, (0, ""), 10),
        ):
            assert await why(refused) == (NotFoundError, "room_id")


async def test_only_admins_change_a_room(people: Site) -> None:
    room_id = await people.group("juan", "ana", "eva")
    rooms = people.rooms
    for refused in (
        rooms.add_member("ana", room_id, "leo"),
        rooms.remove_member("ana", room_id, "eva"),
        rooms.set_role("ana", room_id, "ana", "owner"),
        rooms.rename("ana", room_id, "Mine"),
        rooms.delete("ana", room_id),
    ):
        assert (await why(refused))[0] is ForbiddenError
    await rooms.set_role("juan", room_id, "ana", "admin")
    assert (await rooms.add_member("ana", room_id, "leo")).member_count == 4
    assert (await rooms.rename("ana", room_id, "Ours")).name == "Ours"
    for refused in (
        rooms.set_role("ana", room_id, "eva", "owner"),
        rooms.set_role("ana", room_id, "juan", "member"),
        rooms.remove_member("ana", room_id, "juan"),
        rooms.delete("ana", room_id),
    ):
        assert (await why(refused))[0] is ForbiddenError


async def test_who_is_removed_leaves_before_anybody_is_told(people: Site) -> None:
    room_id = await people.group("juan", "ana", "eva")
    people.publisher.forget()
    room = await people.rooms.remove_member("juan", room_id, "ana")
    assert room is not None
    assert room.member_count == 2
    assert [brief(notice) for notice in people.publisher.notices] == [
        ("membership", ["ana"], "removed"),
        ("room_left", ["ana"]),
        ("member_left", [room_id]),
    ]
    assert await why(people.rooms.remove_member("juan", room_id, "ana")) == (NotFoundError, "user_id")


async def test_removing_oneself_is_leaving(people: Site) -> None:
    room_id = await people.group("juan", "ana")
    people.publisher.forget()
    assert await people.rooms.remove_member("ana", room_id, "ana") is None
    assert brief(people.publisher.notices[0]) == ("membership", ["ana"], "left")
    assert (await why(people.rooms.leave("ana", room_id)))[0] is NotFoundError


async def test_the_last_owner_hands_over_or_the_oldest_member_follows(people: Site) -> None:
    room_id = await people.group("juan")
    for user_id in ("eva", "ana"):
        people.clock.advance(1)
        await people.rooms.add_member("juan", room_id, user_id)
    assert (await why(people.rooms.set_role("juan", room_id, "juan", "member")))[0] is ConflictError
    await people.rooms.leave("juan", room_id)
    assert (await people.rooms.get("eva", room_id)).role == "owner"
    await people.rooms.set_role("eva", room_id, "ana", "owner")
    await people.rooms.set_role("eva", room_id, "eva", "member")
    assert (await people.rooms.get("eva", room_id)).role == "member"


async def test_who_enters_a_public_room_that_everybody_left_owns_it(people: Site) -> None:
    room_id = await people.group("juan", kind="public")
    await people.rooms.leave("juan", room_id)
    assert (await people.rooms.join("ana", room_id)).role == "owner"
    assert (await people.rooms.join("juan", room_id)).role == "member"


async def test_a_room_has_an_owner_when_one_enters_as_the_last_one_leaves(people: Site) -> None:
    room_id = await people.group("juan", kind="public")
    gate = hold_call(people.storage, "add_member")
    entering = asyncio.create_task(people.rooms.join("ana", room_id))
    await gate.reached()
    leaving = asyncio.create_task(people.rooms.leave("juan", room_id))
    for _ in range(5):
        await people.storage.ping()
    gate.open()
    await asyncio.gather(entering, leaving)
    assert (await people.rooms.get("ana", room_id)).role == "owner"


@pytest.mark.parametrize("role", ["admin", "owner"])
async def test_a_role_holds_when_it_is_answered(people: Site, role: Role) -> None:
    room_id = await people.group("juan", "ana")
    await people.directory.get_access(room_id, "ana")
    people.publisher.forget()
    await people.rooms.set_role("juan", room_id, "ana", role)
    assert (await people.directory.get_access(room_id, "ana")).member.role == role
    assert [brief(notice) for notice in people.publisher.notices] == [
        ("RoomChanged",),
        ("room_updated", [room_id]),
    ]
    people.publisher.forget()
    await people.rooms.set_role("juan", room_id, "ana", role)
    assert people.publisher.notices == []


async def test_a_name_is_told_to_the_room(people: Site) -> None:
    room_id = await people.group("juan", "ana")
    people.publisher.forget()
    await people.rooms.rename("juan", room_id, "New")
    changed, told = people.publisher.notices
    assert changed == RoomChanged(room_id=room_id)
    assert isinstance(told, Tell)
    assert (told.rooms, getattr(told.data, "name", None)) == (frozenset([room_id]), "New")
    assert (await people.directory.get_access(room_id, "ana")).room.name == "New"


async def test_a_deleted_room_is_gone_for_everybody(people: Site) -> None:
    room_id = await people.group("juan", "ana", kind="public")
    people.publisher.forget()
    await people.rooms.delete("juan", room_id)
    assert [brief(notice) for notice in people.publisher.notices] == [
        ("membership", ["ana", "juan"], "deleted"),
        ("room_left", ["ana", "juan"]),
    ]
    for refused in (people.rooms.get("juan", room_id), people.rooms.join("eva", room_id)):
        assert (await why(refused))[0] is NotFoundError
    assert await people.rooms.incarnations("ana") == {}
    assert (await people.rooms.public("ana", "", "", 10))[0] == []


async def test_limits_hold_for_rooms_and_members(small: Site) -> None:
    room_id = await small.group("juan", "ana", "eva")
    assert (await why(small.rooms.add_member("juan", room_id, "leo")))[0] is ForbiddenError
    too_many = CreateRoom(kind="group", name="a", member_ids=["ana", "eva", "leo"])
    assert (await why(small.rooms.create("juan", too_many)))[0] is ForbiddenError
    await small.group("juan", kind="public")
    assert (await why(small.group("juan")))[0] is ForbiddenError
    assert (await why(small.group("leo", "juan")))[0] is ForbiddenError


async def test_a_repeat_is_answered_although_the_limit_is_reached_by_now(small: Site) -> None:
    await small.group("ana")
    wanted = CreateRoom(kind="group", name="Friends", member_ids=["ana"], client_msg_id="1")
    first = await small.rooms.create("juan", wanted)
    await small.group("juan")
    assert (await small.rooms.create("juan", wanted)).id == first.id


async def test_in_a_large_room_comings_and_goings_are_not_told(small: Site) -> None:
    room_id = await small.group("juan", "ana")
    small.publisher.forget()
    await small.rooms.add_member("juan", room_id, "eva")
    assert [tell.event for tell in small.publisher.told()] == ["room_joined"]
    small.publisher.forget()
    await small.rooms.remove_member("juan", room_id, "eva")
    assert [tell.event for tell in small.publisher.told()] == ["room_left", "member_left"]


async def test_lists_go_through_all_pages(people: Site) -> None:
    made = sorted([await people.group("juan", kind="public", name=f"Ñandú {n}") for n in range(5)])
    await people.group("juan", name="ñandú hidden")
    for listing, expected in ((people.rooms.public, 5), (people.rooms.mine, 6)):
        found: list[str] = []
        after: str | None = ""
        while after is not None:
            page, after = await listing("juan", "ÑANDÚ", after, 2)
            found += [room.id for room in page]
        assert len(found) == expected
        assert found == sorted(found)
        assert set(made) <= set(found)
    assert (await people.rooms.public("ana", "hidden", "", 10))[0] == []
    assert (await people.rooms.mine("ana", "", "", 10))[0] == []


async def test_members_come_by_their_time_in_the_room(people: Site) -> None:
    room_id = await people.group("juan", "ana", "eva")
    people.clock.advance(1)
    await people.rooms.add_member("juan", room_id, "leo")
    found: list[str] = []
    after: tuple[int, str] | None = (0, "")
    while after is not None:
        page, after = await people.rooms.members("ana", room_id, after, 2)
        found += [member.user.id for member in page]
    assert found == ["ana", "eva", "juan", "leo"]


async def test_a_removal_is_told_although_the_asker_did_not_wait(people: Site) -> None:
    room_id = await people.group("juan", "ana")
    await people.directory.get_access(room_id, "ana")
    people.publisher.forget()
    gate = hold_answer(people.storage, "remove_member")
    removing = asyncio.create_task(people.rooms.remove_member("juan", room_id, "ana"))
    await gate.reached()
    removing.cancel()
    await asyncio.gather(removing, return_exceptions=True)
    gate.open()
    await people.publisher.until_told("room_left")
    assert brief(people.publisher.notices[0]) == ("membership", ["ana"], "removed")
    assert (await why(people.directory.get_access(room_id, "ana")))[0] is NotFoundError


async def test_when_a_write_may_have_been_done_everybody_looks_at_the_store_again(
    people: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, and when it is certain: until then it may still be done."""
    people.clock.drive(monkeypatch)
    room_id = await people.group("juan", "ana")
    people.publisher.forget()
    mend = break_(people.storage, "remove_member")
    assert (await why(people.rooms.remove_member("juan", room_id, "ana")))[0] is UnavailableError
    mend()
    await people.clock.elapse(0)
    assert [brief(notice) for notice in people.publisher.notices] == [("membership", ["ana"], None)]
    await people.directory.get_access(room_id, "ana")
    await people.storage.remove_member(room_id, "ana")
    await people.clock.elapse(30)
    assert (await why(people.directory.get_access(room_id, "ana")))[0] is NotFoundError


@pytest.mark.parametrize("by", ["juan", "ana"])
async def test_who_stays_is_told_who_left_also_where_other_servers_cannot_be_told_yet(
    people: Site, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = await people.group("juan", "ana")
    people.publisher.forget()
    publish = people.publisher.publish

    async def publish_here(*notices: Notice) -> None:
        await publish(*notices)
        if any(isinstance(notice, MembershipChanged) for notice in notices):
            raise UnavailableError("the other servers cannot be told now")

    monkeypatch.setattr(people.publisher, "publish", publish_here)
    assert (await why(people.rooms.remove_member(by, room_id, "ana")))[0] is UnavailableError
    (left,) = people.publisher.told("member_left")
    assert left.rooms == {room_id}
    assert isinstance(left.data, MemberChanged)
    assert left.data.member_count == 1
