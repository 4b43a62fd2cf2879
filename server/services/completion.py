"""Work that is done to its end, whoever waits for it: what is stored is told, though the asker left."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from server.domain.errors import ChatError, UnavailableError
from server.telemetry import get_logger, new_error_id

_log = get_logger(__name__)
Result = TypeVar("Result")

_OUTCOME_CERTAIN_AFTER_S = 30.0


class Completion:
    """Owns the tasks; `close` waits for them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do the work in a task of its own. When the caller is cancelled the work goes on."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return await asyncio.shield(task)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Do the work later, waited for by nobody."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    async def written(self, write: Awaitable[Result], doubt: Callable[[], Awaitable[None]]) -> Result:
        """The write's result. When its outcome is unknown, `doubt` is done now and when it is certain."""
        try:
            return await write
        except UnavailableError:
            self.start(self._doubt_twice(doubt))
            raise

    @staticmethod
    async def _doubt_twice(doubt: Callable[[], Awaitable[None]]) -> None:
        await doubt()
        await asyncio.sleep(_OUTCOME_CERTAIN_AFTER_S)
        await doubt()

    async def close(self, timeout_s: float) -> None:
        """Wait for what runs, then cancel what is left."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        left = list(self._tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ChatError):
            _log.error("work.failed", exc_info=error, error_id=new_error_id())
