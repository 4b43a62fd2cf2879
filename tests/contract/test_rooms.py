"""The laws of rooms, memberships and cursors."""

import asyncio
import random
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from server.domain.errors import NotFoundError
from server.domain.models import Member, Role, Room, RoomKind
from server.storage.base import Membership, Storage
from tests.builders import CREATED_AT, member, message_change, room

NAMES = ["Café con leche", "100% real_talk", "STRASSE", "Ñandú 👍", "a'b\"c\\d", "[brackets]*?"]


async def make(storage: Storage, *members: Member, made: Room | None = None) -> Room:
    created, is_new = await storage.create_room(made or room("room"), members)
    assert is_new
    return created


async def roles(storage: Storage, room_id: str = "room") -> dict[str, str]:
    return {each.user_id: each.role for each in await storage.members(room_id, (0, ""), 100)}


async def test_a_room_is_created_with_its_members(storage: Storage) -> None:
    asked = replace(room("room", kind="direct", name=None), first_seq=1, digest="of what was asked")
    owner, other = member("room", "juan", role="owner"), member("room", "ana")
    assert await storage.create_room(asked, [owner, other]) == (asked, True)
    assert await storage.find_rooms(["room", "another"]) == {"room": asked}
    assert await storage.find_member("room", "juan") == owner
    assert await storage.find_member("room", "ana") == other
    assert await storage.find_member("room", "eva") is None
    assert await storage.member_counts(["room", "another"]) == {"room": 2, "another": 0}


async def test_it_is_said_who_of_some_people_are_members(storage: Storage) -> None:
    await make(storage, member("room", "juan"), member("room", "ana"), member("room", "eva"))
    await make(storage, member("other", "leo"), made=room("other"))
    await storage.remove_member("room", "eva")
    asked = ["juan", "eva", "leo", "nobody", "ana"]
    assert await storage.members_among("room", asked) == {"juan", "ana"}
    assert await storage.members_among("room", []) == set()
    many = [f"user-{number}" for number in range(2_500)]
    assert await storage.members_among("other", [*many, "leo"]) == {"leo"}
    await storage.update_room("room", deleted_at=1)
    assert await storage.members_among("room", asked) == set()


async def test_asking_for_nothing_answers_nothing(storage: Storage) -> None:
    assert await storage.find_rooms([]) == {}
    assert await storage.member_counts([]) == {}
    assert await storage.advance_cursors([]) == []
    assert await storage.memberships("nobody") == []
    assert await storage.members("nothing", (0, ""), 10) == []


async def test_a_key_stands_for_one_room(storage: Storage) -> None:
    first = await make(storage, member("room", "juan"))
    again = room("another", key=first.key, name="Another name")
    assert await storage.create_room(again, [member("another", "ana")]) == (first, False)
    assert await storage.find_rooms(["another"]) == {}
    assert await storage.find_member("another", "ana") is None


async def test_the_same_key_at_the_same_time_makes_one_room(storage: Storage) -> None:
    answers = await asyncio.gather(
        *(
            storage.create_room(room(f"room-{index}", key="one"), [member(f"room-{index}", "juan")])
            for index in range(20)
        )
    )
    assert sum(is_new for _, is_new in answers) == 1
    (only,) = {made.id for made, _ in answers}
    assert [found.room.id for found in await storage.memberships("juan")] == [only]


async def test_a_deleted_room_keeps_its_row_and_its_key_and_has_no_members(storage: Storage) -> None:
    made = await make(storage, member("room", "juan", role="owner"), member("room", "ana"))
    await storage.update_room("room", deleted_at=CREATED_AT + 5)
    deleted = replace(made, deleted_at=CREATED_AT + 5)
    assert await storage.find_rooms(["room"]) == {"room": deleted}
    assert await storage.create_room(room("another", key=made.key), []) == (deleted, False)
    assert await storage.find_member("room", "juan") is None
    assert await storage.memberships("ana") == []
    assert await storage.members("room", (0, ""), 10) == []
    assert await storage.member_counts(["room"]) == {"room": 0}


async def test_nobody_joins_a_room_that_is_deleted_or_unknown(storage: Storage) -> None:
    await make(storage, member("room", "juan"))
    await storage.update_room("room", deleted_at=CREATED_AT)
    for room_id in ("room", "unknown"):
        with pytest.raises(NotFoundError):
            await storage.add_member(member(room_id, "ana"))
    assert await storage.memberships("ana") == []


async def test_a_room_is_renamed_and_an_unknown_one_is_not_made(storage: Storage) -> None:
    made = await make(storage)
    await storage.update_room("room", name="Ελλάς 'quoted'")
    await storage.update_room("unknown", name="x")
    assert await storage.find_rooms(["room", "unknown"]) == {"room": replace(made, name="Ελλάς 'quoted'")}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", NAMES),
        ("café", ["Café con leche"]),
        ("CAFÉ CON", ["Café con leche"]),
        ("%", ["100% real_talk"]),
        ("_", ["100% real_talk"]),
        ("straße", ["STRASSE"]),
        ("ñ", ["Ñandú 👍"]),
        ("👍", ["Ñandú 👍"]),
        ("'b\"", ["a'b\"c\\d"]),
        ("\\", ["a'b\"c\\d"]),
        ("*?", ["[brackets]*?"]),
        ("nothing like it", []),
    ],
)
async def test_public_rooms_are_found_by_a_part_of_the_name(
    storage: Storage, query: str, found: Sequence[str]
) -> None:
    for index, name in enumerate(NAMES):
        await make(storage, made=room(f"room-{index}", kind="public", name=name))
    assert [each.name for each in await storage.public_rooms(query, "", 10)] == list(found)


async def test_public_rooms_come_in_pages_without_private_and_deleted_ones(storage: Storage) -> None:
    for index in range(10):
        kind: RoomKind = "group" if index % 5 == 4 else "public"
        await make(storage, made=room(f"room-{index}", kind=kind, name=f"Name {index}"))
    await storage.update_room("room-3", deleted_at=CREATED_AT)
    first = await storage.public_rooms("name", "", 4)
    rest = await storage.public_rooms("name", first[-1].id, 10)
    assert [each.id for each in first] == ["room-0", "room-1", "room-2", "room-5"]
    assert [each.id for each in rest] == ["room-6", "room-7", "room-8"]


async def test_a_renamed_room_is_found_by_its_new_name_alone(storage: Storage) -> None:
    await make(storage, made=room("room", kind="public", name="Old"))
    await storage.update_room("room", name="NEW")
    assert await storage.public_rooms("old", "", 10) == []
    assert [each.id for each in await storage.public_rooms("new", "", 10)] == ["room"]


async def test_who_joins_starts_at_the_end_of_the_log(storage: Storage) -> None:
    await make(storage, member("room", "juan"))
    asked = member("room", "early")
    assert await storage.add_member(asked) == asked
    await storage.append([message_change("room", rev, by="juan") for rev in range(1, 4)])
    late = replace(member("room", "late"), last_read_seq=1)
    assert await storage.add_member(late) == replace(late, last_read_seq=3)
    assert await storage.find_member("room", "late") == replace(late, last_read_seq=3)


async def test_who_is_a_member_already_stays_as_they_are(storage: Storage) -> None:
    await make(storage)
    first = await storage.add_member(member("room", "ana", role="admin", incarnation="first"))
    again = member("room", "ana", joined_at=CREATED_AT + 9, incarnation="second")
    assert await storage.add_member(again) == first
    assert await storage.find_member("room", "ana") == first


async def test_who_is_kept_is_who_is_there(storage: Storage) -> None:
    await make(storage, member("room", "juan", role="owner"), member("room", "ana"))
    ana = member("room", "ana")
    assert await storage.keep_member("room", "ana") == ana
    assert await storage.keep_member("room", "ana") == ana
    assert await storage.keep_member("room", "eva") is None
    assert await storage.keep_member("nothing", "ana") is None
    assert await storage.remove_member("room", "ana") == ana
    assert await storage.keep_member("room", "ana") is None
    await storage.update_room("room", deleted_at=CREATED_AT)
    assert await storage.keep_member("room", "juan") is None


async def test_who_leaves_and_joins_again_is_another_incarnation(storage: Storage) -> None:
    await make(storage, member("room", "juan", role="owner"))
    first = await storage.add_member(member("room", "ana", incarnation="first"))
    assert await storage.remove_member("room", "ana") == first
    assert await storage.remove_member("room", "ana") is None
    second = await storage.add_member(member("room", "ana", incarnation="second"))
    assert await storage.find_member("room", "ana") == second
    assert second.incarnation == "second"


async def test_joining_at_the_same_time_adds_one_member(storage: Storage) -> None:
    await make(storage)
    answers = await asyncio.gather(
        *(storage.add_member(member("room", "ana", incarnation=f"{index}")) for index in range(10))
    )
    assert len({each.incarnation for each in answers}) == 1
    assert await storage.find_member("room", "ana") == answers[0]


async def test_members_come_in_pages_by_standing(storage: Storage) -> None:
    joined = [(5, "b"), (5, "a"), (1, "z"), (9, "d"), (5, "c")]
    await make(storage, *(member("room", user_id, joined_at=at) for at, user_id in joined))
    first = await storage.members("room", (0, ""), 3)
    assert [(each.joined_at, each.user_id) for each in first] == [(1, "z"), (5, "a"), (5, "b")]
    rest = await storage.members("room", (5, "b"), 3)
    assert [(each.joined_at, each.user_id) for each in rest] == [(5, "c"), (9, "d")]


async def test_memberships_are_all_rooms_of_a_user(storage: Storage) -> None:
    expected = {}
    for index in range(5):
        mine, made = member(f"room-{index}", "juan", role="admin"), room(f"room-{index}")
        await make(storage, mine, member(f"room-{index}", "ana"), made=made)
        expected[made.id] = Membership(room=made, member=mine)
    await make(storage, member("room-x", "ana"), made=room("room-x"))
    await storage.remove_member("room-2", "juan")
    del expected["room-2"]
    found = await storage.memberships("juan")
    assert {each.room.id: each for each in found} == expected


async def test_the_member_of_longest_standing_follows_the_last_owner(storage: Storage) -> None:
    await make(
        storage,
        member("room", "owner", role="owner", joined_at=1),
        member("room", "admin", role="admin", joined_at=7),
        member("room", "c", joined_at=5),
        member("room", "b", joined_at=5),
    )
    removed = await storage.remove_member("room", "owner")
    assert removed is not None
    assert removed.role == "owner"
    assert await roles(storage) == {"admin": "admin", "b": "owner", "c": "member"}


async def test_nobody_follows_while_another_owner_stays_or_a_member_goes(storage: Storage) -> None:
    await make(
        storage,
        member("room", "one", role="owner"),
        member("room", "two", role="owner"),
        member("room", "ana"),
        member("room", "eva"),
    )
    await storage.remove_member("room", "eva")
    await storage.remove_member("room", "one")
    assert await roles(storage) == {"two": "owner", "ana": "member"}


async def test_the_last_member_leaves_an_empty_room(storage: Storage) -> None:
    await make(storage, member("room", "juan", role="owner"))
    assert await storage.remove_member("room", "juan") is not None
    assert await roles(storage) == {}
    assert "room" in await storage.find_rooms(["room"])


async def test_a_room_never_loses_its_owner_when_all_leave_at_once(storage: Storage) -> None:
    people = [f"user-{index}" for index in range(10)]
    await make(storage, *(member("room", each, role="owner") for each in people[:5]))
    for each in people[5:]:
        await storage.add_member(member("room", each))
    await asyncio.gather(*(storage.remove_member("room", each) for each in people[:9]))
    assert await roles(storage) == {"user-9": "owner"}


@pytest.mark.parametrize("role", ["owner", "admin", "member"])
async def test_a_role_is_set(storage: Storage, role: Role) -> None:
    await make(storage, member("room", "juan", role="owner"), member("room", "ana"))
    assert await storage.set_role("room", "ana", role) is True
    assert await roles(storage) == {"juan": "owner", "ana": role}


async def test_the_last_owner_keeps_the_role(storage: Storage) -> None:
    await make(storage, member("room", "juan", role="owner"), member("room", "ana"))
    assert await storage.set_role("room", "juan", "member") is False
    assert await storage.set_role("room", "juan", "owner") is True
    assert await storage.set_role("room", "nobody", "owner") is False
    assert await storage.set_role("unknown", "juan", "owner") is False
    assert await roles(storage) == {"juan": "owner", "ana": "member"}
    assert await storage.set_role("room", "ana", "owner") is True
    assert await storage.set_role("room", "juan", "admin") is True
    assert await roles(storage) == {"juan": "admin", "ana": "owner"}


async def test_two_owners_who_step_down_at_once_leave_one(storage: Storage) -> None:
    await make(storage, member("room", "juan", role="owner"), member("room", "ana", role="owner"))
    answers = await asyncio.gather(
        storage.set_role("room", "juan", "member"), storage.set_role("room", "ana", "member")
    )
    assert sorted(answers) == [False, True]
    assert sorted((await roles(storage)).values()) == ["member", "owner"]


async def test_cursors_move_forward_and_never_back(storage: Storage) -> None:
    await make(storage, member("room", "juan"), member("room", "ana"))
    asked = [("room", "juan", 5), ("room", "ana", 2), ("room", "nobody", 7), ("unknown", "juan", 7)]
    assert await storage.advance_cursors(asked) == [5, 2, 0, 0]
    assert await storage.advance_cursors([("room", "juan", 3), ("room", "ana", 4)]) == [5, 4]
    assert await storage.advance_cursors([("room", "juan", 8), ("room", "juan", 6)]) == [8, 8]
    found = await storage.find_member("room", "juan")
    assert found is not None
    assert found.last_read_seq == 8


async def test_cursors_moved_at_the_same_time_end_at_the_greatest(storage: Storage) -> None:
    await make(storage, member("room", "juan"))
    seqs = random.Random(7).sample(range(1, 101), 100)
    answers = await asyncio.gather(*(storage.advance_cursors([("room", "juan", seq)]) for seq in seqs))
    assert all(answer[0] >= seq for answer, seq in zip(answers, seqs, strict=True))
    assert await storage.advance_cursors([("room", "juan", 0)]) == [100]
