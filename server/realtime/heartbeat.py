"""When to ping a client, and when to give it up."""

import asyncio
import math
from collections.abc import Callable


class Heartbeat:
    """Calls `ping` `interval_s` after the start and after each pong, and `give_up` when a pong stays away.

    `timeout_s` is the time for the pong. It does not run while paused, by however many: what is not read
    cannot be late.
    """

    def __init__(
        self,
        *,
        interval_s: float,
        timeout_s: float,
        ping: Callable[[], None],
        give_up: Callable[[], None],
    ) -> None:
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._ping = ping
        self._give_up = give_up
        self.answered_at_s = -math.inf
        """When the last ping was sent that has been answered, by the clock of the loop."""
        self._pinged_at_s = -math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._awaits_pong = False
        self._pauses = 0
        self._is_stopped = False

    def start(self) -> None:
        """Ping in `interval_s`."""
        self._awaits_pong = False
        self._call_later(self._interval_s, self._due)

    def pong(self) -> bool:
        """The client has answered; an answer to nothing is ignored (False)."""
        if not self._awaits_pong:
            return False
        self.answered_at_s = self._pinged_at_s
        self.start()
        return True

    def pause(self) -> None:
        """The client is not being read by one who would."""
        self._pauses += 1
        if self._awaits_pong:
            self._cancel()

    def resume(self) -> None:
        """A pause is over. After the last one the client has the whole time for an outstanding pong."""
        self._pauses -= 1
        if self._awaits_pong and not self._pauses:
            self._call_later(self._timeout_s, self._give_up)

    def stop(self) -> None:
        """No call any more."""
        self._is_stopped = True
        self._cancel()

    def _due(self) -> None:
        self._awaits_pong = True
        self._pinged_at_s = asyncio.get_running_loop().time()
        if not self._pauses:
            self._call_later(self._timeout_s, self._give_up)
        self._ping()

    def _call_later(self, delay_s: float, call: Callable[[], None]) -> None:
        self._cancel()
        if not self._is_stopped:
            self._timer = asyncio.get_running_loop().call_later(delay_s, call)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
