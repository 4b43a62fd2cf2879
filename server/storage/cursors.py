"""Group commit of read cursors."""

import asyncio
from collections import deque
from collections.abc import Iterable

from server.domain.errors import ChatError, UnavailableError
from server.storage.base import RoomStore
from server.telemetry import get_logger, new_error_id

_MOST_AT_ONCE = 500
_MOST_WAITING = 10_000
_log = get_logger(__name__)


class CursorCommitter:
    """Read cursors in batches: while one batch is being stored the next one forms."""

    def __init__(self, rooms: RoomStore, *, deadline_s: float = 10.0) -> None:
        self._rooms = rooms
        self._deadline_s = deadline_s
        self._waiting: deque[tuple[tuple[str, str, int], asyncio.Future[int]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def advance(self, room_id: str, user_id: str, seq: int) -> int:
        """Move the cursor forward to `seq`, never back; where it is once stored. Raises UnavailableError."""
        if len(self._waiting) >= _MOST_WAITING:
            raise UnavailableError("the server cannot store this now", retry_after_ms=1000)
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(((room_id, user_id, seq), future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write(), name="commit.cursors")
        return await future

    async def close(self) -> None:
        """Let the batches that wait be stored, for at most the deadline."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=self._deadline_s)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._resolve(self._waiting, UnavailableError("the server stopped before this was stored"))

    async def _write(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MOST_AT_ONCE))]
            try:
                positions = await self._rooms.advance_cursors([cursor for cursor, _ in batch])
                for (_, future), position in zip(batch, positions, strict=True):
                    if not future.done():
                        future.set_result(position)
            except ChatError as error:
                self._resolve(batch, error)
            except Exception:  # noqa: BLE001 - a bug must fail its own batch, not every later one
                error_id = new_error_id()
                _log.exception("cursor.save_failed", error_id=error_id, entries=len(batch))
                self._resolve(batch, UnavailableError(f"the store failed ({error_id})"))

    @staticmethod
    def _resolve(batch: Iterable[tuple[tuple[str, str, int], asyncio.Future[int]]], error: ChatError) -> None:
        for _, future in batch:
            if not future.done():
                future.set_exception(error)
