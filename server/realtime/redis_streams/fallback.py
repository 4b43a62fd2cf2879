"""What a server does by itself while the bus is not heard, and how it notices."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress

from server.realtime.bus import Source, SourceAwayError
from server.realtime.redis_streams.outbox import Out, Outbox
from server.realtime.redis_streams.tracks import Tracks
from server.telemetry import get_logger, new_error_id

log = get_logger(__name__)

_DEAF_AFTER_S = 2.0
_BACK_WITHIN_S = 1.0
_READ_EVERY_S = 1.0
_WATCH_S = 0.25
_PRUNE_S = 30.0
_BEGIN_ANEW_S = 1.0
_CANCEL_AGAIN_S = 0.1


class Fallback:
    """Deals with what is published here as long as the stream does not bring it back, and reads the rest.

    `must_read_anew`, until that has been done: something may never come by the stream. `dealing` is held by
    who deals with an entry: here and in the reader, else the same could be dealt with twice.
    """

    def __init__(
        self,
        outbox: Outbox,
        tracks: Tracks,
        source: Source,
        *,
        deal: Callable[[Out], Awaitable[None]],
        give_up: Callable[[], None],
    ) -> None:
        """`give_up` has all servers read anew what was not published, since it was too much."""
        self._outbox = outbox
        self._tracks = tracks
        self._source = source
        self._deal = deal
        self._give_up = give_up
        self._heard_at_s = float("-inf")
        self._away_at_s = float("-inf")
        self._read_at_s = float("-inf")
        self._pruned_at_s = time.monotonic()
        self._changed = asyncio.Event()
        self._heard = asyncio.Event()
        self._asking = asyncio.Event()
        self._asked = 0
        self._answered = 0
        self.is_away = False
        self.dealing = asyncio.Lock()

    @property
    def must_read_anew(self) -> bool:
        return self._answered < self._asked

    def read_anew(self) -> None:
        """Something may never come by the stream."""
        self._asked += 1
        self._asking.set()

    @property
    def is_heard(self) -> bool:
        """Whether something came back that was written a moment ago."""
        return not self.is_away and time.monotonic() - self._heard_at_s < _DEAF_AFTER_S

    def heard_at(self, at_s: float) -> None:
        """Something came back that was written at that time, by `time.monotonic`."""
        self._heard_at_s = max(self._heard_at_s, at_s)
        self._heard.set()

    async def heard(self, timeout_s: float) -> None:
        """Return once something came back. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            await self._heard.wait()

    def wake(self) -> None:
        """There is more to be dealt with."""
        if self.is_away:
            self._changed.set()

    def went_away(self) -> None:
        """Redis did not do what it was to."""
        if not self.is_away:
            self.is_away = True
            self._away_at_s = time.monotonic()
            log.error("bus.away")
            self._source.forget()
            self._changed.set()

    async def deal(self) -> None:
        """Deal here with what is published, in its order, while the bus is away; until cancelled."""
        while True:
            self._changed.clear()
            while self.is_away and self._outbox.pending:
                await self._deal_with_first()
            await self._changed.wait()

    async def _deal_with_first(self) -> None:
        async with self.dealing:
            await self._deal_with_first_now()
        # There may be thousands, and others who wait.
        await asyncio.sleep(0)

    async def _deal_with_first_now(self) -> None:
        if not (self.is_away and self._outbox.pending):
            return
        number, out = next(iter(self._outbox.pending.items()))
        try:
            await self._deal(out)
        except Exception:
            log.exception("realtime.entry_failed", error_id=new_error_id())
        # When it is in the stream the others have it, or will.
        self._outbox.settle(number, is_published=out.is_in)
        # Not in between: what is not dealt with stays, and would have it full again at once.
        if self._outbox.is_full and not self._outbox.pending:
            self._outbox.clear()
            self._give_up()

    async def watch(self) -> None:
        """Notice when the bus is not heard, and when it is again; until cancelled."""
        await self._heard.wait()
        while True:
            now_s = time.monotonic()
            silent_s = now_s - self._heard_at_s
            if not self.is_away and silent_s > _DEAF_AFTER_S:
                self.went_away()
            elif self.is_away and self._heard_at_s > self._away_at_s and silent_s < _BACK_WITHIN_S:
                self._came_back()
            is_due = self.is_away or self.must_read_anew or self._tracks.broken
            if is_due and now_s - self._read_at_s >= _READ_EVERY_S:
                self._read_at_s = now_s
                await self._read_anew()
            if now_s - self._pruned_at_s >= _PRUNE_S:
                self._pruned_at_s = now_s
                self._tracks.prune()
            self._asking.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_WATCH_S):
                    await self._asking.wait()

    def _came_back(self) -> None:
        self.is_away = False
        # What was kept from before, and what was read while nobody said that it changed.
        self._source.forget()
        log.info("bus.back", owed=len(self._outbox.owed))

    async def _read_anew(self) -> None:
        asked, is_asked = self._asked, self.must_read_anew
        # In the order published: what is read would be told before it. But who waits here for thousands, and
        # for a store that does not answer, does not notice that the bus is back.
        for _ in range(len(self._outbox.pending) if self.is_away else 0):
            if self._heard_at_s > self._away_at_s:
                break
            await self._deal_with_first()
        try:
            if is_asked:
                self._source.forget()
            if is_asked or self.is_away:
                await self._source.refresh()
                await self._tracks.repair()
            else:
                await self._tracks.repair(self._tracks.broken)
        except SourceAwayError:
            return
        self._answered = max(asked, self._answered)


async def kept_up(loop: Callable[[], Awaitable[None]]) -> None:
    """Begin anew what a bug has ended: without it this server would be deaf or mute for good."""
    while True:
        try:
            await loop()
        except Exception:
            log.exception("realtime.task_failed", error_id=new_error_id())
            await asyncio.sleep(_BEGIN_ANEW_S)


async def stop(tasks: Collection["asyncio.Task[None]"]) -> None:
    """End loops that run until they are cancelled."""
    running = {task for task in tasks if not task.done()}
    while running:
        for task in running:
            task.cancel()
        # Before Python 3.12 `asyncio.wait_for`, by which the library writes, may swallow a cancellation.
        _, running = await asyncio.wait(running, timeout=_CANCEL_AGAIN_S)
