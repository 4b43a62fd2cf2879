"""What one server has published and what has become of it."""

import asyncio
import itertools
from collections import deque
from collections.abc import Iterator

import msgspec

from server.realtime.redis_streams.door import Passage
from server.realtime.redis_streams.entries import Entry

_MOST_BATCH_ENTRIES = 200
_MOST_BATCH_BYTES = 512 * 1024


class Out:
    """An entry on its way. `done` when it has been dealt with here: whether the others have it, or will.

    `epoch`: the one in which it was tried last.
    `is_unsent`: it waits before the door. `is_in`: it went into the stream. `is_void`: it need not any more.
    """

    __slots__ = ("done", "entry", "epoch", "is_in", "is_strict", "is_unsent", "is_void", "passage", "tries")

    def __init__(self, entry: Entry, passage: Passage, *, is_strict: bool = False) -> None:
        self.entry = entry
        self.passage = passage
        self.is_strict = is_strict
        self.is_unsent = False
        self.is_in = False
        self.is_void = False
        self.tries = 0
        self.epoch = ""
        self.done: asyncio.Future[bool] | None = None

    def failed(self) -> None:
        """Whether it went in is unknown."""
        if not self.passage.tried_in:
            self.passage = msgspec.structs.replace(self.passage, tried_in=self.epoch)

    def resolve(self, *, is_published: bool) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_result(is_published)


class Outbox:
    """Entries in the order published: `unsent` are not in the stream yet, `pending` are not dealt with here.

    Both are bounded by `is_full`. What was dealt with here while the bus was away is `told`: when it comes
    back by the stream it is not dealt with again. `owed` are gapless changes that the stream may not have: by
    key, the first and the last of them. When the echo of a number in `fences` comes back, the stream has
    brought what it will of those, each by its key up to that change.
    """

    def __init__(self, *, most_entries: int, most_bytes: int) -> None:
        self._most_entries = most_entries
        self._most_bytes = most_bytes
        self._numbers = itertools.count(1)
        self._unsent_bytes = 0
        self.unsent: deque[Out] = deque()
        self.pending: dict[int, Out] = {}
        self.told: dict[int, Out] = {}
        self.owed: dict[str, tuple[int, int]] = {}
        self.fences: dict[int, dict[str, int]] = {}

    def next_number(self) -> int:
        """Of the next entry to be added."""
        return next(self._numbers)

    @property
    def is_full(self) -> bool:
        """Whether who publishes should wait, or, while the bus is away, the rest be read from the source."""
        return (
            len(self.unsent) >= self._most_entries
            or self._unsent_bytes >= self._most_bytes
            or len(self.owed) + len(self.told) >= self._most_entries
        )

    def add(self, out: Out, *, is_pending: bool = True) -> None:
        """Put an entry behind all others. If it is not pending there is nothing to be done about it here."""
        out.is_unsent = True
        self.unsent.append(out)
        self._unsent_bytes += len(out.passage.data)
        if is_pending:
            self.pending[out.entry.number] = out

    def batch(self) -> list[Out]:
        """The first unsent ones, not more than go through the door at a time; they stay where they are."""
        while self.unsent and self.unsent[0].is_void:
            self._drop_first()
        size_bytes = 0
        found = list[Out]()
        for out in itertools.islice(self.unsent, _MOST_BATCH_ENTRIES):
            size_bytes += len(out.passage.data)
            if found and size_bytes > _MOST_BATCH_BYTES:
                break
            if not out.is_void:
                found.append(out)
        return found

    def sent(self, out: Out) -> None:
        """That one of the first unsent ones, and what is void before it, are unsent no more."""
        # It may have been given up while it was on its way.
        while out.is_unsent:
            self._drop_first()

    def _drop_first(self) -> None:
        out = self.unsent.popleft()
        out.is_unsent = False
        self._unsent_bytes -= len(out.passage.data)

    def settle(self, number: int, *, is_published: bool) -> None:
        """An entry has been dealt with here."""
        out = self.pending.pop(number, None)
        if out is not None:
            out.resolve(is_published=is_published)

    def came_back(self, number: int) -> None:
        """The stream has brought that entry, and it has been dealt with here."""
        # What became of them may be unknown still; they are not to go in once more.
        if told := self.told.pop(number, None):
            told.is_void = True
        if out := self.pending.pop(number, None):
            out.is_void = True
            out.resolve(is_published=True)

    def overtaken(self, number: int) -> Iterator[tuple[Out, bool]]:
        """Those that went into the stream before that one and did not come out of it: they are lost.

        With each, whether it has been dealt with here.
        """
        for known in (self.pending, self.told):
            # Mostly there is nothing before it.
            if next(iter(known), number) >= number:
                continue
            for earlier in list(itertools.takewhile(lambda each: each < number, known)):
                out = known[earlier]
                if not out.is_unsent and (out.is_in or known is self.told):
                    del known[earlier]
                    if out.is_in:
                        yield out, known is self.told

    def passed(self, number: int) -> dict[str, int]:
        """What the stream has brought before the echo of that number; what lay before a lost one is owed."""
        passed: dict[str, int] = {}
        if not self.fences:
            return passed
        for fence in list(itertools.takewhile(lambda each: each <= number, self.fences)):
            keys = self.fences.pop(fence)
            if fence == number:
                passed = keys
            else:
                for key, last in keys.items():
                    self.owe(key, last, last)
        return passed

    def owe(self, key: str, first: int, last: int) -> None:
        """These changes are to be published yet, by what the source has of them."""
        known_first, known_last = self.owed.get(key, (first, last))
        self.owed[key] = (min(first, known_first), max(last, known_last))

    def clear(self) -> None:
        """Forget what the others were not told and was dealt with here."""
        kept = [out for out in self.unsent if out.entry.number in self.pending]
        while self.unsent:
            self._drop_first()
        self.told.clear()
        self.owed.clear()
        for out in kept:
            self.add(out)
