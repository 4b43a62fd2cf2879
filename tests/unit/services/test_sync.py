import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from server.domain.errors import InvalidError, UnavailableError
from server.domain.models import Change, Head
from server.events import (
    DeleteMessage,
    EditMessage,
    History,
    ReactMessage,
    ReadMessage,
    Sync,
)
from server.views import SyncData
from tests.builders import message_change, react_change
from tests.services import Site, SiteRules, hold_answer, open_site
from tests.unit.services.syncing import LONG, first_page, ids, pages


@pytest.fixture
async def people(site: Site) -> Site:
    await site.people("juan", "ana", "eva")
    return site


async def make_rooms(site: Site, count: int, contents: list[str] | None = None) -> list[str]:
    """Rooms of Ana's, a second apart, the newest first, each with these messages."""
    made = []
    for number in range(count):
        site.clock.advance(1)
        made.append(await site.group("juan", "ana", name=f"{number}"))
        await site.say_all("juan", made[-1], contents or [])
    return made[::-1]


async def test_a_room_whose_log_cannot_be_read_is_left_out_and_nothing_else_is(
    people: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, broken = await make_rooms(people, 2, ["Hola!"])
    given = people.storage.heads

    async def heads(room_ids: Sequence[str]) -> dict[str, Head]:
        return {room_id: head for room_id, head in (await given(room_ids)).items() if room_id != broken}

    monkeypatch.setattr(people.storage, "heads", heads)
    page = await first_page(people, {kept: 0, broken: 0})
    assert ([each.room.id for each in page.rooms], page.left) == ([kept], [])
    shown, _ = await people.rooms.mine("ana", "", "", 10)
    assert {each.id: (each.last_seq, each.unread) for each in shown} == {kept: (1, 1), broken: (0, 0)}
    with pytest.raises(UnavailableError):
        await people.messages.history("ana", History(room_id=broken))


async def test_a_message_that_is_deleted_meanwhile_is_not_shown_without_its_text(
    people: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    (room_id,) = await make_rooms(people, 1, ["kept", "a secret"])
    given = people.storage.changes_after
    gone = (await people.storage.messages_between(room_id, 2, 2))[0]

    async def changes_after(room_id: str, rev: int, limit: int) -> list[Change]:
        await people.messages.delete("juan", DeleteMessage(room_id=room_id, message_id=gone.id))
        return await given(room_id, rev, limit)

    monkeypatch.setattr(people.storage, "changes_after", changes_after)
    page = await first_page(people, {room_id: 0})
    assert [(each.content, each.deleted_at) for each in page.rooms[0].changes] == [("kept", None)]
    monkeypatch.setattr(people.storage, "changes_after", given)
    later = await first_page(people, {room_id: page.rooms[0].rev})
    assert [(each.id, each.deleted_at is None) for each in later.rooms[0].changes] == [(gone.id, False)]


async def test_somebody_without_rooms_is_up_to_date(people: Site) -> None:
    page = await first_page(people, {"unknown": 4})
    assert (page.rooms, page.left, page.online, page.next) == ([], ["unknown"], [], None)
    assert (page.me.id, page.epoch) == ("ana", await people.storage.epoch())


async def test_rooms_come_by_last_activity_and_a_room_that_is_not_named_by_its_head_alone(
    people: Site,
) -> None:
    made = await make_rooms(people, 3)
    people.clock.advance(1)
    await people.say("juan", made[2])
    page = await first_page(people)
    assert ids(page) == [made[2], made[0], made[1]]
    first = page.rooms[0]
    assert (first.rev, first.room.unread, first.changes, first.read) == (1, 1, [], None)


async def test_a_room_named_null_brings_its_newest_messages(people: Site) -> None:
    room_id = await people.group("juan", "ana")
    sent = await people.say_all("juan", room_id, (f"{n}" for n in range(60)))
    edit = EditMessage(room_id=room_id, message_id=sent[20].id, content="new")
    await people.messages.edit("juan", edit)
    await people.messages.read("ana", ReadMessage(room_id=room_id, seq=3))
    found = (await first_page(people, {room_id: None})).rooms[0]
    assert sorted(message.seq for message in found.changes) == list(range(11, 61))
    assert (found.changes[-1].seq, found.changes[-1].content) == (21, "new")
    assert found.changes == sorted(found.changes, key=lambda message: message.rev)
    assert (found.rev, found.truncated, found.reset) == (61, False, False)
    assert found.read == {"juan": 60, "ana": 3}


async def test_a_room_named_by_rev_brings_each_changed_message_once(people: Site) -> None:
    room_id = await people.group("juan", "ana")
    sent = await people.say_all("juan", room_id, ("one", "two", "three"))
    of = [{"room_id": room_id, "message_id": each.id} for each in sent]
    await people.messages.edit("juan", EditMessage(**of[0], content="uno"))
    await people.messages.react(
        "ana", ReactMessage(room_id=room_id, message_id=sent[0].id, reaction_type="like")
    )
    await people.messages.delete("juan", DeleteMessage(**of[1]))
    found = (await first_page(people, {room_id: 2})).rooms[0]
    assert [(message.seq, message.rev, message.content) for message in found.changes] == [
        (3, 3, "three"),
        (1, 5, "uno"),
        (2, 6, ""),
    ]
    assert found.changes[1].my_reaction == "like"
    assert (found.rev, found.truncated, found.reset) == (6, False, False)
    up_to_date = (await first_page(people, {room_id: 6})).rooms[0]
    assert (up_to_date.changes, up_to_date.reset) == ([], False)


@pytest.mark.parametrize(("behind", "must_reset"), [(1_000, False), (1_001, True), (-1, True)])
async def test_a_reader_too_far_behind_or_ahead_of_us_starts_anew(
    people: Site, behind: int, *, must_reset: bool
) -> None:
    room_id = await people.group("juan", "ana")
    message = message_change(room_id, 1)
    reactions: list[Change] = []
    for rev in range(2, 1_102):
        now = reactions[-1].message if reactions else message.message
        kind, old = ("like", "love") if rev % 2 else ("love", "like")
        reactions.append(react_change(now, rev, by="eva", reaction_type=kind, old=old if rev > 2 else None))
    await people.storage.append([message, *reactions])
    found = (await first_page(people, {room_id: 1_101 - behind})).rooms[0]
    assert (found.reset, found.truncated, found.rev) == (must_reset, False, 1_101)
    assert [each.rev for each in found.changes] == [1_101]


async def test_who_is_no_longer_in_a_room_is_told_so(people: Site) -> None:
    room_id = await people.group("juan", "ana")
    await people.rooms.remove_member("juan", room_id, "ana")
    page = await first_page(people, {room_id: 3, "another": None})
    assert (page.rooms, page.left) == ([], sorted([room_id, "another"]))


async def test_a_socket_of_one_room_hears_of_that_room_alone(people: Site) -> None:
    one, other = await make_rooms(people, 2, ["Hola!"])
    wanted = Sync(rooms={one: None, other: None, "gone": None})
    page = await people.sync.sync("ana", wanted, only_room_id=other)
    assert ids(page) == [other]
    assert page.left == ["gone"]


async def test_those_online_are_named_and_large_rooms_keep_silent(tmp_path: Path) -> None:
    async with open_site(tmp_path, SiteRules(quiet_above=2)) as site:
        await site.people("juan", "ana", "eva", "leo")
        small_id, large_id = await site.group("juan", "ana"), await site.group("ana", "eva", "leo")
        for user_id in ("juan", "eva"):
            await site.ephemeral.arrive(user_id, user_id)
        page = await first_page(site, {small_id: None, large_id: None})
        assert page.online == ["juan"]
        read = {each.room.id: each.read for each in page.rooms}
        assert read == {small_id: {"juan": 0, "ana": 0}, large_id: None}


async def test_pages_bring_every_room_once_when_nothing_moves(people: Site) -> None:
    made = await make_rooms(people, 7, [LONG] * 6)
    found = await pages(people, dict.fromkeys(made))
    assert ids(*found) == made
    assert len(found) == 4
    assert all(len(each.changes) == 6 for page in found for each in page.rooms)


async def test_a_room_that_does_not_fit_starts_the_next_page_whole(people: Site) -> None:
    made = await make_rooms(people, 3, [LONG] * 10)
    found = await pages(people, dict.fromkeys(made, 0))
    assert [len(page.rooms) for page in found] == [1, 1, 1]
    assert not any(each.truncated for page in found for each in page.rooms)


async def test_a_room_that_moves_up_between_pages_comes_again_later(people: Site) -> None:
    made = await make_rooms(people, 5, [LONG] * 10)
    page = await first_page(people, dict.fromkeys(made))
    for moved in (made[4], made[0]):
        people.clock.advance(1)
        await people.say("juan", moved)
    rest: list[SyncData] = []
    while page.next is not None:
        page = await people.sync.sync("ana", Sync(rooms=dict.fromkeys(made), cursor=page.next))
        rest.append(page)
        assert len(rest) < 20
    later = ids(*rest)
    assert later[:3] == made[1:4]
    assert {made[4], made[0]} <= set(later[3:])
    shown = {each.room.id: each.rev for page in rest for each in page.rooms}
    assert (shown[made[4]], shown[made[0]]) == (11, 11)


async def test_a_room_left_and_entered_anew_between_pages_is_not_missed(people: Site) -> None:
    made = await make_rooms(people, 3, [LONG] * 10)
    page = await first_page(people, dict.fromkeys(made))
    people.clock.advance(1)
    await people.rooms.remove_member("juan", made[2], "ana")
    await people.rooms.add_member("juan", made[2], "ana")
    later = []
    while page.next is not None:
        page = await people.sync.sync("ana", Sync(rooms=dict.fromkeys(made), cursor=page.next))
        later.append(page)
    assert made[2] in ids(*later)


async def test_a_message_dated_long_before_it_was_stored_moves_its_room_up_all_the_same(people: Site) -> None:
    made = await make_rooms(people, 3, [LONG] * 10)
    asked_at = people.clock.ms()
    people.clock.advance(10)
    page = await first_page(people, dict.fromkeys(made))
    await people.storage.append([message_change(made[2], 11, at=asked_at + 1)])
    later = []
    while page.next is not None:
        page = await people.sync.sync("ana", Sync(rooms=dict.fromkeys(made), cursor=page.next))
        later.append(page)
    assert set(ids(*later)) >= {made[1], made[2]}


@pytest.mark.parametrize("step_s", [0, 0.05])
async def test_pages_end_although_people_go_on_talking(people: Site, step_s: float) -> None:
    made = await make_rooms(people, 6, [LONG] * 10)
    seen: set[str] = set()
    cursor: str | None = None
    for number in range(40):
        page = await people.sync.sync("ana", Sync(rooms=dict.fromkeys(made), cursor=cursor))
        seen.update(ids(page))
        cursor = page.next
        if cursor is None:
            break
        people.clock.advance(step_s)
        await people.say("juan", made[number % 6])
    assert cursor is None
    assert seen == set(made)


async def test_what_is_written_while_a_page_is_read_is_on_it_or_after_its_rev(people: Site) -> None:
    room_id = await people.group("juan", "ana")
    await people.say("juan", room_id)
    gate = hold_answer(people.storage, "heads")
    syncing = asyncio.create_task(first_page(people, {room_id: 0}))
    await gate.reached()
    await people.say("juan", room_id)
    gate.open()
    found = (await syncing).rooms[0]
    assert (found.rev, [message.seq for message in found.changes]) == (1, [1])
    following = (await first_page(people, {room_id: found.rev})).rooms[0]
    assert [message.seq for message in following.changes] == [2]


@pytest.mark.parametrize("cursor", ["", "x", "²", "1.2", "1.a.²", "1.a.-1.b", "....", "9" * 200])
async def test_a_cursor_that_sync_did_not_give_is_invalid(people: Site, cursor: str) -> None:
    with pytest.raises(InvalidError) as refused:
        await people.sync.sync("ana", Sync(cursor=cursor))
    assert refused.value.field == "cursor"


async def test_whoever_is_removed_while_sync_reads_is_not_shown_the_room(people: Site) -> None:
    room_id = await people.group("juan", "ana")
    await people.say("juan", room_id)
    gate = hold_answer(people.storage, "messages_between")
    syncing = asyncio.create_task(first_page(people, {room_id: None}))
    await gate.reached()
    await people.rooms.remove_member("juan", room_id, "ana")
    gate.open()
    page = await syncing
    assert (page.rooms, page.left) == ([], [room_id])
