"""What one connection that is back has missed, and how it is sent."""

import asyncio
from collections.abc import Callable

from server.realtime.packet_log import Entry, Stay
from server.realtime.recovery import Recovery, Trail
from server.realtime.session import Options, Session

# Beyond this a client is better served by beginning anew.
MAX_REPLAY_BYTES = 8 * 1024 * 1024
REPLAY_TIMEOUT_S = 10.0
# What is sent at a time; a session cuts off a client that leaves too many bytes or frames.
CHUNK_BYTES = 262_144
CHUNK_FRAMES = 1_024


class Replay:
    """Sends what a connection missed behind `position`, no faster than its client takes it.

    `stays` are its present times in rooms; `position` moves with what is sent.
    """

    def __init__(
        self,
        trail: Trail,
        position: int,
        *,
        recovery: Recovery,
        session: Session,
        stays: Callable[[], dict[str, Stay]],
        options: Options,
    ) -> None:
        self.position = position
        self._trail = trail
        self._recovery = recovery
        self._session = session
        self._stays = stays
        self._most_bytes = min(CHUNK_BYTES, options.max_buffer_bytes // 4)

    def is_too_much(self, stays: dict[str, Stay]) -> bool:
        """Whether who has had these times in rooms has missed more than is sent."""
        missed = self._recovery.missed(self._trail, stays, self.position)
        return sum(entry.packet.size_bytes for entry in missed) > MAX_REPLAY_BYTES

    def skip_received(self, stays: dict[str, Stay]) -> int:
        """Move on to right before the first packet that was missed; the position."""
        # What it has left meanwhile leaves it out of nothing.
        missed = self._recovery.missed(self._trail, stays, self.position, is_any=True)
        self.position = missed[0].position - 1 if missed else self._recovery.log.head
        return self.position

    def is_complete(self) -> bool:
        """Whether all that it may have missed is still kept, and known."""
        trail = self._trail
        has_stays = trail.is_whole or all(
            stay is trail.kept.get(room) for room, stay in trail.current().items()
        )
        return has_stays and self._recovery.has_all(trail, self.position)

    async def run(self, is_wanted: Callable[[], bool]) -> bool:
        """Send until nothing is missed in this moment. False: not wanted any more, or it cannot be done."""
        try:
            async with asyncio.timeout(REPLAY_TIMEOUT_S):
                while is_wanted() and self.is_complete():
                    head = self._recovery.log.head
                    missed = self._recovery.missed(self._trail, self._stays(), self.position)
                    if not missed:
                        return True
                    await self._send(missed, is_wanted)
                    self.position = head
        except TimeoutError:
            pass
        return False

    async def _send(self, missed: list[Entry], is_wanted: Callable[[], bool]) -> None:
        unsent_bytes = unsent_frames = 0
        for entry in missed:
            if not is_wanted():
                return
            # Of a copy: the log counts, and keeps, the packet's bytes once.
            packet = entry.packet.bare().marked(self._recovery.offset(entry.position))
            self._session.send(packet)
            self.position = entry.position
            unsent_bytes += entry.packet.size_bytes
            unsent_frames += len(packet.frames)
            if unsent_bytes >= self._most_bytes or unsent_frames >= CHUNK_FRAMES:
                unsent_bytes = unsent_frames = 0
                await self._session.drained()
