"""Group commit: while one batch is being written the next one forms, and what is durable is told.

Telling is the committer's work: a handler that timed out, or whose client has gone, still has its
message told.
"""

import asyncio
import random
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from server.domain.changes import Draft, Edit, Outcome, Plan, Post, Present, React, plan
from server.domain.errors import ChatError, UnavailableError
from server.domain.models import Change, Head
from server.storage.base import CollisionError, LogStore, Slot
from server.storage.contention import Contention
from server.telemetry import get_logger, new_error_id

_MOST_ENTRIES = 500
_MOST_BYTES = 8 * 1024 * 1024
_MOST_WAITING = 10_000
_MOST_UNTOLD_BATCHES = 1_000
_MOST_HEADS = 50_000
_TOLD_AGAIN_AFTER_S = 0.5
_ENTRY_OVERHEAD_BYTES = 1024
_MOST_UNSETTLED = 10_000
_LOOK_AGAIN_S = 1.0
_LOOK_SELDOM_S = 10.0
_SELDOM_AFTER_S = 60.0
# While most members of the store lag behind, what the first of them has stored is there for nobody.
_SETTLED_AFTER_S = 3600.0
_RETRY_S = (0.002, 0.020)
_LONGEST_RETRY_S = 1.0
_log = get_logger(__name__)

_NOTHING = Head()

OnCommitted = Callable[[Sequence[Change]], Awaitable[None]]


class _End(NamedTuple):
    """The end of a room's log. What is read after it contains it only if it was read or written here."""

    head: Head
    is_own: bool


class _Pending:
    """A draft and who waits for it. Appends that had it may have stored it as one of the revs `tried`."""

    __slots__ = ("draft", "future", "since_s", "tried")

    def __init__(self, draft: Draft, future: asyncio.Future[Outcome], since_s: float) -> None:
        self.draft = draft
        self.future = future
        self.since_s = since_s
        self.tried: set[int] = set()

    @property
    def key(self) -> tuple[str, str]:
        return self.draft.room_id, self.draft.key

    @property
    def size_bytes(self) -> int:
        content = self.draft.content if isinstance(self.draft, Post | Edit) else ""
        return _ENTRY_OVERHEAD_BYTES + 4 * len(content)

    def resolve(self, outcome: Outcome | ChatError) -> None:
        if self.future.done():
            return
        if isinstance(outcome, Outcome):
            self.future.set_result(outcome)
        else:
            self.future.set_exception(outcome)


class Committer:
    """Numbers drafts, stores them in batches, and hands each durable batch to `on_committed`, in order.

    `on_committed` is called by one task, one batch after the other, each room's entries by ascending rev.
    """

    def __init__(
        self,
        log: LogStore,
        on_committed: OnCommitted,
        *,
        node: str,
        is_alone: bool = True,
        deadline_s: float = 10.0,
    ) -> None:
        """`is_alone`: no other server writes to the log."""
        self._store = log
        self._on_committed = on_committed
        self._node = node
        self._deadline_s = deadline_s
        self._waiting: deque[_Pending] = deque()
        self._arrived = asyncio.Event()
        self._heads: OrderedDict[str, _End] = OrderedDict()
        self._untold: asyncio.Queue[Sequence[Change]] = asyncio.Queue(_MOST_UNTOLD_BATCHES)
        # Nobody waits for these, but a late write of an append may still store them: then they must be told.
        self._unsettled: list[_Pending] = []
        self._looked_at_s = float("-inf")
        self._tasks: list[asyncio.Task[None]] = []
        self._contention = None if is_alone else Contention()
        self._is_closing = False

    def start(self) -> None:
        """Begin to write and to tell."""
        self._tasks = [
            asyncio.create_task(self._write_batches(), name="commit.write"),
            asyncio.create_task(self._tell_batches(), name="commit.tell"),
        ]

    async def close(self) -> None:
        """Refuse new drafts, finish and tell those that wait, for at most the deadline; then stop."""
        self._is_closing = True
        self._arrived.set()
        if self._tasks:
            writer, teller = self._tasks
            await asyncio.wait([writer], timeout=self._deadline_s)
            told = asyncio.ensure_future(self._untold.join())
            await asyncio.wait([told, teller], timeout=self._deadline_s, return_when=asyncio.FIRST_COMPLETED)
            for task in (writer, teller, told):
                task.cancel()
            await asyncio.gather(writer, teller, told, return_exceptions=True)
        for pending in self._waiting:
            pending.resolve(UnavailableError("the server stopped before this was stored"))

    async def append(self, draft: Draft) -> Outcome:
        """Store the change and queue its telling.

        Raises the ChatError that the rules answer, or UnavailableError when the store does not answer by
        the deadline: the change may then still be stored, and is told if it is.
        """
        if self._is_closing or len(self._waiting) >= _MOST_WAITING:
            raise UnavailableError("the server cannot store this now", retry_after_ms=1000)
        loop = asyncio.get_running_loop()
        pending = _Pending(draft, loop.create_future(), loop.time())
        self._waiting.append(pending)
        self._arrived.set()
        try:
            async with asyncio.timeout(self._deadline_s):
                return await pending.future
        except TimeoutError:
            raise UnavailableError("the store did not answer in time", retry_after_ms=1000) from None

    def learn(self, room_id: str, head: Head) -> None:
        """Take a head that another server came to. It has to be durable."""
        if head.rev > self._rev(room_id):
            self._remember({room_id: head}, is_own=False)

    async def _write_batches(self) -> None:
        while self._waiting or not self._is_closing:
            if not self._waiting:
                self._arrived.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._look_again_s()):
                        await self._arrived.wait()
                        continue
            if self._contention is not None:
                await self._contention.let_others_in()
            batch = self._next_batch()
            try:
                await self._commit(batch)
            except Exception:  # noqa: BLE001 - a bug must fail its own batch, not every later one
                self._fail(batch)
            if self._contention is not None:
                self._contention.wrote()

    def _fail(self, batch: Sequence[_Pending]) -> None:
        error_id = new_error_id()
        _log.exception("msg.save_failed", error_id=error_id, entries=len(batch))
        self._heads.clear()
        self._unsettled.clear()
        for pending in batch:
            pending.resolve(UnavailableError(f"the store failed ({error_id})"))

    def _next_batch(self) -> list[_Pending]:
        batch: list[_Pending] = []
        size_bytes = 0
        while self._waiting and len(batch) < _MOST_ENTRIES:
            pending = self._waiting[0]
            if not pending.future.done():
                size_bytes += pending.size_bytes
                if batch and size_bytes > _MOST_BYTES:
                    break
                batch.append(pending)
            self._waiting.popleft()
        return batch

    async def _commit(self, batch: Sequence[_Pending]) -> None:
        attempts = 0
        is_unsure, taken = False, None
        while batch or self._unsettled:
            try:
                await self._attempt(batch, is_unsure=is_unsure, taken=taken)
            except (CollisionError, UnavailableError) as error:
                wait_s = random.uniform(*_RETRY_S)  # noqa: S311 - jitter
                if isinstance(error, CollisionError):
                    taken = error.slot
                    if self._contention is not None:
                        self._contention.collided()
                else:
                    taken = None
                    _log.warning("msg.save_failed", reason=error.message, entries=len(batch))
                    wait_s *= min(2**attempts, _LONGEST_RETRY_S / _RETRY_S[1])
                is_unsure |= taken is None
                await asyncio.sleep(wait_s)
                attempts += 1
                self._unsettled += [p for p in batch if p.future.done() and p.tried]
                del self._unsettled[:-_MOST_UNSETTLED]
                batch = [p for p in batch if not p.future.done()]
                if not batch:
                    return
            else:
                return

    async def _attempt(self, batch: Sequence[_Pending], *, is_unsure: bool, taken: Slot | None) -> None:
        late, others = self._late(batch)
        asked = [*late, *batch]
        present = await self._read(asked, is_unsure=is_unsure or bool(late), taken=taken, has_late=bool(late))
        asked = _readable(asked, present)
        live = [p for p in asked if not p.future.done() or p.key in present.known]
        gone = [p for p in asked if p.future.done() and p.key not in present.known]
        planned = plan([p.draft for p in live], present, node=self._node)
        if planned.entries:
            _note_revs(live, planned)
            try:
                await self._store.append(planned.entries)
            except (CollisionError, UnavailableError):
                self._forget(present.heads)
                raise
        self._remember({entry.room_id: entry.head for entry in planned.entries})
        for known in present.known.values():  # a head behind one of them is an old one
            if known.rev > planned.heads[known.room_id].rev:
                self._heads.pop(known.room_id, None)
        recovered = [change for pending in live if (change := self._find_own(pending, present))]
        await self._queue_telling(planned.entries, recovered)
        for pending, outcome in zip(live, planned.outcomes, strict=True):
            own = self._find_own(pending, present)
            pending.resolve(Outcome(message=own.message, change=own) if own else outcome)
        stored = {(entry.room_id, entry.key) for entry in planned.entries}
        self._unsettled = others + [
            p for p in gone if p.key not in stored and self._may_land(p, planned.heads[p.draft.room_id])
        ]

    def _late(self, batch: Sequence[_Pending]) -> tuple[list[_Pending], list[_Pending]]:
        """Whose late writes to look for beside a batch, since they are told before it; and the others.

        Of other rooms they are looked for now and then: not by each message while there are some.
        """
        if not self._unsettled:
            return [], []
        now_s = asyncio.get_running_loop().time()
        if not batch or now_s - self._looked_at_s >= (self._look_again_s() or 0):
            self._looked_at_s = now_s
            return self._unsettled, []
        rooms = {pending.draft.room_id for pending in batch}
        late = [pending for pending in self._unsettled if pending.draft.room_id in rooms]
        return late, [pending for pending in self._unsettled if pending.draft.room_id not in rooms]

    def _look_again_s(self) -> float | None:
        """After how long to look for late writes."""
        if not self._unsettled:
            return None
        age_s = asyncio.get_running_loop().time() - max(pending.since_s for pending in self._unsettled)
        return _LOOK_AGAIN_S if age_s < _SELDOM_AFTER_S else _LOOK_SELDOM_S

    def _may_land(self, pending: _Pending, head: Head) -> bool:
        """Whether a late write is to be expected: none can take a number that is taken."""
        age_s = asyncio.get_running_loop().time() - pending.since_s
        return max(pending.tried, default=0) > head.rev and age_s < self._deadline_s + _SETTLED_AFTER_S

    def _find_own(self, pending: _Pending, present: Present) -> Change | None:
        """What an earlier attempt stored although its answer never came: it is new, not a repeat."""
        change = present.known.get(pending.key)
        if change is None or change.rev not in pending.tried:
            return None
        return change if (change.node, change.at) == (self._node, pending.draft.at) else None

    async def _queue_telling(self, entries: Sequence[Change], recovered: Sequence[Change]) -> None:
        changes = {(change.room_id, change.rev): change for change in (*recovered, *entries)}
        if changes:
            await self._untold.put([changes[ref] for ref in sorted(changes)] if recovered else entries)

    async def _read(
        self, batch: Sequence[_Pending], *, is_unsure: bool, taken: Slot | None, has_late: bool
    ) -> Present:
        """`is_unsure`: the log may have what nobody knows of. `taken`: another append was refused for it.

        `has_late`: some are only looked for.
        """
        drafts = [pending.draft for pending in batch]
        keys = [pending.key for pending in batch]
        # Others get in between the head and the append, so the keys come first where they may: a late write
        # that lands behind them is refused by its key once more. They come last where nothing may be written:
        # such a write would look as if it had not landed, or as if there were nothing to change.
        are_first = not has_late and all(isinstance(draft, Post) for draft in drafts)
        known = await self._store.find_by_keys(keys) if is_unsure and are_first else {}
        room_ids = {draft.room_id for draft in drafts}
        # Who looks at messages too has to look behind the head.
        is_looking = {draft.room_id for draft in drafts if not isinstance(draft, Post)}
        heads = {
            room_id: end.head
            for room_id in room_ids
            if (end := self._heads.get(room_id)) and (end.is_own or room_id not in is_looking)
        }
        if unknown := room_ids - heads.keys():
            read = await self._store.heads(list(unknown))
            self._remember(read)
            heads |= read
        refs = [
            (d.room_id, d.message_id) for d in drafts if not isinstance(d, Post) and hasattr(d, "message_id")
        ]
        messages = await self._store.find_messages(refs) if refs else {}
        own: dict[tuple[str, str, int], tuple[str, str, str]] = {}
        for draft in drafts:
            if isinstance(draft, React) and (draft.room_id, draft.message_id) in messages:
                seq = messages[draft.room_id, draft.message_id].seq
                own[draft.room_id, draft.by, seq] = (draft.room_id, draft.message_id, draft.by)
        found = await self._store.own_reactions(list(own)) if own else {}
        reactions: dict[tuple[str, str, str], str | None] = {own[ref]: what for ref, what in found.items()}
        if (is_unsure or taken) and not are_first:
            known = await self._store.find_by_keys(keys)
        elif taken and heads.get(taken.room_id, _NOTHING).rev < taken.rev:  # it is not the number
            known |= await self._store.find_by_keys(keys)
        known = {key: change for key, change in known.items() if change.room_id in heads}
        repeated = {(room_id, change.message.id) for (room_id, _), change in known.items()} - messages.keys()
        if repeated:
            messages |= await self._store.find_messages(list(repeated))
        return Present(heads=heads, messages=messages, reactions=reactions, known=known)

    def _rev(self, room_id: str) -> int:
        return self._heads[room_id].head.rev if room_id in self._heads else 0

    def _remember(self, heads: dict[str, Head], *, is_own: bool = True) -> None:
        for room_id, head in heads.items():
            if head.rev >= self._rev(room_id):
                self._heads[room_id] = _End(head, is_own)
            self._heads.move_to_end(room_id)
        while len(self._heads) > _MOST_HEADS:
            self._heads.popitem(last=False)

    def _forget(self, heads: dict[str, Head]) -> None:
        """Read them again, but for those that have been learned meanwhile."""
        for room_id, head in heads.items():
            if self._rev(room_id) <= head.rev:
                self._heads.pop(room_id, None)

    async def _tell_batches(self) -> None:
        while True:
            changes = await self._untold.get()
            try:
                while not await self._is_told(changes):  # noqa: ASYNC110 - a store says nothing when it is back
                    await asyncio.sleep(_TOLD_AGAIN_AFTER_S)
            finally:
                self._untold.task_done()

    async def _is_told(self, changes: Sequence[Change]) -> bool:
        """Whether to go on: what cannot be told while the store is away is told when it is back."""
        try:
            await self._on_committed(changes)
        except UnavailableError as error:
            _log.warning("msg.tell_failed", reason=error.message, entries=len(changes))
            return False
        except Exception:  # noqa: BLE001 - one batch that cannot be told must not silence the next
            _log.exception("msg.tell_failed", error_id=new_error_id(), entries=len(changes))
        return True


def _readable(batch: Sequence[_Pending], present: Present) -> list[_Pending]:
    """Those whose room's end can be read; the others are refused, for nothing may be numbered after it."""
    for pending in batch:
        if pending.draft.room_id not in present.heads:
            pending.resolve(UnavailableError("the log of this room cannot be read"))
    return [pending for pending in batch if pending.draft.room_id in present.heads]


def _note_revs(batch: Sequence[_Pending], planned: Plan) -> None:
    revs = {(entry.room_id, entry.key): entry.rev for entry in planned.entries}
    for pending, outcome in zip(batch, planned.outcomes, strict=True):
        if isinstance(outcome, Outcome) and not outcome.is_duplicate and pending.key in revs:
            pending.tried.add(revs[pending.key])
