"""Presence and typing of one process, kept in its memory."""

import itertools
import time
from collections.abc import Callable

from server.ephemeral.base import Arrival, StatusChange, Typing


class Claims:
    """Names that are taken for a while."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends: dict[str, float] = {}

    def is_taken(self, name: str) -> bool:
        """Whether it is taken now."""
        return self._ends.get(name, float("-inf")) > self._clock()

    def take(self, name: str, ttl_s: float) -> bool:
        """Take it for `ttl_s`; False when it is taken."""
        if self.is_taken(name):
            return False
        self._ends[name] = self._clock() + ttl_s
        return True

    def sweep(self) -> None:
        """Forget what is over."""
        now = self._clock()
        self._ends = {name: ends_at for name, ends_at in self._ends.items() if ends_at > now}


class MemoryEphemeral:
    """The guarantees of `Ephemeral` for a single server. No call here ever waits."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # Of a person: the connections in the order in which they came, and when the lease ends.
        self._leases: dict[str, dict[str, float | None]] = {}
        self._versions = itertools.count(1)
        self._typing: dict[str, dict[str, tuple[float, str]]] = {}
        self._typing_from: dict[str, set[Typing]] = {}
        self._claims = Claims(clock=clock)

    async def start(self) -> None:
        """There is nothing to begin."""

    async def close(self) -> None:
        """All of it goes with the process."""

    async def arrive(self, user_id: str, connection_id: str, most: int | None = None) -> Arrival:
        """Hold a lease."""
        leases = self._leases.setdefault(user_id, {})
        came_online = not leases
        if leases.get(connection_id) is not None:
            del leases[connection_id]
        leases[connection_id] = None
        held = [each for each, ends_at in leases.items() if ends_at is None]
        return Arrival(
            self._change(user_id, is_online=True) if came_online else None,
            [] if most is None else held[: max(0, len(held) - most)],
        )

    async def leave(self, user_id: str, connection_id: str, grace_s: float) -> None:
        """Let the lease run out in `grace_s`."""
        leases = self._leases.get(user_id, {})
        if connection_id in leases:
            leases[connection_id] = self._clock() + grace_s

    async def reap(self) -> list[StatusChange]:
        """The people whose last lease has run out since the last call."""
        now = self._clock()
        gone = []
        for user_id, leases in list(self._leases.items()):
            over = {each: at for each, at in leases.items() if at is not None and at <= now}
            for connection_id in over:
                del leases[connection_id]
            if not leases:
                del self._leases[user_id]
                ago_s = now - max(over.values(), default=now)
                gone.append(self._change(user_id, is_online=False, ago_s=ago_s))
        self._claims.sweep()
        return gone

    async def online(self, user_ids: set[str]) -> set[str]:
        """Those of these people who are online."""
        return user_ids & self._leases.keys()

    async def start_typing(self, typing: Typing, connection_id: str, ttl_s: float, most: int) -> bool:
        """Show it for `ttl_s` more. False when `most` others are shown in this room already."""
        room = self._typing.setdefault(typing.room_id, {})
        if typing.user_id not in room and len(room) >= most:
            return False
        self._forget(typing)
        self._typing.setdefault(typing.room_id, {})[typing.user_id] = (self._clock() + ttl_s, connection_id)
        self._typing_from.setdefault(connection_id, set()).add(typing)
        return True

    async def stop_typing(self, typing: Typing) -> bool:
        """True when it was shown."""
        return self._forget(typing)

    async def stop_typing_from(self, connection_id: str) -> list[Typing]:
        """End what this connection began."""
        began = list(self._typing_from.get(connection_id, ()))
        return [typing for typing in began if self._forget(typing)]

    async def reap_typing(self) -> list[Typing]:
        """End what has run out."""
        now = self._clock()
        over = [
            Typing(room_id, user_id)
            for room_id, people in self._typing.items()
            for user_id, (ends_at, _) in people.items()
            if ends_at <= now
        ]
        for typing in over:
            self._forget(typing)
        return over

    async def claim(self, name: str, ttl_s: float) -> bool:
        """True for the first who asks."""
        return self._claims.take(name, ttl_s)

    def _change(self, user_id: str, *, is_online: bool, ago_s: float = 0.0) -> StatusChange:
        version = next(self._versions)
        return StatusChange(user_id=user_id, is_online=is_online, version=version, ago_s=ago_s)

    def _forget(self, typing: Typing) -> bool:
        room = self._typing.get(typing.room_id, {})
        shown = room.pop(typing.user_id, None)
        if not room:
            self._typing.pop(typing.room_id, None)
        if shown is None:
            return False
        began = self._typing_from.get(shown[1], set())
        began.discard(typing)
        if not began:
            self._typing_from.pop(shown[1], None)
        return True
