"""The way out of the stream: every entry once, in order, for as long as the stream is the same."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from server.realtime.redis_streams.entries import VERSION, position_of
from server.redis_client import FAILURES, Client
from server.telemetry import Repeats, get_logger

log = get_logger(__name__)

_PAGE = 500
_BLOCK_MS = 1_000
_LATE_S = 3.0
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


class Reader:
    """Reads one stream. `skipped` is called with the position of what is of another form."""

    def __init__(
        self, client: Client, stream: str, take: Take, lost: Lost, skipped: Callable[[int], None]
    ) -> None:
        """`client` may wait for an answer for more than a second."""
        # The library types each answer for every option and protocol at once.
        self._client: Any = client
        self._stream = stream
        self._take = take
        self._lost = lost
        self._skipped = skipped
        self._last = _BEGINNING
        # Whether the stream may have become another one since it was read last.
        self._is_doubtful = False
        self.has_more = False
        """Whether the next entry has been read already."""
        self._read_at_s = time.monotonic()
        self._failures = Repeats()

    async def open(self) -> int:
        """Find where the stream begins: all before this position is gone. Raises one of FAILURES."""
        first = await self._client.xrange(self._stream, count=1)
        if first:
            return position_of(first[0][0]) - 1
        self._last = await self._end()
        return position_of(self._last)

    async def catch_up(self) -> None:
        """Take what stands in the stream already. Raises one of FAILURES."""
        while page := await self._client.xrange(self._stream, min=b"(" + self._last, count=_PAGE):
            await self._take_all(page)

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
        if self._is_doubtful and not await self._is_there():
            await self._go_on_at_end()
        self._is_doubtful = False
        answer = await self._client.xread({self._stream: self._last}, count=_PAGE, block=_BLOCK_MS)
        # Servers write all the time: silence may be the end of what is being read.
        self._is_doubtful = not answer
        now_s = time.monotonic()
        is_late, self._read_at_s = now_s - self._read_at_s > _LATE_S, now_s
        for _, page in answer:
            # Who lags may have been overtaken by the trimming. What is there now was there when it read.
            if (is_late or len(page) == _PAGE) and not await self._is_there():
                await self._go_on_at_end()
            else:
                await self._take_all(page)

    async def _is_there(self) -> bool:
        """Whether what was read last is in the stream still."""
        if self._last == _BEGINNING:
            return True
        return bool(await self._client.xrange(self._stream, min=self._last, max=self._last))

    async def _go_on_at_end(self) -> None:
        end = await self._end()
        await self._lost(position_of(end))
        # Not before others know: else nobody would, if that failed.
        self._last = end

    async def _end(self) -> bytes:
        if not await self._client.exists(self._stream):
            return _BEGINNING
        about = await self._client.xinfo_stream(self._stream)
        end: bytes = about["last-generated-id"]
        return end

    async def _take_all(self, page: list[tuple[bytes, dict[bytes, bytes]]]) -> None:
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
