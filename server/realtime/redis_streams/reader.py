"""The way out of the stream: every entry once, in order, for as long as the stream is the same.

What comes in is published as well. It is taken from there if it is right behind what was read last; the
stream itself is read in the beginning, after a silence, and whenever something is missing in between.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from server.realtime.redis_streams.entries import VERSION, position_of
from server.redis_client import FAILURES, Client
from server.telemetry import Repeats, get_logger

log = get_logger(__name__)

_PAGE = 500
_SILENT_S = 1.0
_MOST_HEARD = 200
_BEGINNING = b"0-0"
_PAUSES_S = (0.05, 0.2, 0.5, 1.0)


class Taken(msgspec.Struct, frozen=True):
    """An entry: its position, the epoch in which it was written, its bytes.

    `is_first` of its gapless key: what is before it may not have come by the stream.
    """

    position: int
    epoch: str
    data: bytes
    is_first: bool = False


Take = Callable[[Taken], Awaitable[None]]


Lost = Callable[[int], Awaitable[None]]
"""What is done when what was read last is not in the stream any more: it goes on behind that position."""


async def _nowhere() -> None:
    """Nobody says what comes in."""


class Reader:
    """Reads one stream. `skipped` is called with the position of what is of another form."""

    def __init__(
        self,
        client: Client,
        stream: str,
        take: Take,
        lost: Lost,
        skipped: Callable[[int], None],
        *,
        listen: Callable[[], Awaitable[None]] = _nowhere,
    ) -> None:
        """`listen` sees to it that what comes in from then on is heard. Raises one of FAILURES."""
        # The library types each answer for every option and protocol at once.
        self._client: Any = client
        self._stream = stream
        self._take = take
        self._lost = lost
        self._skipped = skipped
        self._listen = listen
        self._last = _BEGINNING
        self._first: bytes | None = None
        # Whether the stream may have become another one, or have more, since it was read last.
        self._is_doubtful = True
        self.has_more = False
        """Whether the next entry has been read already."""
        self._heard: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        # By the loop's clock.
        self._heard_at_s = float("-inf")
        self._alarm: asyncio.TimerHandle | None = None
        self._failures = Repeats()

    async def open(self) -> int:
        """Find where the stream begins: all before this position is gone. Raises one of FAILURES."""
        first = await self._client.xrange(self._stream, count=1)
        if first:
            self._first = first[0][0]
            return position_of(first[0][0]) - 1
        self._last = await self._end()
        return position_of(self._last)

    async def catch_up(self) -> None:
        """Take what stands in the stream already. Raises one of FAILURES."""
        while page := await self._client.xrange(self._stream, min=b"(" + self._last, count=_PAGE):
            # What was read last may have been trimmed, and more. What is there now was when this was read.
            if await self._is_there(page[0][0]):
                await self._take_page(page)
            else:
                await self._go_on_at_end()

    def heard(self, published: bytes) -> None:
        """What has come in, as the door publishes it."""
        if len(self._heard) >= _MOST_HEARD:
            self._heard.clear()
            self._is_doubtful = True
        self._heard.append(published)
        self._heard_at_s = asyncio.get_running_loop().time()
        self._wake()

    def doubt(self) -> None:
        """What comes in is not heard any more."""
        self._is_doubtful = True
        self._wake()

    async def run(self) -> None:
        """Take what comes, until cancelled."""
        failed = 0
        while True:
            try:
                await self._read()
            except FAILURES as error:
                self._is_doubtful = True
                if (left_out := self._failures.admit(type(error).__name__)) is not None:
                    log.warning("bus.unreadable", reason=type(error).__name__, left_out=left_out)
                await asyncio.sleep(_PAUSES_S[min(failed, len(_PAUSES_S) - 1)])
                failed += 1
            else:
                failed = 0

    async def _read(self) -> None:
        if self._is_doubtful:
            self._is_doubtful = False
            await self._listen()
            if not await self._is_there():
                await self._go_on_at_end()
            await self.catch_up()
        if not (self._heard or await self._hears()):
            # Servers write all the time: silence may be the end of what is being read.
            self._is_doubtful = True
        while self._heard and not self._is_doubtful:
            await self._take_published(self._heard.popleft())
            if self._heard:
                # There may be hundreds, and others who wait.
                await asyncio.sleep(0)

    async def _hears(self) -> bool:
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        # One for many waits: there is one for each message.
        if self._alarm is None:
            self._alarm = loop.call_later(_SILENT_S, self._ring)
        try:
            await self._waiter
        finally:
            self._waiter = None
        return bool(self._heard)

    def _ring(self) -> None:
        loop, until_s = asyncio.get_running_loop(), self._heard_at_s + _SILENT_S
        if until_s > loop.time():
            self._alarm = loop.call_at(until_s, self._ring)
        else:
            self._alarm = None
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _is_there(self, first: bytes | None = None) -> bool:
        """Whether what was read last is in the stream still, or, in the beginning, what was the first one."""
        if self._last == _BEGINNING:
            return None in (first, self._first) or first == self._first
        return bool(await self._client.xrange(self._stream, min=self._last, max=self._last))

    async def _go_on_at_end(self) -> None:
        end = await self._end()
        await self._lost(position_of(end))
        # Not before others know: else nobody would, if that failed.
        self._last, self._first = end, None

    async def _end(self) -> bytes:
        if not await self._client.exists(self._stream):
            return _BEGINNING
        about = await self._client.xinfo_stream(self._stream)
        end: bytes = about["last-generated-id"]
        return end

    async def _take_page(self, page: list[tuple[bytes, dict[bytes, bytes]]]) -> None:
        for behind, (stream_id, fields) in enumerate(page, 1 - len(page)):
            self._last, self.has_more = stream_id, behind < 0
            if fields.get(b"v") == VERSION:
                epoch = fields.get(b"e", b"").decode(errors="replace")
                data, is_first = fields.get(b"d", b""), bool(fields.get(b"f"))
                await self._take(Taken(position_of(stream_id), epoch, data, is_first))
                continue
            self._skipped(position_of(stream_id))
            if (left_out := self._failures.admit("version")) is not None:
                log.error("bus.entry_skipped", reason="of another version", left_out=left_out)

    async def _take_published(self, published: bytes) -> None:
        head, _, data = published.partition(b"\n")
        version, before, epoch, *entries = head.split(b" ")
        if before != self._last or version != VERSION:
            # It may have been read already.
            last = position_of(entries[-3]) if version == VERSION else position_of(self._last) + 1
            self._is_doubtful = last > position_of(self._last)
            return
        begin, epoch_name = 0, epoch.decode(errors="replace")
        for at in range(0, len(entries), 3):
            stream_id, is_first, end = entries[at], entries[at + 1] == b"1", begin + int(entries[at + 2])
            self._last, self.has_more = stream_id, at + 3 < len(entries) or bool(self._heard)
            await self._take(Taken(position_of(stream_id), epoch_name, data[begin:end], is_first))
            begin = end
