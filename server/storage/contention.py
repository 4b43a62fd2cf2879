"""When one of several servers that write to the same rooms lets the others in."""

import asyncio
import math

_TURN_S = 0.5
_CONTENDED_TURN_S = 0.1
_CONTENDED_FOR_S = 10.0
_PAUSE_S = 0.025
_LONGEST_PAUSE_S = 0.25


class Contention:
    """Who writes without end pauses between its turns, for longer than another server takes to try again.

    The last one to write knows the head first: without the pauses a busy server would keep the others out
    for as long as it is busy.
    """

    def __init__(self) -> None:
        # None: others have been faster, so the turn has not begun.
        self._turn_began_at_s: float | None = None
        self._contended_until_s = -math.inf
        self._began_at_s = self._wrote_at_s = -math.inf
        self._write_s = 0.0

    async def let_others_in(self) -> None:
        """Pause if the turn is over. To be awaited before each write."""
        now_s = asyncio.get_running_loop().time()
        # Reads and an insert: the time of two more writes is enough for them.
        pause_s = min(_PAUSE_S + 2 * self._write_s, _LONGEST_PAUSE_S)
        turn_s = _CONTENDED_TURN_S if now_s < self._contended_until_s else _TURN_S
        if self._turn_began_at_s is None or now_s - self._wrote_at_s > pause_s:
            self._turn_began_at_s = now_s
        elif now_s - self._turn_began_at_s > turn_s:
            await asyncio.sleep(pause_s)
            self._turn_began_at_s = now_s = now_s + pause_s
        self._began_at_s = now_s

    def collided(self) -> None:
        """Another server was faster."""
        self._contended_until_s = asyncio.get_running_loop().time() + _CONTENDED_FOR_S
        self._turn_began_at_s = None

    def wrote(self) -> None:
        """The write is done, however it ended."""
        self._wrote_at_s = asyncio.get_running_loop().time()
        if self._turn_began_at_s is not None:
            self._write_s = self._wrote_at_s - self._began_at_s
