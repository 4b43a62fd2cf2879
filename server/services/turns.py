"""One after another: what looks something up and then writes, so that nothing comes in between."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from weakref import WeakValueDictionary

from server.domain.errors import UnavailableError


class Turns:
    """A lock for each key, on this server alone. A key that nobody holds or waits for is forgotten."""

    def __init__(self, *, longest_wait_s: float = 10.0) -> None:
        self._longest_wait_s = longest_wait_s
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._locks)

    @asynccontextmanager
    async def take(self, *keys: str) -> AsyncIterator[None]:
        """Hold all of these keys for a block. Raises UnavailableError when they do not come in time."""
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(self._longest_wait_s):
                    # In one order for everybody, or two could each wait for what the other holds.
                    for key in sorted(set(keys)):
                        await held.enter_async_context(self._locks.setdefault(key, asyncio.Lock()))
            except TimeoutError:
                raise UnavailableError("too many do this at once") from None
            yield
