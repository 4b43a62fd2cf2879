"""Takes what a server publishes through the door, in order, as often as it takes."""

import asyncio
import itertools
import time
from collections.abc import Callable
from contextlib import suppress

import msgspec

from server.realtime.bus import Control, Emit, Source, SourceAwayError
from server.realtime.redis_streams import entries
from server.realtime.redis_streams.door import GAPLESS, NUMBERED, Door, Passage
from server.realtime.redis_streams.entries import EchoEntry, EmitEntry, Entry
from server.realtime.redis_streams.outbox import Out, Outbox
from server.redis_client import FAILURES
from server.telemetry import Repeats, get_logger, new_error_id

log = get_logger(__name__)

# How often a server makes sure that it hears itself.
_ECHO_S = 0.5
# The one before is mostly on its way, from another server.
_EARLY_S = 0.003
_MOST_TRIES = 5
_PAUSES_S = (0.05, 0.1, 0.2, 0.5)
# What else is published waits no longer for the source.
_SOURCE_TIMEOUT_S = 1.0
# Owed keys are published between batches, so that nobody waits for all of them.
_MOST_KEYS = 20


class Publisher:
    """Writes what is unsent in the outbox. `failed` is called when Redis did not do it."""

    def __init__(
        self,
        door: Door,
        outbox: Outbox,
        source: Source,
        *,
        namespace: str,
        node: str,
        epoch: Callable[[], str],
        failed: Callable[[], None],
    ) -> None:
        """`epoch`: the present one, as far as it is known."""
        self._door = door
        self._outbox = outbox
        self._source = source
        self._namespace = namespace
        self._node = node
        self._epoch = epoch
        self._failed = failed
        self._filled = asyncio.Event()
        # The first echo need not wait.
        self._filled.set()
        self._alarm: asyncio.TimerHandle | None = None
        self._passed = asyncio.Condition()
        self._waiting = 0
        self._failures = Repeats()
        self._echo: Out | None = None
        self._echoed_at_s = float("-inf")
        self._source_away_until_s = float("-inf")

    def out(self, published: Emit | Control) -> Out:
        """What is to be published, ready to be added. Raises UnencodableError."""
        number = self._outbox.next_number()
        if isinstance(published, Control):
            out = self.numbered(entries.control_entry(published, node=self._node, number=number))
            out.is_strict = published.is_strict
            return out
        entry = entries.emit_entry(published, namespace=self._namespace, node=self._node, number=number)
        order = published.order
        if order is None:
            return self.numbered(entry)
        kind = GAPLESS if order.is_gapless else NUMBERED
        return Out(entry, Passage(kind=kind, key=order.key, number=order.number, data=entries.encode(entry)))

    def numbered(self, entry: Entry) -> Out:
        """One that has no place but among those of this server."""
        data = entries.encode(entry)
        return Out(entry, Passage(kind=NUMBERED, key=self._node, number=entry.number, data=data))

    def wake(self) -> None:
        """Something is unsent."""
        self._filled.set()

    def again(self, lost: Out, *, is_told: bool) -> None:
        """Publish an entry anew that the stream has lost; `is_told`: it has been dealt with here."""
        if isinstance(lost.entry, EmitEntry) and lost.entry.key:
            self._outbox.owe(lost.entry.key, lost.entry.rev, lost.entry.rev)
            self.wake()
            return
        number = self._outbox.next_number()
        entry = entries.again(lost.entry, number, lost.epoch)
        passage = msgspec.structs.replace(lost.passage, data=entries.encode(entry), tried_in=lost.epoch)
        if passage.key == self._node:
            passage = msgspec.structs.replace(passage, number=number)
        out = Out(entry, passage, is_strict=lost.is_strict)
        out.done = lost.done
        self._outbox.add(out, is_pending=not is_told)
        if is_told:
            self._outbox.told[number] = out
        self.wake()

    async def room(self, timeout_s: float) -> None:
        """Return once there is room for more, or after that time."""
        if self._outbox.is_full:
            await self._until(lambda: not self._outbox.is_full, timeout_s)

    async def flush(self, timeout_s: float) -> None:
        """Return once nothing is unsent or owed, or after that time."""
        await self._until(lambda: not (self._outbox.unsent or self._outbox.owed), timeout_s)

    async def _until(self, holds: Callable[[], bool], timeout_s: float) -> None:
        self._waiting += 1
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s), self._passed:
                    await self._passed.wait_for(holds)
        finally:
            self._waiting -= 1

    async def run(self) -> None:
        """Publish, until cancelled."""
        failed = 0
        while True:
            await self._wait()
            try:
                if self._outbox.owed:
                    await self._publish_owed()
                await self._publish_batch()
            except FAILURES as error:
                if (left_out := self._failures.admit(type(error).__name__)) is not None:
                    log.warning("bus.unwritable", reason=type(error).__name__, left_out=left_out)
                self._failed()
                await asyncio.sleep(_PAUSES_S[min(failed, len(_PAUSES_S) - 1)])
                failed += 1
            else:
                failed = 0
            if self._waiting:
                async with self._passed:
                    self._passed.notify_all()

    async def _wait(self) -> None:
        if not (self._outbox.unsent or (self._outbox.owed and not self._is_source_away())):
            self._filled.clear()
            # One for many waits: there is one for each message.
            if self._alarm is None:
                self._alarm = asyncio.get_running_loop().call_later(_ECHO_S, self._ring)
            await self._filled.wait()
        # One at a time: while Redis is away they would pile up.
        is_awaited = self._echo is not None and self._echo.is_unsent
        if not is_awaited and time.monotonic() - self._echoed_at_s >= _ECHO_S:
            self._add_echo()

    def _ring(self) -> None:
        self._alarm = None
        self._filled.set()

    def _add_echo(self) -> int:
        self._echoed_at_s = time.monotonic()
        number = self._outbox.next_number()
        self._echo = self.numbered(EchoEntry(self._node, number, self._echoed_at_s))
        self._outbox.add(self._echo, is_pending=False)
        return number

    async def _publish_batch(self) -> None:
        batch = self._outbox.batch()
        if not batch:
            return
        for out in batch:
            out.epoch = self._epoch()
        try:
            results = await self._door.publish([out.passage for out in batch])
        except FAILURES:
            for out in batch:
                out.failed()
            raise
        # Behind the first one that is too early nothing was looked at.
        for out, result in zip(batch, results, strict=False):
            if result:
                await self._too_early(out, result)
                return
            self._outbox.sent(out)
            if result is None or out.passage.key == self._node:
                # Of this server's own none but itself can have come in before it.
                out.is_in = True
            else:
                # It was in before, or nobody is to be told it any more; the stream need not bring it back.
                self._outbox.told.pop(out.entry.number, None)
                self._outbox.settle(out.entry.number, is_published=True)

    async def _too_early(self, out: Out, last: int) -> None:
        out.tries += 1
        if out.tries == 1:
            await asyncio.sleep(_EARLY_S)
            return
        key, number = out.passage.key, out.passage.number
        with suppress(SourceAwayError):
            if out.tries < _MOST_TRIES and await self._fill(key, last, number - 1):
                return
        # The rest shall not wait for this key.
        self._outbox.sent(out)
        self._outbox.settle(out.entry.number, is_published=True)
        self._outbox.owe(key, last + 1, number)

    async def _publish_owed(self) -> None:
        if self._is_source_away():
            return
        filled: dict[str, int] = {}
        try:
            for key, owed in list(itertools.islice(self._outbox.owed.items(), _MOST_KEYS)):
                first, last = owed
                if not await self._fill(key, first - 1, last):
                    log.error("bus.unfillable", key=key)
                # It may have been owed anew meanwhile, to another epoch.
                if self._outbox.owed.get(key) is owed:
                    del self._outbox.owed[key]
                    filled[key] = last
        except SourceAwayError:
            pass
        finally:
            if filled:
                self._outbox.fences[self._add_echo()] = filled

    async def _fill(self, key: str, after: int, last: int) -> bool:
        """Publish what the source has behind `after`, until `last`. False: it does not have it."""
        while after < last:
            passages = self._passages(await self._emits_after(key, after), last)
            if not passages:
                return False
            results = await self._door.publish(passages)
            if results and results[-1]:
                # The door has come less far than was thought.
                if results[-1] >= after:
                    return False
                after = results[-1]
            else:
                after = passages[-1].number
        return True

    async def _emits_after(self, key: str, number: int) -> list[Emit]:
        try:
            async with asyncio.timeout(_SOURCE_TIMEOUT_S):
                return await self._source.emits_after(key, number)
        except (SourceAwayError, TimeoutError):
            self._source_away_until_s = time.monotonic() + _ECHO_S
            raise SourceAwayError from None

    def _is_source_away(self) -> bool:
        return time.monotonic() < self._source_away_until_s

    def _passages(self, emits: list[Emit], last: int) -> list[Passage]:
        """What is in order up to `last`; up to the first one that does not encode."""
        passages = []
        for emit in emits:
            if emit.order is None or emit.order.number > last:
                break
            try:
                entry = entries.emit_entry(emit, namespace=self._namespace, node=self._node, number=0)
            except Exception:
                log.exception("realtime.entry_failed", error_id=new_error_id(), name=emit.event)
                break
            key, number, data = emit.order.key, emit.order.number, entries.encode(entry)
            passages.append(Passage(kind=GAPLESS, key=key, number=number, data=data))
        return passages
