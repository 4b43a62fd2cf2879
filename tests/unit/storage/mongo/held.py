"""Commands of a store that are held up on their way: what is done of them meanwhile, late, or never."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from server.domain.errors import UnavailableError
from server.storage.mongo.database import Database
from server.storage.mongo.store import MongoStorage

_PATIENCE_S = 10.0
_Run = Callable[[], Awaitable[Any]]


class Held:
    """One command: it goes on with `go`, or who sent it is told that nobody answers."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self._come = asyncio.Event()
        self._run: _Run | None = None

    async def come(self) -> None:
        """It was sent."""
        async with asyncio.timeout(_PATIENCE_S):
            await self._come.wait()

    async def stop(self, run: _Run) -> Any:
        self._come.set()
        async with asyncio.timeout(_PATIENCE_S):
            await self.go.wait()
        return await run()

    async def fail(self, run: _Run) -> Any:
        self._run = run
        raise UnavailableError("nobody answers")

    async def land(self) -> Any:
        """Do the command that failed, now that nobody waits for it."""
        assert self._run is not None
        return await self._run()


@contextmanager
def holding(storage: MongoStorage, name: str, collection: str, *, is_late: bool = False) -> Iterator[Held]:
    """Hold the first command `name` (a method of the database) to this collection; `is_late`: let it fail."""
    held = Held()
    database: Database = storage._database
    given = getattr(database, name)
    is_over = False

    async def command(asked: str, *args: Any, **options: Any) -> Any:
        nonlocal is_over
        if is_over or asked != collection:
            return await given(asked, *args, **options)
        is_over = True
        run = held.fail if is_late else held.stop
        return await run(lambda: given(asked, *args, **options))

    setattr(database, name, command)
    try:
        yield held
    finally:
        setattr(database, name, given)
