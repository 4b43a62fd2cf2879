"""Who is who and who is where: profiles, rooms, memberships, kept in memory while they hold.

An entry is dropped when a notice says that it changed. What was being read meanwhile is not kept.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from msgspec import Struct

from server.domain.errors import NotFoundError
from server.domain.models import Member, Room, User
from server.services.notices import Control, MembershipChanged, ProfileChanged, RoomChanged
from server.storage.base import RoomStore, UserStore

_MOST_KEPT = 50_000
Key = TypeVar("Key")
Value = TypeVar("Value")


class Access(Struct, frozen=True, kw_only=True):
    """A room and the membership that opens it. The membership's cursor may be an old one."""

    room: Room
    member: Member


class _Kept(Generic[Key, Value]):
    """At most `_MOST_KEPT` entries; `generation` tells a read whether something was dropped meanwhile."""

    def __init__(self) -> None:
        self.entries: OrderedDict[Key, Value] = OrderedDict()
        self.generation = 0

    def keep(self, key: Key, value: Value, generation: int) -> None:
        if generation == self.generation:
            self.entries[key] = value
            if len(self.entries) > _MOST_KEPT:
                self.entries.popitem(last=False)

    def drop(self, key: Key) -> None:
        self.generation += 1
        self.entries.pop(key, None)

    def clear(self) -> None:
        self.generation += 1
        self.entries.clear()


class Directory:
    """Look-ups that nearly every event needs."""

    def __init__(
        self, rooms: RoomStore, users: UserStore, *, is_heard: Callable[[], bool] = lambda: True
    ) -> None:
        """`is_heard`: whether notices reach this server; while not, who is in a room is read each time."""
        self._rooms = rooms
        self._users = users
        self._is_heard = is_heard
        self._access: _Kept[str, dict[str, Access]] = _Kept()
        self._counts: _Kept[str, int] = _Kept()
        self._profiles: _Kept[str, User] = _Kept()
        # By room: what is being done by memberships as they were when it began.
        self._acts: dict[str, set[asyncio.Future[None]]] = {}

    async def get_access(self, room_id: str, user_id: str) -> Access:
        """The room, for somebody who is in it. Raises NotFoundError for everybody else."""
        kept = self._access.entries.get(room_id, {}).get(user_id)
        if kept is not None and self._is_heard():
            return kept
        generation = self._access.generation
        member = await self._rooms.find_member(room_id, user_id)
        room = (await self._rooms.find_rooms([room_id])).get(room_id) if member is not None else None
        if member is None or room is None or room.deleted_at is not None:
            raise NotFoundError("there is no such room, or you are not in it", field="room_id")
        access = Access(room=room, member=member)
        if generation == self._access.generation and self._is_heard():
            self._access.keep(room_id, self._access.entries.get(room_id, {}), generation)
            self._access.entries[room_id][user_id] = access
        return access

    @asynccontextmanager
    async def acting(self, room_id: str, user_id: str) -> AsyncIterator[Access]:
        """As `get_access`, for a block that writes by it: `settled` waits for the block."""
        act = asyncio.get_running_loop().create_future()
        acts = self._acts.setdefault(room_id, set())
        acts.add(act)
        try:
            yield await self.get_access(room_id, user_id)
        finally:
            act.set_result(None)
            acts.remove(act)
            if not acts:
                del self._acts[room_id]

    async def settled(self, room_id: str) -> None:
        """Wait for what is being done in the room: what begins later goes by the memberships of now."""
        if acts := self._acts.get(room_id):
            await asyncio.wait(list(acts))

    async def member_counts(self, room_ids: Iterable[str]) -> dict[str, int]:
        """How many members each room has."""
        wanted = set(room_ids)
        missing = wanted - self._counts.entries.keys()
        counts = {room_id: self._counts.entries[room_id] for room_id in wanted - missing}
        if missing:
            generation = self._counts.generation
            read = await self._rooms.member_counts(list(missing))
            for room_id, count in read.items():
                self._counts.keep(room_id, count, generation)
            counts.update(read)
        return counts

    async def member_count(self, room_id: str) -> int:
        """How many members a room has."""
        return (await self.member_counts([room_id])).get(room_id, 0)

    async def profiles(self, user_ids: Iterable[str]) -> dict[str, User]:
        """The users with these ids. Their `last_seen` may be an old one."""
        wanted = set(user_ids)
        missing = wanted - self._profiles.entries.keys()
        found = {user_id: self._profiles.entries[user_id] for user_id in wanted - missing}
        if missing:
            generation = self._profiles.generation
            read = await self._users.find_users(list(missing))
            for user_id, user in read.items():
                self._profiles.keep(user_id, user, generation)
            found.update(read)
        return found

    async def get_profile(self, user_id: str) -> User:
        """One user. Raises NotFoundError."""
        found = await self.profiles([user_id])
        if user_id not in found:
            raise NotFoundError("there is no such user", field="user_id")
        return found[user_id]

    async def require_users(self, user_ids: Sequence[str], *, field: str) -> None:
        """Raises NotFoundError unless all of them exist."""
        found = await self.profiles(user_ids)
        if any(user_id not in found for user_id in user_ids):
            raise NotFoundError("there is no such user", field=field)

    def forget_all(self) -> None:
        """Drop everything: notices may have been missed."""
        for kept in (self._access, self._counts, self._profiles):
            kept.clear()

    async def forget(self, notice: Control) -> None:
        """Drop what a notice says is no longer so."""
        if isinstance(notice, MembershipChanged | RoomChanged):
            self._access.drop(notice.room_id)
            self._counts.drop(notice.room_id)
        elif isinstance(notice, ProfileChanged):
            self._profiles.drop(notice.user_id)
