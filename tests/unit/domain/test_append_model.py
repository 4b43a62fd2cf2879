"""The append algorithm on a replica set where all goes wrong: many nodes, failovers, lost and late writes."""

import asyncio
import logging
import os
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from server.domain.changes import Draft, Outcome
from server.domain.errors import UnavailableError
from server.domain.models import Change, Head
from server.storage.base import CollisionError, LogStore
from server.storage.commit import Committer, OnCommitted
from tests.builders import CREATED_AT
from tests.drafts import edit, post, react
from tests.memory_log import LogView, ViewStore
from tests.replica_set import ReplicaSet, ReplicaSetLog, Server
from tests.virtual_time import run

SCHEDULES = int(os.environ.get("TERTULIA_TEST_SCHEDULES", "300"))
NODES = 3
OPS_PER_NODE = 6
ROOM = "room"


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Each failed append is logged; here that is nearly all the time."""
    caplog.set_level(logging.CRITICAL)


class LocalReads(ReplicaSetLog):
    """Wrong on purpose: reads what may yet be lost."""

    async def read(self, server: Server) -> Sequence[Change]:
        return list(server.entries)


class ReadsThatGoBack(ReplicaSetLog):
    """Wrong on purpose: what cannot be lost, but not always what was read before."""

    async def read(self, server: Server) -> Sequence[Change]:
        return server.entries[: server.durable]


class HeadsAdvancedWhenSent(Committer):
    """Wrong on purpose: the head is moved on before the append is acknowledged, and kept if it is not."""

    def __init__(self, log: LogStore, on_committed: OnCommitted, **options: Any) -> None:
        super().__init__(_AdvancesHeads(log, self), on_committed, **options)


class _AdvancesHeads(ViewStore):
    def __init__(self, log: LogStore, committer: Committer) -> None:
        self._log = log
        self._committer = committer
        self._sent: dict[str, Head] = {}

    async def view(self) -> LogView:
        return LogView(await self._log.changes_after(ROOM, 0, 1_000))

    async def heads(self, room_ids: Sequence[str]) -> dict[str, Head]:
        return {**await super().heads(room_ids), **self._sent}

    async def append(self, changes: Sequence[Change]) -> None:
        last = changes[-1]
        self._sent[ROOM] = last.head
        try:
            await self._log.append(changes)
        except CollisionError:
            self._sent.clear()
            raise


class Schedule:
    """One run: nodes append to a room, readers follow it; `violations` names what must never be."""

    def __init__(
        self,
        seed: int,
        log: type[ReplicaSetLog] = ReplicaSetLog,
        committer: type[Committer] = Committer,
    ) -> None:
        self.chance = random.Random(seed)
        self.log_type, self.committer_type = log, committer
        self.acked: dict[str, Change] = {}
        self.told: list[Change] = []
        self.seen: dict[int, Change] = {}
        self.violations: Counter[str] = Counter()
        self.clock = CREATED_AT

    async def run(self) -> LogView:
        """Run it to its end; the log then."""
        random.seed(self.chance.random())  # the committer's jitter
        replicas = ReplicaSet(self.chance)
        self.logs = [self.log_type(replicas) for _ in range(NODES)]
        self.nodes = [
            self.committer_type(log, self._hear, node=f"node-{n}", is_alone=False)
            for n, log in enumerate(self.logs)
        ]
        for node in self.nodes:
            node.start()
        background = [asyncio.create_task(replicas.befall()), asyncio.create_task(self._follow())]
        await asyncio.gather(*(self._use(n, user) for n in range(NODES) for user in range(2)))
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await replicas.heal()
        await asyncio.sleep(5)
        for node in self.nodes:
            await node.close()
        await replicas.heal()
        final = LogView(replicas.primary.entries)
        self._judge(final.entries)
        return final

    async def _use(self, home: int, user: int) -> None:
        """A client: sends, edits, reacts; gives the same draft again, to any node, until it is answered."""
        by = f"user-{home}-{user}"
        for n in range(OPS_PER_NODE // 2):
            await asyncio.sleep(self.chance.uniform(0, 0.05))
            self.clock += 1
            draft = self._draft(by, n)
            for _ in range(5):
                node = self.nodes[home if self.chance.random() < 0.8 else self.chance.randrange(NODES)]
                waiting = asyncio.create_task(node.append(draft))
                await asyncio.wait([waiting], timeout=self.chance.choice([0.05, 0.5, 20]))
                if not waiting.done():
                    waiting.cancel()
                    await asyncio.gather(waiting, return_exceptions=True)
                elif not isinstance(waiting.exception(), UnavailableError):
                    self._note(waiting)
                    break

    def _draft(self, by: str, n: int) -> Draft:
        known = [each.message for each in self.acked.values()]
        own = [message for message in known if message.sender_id == by]
        kind = self.chance.random()
        if kind < 0.2 and own:
            return edit(self.chance.choice(own), f"{by} {n} edited", at=self.clock)
        if kind < 0.4 and known:
            return react(self.chance.choice(known), by, action="toggle", at=self.clock)
        return post(f"{by} {n}", room_id=ROOM, by=by, unique=f"{n}", at=self.clock)

    def _note(self, answered: asyncio.Task[Outcome]) -> None:
        # A refusal may rest on a server that lags behind, as a look at the room does.
        if answered.exception() is None and (change := answered.result().change):
            self.acked[change.key] = change

    async def _hear(self, changes: Sequence[Change]) -> None:
        """What is told comes to each node by the bus, or does not."""
        self.told.extend(changes)
        for node in self.nodes:
            if self.chance.random() < 0.8:
                loop = asyncio.get_running_loop()
                loop.call_later(self.chance.uniform(0, 0.02), node.learn, ROOM, changes[-1].head)

    async def _follow(self) -> None:
        """A reader, at any server: sees n + 1 after n, and nothing that it saw ever changes."""
        cursor = 0
        while True:
            await asyncio.sleep(self.chance.uniform(0, 0.05))
            try:
                page = await self.chance.choice(self.logs).changes_after(ROOM, 0, 1_000)
            except UnavailableError:
                continue
            for change in page:
                if self.seen.setdefault(change.rev, change) != change:
                    self.violations["seen, then changed"] += 1
                if change.rev > cursor + 1:
                    self.violations["n + 1 seen before n"] += 1
                cursor = max(cursor, change.rev)

    def _judge(self, entries: Sequence[Change]) -> None:
        by_rev = {entry.rev: entry for entry in entries}
        checks = {
            "gap": [entry.rev for entry in entries] != list(range(1, len(entries) + 1)),
            "seq": [e.message.seq for e in entries if e.kind == "message"]
            != list(range(1, 1 + sum(e.kind == "message" for e in entries))),
            "stored twice": len({entry.key for entry in entries}) < len(entries),
            "acked, then lost": any(by_rev.get(each.rev) != each for each in self.acked.values()),
            "seen, then lost": any(by_rev.get(rev) != each for rev, each in self.seen.items()),
            "told, then lost": any(by_rev.get(each.rev) != each for each in self.told),
            "told twice": len({each.rev for each in self.told}) < len(self.told),
            "never told": bool({entry.rev for entry in entries} - {each.rev for each in self.told}),
            "told out of order": any(self._is_disordered(f"node-{n}") for n in range(NODES)),
            "state": not _follows(entries),
        }
        self.violations.update(name for name, is_so in checks.items() if is_so)

    def _is_disordered(self, node: str) -> bool:
        revs = [each.rev for each in self.told if each.node == node]
        return revs != sorted(revs)


def _follows(entries: Sequence[Change]) -> bool:
    """Whether each entry is decided on the one before it: no edit and no reaction is undone by another."""
    contents: dict[int, str] = {}
    reactions: dict[int, dict[str, str]] = {}
    for entry in entries:
        seq = entry.message.seq
        if entry.kind in ("message", "edit"):
            contents[seq] = entry.message.content
        else:
            own = reactions.setdefault(seq, {})
            if entry.reaction_type is None:
                own.pop(entry.by, None)
            else:
                own[entry.by] = entry.reaction_type
        counts = Counter(reactions.get(seq, {}).values())
        if entry.message.content != contents.get(seq) or entry.message.reaction_counts != counts:
            return False
    return True


def test_nothing_is_ever_lost_doubled_skipped_or_taken_back() -> None:
    for seed in range(SCHEDULES):
        schedule = Schedule(seed)
        run(schedule.run())
        assert not schedule.violations, f"seed {seed}: {schedule.violations}"


@pytest.mark.parametrize(
    ("log", "committer", "violation"),
    [
        pytest.param(LocalReads, Committer, "gap", id="reads what may be lost"),
        pytest.param(LocalReads, Committer, "acked, then lost", id="acknowledges what may be lost"),
        pytest.param(ReadsThatGoBack, Committer, "state", id="reads that go back"),
        pytest.param(ReplicaSetLog, HeadsAdvancedWhenSent, "gap", id="heads advanced when sent"),
    ],
)
def test_the_model_finds_an_algorithm_that_is_wrong(
    log: type[ReplicaSetLog], committer: type[Committer], violation: str
) -> None:
    for seed in range(500):
        schedule = Schedule(seed, log, committer)
        run(schedule.run())
        if violation in schedule.violations:
            return
    pytest.fail(f"{violation}: not found")


def test_a_schedule_is_the_same_each_time() -> None:
    logs = [run(Schedule(7).run()).entries for _ in range(2)]
    one, other = ([(each.node, each.by, each.at, each.message.content) for each in log] for log in logs)
    assert one == other
    assert len(one) > 5
