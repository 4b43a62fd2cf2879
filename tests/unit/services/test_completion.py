"""Work goes on when nobody waits for it any more."""

import asyncio

import pytest

from server.domain.errors import NotFoundError
from server.services.completion import Completion


async def test_work_goes_on_when_the_caller_is_cancelled() -> None:
    completion, may_end, ended = Completion(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await may_end.wait()
        ended.set()

    caller = asyncio.create_task(completion.run(work()))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    may_end.set()
    async with asyncio.timeout(5):
        await ended.wait()


async def test_the_caller_gets_the_result_and_the_error() -> None:
    completion = Completion()

    async def answer() -> int:
        return 42

    async def fail() -> None:
        raise NotFoundError("nothing here")

    assert await completion.run(answer()) == 42
    with pytest.raises(NotFoundError):
        await completion.run(fail())


async def test_close_waits_for_what_runs_and_cancels_what_does_not_end() -> None:
    completion, may_end = Completion(), asyncio.Event()
    outcomes = []

    async def work(name: str, event: asyncio.Event) -> None:
        try:
            await event.wait()
        except asyncio.CancelledError:
            outcomes.append(f"{name} cancelled")
            raise
        outcomes.append(f"{name} done")

    completion.start(work("short", may_end))
    completion.start(work("endless", asyncio.Event()))
    await asyncio.sleep(0)
    may_end.set()
    await completion.close(timeout_s=0.2)
    assert outcomes == ["short done", "endless cancelled"]
