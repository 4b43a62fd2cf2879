"""Whether this server can do its work, and what it tells the balancer in front of it."""

import math
from collections.abc import Callable

from server.domain.errors import ChatError
from server.storage.base import LogStore, MetaStore
from server.telemetry import get_logger

_UNREADY_AFTER_S = 10.0
_CHECK_EVERY_S = 1.0
_DEAF_AFTER_S = 5.0
_log = get_logger(__name__)


class Health:
    """`tick` asks the store; a failure seen elsewhere is believed at once, until the store answers again.

    `undecodable`: how much of the store was skipped since the start because it does not decode.
    `is_leaving`: the balancer should send nobody more; `is_draining`: nobody more is let in.
    """

    def __init__(
        self,
        store: MetaStore,
        log: LogStore,
        *,
        clock: Callable[[], float],
        is_heard: Callable[[], bool] = lambda: True,
        do_others_hear: Callable[[], bool] = lambda: False,
    ) -> None:
        """`is_heard` and `do_others_hear`: whether this server, and another one, hear the bus."""
        self._store = store
        self._log = log
        self._is_heard = is_heard
        self._do_others_hear = do_others_hear
        self._clock = clock
        self._checked_at = -math.inf
        self._failing_since: float | None = None
        self._heard_at = clock()
        self.undecodable = 0
        self.is_started = False
        self.is_leaving = False
        self.is_draining = False

    @property
    def can_admit(self) -> bool:
        """Whether a new connection would find what it needs."""
        return self.is_started and not self.is_draining and self._failing_since is None

    def unready_because(self) -> list[str]:
        """Why the balancer should send nobody here; empty when it should."""
        reasons = []
        if not self.is_started:
            reasons.append("starting")
        if self.is_leaving:
            reasons.append("draining")
        if self._failing_since is not None and self._clock() - self._failing_since >= _UNREADY_AFTER_S:
            reasons.append("store")
        if self._is_deaf_alone():
            reasons.append("bus")
        return reasons

    def degraded(self) -> list[str]:
        """What does not work although this server is as good as any: the bus, where nobody hears it."""
        is_deaf = self.is_started and not self._is_heard()
        return ["bus"] if is_deaf and not self._is_deaf_alone() else []

    def _is_deaf_alone(self) -> bool:
        """Others may have become deaf in the same moment, and have not said so yet."""
        is_deaf = self._clock() - self._heard_at >= _DEAF_AFTER_S and not self._is_heard()
        return self.is_started and is_deaf and self._do_others_hear()

    def store_failed(self) -> None:
        """The store did not answer somebody."""
        if self._failing_since is None:
            self._failing_since = self._clock()
            _log.error("store.away")

    async def tick(self) -> None:
        """Ask the store whether it is there, once a second."""
        if self._is_heard():
            self._heard_at = self._clock()
        if self._clock() - self._checked_at < _CHECK_EVERY_S:
            return
        self._checked_at = self._clock()
        try:
            self.undecodable = await self._log.count_undecodable()
            await self._store.ping()
        except ChatError:
            self.store_failed()
        else:
            if self._failing_since is not None:
                self._failing_since = None
                _log.info("store.back")
