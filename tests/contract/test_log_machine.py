"""Whatever several writers do at once, on several nodes, the log is as if they had done it one by one."""

import asyncio
import os
import tempfile
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec import Struct
from msgspec.structs import replace

from server.domain.changes import Draft, Outcome, Post
from server.domain.errors import NotFoundError, UnavailableError
from server.domain.models import Change, Message
from server.storage.base import LogStore, Storage
from server.storage.commit import Committer
from tests.builders import CREATED_AT, message_change
from tests.contract.conftest import IMPLEMENTATIONS, NAMES
from tests.drafts import Told, edit, react
from tests.room_model import ROOMS, USERS, Op, RoomModel, check_present, ops, verdict_of

_T = TypeVar("_T")
Fault = Literal["none", "lost", "unanswered"]
NODES = 2
EXAMPLES = int(os.environ.get("TERTULIA_TEST_EXAMPLES", "20"))
CROWD = 25


class Deed(Struct, frozen=True, kw_only=True):
    """An op given to a node. Its client leaves after so many turns of the loop (None: waits)."""

    op: Op
    node: int
    leaves_after: int | None


class Doing:
    """A draft in somebody's hands, and what came of it (None: its client left)."""

    def __init__(self, draft: Draft, node: int, leaves_after: int | None) -> None:
        self.draft = draft
        self.node = node
        self.leaves_after = leaves_after
        self.outcome: Outcome | BaseException | None = None

    async def by(self, committer: Committer) -> None:
        task = asyncio.create_task(committer.append(self.draft))
        if self.leaves_after is not None:
            for _ in range(self.leaves_after):
                await asyncio.sleep(0)
            task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        self.outcome = None if isinstance(outcome, asyncio.CancelledError) else outcome

    @property
    def verdict(self) -> str | None:
        return None if self.outcome is None else verdict_of(self.outcome)


class Flaky:
    """A store some of whose appends are answered with an error, stored or not."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.faults: deque[Fault] = deque()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    async def append(self, changes: Sequence[Change]) -> None:
        fault = self.faults.popleft() if self.faults else "none"
        if fault == "lost":
            raise UnavailableError("the request was lost")
        await self._storage.append(changes)
        if fault == "unanswered":
            raise UnavailableError("the answer was lost")


deeds = st.lists(
    st.builds(
        Deed,
        op=ops(),
        node=st.integers(0, NODES - 1),
        leaves_after=st.none() | st.none() | st.integers(0, 6),
    ),
    min_size=1,
    max_size=12,
)
faults = st.lists(st.sampled_from(["none", "none", "lost", "unanswered"]), max_size=4)


class LogMachine(RuleBasedStateMachine):
    """Nodes with a committer each over one store; and a model to which each stored entry is done in turn."""

    make_storage: Callable[[Path], Storage]

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.models = {room: RoomModel() for room in ROOMS}
        self.logs: dict[str, list[Change]] = {room: [] for room in ROOMS}
        self.now = CREATED_AT
        self.starts = 0
        self.run(self.open())

    def run(self, what: Coroutine[Any, Any, _T]) -> _T:
        return self.runner.run(what)

    async def open(self) -> None:
        self.storage = type(self).make_storage(Path(self.folder.name))
        await self.storage.open()
        self.starts += 1
        self.is_used = False
        self.flaky = Flaky(self.storage)
        self.told = [Told() for _ in range(NODES)]
        self.names = [f"node-{n}-{self.starts}" for n in range(NODES)]
        self.nodes = [
            Committer(cast("LogStore", self.flaky), told, node=name)
            for told, name in zip(self.told, self.names, strict=True)
        ]
        for node in self.nodes:
            node.start()

    async def close(self) -> None:
        for node in self.nodes:
            await node.close()
        await self.storage.close()

    def teardown(self) -> None:
        self.run(self.close())
        self.runner.close()
        self.folder.cleanup()

    @rule(deeds=deeds, faults=faults)
    def do_at_once(self, deeds: list[Deed], faults: list[Fault]) -> None:
        doings: list[Doing] = []
        self.now += 1  # by its date a draft is told from one of before
        for deed in deeds:
            self.now += len(doings) % 2  # two drafts a millisecond
            draft = deed.op.draft(list(self.models[deed.op.room].messages), at=self.now)
            doings.append(Doing(draft, deed.node, deed.leaves_after))
        self.run(self.carry_out(doings, faults))

    @rule(room=st.sampled_from(ROOMS), which=st.integers(0, 3), reaction=st.sampled_from(["like", "love"]))
    def react_as_a_crowd(self, room: str, which: int, reaction: str) -> None:
        ids = list(self.models[room].messages) or ["nothing"]
        message = message_change(room, key=ids[which % len(ids)]).message
        crowd = [react(message, f"one of many {n}", reaction) for n in range(CROWD)]
        self.run(self.carry_out([Doing(draft, n % NODES, None) for n, draft in enumerate(crowd)], []))

    @precondition(lambda self: self.is_used)
    @rule()
    def start_anew(self) -> None:
        self.run(self.close())
        self.run(self.open())

    async def carry_out(self, doings: Sequence[Doing], faults: Sequence[Fault]) -> None:
        """Do all of it at once, with somebody reading meanwhile; then compare."""
        self.is_used = True
        self.flaky.faults.extend(faults)
        reading = asyncio.create_task(self.follow())
        await asyncio.gather(*(doing.by(self.nodes[doing.node]) for doing in doings))
        self.flaky.faults.clear()
        for node in self.nodes:
            await self.finish(node)
        reading.cancel()
        await asyncio.wait([reading])
        assert reading.cancelled() or reading.result() is None
        for room in ROOMS:
            stored = await self.storage.changes_after(room, len(self.logs[room]), 1_000)
            told = await self.compare_telling(room, stored)
            self.absorb(room, told, [doing for doing in doings if doing.draft.room_id == room])

    async def finish(self, node: Committer) -> None:
        """Return when the node has done all it was given before: its batches come one after another."""
        for room in ROOMS:
            outcome = await asyncio.gather(
                node.append(edit(message_change(room, key="nothing").message, "x")), return_exceptions=True
            )
            assert isinstance(outcome[0], NotFoundError)

    async def follow(self) -> None:
        """A reader: n + 1 is there only after n, what was read stays, and the head is never behind."""
        seen = {room: len(log) for room, log in self.logs.items()}
        while True:
            for room, rev in seen.items():
                page = await self.storage.changes_after(room, rev, 7)
                head = (await self.storage.heads([room]))[room]
                assert [change.rev for change in page] == list(range(rev + 1, rev + 1 + len(page)))
                assert head.rev >= rev + len(page)
                seen[room] += len(page)

    async def compare_telling(self, room: str, stored: Sequence[Change]) -> list[Change]:
        """Each node told of just the entries that it stored, once, by ascending rev; these entries."""
        gone = {change.message.id for change in stored if change.kind == "delete"}
        entries: dict[int, Change] = {}
        for name, told in zip(self.names, self.told, strict=True):
            before = sum(entry.node == name for entry in self.logs[room])
            own = [change for change in stored if change.node == name]
            await told.reaches(before + len(own), room)
            heard = told.of(room)[before:]
            assert [change.rev for change in heard] == [change.rev for change in own]
            entries.update((change.rev, change) for change in heard)
        for change in stored:
            # Of a deletion that was stored without an answer the text may be blanked only a second later.
            is_gone = change.message.id in gone
            seen = [_without_text(each) if is_gone else each for each in (change, entries[change.rev])]
            assert seen[0] == seen[1]
        return [entries[change.rev] for change in stored]

    def absorb(self, room: str, entries: Sequence[Change], doings: Sequence[Doing]) -> None:
        """Do each new entry to the model; and find for every draft the moment at which it was decided."""
        model = self.models[room]
        waiting = [doing for doing in doings if doing.verdict not in (None, "stored")]
        gone = {entry.message.id for entry in entries if entry.kind == "delete"}
        self.explain(model, waiting)
        for entry in entries:
            doing = next(each for each in doings if _may_be(entry, each.draft))
            assert model.do(doing.draft) == "stored"
            assert (entry.rev, entry.last_seq) == (model.rev, len(model.messages))
            expected = model.messages[entry.message.id]
            # What was stored without an answer is told as it is found: its text may be blanked by then.
            is_blank = entry.message.id in gone and entry.message.content == ""
            expected.check(replace(entry.message, content=expected.content) if is_blank else entry.message)
            self.logs[room].append(entry)
            self.explain(model, waiting)
        assert waiting == [], "decided on what never was"
        by_key: dict[str, list[Doing]] = defaultdict(list)
        for doing in doings:
            by_key[doing.draft.key].append(doing)
        for key, shared in by_key.items():
            self.compare_answers(room, key, shared)

    def explain(self, model: RoomModel, waiting: list[Doing]) -> None:
        """Take out those who were rightly answered, as the room stands, that it has no entry of theirs."""
        for doing in tuple(waiting):
            verdict = model.judge(doing.draft)
            if verdict != doing.verdict:
                continue
            if isinstance(doing.outcome, Outcome):
                message = doing.outcome.message
                if message.rev != model.messages[message.id].rev:
                    continue
                model.messages[message.id].check(message)
            waiting.remove(doing)

    def compare_answers(self, room: str, key: str, doings: Sequence[Doing]) -> None:
        """Of those who share a key one at most stored it; just one if none of them left."""
        entries = [entry for entry in self.logs[room] if entry.key == key]
        stored = [
            d.outcome.change for d in doings if d.verdict == "stored" and isinstance(d.outcome, Outcome)
        ]
        assert all(change in entries for change in stored)
        assert len(stored) <= len(entries) <= 1
        has_left = any(doing.outcome is None for doing in doings)
        is_new = any(_may_be(entry, doing.draft) for entry in entries for doing in doings)
        assert has_left or not is_new or len(stored) == 1

    @invariant()
    def everything_reads_back_as_the_model_says(self) -> None:
        self.run(self.compare_reads())

    async def compare_reads(self) -> None:
        present: dict[str, list[Message]] = {}
        heads = await self.storage.heads([*ROOMS, "an empty room"])
        assert heads["an empty room"].rev == 0
        for room, model in self.models.items():
            last_seq = len(model.messages)
            assert (heads[room].rev, heads[room].last_seq) == (model.rev, last_seq)
            present[room] = await self.storage.messages_between(room, 1, last_seq)
            by_seq = {(room, message.seq): message for message in present[room]}
            by_id = {(room, message.id): message for message in present[room]}
            assert await self.storage.messages_at([(room, seq) for seq in range(last_seq + 2)]) == by_seq
            assert await self.storage.find_messages([(room, key) for key in model.messages]) == by_id
            known = await self.storage.find_by_keys([(room, entry.key) for entry in self.logs[room]])
            assert sorted(entry.rev for entry in known.values()) == list(range(1, model.rev + 1))
            await self.compare_reactions(room, model)
        check_present(self.models, present)

    async def compare_reactions(self, room: str, model: RoomModel) -> None:
        users = [*USERS, *(f"one of many {n}" for n in range(CROWD))]
        messages = model.messages.values()
        asked = [(room, user, message.seq) for message in messages for user in users]
        assert await self.storage.own_reactions(asked) == {
            (room, user, message.seq): reaction
            for message in messages
            for user, reaction in message.reactions.items()
        }


def _without_text(change: Change) -> Change:
    return replace(change, message=replace(change.message, content=""))


def _may_be(entry: Change, draft: Draft) -> bool:
    is_same = (entry.key, entry.at) == (draft.key, draft.at)
    return is_same and (not isinstance(draft, Post) or entry.digest == draft.digest)


@pytest.mark.parametrize("name", NAMES)
def test_the_log_is_as_if_everything_was_done_one_by_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.uniform", lambda low, _high: low / 10)  # collisions are the rule here
    implementation = IMPLEMENTATIONS[name]
    implementation.make(tmp_path)  # skips here where there is none: a machine would be left half made
    machine = type("Machine", (LogMachine,), {"make_storage": staticmethod(implementation.make)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=max(1, round(EXAMPLES * implementation.effort)),
            stateful_step_count=round(12 * implementation.effort**0.5),
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
