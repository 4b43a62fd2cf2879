"""Group commit when something goes wrong: other writers, unknown outcomes, leaving waiters, a store away."""

import asyncio
from collections.abc import Sequence

import pytest

from server.domain.changes import Draft, Outcome
from server.domain.errors import ConflictError, NotFoundError, UnavailableError
from server.domain.models import Change
from server.storage import commit
from server.storage.base import CollisionError
from server.storage.commit import Committer
from tests.builders import CREATED_AT, delete_change, message_change
from tests.drafts import Told, committing, edit, post, react
from tests.memory_log import Failing, MemoryLog
from tests.virtual_time import in_virtual_time, settle

AWAY = UnavailableError("the store does not answer")
CUT_OFF = [
    pytest.param(Failing(AWAY), id="nothing stored"),
    pytest.param(Failing(AWAY, stored=2), id="some stored"),
    pytest.param(Failing(AWAY, stored=None), id="all stored"),
    pytest.param(Failing(CollisionError(), stored=2), id="some stored, then a collision"),
]


async def _together(committer: Committer, *drafts: Draft) -> list[Outcome]:
    return await asyncio.gather(*(committer.append(draft) for draft in drafts))


async def _begin(log: MemoryLog, committer: Committer, draft: Draft) -> asyncio.Task[Outcome]:
    """Give a draft; its append has reached the store and waits there for the gate."""
    log.gate.clear()
    log.arrived.clear()
    task = asyncio.create_task(committer.append(draft))
    await log.arrived.wait()
    return task


def _contents(told: Told) -> list[str]:
    return [change.message.content for change in told.changes]


@pytest.mark.parametrize("failing", CUT_OFF)
@in_virtual_time
async def test_an_append_of_unknown_outcome_stores_and_tells_each_entry_once(failing: Failing) -> None:
    log, told = MemoryLog(), Told()
    log.to_fail.append(failing)
    async with committing(log, told) as committer:
        outcomes = await _together(committer, *[post(f"{n}", unique=f"{n}") for n in range(4)])
    assert [entry.rev for entry in log.entries] == [1, 2, 3, 4]
    assert [outcome.is_duplicate for outcome in outcomes] == [False] * 4
    assert [outcome.change for outcome in outcomes] == log.entries
    assert told.changes == log.entries


@in_virtual_time
async def test_where_the_end_of_a_log_cannot_be_read_its_room_alone_is_refused() -> None:
    log, told = MemoryLog(), Told()
    async with committing(log, told) as committer:
        await committer.append(post("known", room_id="broken", unique="known"))
    log.unreadable.add("broken")
    async with committing(log, told) as committer:
        first = await _begin(log, committer, post("first", room_id="another"))
        rooms = ["broken", "room", "broken", "other"]
        rest = asyncio.gather(
            *(committer.append(post("later", room_id=each, unique="known")) for each in rooms),
            return_exceptions=True,
        )
        await settle()
        log.to_fail.append(Failing(CollisionError()))  # so that keys are looked up too
        log.gate.set()
        await first
        outcomes = await rest
    assert [isinstance(each, UnavailableError) for each in outcomes] == [True, False, True, False]
    assert [entry.room_id for entry in log.entries] == ["broken", "another", "room", "other"]


@pytest.mark.parametrize("failing", CUT_OFF)
@in_virtual_time
async def test_a_key_given_twice_is_a_duplicate_also_after_an_unknown_outcome(failing: Failing) -> None:
    log, told = MemoryLog(), Told()
    log.to_fail.append(failing)
    async with committing(log, told) as committer:
        drafts = [post("a", unique="1"), post("a", unique="1"), post("b", unique="2")]
        outcomes = await _together(committer, *drafts)
    assert [outcome.is_duplicate for outcome in outcomes] == [False, True, False]
    assert told.changes == log.entries
    assert len(log.entries) == 2


@pytest.mark.parametrize("failing", CUT_OFF)
@in_virtual_time
async def test_reactions_of_unknown_outcome_count_once(failing: Failing) -> None:
    """To toggle again what was stored would take it back."""
    log, told = MemoryLog(), Told()
    async with committing(log, told) as committer:
        message = (await committer.append(post())).message
        log.to_fail.append(failing)
        await _together(committer, *[react(message, user) for user in ("a", "b", "c")])
    assert log.entries[-1].message.reaction_counts == {"like": 3}
    assert [change.rev for change in told.changes] == [1, 2, 3, 4]


@in_virtual_time
async def test_after_a_collision_the_batch_is_numbered_anew() -> None:
    log, told = MemoryLog(), Told()
    async with committing(log, told) as committer:
        await committer.append(post("one"))
        log.store([message_change(rev=2, content="from another node", node="other")])
        outcomes = await _together(committer, post("three"), post("four"))
    assert [entry.message.content for entry in log.entries] == ["one", "from another node", "three", "four"]
    assert [entry.rev for entry in log.entries] == [1, 2, 3, 4]
    assert [outcome.message.seq for outcome in outcomes] == [3, 4]
    assert _contents(told) == ["one", "three", "four"], "the other node tells its own"


@in_virtual_time
async def test_after_a_collision_a_change_is_decided_anew() -> None:
    log, told = MemoryLog(), Told()
    async with committing(log, told) as committer:
        message = (await committer.append(post("one"))).message
        log.store([delete_change(message, 2)])
        with pytest.raises(NotFoundError):
            await committer.append(edit(message, "too late"))
    assert len(log.entries) == 2


@pytest.mark.parametrize("later_ms", [0, 1])
@in_virtual_time
async def test_a_repeat_is_a_duplicate_and_not_told_again(later_ms: int) -> None:
    """Within the same millisecond too: two tabs, or a client that does not wait for its answer."""
    log, told = MemoryLog(), Told()
    async with committing(log, told) as committer:
        first = await committer.append(post("a", unique="1"))
        again = await committer.append(post("a", unique="1", at=CREATED_AT + later_ms))
        with pytest.raises(ConflictError):
            await committer.append(post("b", unique="1", at=CREATED_AT + later_ms))
    assert again.is_duplicate
    assert again.message == first.message
    assert told.changes == log.entries == [first.change]


@in_virtual_time
async def test_what_another_node_stored_is_a_duplicate_and_told_by_that_node_alone() -> None:
    log, told, told_there = MemoryLog(), Told(), Told()
    log.to_fail.append(Failing(AWAY))
    draft = post("a", unique="1")
    async with committing(log, told) as here, committing(log, told_there, node="other") as there:
        first = await _begin(log, here, draft)
        again = await _begin(log, there, draft)
        log.gate.set()
        assert (await first).is_duplicate
        assert not (await again).is_duplicate
    assert told.changes == []
    assert told_there.changes == log.entries


@in_virtual_time
async def test_who_leaves_before_the_batch_is_not_stored() -> None:
    log, told = MemoryLog(), Told()
    async with committing(log, told) as committer:
        first = await _begin(log, committer, post("first"))
        leaver = asyncio.create_task(committer.append(post("left")))
        await settle()
        leaver.cancel()
        await settle()
        log.gate.set()
        await first
    assert _contents(told) == ["first"]


@in_virtual_time
async def test_who_leaves_while_it_is_written_is_told_of_all_the_same() -> None:
    log, told = MemoryLog(), Told()
    async with committing(log, told) as committer:
        leaver = await _begin(log, committer, post("left"))
        leaver.cancel()
        await settle()
        log.gate.set()
        await committer.append(post("stayed"))
    assert _contents(told) == ["left", "stayed"]


@in_virtual_time
async def test_what_is_stored_after_the_deadline_is_told_all_the_same() -> None:
    log, told = MemoryLog(), Told()
    async with committing(log, told, deadline_s=1) as committer:
        task = await _begin(log, committer, post("late"))
        with pytest.raises(UnavailableError):
            await task
        log.gate.set()
        await told.reaches(1)
    assert _contents(told) == ["late"]


async def _give_up(log: MemoryLog, committer: Committer, draft: Draft) -> None:
    """A draft whose append is cut off, and whose waiter leaves before anybody knows what became of it."""
    log.to_fail.append(Failing(AWAY))
    task = await _begin(log, committer, draft)
    task.cancel()
    await settle()
    log.gate.set()
    await asyncio.sleep(0.1)


@pytest.mark.parametrize(("lands_after_s", "told_within_s"), [(20, 2), (1_800, 15)])
@in_virtual_time
async def test_a_write_that_lands_when_nobody_waits_any_longer_is_told(
    lands_after_s: int, told_within_s: int
) -> None:
    """Until then nobody sees it, and the store answers: a majority may take a write only after minutes."""
    log, told = MemoryLog(), Told()
    async with committing(log, told) as committer:
        await _give_up(log, committer, post("late"))
        await asyncio.sleep(lands_after_s)
        log.store(log.appends[0])
        await asyncio.sleep(told_within_s)
        assert told.changes == log.entries


@in_virtual_time
async def test_of_writes_that_may_land_late_the_newest_are_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commit, "_MOST_UNSETTLED", 2)
    log, told = MemoryLog(), Told()
    async with committing(log, told) as committer:
        for room_id in ("one", "two", "three"):
            await _give_up(log, committer, post(room_id, room_id=room_id))
        for append in list(log.appends):
            log.store(append)
        await asyncio.sleep(15)
    assert sorted(_contents(told)) == ["three", "two"]


@in_virtual_time
async def test_late_writes_are_not_looked_for_by_each_message_of_another_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log, told = MemoryLog(), Told()
    looked_for: list[tuple[str, str]] = []
    find_by_keys = log.find_by_keys

    async def counted(keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Change]:
        looked_for.extend(key for key in keys if key[0] == "idle")
        return await find_by_keys(keys)

    async with committing(log, told) as committer:
        await _give_up(log, committer, post("late", room_id="idle"))
        await asyncio.sleep(120)
        monkeypatch.setattr(log, "find_by_keys", counted)
        for number in range(1_000):
            await committer.append(post(f"{number}"))
            await asyncio.sleep(0.1)
        assert 8 <= len(looked_for) <= 12, "every ten seconds, also while there is always something to write"
        log.store(log.appends[0])
        await committer.append(post("after", room_id="idle"))
    assert _contents(told)[-2:] == ["late", "after"]


@in_virtual_time
async def test_a_write_that_lands_late_is_told_before_what_follows_it() -> None:
    log, told = MemoryLog(), Told()
    async with committing(log, told) as committer:
        await _give_up(log, committer, post("late", unique="1"))
        log.store(log.appends[0])
        again, after = await _together(committer, post("late", unique="1", at=CREATED_AT + 9), post("after"))
    assert again.is_duplicate
    assert after.message.rev == 2
    assert _contents(told) == ["late", "after"]


@in_virtual_time
async def test_repeats_of_what_landed_late_are_duplicates_and_told_once() -> None:
    """Within the same millisecond too, and although the head known here is behind it."""
    log, told = MemoryLog(), Told()
    async with committing(log, told) as committer:
        await _give_up(log, committer, post("late", unique="1"))
        await asyncio.sleep(5)
        log.store(log.appends[0])
        repeats = [await committer.append(post("late", unique="1")) for _ in range(3)]
    assert [repeat.is_duplicate for repeat in repeats] == [True, True, True]
    assert told.changes == log.entries


class _LandsAfterTheLook(MemoryLog):
    """The append that was cut off is stored just when its key has been looked for."""

    async def find_by_keys(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Change]:
        found = await super().find_by_keys(keys)
        if not found:
            self.store(self.appends[-1])
        return found


@in_virtual_time
async def test_an_edit_that_lands_while_its_key_is_looked_for_is_told() -> None:
    """Its content is there already, so it must not look as if there were nothing to change."""
    log, told = _LandsAfterTheLook(), Told()
    async with committing(log, told) as committer:
        message = (await committer.append(post("one"))).message
        log.to_fail.append(Failing(AWAY))
        outcome = await committer.append(edit(message, "two"))
    assert outcome.change == log.entries[1]
    assert _contents(told) == ["one", "two"]


@in_virtual_time
async def test_what_lands_while_its_key_is_looked_for_is_told_although_nobody_waits() -> None:
    log, told = _LandsAfterTheLook(), Told()
    async with committing(log, told) as committer:
        await _give_up(log, committer, post("late"))
        await told.reaches(1)
    assert told.changes == log.entries


@in_virtual_time
async def test_a_write_whose_number_is_taken_is_not_waited_for() -> None:
    log, told = MemoryLog(), Told()
    async with committing(log, told) as committer:
        await _give_up(log, committer, post("late"))
        await committer.append(post("took its place"))
        attempts = log.attempts
        await asyncio.sleep(100)
        assert log.attempts == attempts


@in_virtual_time
async def test_a_write_that_never_lands_is_not_waited_for_for_ever() -> None:
    log, told = MemoryLog(), Told()
    async with committing(log, told) as committer:
        await _give_up(log, committer, post("lost"))
        await asyncio.sleep(4_000)
        attempts = log.attempts
        await asyncio.sleep(4_000)
        assert log.attempts == attempts
    assert log.entries == []


@in_virtual_time
async def test_a_store_that_is_away_is_asked_seldom_and_found_when_it_is_back() -> None:
    log, told = MemoryLog(), Told()
    log.is_away = True
    async with committing(log, told) as committer:
        with pytest.raises(UnavailableError):
            await committer.append(post("in vain"))
        assert log.attempts < 50
        waiting = asyncio.create_task(committer.append(post("in time")))
        await asyncio.sleep(5)
        log.is_away = False
        assert (await waiting).message.rev == 1
    assert _contents(told) == ["in time"]


@in_virtual_time
async def test_a_store_that_is_away_for_long_is_not_asked_for_nobody() -> None:
    log, told = MemoryLog(), Told()
    log.is_away = True
    async with committing(log, told) as committer:
        with pytest.raises(UnavailableError):
            await committer.append(post())
        await asyncio.sleep(10)
        attempts = log.attempts
        await asyncio.sleep(1000)
        assert log.attempts == attempts


@in_virtual_time
async def test_close_ends_in_time_when_the_store_is_away() -> None:
    log, told = MemoryLog(), Told()
    log.is_away = True
    async with committing(log, told) as committer:
        waiting = [asyncio.create_task(committer.append(post(f"{n}"))) for n in range(3)]
        await settle()
        began_s = asyncio.get_running_loop().time()
        await committer.close()
        assert asyncio.get_running_loop().time() - began_s <= 2 * 10
        answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(answer, UnavailableError) for answer in answers)


@in_virtual_time
async def test_a_bug_in_the_store_fails_its_batch_and_no_other() -> None:
    log, told = MemoryLog(), Told()
    async with committing(log, told) as committer:
        await committer.append(post("one"))
        log.to_fail.append(Failing(ZeroDivisionError("a bug"), stored=None))
        with pytest.raises(UnavailableError):
            await committer.append(post("stored by the bug"))
        assert (await committer.append(post("three"))).message.rev == 3
