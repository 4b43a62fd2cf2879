"""Group commit when all goes well: batches and their limits, order, telling."""

import asyncio
from collections.abc import Sequence

import pytest

from server.domain.changes import Draft, Outcome
from server.domain.errors import ConflictError, ForbiddenError, NotFoundError, UnavailableError
from server.domain.models import Change
from server.storage import commit
from server.storage.commit import Committer
from tests.drafts import Told, committing, delete, edit, post, react
from tests.memory_log import MemoryLog
from tests.virtual_time import in_virtual_time, run, settle


async def _write_behind(
    log: MemoryLog, committer: Committer, *drafts: Draft
) -> list[Outcome | BaseException]:
    """Give all drafts while another message is being written: they form the batches after it."""
    log.gate.clear()
    log.arrived.clear()
    first = asyncio.create_task(committer.append(post("first", room_id="another room")))
    await log.arrived.wait()
    rest = [asyncio.create_task(committer.append(draft)) for draft in drafts]
    await settle()
    log.gate.set()
    await first
    return await asyncio.gather(*rest, return_exceptions=True)


def _numbers(changes: Sequence[Change]) -> list[tuple[str, int, int]]:
    return [(change.room_id, change.rev, change.message.seq) for change in changes]


@in_virtual_time
async def test_what_arrives_while_a_batch_is_written_is_written_by_one_append() -> None:
    log, told = MemoryLog(), Told()
    async with committing(log, told) as committer:
        drafts = [post(f"{n}", room_id=f"room-{n % 2}") for n in range(10)]
        outcomes = await _write_behind(log, committer, *drafts)
    assert [len(batch) for batch in log.appends] == [1, 10]
    assert [o.message.content for o in outcomes if isinstance(o, Outcome)] == [f"{n}" for n in range(10)]
    assert _numbers(log.appends[1]) == [(f"room-{n % 2}", n // 2 + 1, n // 2 + 1) for n in range(10)]
    assert told.batches == log.appends


@in_virtual_time
async def test_a_batch_has_at_most_500_entries() -> None:
    log, told = MemoryLog(), Told()
    async with committing(log, told) as committer:
        await _write_behind(log, committer, *[post(f"{n}") for n in range(1_001)])
    assert [len(batch) for batch in log.appends] == [1, 500, 500, 1]
    assert [entry.rev for entry in log.entries[1:]] == list(range(1, 1_002))


@in_virtual_time
async def test_a_batch_has_at_most_8_mib_of_text() -> None:
    log, told = MemoryLog(), Told()
    async with committing(log, told) as committer:
        await _write_behind(log, committer, *[post("😀" * 60_000) for _ in range(80)])
    sizes = [sum(len(entry.message.content.encode()) for entry in batch) for batch in log.appends]
    assert max(sizes) <= 8 * 1024 * 1024
    assert len(log.appends) == 4, "and as few as that allows"


@in_virtual_time
async def test_a_message_over_the_limit_of_a_batch_is_written_alone() -> None:
    log, told = MemoryLog(), Told()
    async with committing(log, told) as committer:
        await _write_behind(log, committer, post("x"), post("😀" * 3_000_000), post("y"))
    assert [len(batch) for batch in log.appends] == [1, 1, 1, 1]


@in_virtual_time
async def test_a_refused_draft_takes_no_number_and_does_not_concern_the_others() -> None:
    log, told = MemoryLog(), Told()
    async with committing(log, told) as committer:
        first = (await committer.append(post("mine"))).message
        one, refused, two = await _write_behind(
            log, committer, post("one"), edit(first, "not mine", by="ana"), post("two")
        )
    assert isinstance(refused, ForbiddenError)
    assert [o.message.rev for o in (one, two) if isinstance(o, Outcome)] == [2, 3]


@in_virtual_time
async def test_drafts_of_one_batch_are_decided_on_what_the_earlier_ones_leave() -> None:
    log, told = MemoryLog(), Told()
    async with committing(log, told) as committer:
        first = (await committer.append(post("mine"))).message
        liked, edited, deleted, late = await _write_behind(
            log, committer, react(first, "ana"), edit(first, "changed"), delete(first), edit(first, "late")
        )
    assert isinstance(liked, Outcome)
    assert liked.message.reaction_counts == {"like": 1}
    assert isinstance(edited, Outcome)
    assert (edited.message.content, edited.message.reaction_counts) == ("changed", {"like": 1})
    assert isinstance(deleted, Outcome)
    assert (deleted.message.content, deleted.message.rev) == ("", 4)
    assert isinstance(late, NotFoundError)


@in_virtual_time
async def test_a_key_given_twice_in_one_batch_is_stored_once() -> None:
    log, told = MemoryLog(), Told()
    async with committing(log, told) as committer:
        first, repeated, other = await _write_behind(
            log, committer, post("a", unique="1"), post("a", unique="1"), post("b", unique="1")
        )
    assert isinstance(first, Outcome)
    assert isinstance(repeated, Outcome)
    assert (first.is_duplicate, repeated.is_duplicate) == (False, True)
    assert first.message == repeated.message
    assert isinstance(other, ConflictError)
    assert len(log.appends[1]) == 1


@in_virtual_time
async def test_what_changes_nothing_is_neither_written_nor_told() -> None:
    log, told = MemoryLog(), Told()
    async with committing(log, told) as committer:
        first = (await committer.append(post("mine"))).message
        same = await committer.append(edit(first, "mine"))
        nothing = await committer.append(react(first, "ana", action="remove"))
    assert same == nothing == Outcome(message=first)
    assert len(log.appends) == len(told.batches) == 1


@in_virtual_time
async def test_the_head_of_a_room_is_read_once() -> None:
    log, told = MemoryLog(), Told()
    async with committing(log, told) as committer:
        await committer.append(post("reads the head"))
        log.attempts = 0
        await committer.append(post("knows it"))
    assert log.attempts == 1


@in_virtual_time
async def test_heads_are_forgotten_in_order_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "_MOST_HEADS", 2)
    log, told = MemoryLog(), Told()
    async with committing(log, told) as committer:
        for room_id in ("a", "b", "a", "c", "b", "c", "a"):
            await committer.append(post(room_id=room_id))
            assert len(committer._heads) <= 2
        outcomes = await _write_behind(
            log, committer, *[post(room_id=room_id) for room_id in ("c", "new", "newer", "a")]
        )
    assert all(isinstance(outcome, Outcome) for outcome in outcomes), outcomes
    assert [log_numbers[1] for log_numbers in _numbers(log.entries) if log_numbers[0] == "a"] == [1, 2, 3, 4]


@in_virtual_time
async def test_who_cannot_be_queued_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "_MOST_WAITING", 2)
    log, told = MemoryLog(), Told()
    async with committing(log, told) as committer:
        outcomes = await _write_behind(log, committer, post(), post(), post())
    assert [isinstance(outcome, Outcome) for outcome in outcomes] == [True, True, False]
    refused = outcomes[2]
    assert isinstance(refused, UnavailableError)
    assert refused.retry_after_ms is not None


@in_virtual_time
async def test_nobody_is_answered_before_the_telling_is_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise what was answered is not told when the server stops between the two."""
    monkeypatch.setattr(commit, "_MOST_UNTOLD_BATCHES", 1)
    log, told = MemoryLog(), Told()
    async with committing(log, told) as committer:
        told.gate.clear()
        await committer.append(post("is being told"))
        await committer.append(post("is queued"))
        third = asyncio.create_task(committer.append(post("finds no place")))
        await settle()
        assert len(log.entries) == 3
        assert not third.done()
        told.gate.set()
        await third
    assert [change.message.content for change in told.changes] == [
        "is being told",
        "is queued",
        "finds no place",
    ]


def test_a_batch_that_cannot_be_told_does_not_silence_the_next() -> None:
    heard: list[str] = []

    async def on_committed(changes: Sequence[Change]) -> None:
        heard.extend(change.message.content for change in changes)
        if heard == ["one"]:
            raise ValueError("cannot be told")

    async def scenario() -> None:
        committer = Committer(MemoryLog(), on_committed, node="node")
        committer.start()
        await committer.append(post("one"))
        await committer.append(post("two"))
        await committer.close()

    run(scenario())
    assert heard == ["one", "two"]


@in_virtual_time
async def test_what_cannot_be_told_while_the_store_is_away_is_told_when_it_is_back() -> None:
    heard: list[str] = []
    failures = [UnavailableError("the store is away")] * 3

    async def on_committed(changes: Sequence[Change]) -> None:
        if failures:
            raise failures.pop()
        heard.extend(change.message.content for change in changes)

    committer = Committer(MemoryLog(), on_committed, node="node")
    committer.start()
    await committer.append(post("one"))
    await committer.append(post("two"))
    await committer.close()
    assert heard == ["one", "two"]


@in_virtual_time
async def test_close_writes_and_tells_what_waits_and_refuses_what_comes() -> None:
    log, told = MemoryLog(), Told()
    async with committing(log, told) as committer:
        log.gate.clear()
        told.gate.clear()
        waiting = []
        for n in range(3):
            waiting.append(asyncio.create_task(committer.append(post(f"{n}"))))
            await settle()
        closing = asyncio.create_task(committer.close())
        await settle()
        with pytest.raises(UnavailableError):
            await committer.append(post("too late"))
        log.gate.set()
        await asyncio.gather(*waiting)
        assert not closing.done()
        told.gate.set()
        await closing
    assert [change.message.content for change in told.changes] == ["0", "1", "2"]
