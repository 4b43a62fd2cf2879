import asyncio
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from server.domain.errors import ChatError, ConflictError, ForbiddenError, InvalidError, NotFoundError
from server.events import (
    MOST_ANSWER_BYTES,
    ChatMessage,
    DeleteMessage,
    EditMessage,
    History,
    ReactMessage,
    ReadMessage,
)
from server.services.messages import nearest_that_fit
from server.services.views import size_bytes
from server.views import HistoryData, MessageRead, MessageView, SenderView
from tests.services import Site, SiteRules, open_site


@pytest.fixture
async def room_id(site: Site) -> str:
    """A room of Juan's with Ana."""
    await site.people("juan", "ana", "eva")
    return await site.group("juan", "ana")


async def why(call: Awaitable[object]) -> tuple[type[ChatError], str | None]:
    """The refusal: its class and its field."""
    with pytest.raises(ChatError) as refused:
        await call
    return type(refused.value), refused.value.field


async def history(site: Site, room_id: str, **asked: Any) -> tuple[list[int], bool]:
    """The seqs of a page, and whether there is more."""
    page = await site.messages.history("ana", History(room_id=room_id, **asked))
    return [message.seq for message in page.messages], page.has_more


async def test_only_members_do_anything_with_messages(site: Site, room_id: str) -> None:
    sent = await site.say("juan", room_id)
    of: dict[str, Any] = {"room_id": room_id, "message_id": sent.id}
    messages = site.messages
    for refused in (
        messages.send("eva", ChatMessage(room_id=room_id, content="a")),
        messages.edit("eva", EditMessage(**of, content="a")),
        messages.delete("eva", DeleteMessage(**of)),
        messages.react("eva", ReactMessage(**of, reaction_type="like")),
        messages.read("eva", ReadMessage(**of)),
        messages.history("eva", History(room_id=room_id)),
    ):
        assert await why(refused) == (NotFoundError, "room_id")
    assert (await site.storage.heads([room_id]))[room_id].rev == 1


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        (ChatMessage(room_id="ROOM", content=""), "content"),
        (ChatMessage(room_id="ROOM", content="a" * 4_001), "content"),
        (ChatMessage(room_id="ROOM", content="a", reply_to="no-such"), "reply_to"),
        (ChatMessage(content="a"), "room_id"),
        (ChatMessage(room_id="ROOM", to_user_id="ana", content="a"), "room_id"),
        (ChatMessage(to_user_id="juan", content="a"), "to_user_id"),
    ],
)
async def test_a_message_that_breaks_a_rule_is_refused_by_its_field(
    site: Site, room_id: str, sent: ChatMessage, field: str
) -> None:
    if sent.room_id is not None:
        sent = replace(sent, room_id=room_id)
    assert await why(site.messages.send("juan", sent)) == (InvalidError, field)


async def test_content_is_kept_as_it_came(site: Site, room_id: str) -> None:
    for content in ("😀" * 4_000, " \n<b>&amp;</b>\u202e\u0001 "):
        sent = await site.say("juan", room_id, content)
        assert sent.content == content
    shown = await site.messages.history("ana", History(room_id=room_id))
    assert shown.messages[-1].content == content


async def test_a_message_to_a_person_goes_to_the_one_direct_room(site: Site, room_id: str) -> None:
    assert room_id
    to_ana = await site.messages.send("juan", ChatMessage(to_user_id="ana", content="Hola!"))
    to_juan = await site.messages.send("ana", ChatMessage(to_user_id="juan", content="Hola!"))
    assert to_ana.message.room_id == to_juan.message.room_id
    assert (to_ana.message.seq, to_juan.message.seq) == (1, 2)
    ghost = ChatMessage(to_user_id="ghost", content="Hola!")
    assert await why(site.messages.send("juan", ghost)) == (NotFoundError, "to_user_id")


async def test_a_repeat_is_the_first_message_as_it_is_now(site: Site, room_id: str) -> None:
    wanted = ChatMessage(room_id=room_id, content="Hola!", client_msg_id="1")
    answers = await asyncio.gather(*(site.messages.send("juan", wanted) for _ in range(5)))
    assert len({answer.message.id for answer in answers}) == 1
    assert sorted(answer.duplicate for answer in answers) == [False, True, True, True, True]
    message = answers[0].message
    of = {"room_id": room_id, "message_id": message.id}
    await site.messages.edit("juan", EditMessage(**of, content="Adiós"))
    again = await site.messages.send("juan", wanted)
    assert (again.duplicate, again.message.content, again.message.rev) == (True, "Adiós", 2)
    other = replace(wanted, content="Adiós")
    assert await why(site.messages.send("juan", other)) == (ConflictError, "client_msg_id")
    assert not (await site.messages.send("ana", other)).duplicate


async def test_only_its_sender_edits_a_message_and_admins_may_delete_it(site: Site, room_id: str) -> None:
    sent = await site.say("ana", room_id)
    of = {"room_id": room_id, "message_id": sent.id}
    assert (await why(site.messages.edit("juan", EditMessage(**of, content="a"))))[0] is ForbiddenError
    edited = await site.messages.edit("ana", EditMessage(**of, content="a"))
    assert (edited.message.content, edited.message.edited_at) == ("a", edited.message.created_at)
    by_juan = await site.say("juan", room_id)
    not_hers = DeleteMessage(room_id=room_id, message_id=by_juan.id)
    assert (await why(site.messages.delete("ana", not_hers)))[0] is ForbiddenError
    deleted = await site.messages.delete("juan", DeleteMessage(**of))
    assert (deleted.message.content, deleted.message.seq, deleted.message.rev) == ("", 1, 4)
    assert deleted.message.deleted_at is not None
    assert (await site.messages.delete("ana", DeleteMessage(**of))).message.rev == 4
    assert (await why(site.messages.edit("ana", EditMessage(**of, content="b")))) == (
        NotFoundError,
        "message_id",
    )


async def test_an_admin_no_more_deletes_nothing_of_others(site: Site, room_id: str) -> None:
    await site.rooms.set_role("juan", room_id, "ana", "admin")
    sent = await site.say("juan", room_id)
    await site.say("ana", room_id)
    await site.rooms.set_role("juan", room_id, "ana", "member")
    refused = site.messages.delete("ana", DeleteMessage(room_id=room_id, message_id=sent.id))
    assert (await why(refused))[0] is ForbiddenError


async def test_a_person_has_one_reaction_to_a_message(site: Site, room_id: str) -> None:
    sent = await site.say("juan", room_id)
    seen = []
    for kind, action in (
        ("like", "toggle"),
        ("love", "toggle"),
        ("love", "add"),
        ("like", "remove"),
        ("love", "toggle"),
        ("love", "remove"),
    ):
        wanted = ReactMessage(room_id=room_id, message_id=sent.id, reaction_type=kind)
        answer = await site.messages.react("ana", replace(wanted, action=action))
        seen.append((answer.message.my_reaction, answer.message.reaction_counts, answer.message.rev))
    assert seen == [
        ("like", {"like": 1}, 2),
        ("love", {"love": 1}, 3),
        ("love", {"love": 1}, 3),
        ("love", {"love": 1}, 3),
        (None, {}, 4),
        (None, {}, 4),
    ]
    wrong = ReactMessage(room_id=room_id, message_id=sent.id, reaction_type="hate")
    assert await why(site.messages.react("ana", wrong)) == (InvalidError, "reaction_type")


async def test_a_cursor_goes_forward_only_and_never_past_the_end(site: Site, room_id: str) -> None:
    sent = await site.say_all("juan", room_id, ("one", "two", "three"))
    site.publisher.forget()
    steps = [
        ReadMessage(room_id=room_id, message_id=sent[1].id),
        *(ReadMessage(room_id=room_id, seq=seq) for seq in (1, 2, 99, 0)),
    ]
    reads = [(await site.messages.read("ana", step)).last_read_seq for step in steps]
    assert reads == [2, 2, 2, 3, 3]
    told = site.publisher.told("message_read")
    assert [tell.data for tell in told] == [
        MessageRead(room_id=room_id, user_id="ana", last_read_seq=seq) for seq in (2, 3)
    ]
    assert {tell.rooms for tell in told} == {frozenset([room_id])}
    assert (await site.rooms.get("ana", room_id)).unread == 0


async def test_a_cursor_needs_one_place_to_go_to(site: Site, room_id: str) -> None:
    sent = await site.say("juan", room_id)
    for wanted, refusal in (
        (ReadMessage(room_id=room_id), (InvalidError, "seq")),
        (ReadMessage(room_id=room_id, message_id=sent.id, seq=1), (InvalidError, "seq")),
        (ReadMessage(room_id=room_id, message_id="no-such"), (NotFoundError, "message_id")),
    ):
        assert await why(site.messages.read("ana", wanted)) == refusal


async def test_in_a_large_room_only_the_reader_hears_of_their_cursor(tmp_path: Path) -> None:
    async with open_site(tmp_path, SiteRules(quiet_above=2)) as site:
        await site.people("juan", "ana", "eva")
        room_id = await site.group("juan", "ana", "eva")
        await site.say("juan", room_id)
        await site.messages.read("ana", ReadMessage(room_id=room_id, seq=1))
        told = site.publisher.told("message_read")[0]
        assert (told.rooms, told.users) == (frozenset(), frozenset(["ana"]))


async def test_sending_is_reading_and_nobody_is_told_so(site: Site, room_id: str) -> None:
    await site.say_all("juan", room_id, ("one", "two"))
    await site.say("ana", room_id)
    assert (await site.rooms.get("ana", room_id)).last_read_seq == 3
    assert (await site.rooms.get("juan", room_id)).unread == 1
    assert site.publisher.told("message_read") == []


LAST = 23


@pytest.fixture
async def long_id(site: Site, room_id: str) -> str:
    """A room of 23 messages."""
    await site.say_all("juan", room_id, (f"{n}" for n in range(1, LAST + 1)))
    return room_id


@pytest.mark.parametrize(
    ("asked", "first", "last", "has_more"),
    [
        ({}, 14, 23, True),
        ({"before_seq": 24}, 14, 23, True),
        ({"before_seq": 23}, 13, 22, True),
        ({"before_seq": 12}, 2, 11, True),
        ({"before_seq": 11}, 1, 10, False),
        ({"before_seq": 2}, 1, 1, False),
        ({"before_seq": 999}, 14, 23, True),
        ({"after_seq": 0}, 1, 10, True),
        ({"after_seq": 12}, 13, 22, True),
        ({"after_seq": 13}, 14, 23, False),
        ({"after_seq": 22}, 23, 23, False),
        ({"around_seq": 1}, 1, 10, True),
        ({"around_seq": 6}, 1, 10, True),
        ({"around_seq": 7}, 2, 11, True),
        ({"around_seq": 12}, 7, 16, True),
        ({"around_seq": 19}, 14, 23, True),
        ({"around_seq": 23}, 14, 23, True),
        ({"around_seq": 999}, 14, 23, True),
        ({"around_seq": 12, "limit": 100}, 1, 23, False),
        ({"around_seq": 12, "limit": 1}, 12, 12, True),
        ({"limit": 23}, 1, 23, False),
    ],
    ids=str,
)
async def test_a_window_is_exact_and_says_whether_there_is_more(
    site: Site, long_id: str, asked: dict[str, int], first: int, last: int, *, has_more: bool
) -> None:
    window = await history(site, long_id, **{"limit": 10, **asked})
    assert window == (list(range(first, last + 1)), has_more)


@pytest.mark.parametrize(
    "asked", [{"before_seq": 1}, {"before_seq": 0}, {"after_seq": 23}, {"after_seq": 99}]
)
async def test_beyond_either_end_there_is_nothing(site: Site, long_id: str, asked: dict[str, int]) -> None:
    assert await history(site, long_id, **asked) == ([], False)


async def test_a_room_without_messages_has_no_history(site: Site, room_id: str) -> None:
    for asked in ({}, {"before_seq": 1}, {"after_seq": 0}, {"around_seq": 1}):
        assert await history(site, room_id, **asked) == ([], False)


async def test_history_goes_one_way_at_a_time(site: Site, room_id: str) -> None:
    both = History(room_id=room_id, before_seq=3, after_seq=1)
    assert (await why(site.messages.history("ana", both)))[0] is InvalidError


@pytest.mark.parametrize("step", [{"before_seq": 10**6}, {"after_seq": 0}], ids=str)
async def test_paging_covers_a_room_of_long_messages_without_gaps(
    site: Site, room_id: str, step: dict[str, int]
) -> None:
    """Twenty-five messages of 16 KB do not fit into one answer, so a page holds fewer and says so."""
    await site.say_all("juan", room_id, ("😀" * 4_000 for _ in range(25)))
    seen: list[int] = []
    has_more, pages = True, 0
    while has_more:
        page = await site.messages.history("ana", History(room_id=room_id, **step, limit=100))
        assert size_bytes(page) <= MOST_ANSWER_BYTES
        seqs = [message.seq for message in page.messages]
        if "after_seq" in step:
            seen, step = seen + seqs, {"after_seq": seqs[-1]}
        else:
            seen, step = seqs + seen, {"before_seq": seqs[0]}
        has_more, pages = page.has_more, pages + 1
    assert seen == list(range(1, 26))
    assert pages == 2


async def test_around_a_long_message_both_sides_are_shown(site: Site, room_id: str) -> None:
    await site.say_all("juan", room_id, ("😀" * 4_000 for _ in range(25)))
    page: HistoryData = await site.messages.history("ana", History(room_id=room_id, around_seq=13, limit=100))
    seqs = [message.seq for message in page.messages]
    assert seqs == list(range(seqs[0], seqs[-1] + 1))
    assert abs((13 - seqs[0]) - (seqs[-1] - 13)) <= 1
    assert page.has_more


def view(seq: int, size: int) -> MessageView:
    return MessageView(
        id=f"{seq}",
        room_id="room",
        seq=seq,
        rev=seq,
        client_msg_id=None,
        message_type="text",
        content="a" * size,
        sender=SenderView(id="juan", username="juan", display_name="Juan", avatar_url=None),
        reply_to=None,
        attachments=[],
        reactions={},
        reaction_counts={},
        created_at="",
        edited_at=None,
        deleted_at=None,
    )


@given(st.lists(st.integers(0, 1_000), max_size=30), st.integers(1, 30), st.integers(0, 20_000))
def test_what_fits_is_one_run_nearest_the_anchor(sizes: Sequence[int], anchor: int, most_bytes: int) -> None:
    views = [view(seq, size) for seq, size in enumerate(sizes, 1)]
    chosen = nearest_that_fit(views, anchor, most_bytes)
    seqs = [each.seq for each in chosen]
    assert seqs == list(range(seqs[0], seqs[-1] + 1)) if seqs else True
    total = sum(size_bytes(each) for each in chosen)
    assert total <= most_bytes
    left_out = [each for each in views if each not in chosen]
    if left_out:
        following = min(left_out, key=lambda each: (abs(each.seq - anchor), each.seq))
        assert total + size_bytes(following) > most_bytes
        assert all(abs(seq - anchor) <= abs(following.seq - anchor) for seq in seqs)
