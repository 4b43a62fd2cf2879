"""The laws of the log: what is appended stays, is numbered once, and reads back as it was."""

import asyncio
from collections.abc import Sequence

import pytest

from server.domain.models import Change, Head, Message
from server.storage.base import CollisionError, Slot, Storage
from tests.builders import (
    delete_change,
    edit_change,
    member,
    message_change,
    react_change,
    room,
)
from tests.contract.conftest import Implementation

TEXTS = {
    "emoji": "👩‍👩‍👧‍👦 🇪🇸 ✌🏽 ❤️",
    "right to left": "שלום \u202eabc\u202c مرحبا",
    "combining": "e\u0301 \u0915\u094d\u0937 Z\u0351\u036b\u0343",
    "composed": "\u00e9 \u1e9b\u0323",
    "last of the plane": "\uffff \ufffe \ufeff",
    "beyond it": "\U0010ffff\U0010fffd\U00010000",
    "quotes": "'\" '' \\' \\\" \\ ` \\u0041 \\n",
    "SQL": "'); DROP TABLE changes; -- % _ ? :name $1 @x",
    "JSON": '"],[null,{"a":1}',
    "control": "\x01\x1f\x7f\x80\x9f\t\r\n\v\f\u2028\u2029",
    "spaces": "  \u00a0\u3000 x \n ",
    "astral": "\U0001f600" * 4_000,
    "a number": "007",
    "HTML": "<script>alert(1)</script>&amp;",
}


async def post(storage: Storage, *contents: str, room_id: str = "room", by: str = "juan") -> list[Message]:
    """Append messages to a room that has none; the messages."""
    changes = [
        message_change(room_id, rev, by=by, content=content) for rev, content in enumerate(contents, start=1)
    ]
    await storage.append(changes)
    return [change.message for change in changes]


async def present(storage: Storage, message: Message) -> Message:
    """The message as every way of reading it tells; they must agree."""
    by_id = await storage.find_messages([(message.room_id, message.id)])
    by_seq = await storage.messages_at([(message.room_id, message.seq)])
    by_range = await storage.messages_between(message.room_id, message.seq, message.seq)
    assert list(by_id.values()) == list(by_seq.values()) == by_range
    return by_range[0]


async def test_a_room_without_changes_has_an_empty_head(storage: Storage) -> None:
    assert await storage.heads(["nothing"]) == {"nothing": Head()}
    assert await storage.changes_after("nothing", 0, 10) == []
    assert await storage.messages_between("nothing", 1, 10) == []


async def test_asking_for_nothing_answers_nothing(storage: Storage) -> None:
    await storage.append([])
    assert await storage.heads([]) == {}
    assert await storage.find_by_keys([]) == {}
    assert await storage.find_messages([]) == {}
    assert await storage.messages_at([]) == {}
    assert await storage.own_reactions([]) == {}
    assert await storage.changes_after("room", 0, 0) == []


async def test_a_head_is_the_last_change_of_its_room(storage: Storage) -> None:
    first, second = await post(storage, "one", "two")
    edit = edit_change(first, 3, "uno", last_seq=2)
    await storage.append([edit])
    await post(storage, "elsewhere", room_id="other")
    heads = await storage.heads(["room", "other", "nothing"])
    assert heads == {
        "room": Head(rev=3, last_seq=2, at=edit.at),
        "other": Head(rev=1, last_seq=1, at=second.created_at - 1),
        "nothing": Head(),
    }


@pytest.mark.parametrize("size", [1, 3, 4, 5, 16, 63, 64, 65, 100, 500])
async def test_a_batch_of_any_size_reads_back_as_it_was(storage: Storage, size: int) -> None:
    batch = [message_change("room", rev, content=f"number {rev}") for rev in range(1, size + 1)]
    await storage.append(batch)
    assert await storage.changes_after("room", 0, size) == batch
    assert await storage.messages_between("room", 1, size) == [change.message for change in batch]


async def test_a_batch_may_span_rooms(storage: Storage) -> None:
    batch = [message_change(f"room-{rev % 3}", rev // 3 + 1) for rev in range(9)]
    await storage.append(batch)
    for index in range(3):
        mine = [change for change in batch if change.room_id == f"room-{index}"]
        assert await storage.changes_after(f"room-{index}", 0, 10) == mine


async def test_changes_after_a_rev_ascend_and_stop_at_the_limit(storage: Storage) -> None:
    await storage.append([message_change("room", rev) for rev in range(1, 11)])
    assert [change.rev for change in await storage.changes_after("room", 3, 4)] == [4, 5, 6, 7]
    assert [change.rev for change in await storage.changes_after("room", 8, 4)] == [9, 10]
    assert await storage.changes_after("room", 10, 4) == []
    assert await storage.changes_after("room", 99, 4) == []


async def test_a_range_of_messages_ends_where_the_room_ends(storage: Storage) -> None:
    await storage.append([message_change("room", rev) for rev in range(1, 6)])
    for first, last, seqs in [
        (2, 3, [2, 3]),
        (-5, 2, [1, 2]),
        (4, 2**53, [4, 5]),
        (6, 9, []),
        (3, 2, []),
        (0, 0, []),
    ]:
        found = await storage.messages_between("room", first, last)
        assert [message.seq for message in found] == seqs


@pytest.mark.parametrize("content", TEXTS.values(), ids=list(TEXTS))
async def test_text_comes_back_byte_for_byte(storage: Storage, content: str) -> None:
    (message,) = await post(storage, content)
    assert await present(storage, message) == message
    edit = edit_change(message, 2, content + "!")
    await storage.append([edit])
    assert (await present(storage, message)).content == content + "!"
    assert [change.message.content for change in await storage.changes_after("room", 0, 9)] == [
        content,
        content + "!",
    ]


async def test_every_field_of_a_change_comes_back(storage: Storage) -> None:
    change = message_change(
        "room",
        1,
        by="~uAnother_id-1",
        key="k" * 64,
        client_msg_id='from "a" client \U0001f600',
        message_type="image",
        attachments=({"id": "a", "size": 2**40, "ratio": 1.5, "tags": ["x", None, True], "of": {"é": "👍"}},),
        reply_to="another",
        node="node-7",
        at=2**41,
    )
    await storage.append([change])
    assert await storage.changes_after("room", 0, 1) == [change]
    assert await storage.find_by_keys([("room", change.key)]) == {("room", change.key): change}
    assert await present(storage, change.message) == change.message


async def test_a_message_is_read_as_its_last_change_left_it(storage: Storage) -> None:
    first, second = await post(storage, "one", "two")
    like = react_change(first, 3, by="ana", last_seq=2)
    edit = edit_change(like.message, 4, "uno", last_seq=2)
    love = react_change(edit.message, 5, by="ana", reaction_type="love", old="like", last_seq=2)
    await storage.append([like, edit, love])
    assert await present(storage, first) == love.message
    assert love.message.content == "uno"
    assert love.message.reaction_counts == {"love": 1}
    assert await present(storage, second) == second


async def test_entries_are_told_again_as_they_were_told(storage: Storage) -> None:
    (message,) = await post(storage, "one")
    like = react_change(message, 2, by="ana")
    edit = edit_change(like.message, 3, "uno")
    taken_back = react_change(edit.message, 4, by="ana", reaction_type=None, old="like")
    await storage.append([like, edit])
    await storage.append([taken_back])
    assert (await storage.changes_after("room", 1, 10)) == [like, edit, taken_back]
    known = await storage.find_by_keys([("room", like.key), ("room", edit.key), ("room", "unknown")])
    assert known == {("room", like.key): like, ("room", edit.key): edit}


async def test_a_deleted_message_is_a_tombstone_everywhere(storage: Storage) -> None:
    message, other = await post(storage, "a secret", "not that one")
    edit = edit_change(message, 3, "another secret", last_seq=2)
    gone = delete_change(edit.message, 4, by="admin", last_seq=2)
    await storage.append([edit, gone])
    assert await present(storage, message) == gone.message
    assert gone.message.content == ""
    assert await present(storage, other) == other
    told = await storage.changes_after("room", 0, 10)
    assert [change.rev for change in told] == [1, 2, 3, 4]
    assert told[3] == gone
    (known,) = (await storage.find_by_keys([("room", message.id)])).values()
    assert known.digest
    assert known.message.content in ("", "a secret")


async def test_messages_are_found_in_their_own_room_only(storage: Storage) -> None:
    (message,) = await post(storage, "one")
    assert await storage.find_messages([("other", message.id), ("room", "unknown")]) == {}
    assert await storage.messages_at([("other", 1), ("room", 2)]) == {}
    (elsewhere,) = await post(storage, "two", room_id="other")
    assert await storage.messages_at([("other", 1), ("room", 1)]) == {
        ("room", 1): message,
        ("other", 1): elsewhere,
    }


async def test_a_change_that_is_no_message_is_not_found_as_one(storage: Storage) -> None:
    (message,) = await post(storage, "one")
    like = react_change(message, 2, by="ana")
    await storage.append([like])
    assert await storage.find_messages([("room", like.key)]) == {}


@pytest.mark.parametrize(
    "clash",
    [message_change("room", 2, key="new"), message_change("room", 3, key="room-1")],
    ids=["number", "key"],
)
async def test_a_taken_number_or_key_is_a_collision(storage: Storage, clash: Change) -> None:
    await post(storage, "one", "two")
    before = await storage.changes_after("room", 0, 10)
    with pytest.raises(CollisionError) as refused:
        await storage.append([clash, message_change("room", clash.rev + 1, key="next")])
    assert refused.value.slot in (None, Slot("room", clash.rev))
    assert await storage.changes_after("room", 0, 10) == before


async def test_a_collision_leaves_at_most_a_prefix_of_its_batch(storage: Storage) -> None:
    await storage.append([message_change("room", rev) for rev in range(1, 4)])
    batch = [message_change("other", 1), message_change("other", 2), message_change("room", 3, key="late")]
    with pytest.raises(CollisionError) as refused:
        await storage.append([*batch, message_change("other", 3)])
    assert refused.value.slot is None
    assert [change.rev for change in await storage.changes_after("room", 0, 10)] == [1, 2, 3]
    left = await storage.changes_after("other", 0, 10)
    assert left == batch[: len(left)]
    assert len(left) <= 2


async def test_the_same_key_may_stand_in_two_rooms(storage: Storage) -> None:
    await storage.append([message_change("room", 1, key="same"), message_change("other", 1, key="same")])
    assert len(await storage.find_by_keys([("room", "same"), ("other", "same")])) == 2


async def test_own_reactions_are_those_that_hold_now(storage: Storage) -> None:
    first, second, third = await post(storage, "one", "two", "three")
    like = react_change(first, 4, by="ana", last_seq=3)
    love = react_change(like.message, 5, by="ana", reaction_type="love", old="like", last_seq=3)
    haha = react_change(love.message, 6, by="bea", reaction_type="haha", last_seq=3)
    wow = react_change(second, 7, by="ana", reaction_type="wow", last_seq=3)
    taken_back = react_change(wow.message, 8, by="ana", reaction_type=None, old="wow", last_seq=3)
    sad = react_change(third, 9, by="ana", reaction_type="sad", last_seq=3)
    await storage.append([like, love, haha, wow, taken_back, sad])
    asked = [("room", who, seq) for who in ("ana", "bea", "eva") for seq in (1, 2, 3, 4)]
    assert await storage.own_reactions([*asked, ("other", "ana", 1)]) == {
        ("room", "ana", 1): "love",
        ("room", "bea", 1): "haha",
        ("room", "ana", 3): "sad",
    }
    await storage.append([delete_change(sad.message, 10, last_seq=3)])
    assert await storage.own_reactions([("room", "ana", 3)]) == {}


async def cursor(storage: Storage, user_id: str) -> int:
    found = await storage.find_member("room", user_id)
    assert found is not None
    return found.last_read_seq


async def test_sending_moves_the_senders_own_cursor_forward_alone(storage: Storage) -> None:
    await storage.create_room(room("room"), [member("room", "juan"), member("room", "ana")])
    await storage.append(
        [
            message_change("room", 1, by="juan"),
            message_change("room", 2, by="juan"),
            message_change("room", 3, by="a stranger"),
        ]
    )
    assert (await cursor(storage, "juan"), await cursor(storage, "ana")) == (2, 0)
    await storage.advance_cursors([("room", "juan", 9)])
    await storage.append([message_change("room", 4, by="juan")])
    assert await cursor(storage, "juan") == 9
    (message,) = await storage.messages_between("room", 3, 3)
    await storage.append([react_change(message, 5, by="ana", last_seq=4)])
    assert await cursor(storage, "ana") == 0


async def test_concurrent_writers_leave_neither_gap_nor_double(
    storage: Storage, implementation: Implementation
) -> None:
    """Four writers number by the head they read, and try again when another one was faster."""
    each = round(25 * implementation.effort)

    async def write(writer: str) -> None:
        for index in range(each):
            await append_somehow(storage, [f"{writer}-{index}"])

    await asyncio.gather(*(write(f"writer-{index}") for index in range(4)))
    log = await storage.changes_after("room", 0, 1_000)
    assert [change.rev for change in log] == list(range(1, 4 * each + 1))
    assert [change.message.seq for change in log] == list(range(1, 4 * each + 1))
    assert len({change.key for change in log}) == 4 * each
    for index in range(4):
        mine = [change.key for change in log if change.key.startswith(f"writer-{index}-")]
        assert mine == [f"writer-{index}-{number}" for number in range(each)]


async def test_a_writer_that_goes_away_leaves_a_store_that_goes_on(storage: Storage) -> None:
    keys = [[f"{batch}-{index}" for index in range(20)] for batch in range(12)]
    for turns, batch in enumerate(keys):
        task = asyncio.create_task(append_somehow(storage, batch))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await append_somehow(storage, batch)
    log = await storage.changes_after("room", 0, 1_000)
    assert [change.rev for change in log] == list(range(1, 241))
    assert [change.key for change in log] == [key for batch in keys for key in batch]


async def append_somehow(storage: Storage, keys: Sequence[str]) -> None:
    """Append messages with these keys, those that are not there yet, until they are."""
    while True:
        head = (await storage.heads(["room"]))["room"]
        known = await storage.find_by_keys([("room", key) for key in keys])
        missing = [key for key in keys if ("room", key) not in known]
        if not missing:
            return
        batch = [message_change("room", head.rev + 1 + index, key=key) for index, key in enumerate(missing)]
        try:
            await storage.append(batch)
        except CollisionError:
            continue
