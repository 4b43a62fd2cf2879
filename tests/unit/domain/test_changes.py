"""How drafts become entries: whatever comes, in whatever batches, numbers, states and counts are right."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.changes import Draft, Outcome, Plan, Present, React, ReactAction, plan, with_reaction
from server.domain.errors import ChatError, ConflictError, ForbiddenError, NotFoundError
from server.domain.models import Change
from tests.builders import CREATED_AT, message_change
from tests.drafts import delete, edit, post, react
from tests.memory_log import LogView
from tests.room_model import ROOMS, USERS, Op, RoomModel, check_present, ops, verdict_of


def _present(entries: Sequence[Change], drafts: Sequence[Draft]) -> Present:
    """What a store with these entries says of what the drafts concern."""
    view = LogView(entries)
    rooms = {draft.room_id for draft in drafts}
    messages = {(room, each.id): each for room in rooms for each in view.messages(room).values()}
    reactions = {
        (d.room_id, d.message_id, d.by): view.reaction(d.room_id, d.by, message.seq)
        for d in drafts
        if isinstance(d, React) and (message := messages.get((d.room_id, d.message_id)))
    }
    return Present(
        heads={room: view.head(room) for room in rooms},
        messages=messages,
        reactions=reactions,
        known=view.by_keys((draft.room_id, draft.key) for draft in drafts),
    )


def _plan(entries: Sequence[Change], *drafts: Draft) -> Plan:
    return plan(drafts, _present(entries, drafts), node="node")


def _one(entries: Sequence[Change], draft: Draft) -> Outcome | ChatError:
    (outcome,) = _plan(entries, draft).outcomes
    return outcome


sent = _plan([], post(unique="1")).entries[0]
gone = _plan([sent], delete(sent.message)).entries[0]
batches = st.lists(st.lists(ops(), min_size=1, max_size=8), max_size=8)


@given(batches)
def test_a_batch_does_what_its_drafts_do_one_by_one(batches: list[list[Op]]) -> None:
    models = {room: RoomModel() for room in ROOMS}
    entries: list[Change] = []
    for number, batch in enumerate(batches):
        known = {room: list(model.messages) for room, model in models.items()}
        drafts = [op.draft(known[op.room], at=CREATED_AT + number) for op in batch]
        planned = _plan(entries, *drafts)
        entries.extend(planned.entries)
        expected = [models[draft.room_id].do(draft) for draft in drafts]
        assert [verdict_of(outcome) for outcome in planned.outcomes] == expected
        assert len(planned.entries) == expected.count("stored")
    view = LogView(entries)
    check_present(models, {room: list(view.messages(room).values()) for room in ROOMS})


@given(batches)
def test_each_entry_follows_from_the_one_before_it(batches: list[list[Op]]) -> None:
    entries: list[Change] = []
    for batch in batches:
        known = {room: list(LogView(entries).messages(room)) for room in ROOMS}
        planned = _plan(entries, *(op.draft(known[op.room]) for op in batch))
        entries.extend(planned.entries)
        for room, head in planned.heads.items():
            assert head == LogView(entries).head(room)
    for room in ROOMS:
        of_room = [entry for entry in entries if entry.room_id == room]
        assert [entry.rev for entry in of_room] == list(range(1, len(of_room) + 1))
        sent = [entry for entry in of_room if entry.kind == "message"]
        assert [entry.message.seq for entry in sent] == list(range(1, len(sent) + 1))
        assert len({entry.key for entry in of_room}) == len(of_room)
        for rev, entry in enumerate(of_room, 1):
            assert entry.message.rev == entry.rev == rev
            assert entry.last_seq == max(each.message.seq for each in of_room[:rev])
            holder = of_room[entry.message.content_rev - 1]
            assert holder.kind in ("message", "edit")
            assert entry.kind == "delete" or holder.message.content == entry.message.content
            assert bool(entry.digest) == (entry.kind == "message")


@given(st.lists(st.tuples(st.integers(0, 29), st.sampled_from(["like", "love", None])), max_size=120))
def test_reaction_counts_are_exact_and_lists_hold_at_most_20(switches: list[tuple[int, str | None]]) -> None:
    message = message_change().message
    own: dict[str, str | None] = {}
    for number, new in switches:
        user = f"user-{number}"
        message = with_reaction(message, user, own.get(user), new)
        own[user] = new
        reactions = [each for each in own.values() if each is not None]
        assert message.reaction_counts == {each: reactions.count(each) for each in reactions}
        assert message.reactions.keys() == message.reaction_counts.keys()
        for reaction, users in message.reactions.items():
            assert len(users) == len(set(users)) <= 20
            assert all(own[each] == reaction for each in users)


def test_the_first_20_who_react_are_shown() -> None:
    message = message_change().message
    for n in range(25):
        message = with_reaction(message, f"user-{n}", None, "like")
    assert message.reactions == {"like": tuple(f"user-{n}" for n in range(20))}
    message = with_reaction(message, "user-3", "like", None)
    message = with_reaction(message, "user-25", None, "like")
    assert message.reactions["like"][-2:] == ("user-19", "user-25")
    assert message.reaction_counts == {"like": 25}


def test_another_reaction_of_a_user_replaces_the_first() -> None:
    message = message_change()
    first, second = _plan(
        [message], react(message.message, "ana"), react(message.message, "ana", "sad")
    ).entries
    assert first.message.reactions == {"like": ("ana",)}
    assert second.message.reactions == {"sad": ("ana",)}
    assert (first.reaction_type, second.reaction_type) == ("like", "sad")


@pytest.mark.parametrize(
    ("own", "action", "becomes"),
    [
        (None, "toggle", "like"),
        ("like", "toggle", None),
        ("sad", "toggle", "like"),
        (None, "add", "like"),
        ("like", "add", "like"),
        ("sad", "add", "like"),
        (None, "remove", None),
        ("like", "remove", None),
        ("sad", "remove", "sad"),
    ],
)
def test_what_becomes_of_a_reaction(own: str | None, action: ReactAction, becomes: str | None) -> None:
    before = [] if own is None else _plan([sent], react(sent.message, "ana", own)).entries
    draft = react(sent.message, "ana", "like", action=action)
    outcome = _one([sent, *before], draft)
    assert isinstance(outcome, Outcome)
    assert outcome.message.reaction_counts == ({} if becomes is None else {becomes: 1})
    assert (outcome.change is None) == (own == becomes)
    assert outcome.change is None or outcome.change.reaction_type == becomes


@pytest.mark.parametrize(
    ("before", "draft", "refusal"),
    [
        pytest.param([sent], edit(sent.message, "x", by="ana"), ForbiddenError, id="edit of another's"),
        pytest.param([sent], delete(sent.message, by="ana"), ForbiddenError, id="deletion of another's"),
        pytest.param([], edit(sent.message, "x"), NotFoundError, id="edit of nothing"),
        pytest.param([], delete(sent.message), NotFoundError, id="deletion of nothing"),
        pytest.param([], react(sent.message, "ana"), NotFoundError, id="reaction to nothing"),
        pytest.param([sent, gone], edit(sent.message, "x"), NotFoundError, id="edit of a tombstone"),
        pytest.param([sent, gone], react(sent.message, "ana"), NotFoundError, id="reaction to a tombstone"),
        pytest.param(
            [sent, gone], delete(sent.message, by="ana"), ForbiddenError, id="tombstone of another's"
        ),
        pytest.param([sent], post("other", unique="1"), ConflictError, id="another text under one key"),
        pytest.param([sent, gone], post("other", unique="1"), ConflictError, id="the same, deleted since"),
    ],
)
def test_what_is_refused(before: list[Change], draft: Draft, refusal: type[ChatError]) -> None:
    planned = _plan(before, draft)
    assert isinstance(planned.outcomes[0], refusal)
    assert planned.entries == ()


def test_an_admin_may_delete_what_others_wrote_but_not_edit_it() -> None:
    outcome = _one([sent], delete(sent.message, by="ana", by_admin=True))
    assert isinstance(outcome, Outcome)
    tombstone = outcome.message
    assert (tombstone.seq, tombstone.content, tombstone.attachments) == (1, "", ())
    assert (tombstone.reactions, tombstone.reaction_counts, tombstone.rev) == ({}, {}, 2)
    assert tombstone.deleted_at is not None


@pytest.mark.parametrize(
    ("changes", "content"),
    [
        pytest.param([], "Hola!", id="as it was sent"),
        pytest.param([edit(sent.message, "edited")], "edited", id="edited since"),
        pytest.param([delete(sent.message)], "", id="deleted since"),
    ],
)
def test_a_repeat_answers_the_first_message_as_it_stands(changes: list[Draft], content: str) -> None:
    entries = [sent, *_plan([sent], *changes).entries]
    outcome = _one(entries, post(unique="1"))
    assert isinstance(outcome, Outcome)
    assert outcome.is_duplicate
    assert (outcome.message.id, outcome.message.content) == (sent.message.id, content)


def test_a_change_that_stands_in_the_log_already_is_its_own_outcome() -> None:
    """An append whose answer was lost: what it stored is not decided a second time."""
    draft = react(sent.message, "ana")
    entries = [sent, *_plan([sent], draft).entries]
    planned = _plan(entries, draft)
    assert planned.entries == ()
    outcome = planned.outcomes[0]
    assert isinstance(outcome, Outcome)
    assert (outcome.change, outcome.is_duplicate) == (entries[1], False)


def test_one_key_in_two_rooms_is_two_messages() -> None:
    planned = _plan([], *(post(room_id=room, unique="1", by=user) for room in ROOMS for user in USERS))
    assert len(planned.entries) == len(ROOMS) * len(USERS)
    assert isinstance(planned.outcomes[0], Outcome)
    assert all(isinstance(each, Outcome) and not each.is_duplicate for each in planned.outcomes)
