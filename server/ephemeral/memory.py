"""Presence and typing of one process, kept in its memory."""

import time
from collections.abc import Callable

from server.ephemeral.base import Typing


class MemoryEphemeral:
    """The guarantees of `Ephemeral` for a single server. No call here ever waits."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._leases: dict[str, dict[str, float | None]] = {}
        self._typing: dict[str, dict[str, tuple[float, str]]] = {}
        self._typing_from: dict[str, set[Typing]] = {}

    async def arrive(self, user_id: str, connection_id: str) -> bool:
        """Hold a lease. True when the person was offline before."""
        leases = self._leases.setdefault(user_id, {})
        came_online = not leases
        leases[connection_id] = None
        return came_online

    async def leave(self, user_id: str, connection_id: str, grace_s: float) -> None:
        """Let the lease run out in `grace_s`."""
        leases = self._leases.get(user_id, {})
        if connection_id in leases:
            leases[connection_id] = self._clock() + grace_s

    async def reap(self) -> list[str]:
        """The people whose last lease has run out since the last call."""
        now = self._clock()
        gone = []
        for user_id, leases in list(self._leases.items()):
            for connection_id, ends_at in list(leases.items()):
                if ends_at is not None and ends_at <= now:
                    del leases[connection_id]
            if not leases:
                del self._leases[user_id]
                gone.append(user_id)
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
