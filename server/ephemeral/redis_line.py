"""Scripts run by one Redis in the order in which they are asked for, many in a round trip."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from server.ephemeral.redis_scripts import SCRIPTS, Script
from server.redis_client import FAILURES, make_client
from server.telemetry import get_logger

_MOST_CALLS = 500
_log = get_logger(__name__)


class AwayError(Exception):
    """Redis does not do it now. Whether it has done it is unknown."""


class Line:
    """One connection, and what waits for it while a batch is under way.

    At the first failure it is closed: all that waits fails, and what is asked after that fails at once, until
    `open` succeeds again. So nobody waits for longer than one time-out, and a call that was cut off may yet
    be done by Redis, but then before `open` or on a connection that nobody listens to.
    """

    def __init__(self, url: str, *, timeout_s: float, broken: Callable[[], None]) -> None:
        """`broken` is called when the line closes by itself. Raises RedisRefusedError."""
        self._client = make_client(url, timeout_s=timeout_s)
        self._timeout_s = timeout_s
        self._broken = broken
        self._waiting: list[tuple[Script, str, tuple[str | int, ...], asyncio.Future[Any]]] = []
        self._has_calls = asyncio.Event()
        self._working: asyncio.Task[None] | None = None
        self.is_open = False

    async def open(self) -> None:
        """Take calls. When this returns none has been taken yet. Raises AwayError."""
        try:
            async with asyncio.timeout(self._timeout_s):
                for script in SCRIPTS:
                    await self._client.script_load(script.text)
        except FAILURES as error:
            raise AwayError(type(error).__name__) from error
        if self._working is None:
            self._working = asyncio.create_task(self._work(), name="ephemeral.line")
        self.is_open = True
        _log.info("ephemeral.back")

    async def close(self) -> None:
        """Take no more calls; those that wait fail."""
        self.is_open = False
        if self._working is not None:
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)
            self._working = None
        self._fail(AwayError("closed"))
        with contextlib.suppress(*FAILURES):
            await self._client.aclose()

    def send(self, script: Script, prefix: str, *args: str | int) -> asyncio.Future[Any]:
        """The answer to come, or AwayError. It is done whether or not somebody waits for it."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        # An error that nobody waits for is no news: the line has said so.
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        if self.is_open:
            self._waiting.append((script, prefix, args, answer))
            self._has_calls.set()
        else:
            answer.set_exception(AwayError("closed"))
        return answer

    async def _work(self) -> None:
        while True:
            await self._has_calls.wait()
            batch, self._waiting = self._waiting[:_MOST_CALLS], self._waiting[_MOST_CALLS:]
            if not self._waiting:
                self._has_calls.clear()
            answers: list[Any] = [AwayError("closed")] * len(batch)
            try:
                pipeline = self._client.pipeline(transaction=False)
                for script, prefix, args, _ in batch:
                    pipeline.evalsha(script.sha, 1, prefix, *args)
                async with asyncio.timeout(self._timeout_s):
                    answers = await pipeline.execute(raise_on_error=False)
            except Exception as error:  # noqa: BLE001 - whatever it was: nobody is to wait for ever
                answers = [error] * len(batch)
            finally:
                failed = _settle([call[-1] for call in batch], answers)
            if failed is not None:
                await self._break(failed)

    async def _break(self, error: Exception) -> None:
        self.is_open = False
        # Of an answer of Redis the first word is its code; the rest may show what was asked.
        _log.warning("ephemeral.away", error=type(error).__name__, code=str(error).partition(" ")[0][:32])
        self._fail(AwayError(type(error).__name__))
        self._broken()
        with contextlib.suppress(*FAILURES):
            async with asyncio.timeout(self._timeout_s):
                await self._client.connection_pool.disconnect()

    def _fail(self, error: AwayError) -> None:
        waiting, self._waiting = self._waiting, []
        _settle([call[-1] for call in waiting], [error] * len(waiting))


def _settle(waiting: list[asyncio.Future[Any]], answers: list[Any]) -> Exception | None:
    """Give the answers; the first that is an error."""
    failed = None
    for future, answer in zip(waiting, answers, strict=True):
        if isinstance(answer, Exception):
            failed = failed or answer
            if not future.done():
                future.set_exception(AwayError(type(answer).__name__))
        elif not future.done():
            future.set_result(answer)
    return failed
