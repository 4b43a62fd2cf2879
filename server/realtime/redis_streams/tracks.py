"""How far each gapless key has been told here, and how a gap is closed from the source."""

import asyncio
import heapq
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from contextlib import suppress

from server.realtime.bus import BusRefusedError, Emit, Source, SourceAwayError

_MOST_SEEN = 50_000
_IDLE_S = 60.0
# A reader that waits for the source hears nothing else meanwhile.
_SOURCE_TIMEOUT_S = 1.0
# What was told longer ago, or of more keys, nobody publishes once more.
_RECENT_S = 3_600.0
_MOST_RECENT = 4_000
_MOST_CHECKED = 100
# What a primary has just been elected for it may answer a moment later.
_CHECKED_AFTER_S = (0.0, 0.5, 2.0)


class _Track:
    """`told`: up to where; None while nothing has come by the stream since the head was `head`."""

    __slots__ = ("head", "told", "told_at_s", "used_at_s")

    def __init__(self, told: int | None, head: int) -> None:
        self.told = told
        self.head = head
        self.told_at_s = self.used_at_s = time.monotonic()

    def tell(self, number: int) -> None:
        self.told = number
        self.told_at_s = time.monotonic()


class Tracks:
    """The keys that somebody here is to be told of.

    `ahead` are those told further than the stream has come, and how far; they are owed to it, so that it
    comes there. `broken` are those whose gap could not be read: nothing of them is told until it can.
    """

    def __init__(
        self,
        source: Source,
        tell: Callable[[Emit], None],
        is_wanted: Callable[[str], bool],
        owe: Callable[[str, int, int], None],
        begin_anew: Callable[[Collection[str]], None],
    ) -> None:
        """`is_wanted`: whether anybody is here who is to be told of this key.

        `owe` has the changes of a key, from the first to the last, published if they are not yet.
        `begin_anew` is for those who went on here with these keys: what was stored before they came the
        stream may never have brought, nor will anybody here.
        """
        self._source = source
        self._tell = tell
        self._is_wanted = is_wanted
        self._owe = owe
        self._begin_anew = begin_anew
        self._tracks: dict[str, _Track] = {}
        self._seen: OrderedDict[str, int] = OrderedDict()
        self._repairing = asyncio.Lock()
        self.ahead: dict[str, int] = {}
        self.broken: set[str] = set()

    async def require_stored(self) -> None:
        """Make sure that the source has what the stream has brought lately of the keys that it knows.

        Where it was set back the door would let nothing pass until the old numbers are reached. Raises
        BusRefusedError.
        """
        seen = dict(list(self._seen.items())[-_MOST_CHECKED:])
        is_behind = False
        for pause_s in _CHECKED_AFTER_S:
            await asyncio.sleep(pause_s)
            with suppress(SourceAwayError):
                heads = await self._source.heads(list(seen))
                is_behind = any(0 < heads.get(key, 0) < number for key, number in seen.items())
                if not is_behind:
                    return
        if is_behind:
            raise BusRefusedError(
                "Redis has changes which the store lacks: a backup was restored. Stop all servers, empty the "
                "database of Redis, which keeps nothing that has to last, and start them again."
            )

    async def follow(self, keys: Collection[str]) -> None:
        """Tell of these keys from now on. Raises SourceAwayError."""
        missing = [key for key in keys if key not in self._tracks]
        heads = await self._source.heads(missing) if missing else {}
        now_s = time.monotonic()
        for key in keys:
            if key not in self._tracks:
                # What the stream still has to bring behind the last that was seen is told when it comes:
                # who is recovered may have missed it. Where none was seen the head shows a gap.
                self._tracks[key] = _Track(self._seen.get(key), heads.get(key, 0))
            self._tracks[key].used_at_s = now_s

    def is_known(self, key: str) -> bool:
        """Whether who is here was told all of this key up to some number."""
        track = self._tracks.get(key)
        return track is not None and track.told is not None

    async def admit(self, key: str, number: int, *, is_live: bool) -> bool:
        """Whether the entry that the stream has brought is to be told now; closes the gap before it."""
        self._note(key, number)
        track = self._tracks.get(key)
        if track is None or not is_live:
            return is_live
        if track.told is None:
            track.told = number - 1 if number <= track.head else track.head
        if number > track.told + 1 and not (key not in self.broken and await self._try_to_repair(key)):
            return False
        if number <= track.told:
            return False
        # What the source does not have, though it answers, nobody will ever tell.
        track.tell(number)
        return True

    async def repair(self, keys: Collection[str] | None = None) -> None:
        """Tell what the source has beyond what was told, of these keys or of all that anybody wants.

        Raises SourceAwayError.
        """
        wanted = list(self._tracks) if keys is None else [key for key in keys if key in self._tracks]
        async with self._repairing:
            self.broken -= {key for key in wanted if not self._is_wanted(key)}
            wanted = [key for key in wanted if self._is_wanted(key)]
            heads = await self._source.heads(wanted) if wanted else {}
            for key in wanted:
                track = self._tracks.get(key)
                if track is not None:
                    await self._repair(key, track, heads.get(key, 0))

    def begin_anew(self) -> None:
        """The stream is another one: what it has brought says nothing of what it will bring.

        What was told lately may be published once more, and what came right behind it never was: both end
        when the stream is known to have the last that was told.
        """
        self._seen.clear()
        since_s = time.monotonic() - _RECENT_S
        told = [
            (track.told_at_s, key, track.told)
            for key, track in self._tracks.items()
            if track.told and track.told_at_s >= since_s and self._is_wanted(key)
        ]
        self.ahead |= {key: number for _, key, number in heapq.nlargest(_MOST_RECENT, told)}
        for key, number in self.ahead.items():
            self._owe(key, number, number)

    def passed(self, key: str, number: int) -> None:
        """The stream has brought what it will of this key up to that change."""
        if self.ahead.get(key, number + 1) <= number:
            del self.ahead[key]

    def prune(self) -> None:
        """Forget the keys that nobody wants any more."""
        idle_since_s = time.monotonic() - _IDLE_S
        for key, track in list(self._tracks.items()):
            if track.used_at_s < idle_since_s and not self._is_wanted(key):
                del self._tracks[key]
                self.ahead.pop(key, None)
                self.broken.discard(key)

    async def _try_to_repair(self, key: str) -> bool:
        try:
            async with asyncio.timeout(_SOURCE_TIMEOUT_S):
                await self.repair([key])
        except (SourceAwayError, TimeoutError):
            self.broken.add(key)
            return False
        return True

    async def _repair(self, key: str, track: _Track, head: int) -> None:
        if track.told is None and head > track.head:
            track.told = track.head
            self._begin_anew([key])
        while track.told is not None and track.told < head:
            if not await self._tell_next(key, track, track.told):
                break
        self.broken.discard(key)

    async def _tell_next(self, key: str, track: _Track, after: int) -> bool:
        """Tell a page; False when there is nothing new in it."""
        emits = await self._source.emits_after(key, after)
        if emits:
            # They may be newer than what controls have said. What is read now is newer than they are.
            await self._source.settle(key)
        told = track.told
        for emit in emits:
            if emit.order is not None and emit.order.number == (track.told or 0) + 1:
                self._tell(emit)
                track.tell(emit.order.number)
        seen = self._seen.get(key, 0)
        if track.told != told and track.told is not None and track.told > seen:
            self.ahead[key] = track.told
            self._owe(key, max(after, seen) + 1, track.told)
        return track.told != after

    def _note(self, key: str, number: int) -> None:
        self._seen[key] = number
        self._seen.move_to_end(key)
        if len(self._seen) > _MOST_SEEN:
            self._seen.popitem(last=False)
        self.passed(key, number)
