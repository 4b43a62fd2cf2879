"""The other servers: which of them live and hear the bus, and what a dead or a deaf one could not tell."""

from collections.abc import Callable, Iterable
from typing import Protocol

from server.domain.errors import ChatError
from server.storage.base import NodeReport, NodeStore
from server.telemetry import get_logger

_REPORT_EVERY_S = 1.0
# A server whose beat stands still for so long, by the clock of who watches, is dead.
_DEAD_AFTER_S = 15.0
# What a server wrote before its last report it has told long ago, unless it was stopped in the middle of it.
_UNTOLD_MS = 60_000
# A deaf one is looked after every second; what it takes in it stores within its deadline.
_UNHEARD_MS = 15_000
_log = get_logger(__name__)


class Herald(Protocol):
    """Who has told again what may not have been told."""

    def retell(self, room_id: str, first: int, last: int) -> None:
        """Have these changes of a room told, unless they were."""

    def read_anew(self) -> None:
        """Have every server read what notices may not have told it."""


class Nodes:
    """Reports that this server lives, and does for a dead one what it left undone.

    One that does not hear the bus cannot tell what is said there either: who hears it tells it.
    """

    def __init__(
        self,
        store: NodeStore,
        herald: Herald,
        *,
        node: str,
        is_heard: Callable[[], bool],
        clock: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        """`is_heard`: whether this server hears the bus. `clock` in milliseconds, `monotonic` in seconds."""
        self._store = store
        self._herald = herald
        self._node = node
        self._is_heard = is_heard
        self._clock = clock
        self._monotonic = monotonic
        self._reported_at = float("-inf")
        self._beats: dict[str, tuple[int, float]] = {}
        self._others: list[NodeReport] = []
        # Of each deaf server: by room, up to where it was told for it.
        self._told_for: dict[str, dict[str, int]] = {}

    @property
    def do_others_hear(self) -> bool:
        """Whether another server that lives hears the bus."""
        return any(report.is_heard for report in self._others)

    async def tick(self) -> None:
        """Report once a second. Raises UnavailableError."""
        now = self._monotonic()
        if now - self._reported_at < _REPORT_EVERY_S:
            return
        self._reported_at = now
        reports = await self._store.report(self._node, at=self._clock(), is_heard=self._is_heard())
        self._beats = {report.node: self._beat(report, now) for report in reports}
        others = [report for report in reports if report.node != self._node]
        dead = [each for each in others if now - self._beats[each.node][1] >= _DEAD_AFTER_S]
        self._others = [each for each in others if each not in dead]
        for report in dead:
            await self._take_over(report)
        deaf = [each for each in self._others if not each.is_heard] if self._is_heard() else []
        self._told_for = {each.node: self._told_for.get(each.node, {}) for each in deaf}
        for report in deaf:
            await self._tell_for(report)

    async def leave(self) -> None:
        """This server stops, and has told all it wrote."""
        if self._reported_at == float("-inf"):
            return
        try:
            await self._store.forget_node(self._node)
        except ChatError as error:
            _log.warning("node.unforgotten", code=error.code)

    def _beat(self, report: NodeReport, now: float) -> tuple[int, float]:
        known = self._beats.get(report.node)
        return known if known is not None and known[0] == report.beat else (report.beat, now)

    async def _take_over(self, report: NodeReport) -> None:
        written = await self._store.written_by(report.node, report.at - _UNTOLD_MS)
        _log.warning("node.died", node=report.node, written=len(written))
        for room_id, revs in _by_room(written).items():
            self._herald.retell(room_id, min(revs), max(revs))
        self._herald.read_anew()
        await self._store.forget_node(report.node)

    async def _tell_for(self, report: NodeReport) -> None:
        written = _by_room(await self._store.written_by(report.node, report.at - _UNHEARD_MS))
        told = self._told_for[report.node]
        for room_id, revs in written.items():
            if missing := [rev for rev in revs if rev > told.get(room_id, 0)]:
                self._herald.retell(room_id, min(missing), max(missing))
        self._told_for[report.node] = {room_id: max(revs) for room_id, revs in written.items()}


def _by_room(written: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    revs: dict[str, list[int]] = {}
    for room_id, rev in written:
        revs.setdefault(room_id, []).append(rev)
    return revs
