"""Several packets to a client in one write: the system's part of a write costs more than ours of a packet."""

import asyncio
from collections.abc import Callable

from server.telemetry import get_logger, new_error_id

log = get_logger(__name__)


class Hold:
    """While `is_on`, sessions keep what they would write; each says by `add` how it is written at the end.

    The end comes by itself, before anything is done that is waited for.
    """

    def __init__(self) -> None:
        self.is_on = False
        self.doubts = 0
        """How often it was found that a client has much to take that may have been taken for idle."""
        self._writes: list[Callable[[], None]] = []

    def begin(self) -> None:
        """Hold what is sent from now on, until the loop has done what is ready."""
        if not self.is_on:
            self.is_on = True
            asyncio.get_running_loop().call_soon(self._end)

    def add(self, write: Callable[[], None]) -> None:
        """Have this done at the end."""
        self._writes.append(write)

    def _end(self) -> None:
        self.is_on = False
        writes, self._writes = self._writes, []
        for write in writes:
            try:
                write()
            except Exception:
                log.exception("realtime.write_failed", error_id=new_error_id())
