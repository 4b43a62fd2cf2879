"""Rooms and who is in them. Every change is stored first, told second and answered last."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar
from uuid import uuid4

import msgspec
from msgspec import Struct

from server.domain.errors import ConflictError, ForbiddenError, InvalidError, NotFoundError
from server.domain.models import Member, Role, Room
from server.domain.rules import (
    checked_room_name,
    digest_of,
    direct_key,
    require_admin,
    require_may_remove,
    require_may_set_role,
    require_not_direct,
)
from server.events import CreateRoom
from server.services.completion import Completion
from server.services.directory import Access, Directory
from server.services.notices import Control, MembershipChanged, Notice, Publisher, RoomChanged, Tell
from server.services.turns import Turns
from server.services.views import Views, first_that_fit
from server.storage.base import Membership, RoomStore
from server.views import LeaveReason, MemberChanged, MemberView, RoomJoined, RoomLeft, RoomUpdated, RoomView

# Who asks for a room that somebody else makes in this moment enters it before the answer, too.
_BEING_TOLD_MS = 30_000
_MOST_DIRECT_KEPT = 50_000
Written = TypeVar("Written")


class RoomLimits(Struct, frozen=True, kw_only=True):
    """None: no limit. Over `quiet_above` members a room is large: comings and goings are not told.

    The limits hold on each server for what it does itself. Where several servers write at the same time they
    may be passed by what is in flight, and on one by a write that did not answer in time and is done later.
    """

    rooms_per_user: int | None
    members_per_room: int | None
    quiet_above: int


class RoomService:
    """Use cases of rooms. `actor` is who asks; every method authorises before it looks anything up."""

    def __init__(
        self,
        store: RoomStore,
        directory: Directory,
        views: Views,
        publisher: Publisher,
        completion: Completion,
        limits: RoomLimits,
        *,
        clock: Callable[[], int],
    ) -> None:
        self._store = store
        self._directory = directory
        self._views = views
        self._publisher = publisher
        self._completion = completion
        self._limits = limits
        # By key. A direct room is never renamed, left or deleted.
        self._direct: dict[str, Room] = {}
        self._turns = Turns()
        self._clock = clock

    async def create(self, actor: str, wanted: CreateRoom) -> RoomView:
        """A new room owned by the actor; the same `client_msg_id` answers the first one, renamed or not."""
        name = checked_room_name(wanted.name)
        member_ids = [each for each in dict.fromkeys(wanted.member_ids) if each != actor]
        await self._directory.require_users(member_ids, field="member_ids")
        if self._limits.members_per_room is not None and len(member_ids) >= self._limits.members_per_room:
            raise ForbiddenError(f"a room has at most {self._limits.members_per_room} members")
        unique = wanted.client_msg_id if wanted.client_msg_id is not None else uuid4().hex
        key = digest_of("room", actor, unique)
        room = Room(
            id=uuid4().hex,
            kind=wanted.kind,
            name=name,
            key=key,
            digest=digest_of(wanted.kind, name),
            created_by=actor,
            created_at=self._clock(),
        )
        members = [self._member(room, actor, "owner"), *(self._member(room, each) for each in member_ids)]
        stored, _ = await self._completion.run(self._create(room, members))
        view = await self._views.room(stored, actor)
        # Without a role: it was deleted, or the actor has left it.
        asked_for = stored.digest or digest_of(stored.kind, stored.name or "")
        if view.role is None or asked_for != room.digest:
            raise ConflictError("this client_msg_id stands for another room", field="client_msg_id")
        return view

    async def open_direct(self, actor: str, user_id: str) -> RoomView:
        """The one direct room of two people, made when it is first asked for."""
        return await self._views.room(await self.get_direct(actor, user_id), actor)

    async def get_direct(self, actor: str, user_id: str, *, field: str = "user_id") -> Room:
        """As `open_direct`, without the view. Raises NotFoundError when there is no such user."""
        if user_id == actor:
            raise InvalidError("a direct room is for two people", field=field)
        key = direct_key(actor, user_id)
        if key in self._direct:
            return self._direct[key]
        await self._directory.require_users([user_id], field=field)
        room = Room(
            id=uuid4().hex, kind="direct", name=None, key=key, created_by=actor, created_at=self._clock()
        )
        members = [self._member(room, each) for each in (actor, user_id)]
        stored, _ = await self._completion.run(self._create(room, members))
        if len(self._direct) >= _MOST_DIRECT_KEPT:
            self._direct.pop(next(iter(self._direct)))
        self._direct[key] = stored
        return stored

    async def join(self, actor: str, room_id: str) -> RoomView:
        """Enter a public room; being in it already is no error."""
        room = await self._get_visible(room_id, actor)
        await self._add(room, actor)
        return await self._views.room(room, actor)

    async def leave(self, actor: str, room_id: str) -> None:
        """Leave a group or public room. Raises ConflictError for a direct one."""
        access = await self._directory.get_access(room_id, actor)
        if access.room.kind == "direct":
            raise ConflictError("a direct room cannot be left")
        await self._completion.run(self._remove(access.room, actor, reason="left"))

    async def add_member(self, actor: str, room_id: str, user_id: str) -> RoomView:
        """Add a person; being in it already is no error. Admins."""
        access = await self._admin_access(room_id, actor)
        await self._directory.require_users([user_id], field="user_id")
        await self._add(access.room, user_id)
        return await self._views.room(access.room, actor)

    async def remove_member(self, actor: str, room_id: str, user_id: str) -> RoomView | None:
        """Remove a member: admins, or oneself (then None). When it returns, nothing more reaches them."""
        if user_id == actor:
            await self.leave(actor, room_id)
            return None
        access = await self._admin_access(room_id, actor)
        target = await self._get_member(room_id, user_id)
        require_may_remove(access.member, target)
        await self._completion.run(self._remove(access.room, user_id, reason="removed"))
        return await self._views.room(access.room, actor)

    async def set_role(self, actor: str, room_id: str, user_id: str, role: Role) -> RoomView:
        """Set a member's role: admins, and owners where an owner is made or unmade."""
        access = await self._admin_access(room_id, actor)
        target = await self._get_member(room_id, user_id)
        require_may_set_role(access.member, target, role)
        if target.role != role:
            await self._completion.run(self._set_role(access.room, user_id, role))
        return await self._views.room(access.room, actor)

    async def rename(self, actor: str, room_id: str, name: str) -> RoomView:
        """Give the room another name. Admins."""
        await self._admin_access(room_id, actor)
        renamed = await self._completion.run(self._rename(room_id, checked_room_name(name)))
        return await self._views.room(renamed, actor)

    async def delete(self, actor: str, room_id: str) -> None:
        """Delete the room for everybody. Owners."""
        access = await self._directory.get_access(room_id, actor)
        require_not_direct(access.room)
        if access.member.role != "owner":
            raise ForbiddenError("only an owner may delete a room")
        await self._completion.run(self._delete(access.room))

    async def get(self, actor: str, room_id: str) -> RoomView:
        """A room that the actor is in, or a public one."""
        return await self._views.room(await self._get_visible(room_id, actor), actor)

    async def incarnations(self, user_id: str) -> dict[str, str]:
        """The rooms that a user is in, as the store has them now, and which membership each is."""
        memberships = await self._store.memberships(user_id)
        return {each.room.id: each.member.incarnation for each in memberships if each.member is not None}

    async def members_among(self, room_id: str, user_ids: Sequence[str]) -> set[str]:
        """Those of the users who are members of a room, as the store has it now."""
        return await self._store.members_among(room_id, user_ids)

    async def last_read_seq(self, room_id: str, user_id: str) -> int:
        """Where the user's read cursor of a room is."""
        return (await self._get_member(room_id, user_id)).last_read_seq

    async def mine(self, actor: str, query: str, after: str, limit: int) -> tuple[list[RoomView], str | None]:
        """The actor's rooms whose name contains `query`, by ascending id; the cursor of the next page."""
        rooms = sorted(await self._store.memberships(actor), key=lambda each: each.room.id)
        wanted = [
            each
            for each in rooms
            if each.room.id > after and query.casefold() in (each.room.name or "").casefold()
        ]
        shown = first_that_fit(await self._views.rooms(wanted[:limit], reader=actor))
        return shown, shown[-1].id if len(wanted) > len(shown) else None

    async def public(
        self, actor: str, query: str, after: str, limit: int
    ) -> tuple[list[RoomView], str | None]:
        """Public rooms whose name contains `query`, by ascending id; the cursor of the next page."""
        rooms = await self._store.public_rooms(query, after, limit + 1)
        page = [
            Membership(room=room, member=await self._store.find_member(room.id, actor))
            for room in rooms[:limit]
        ]
        shown = first_that_fit(await self._views.rooms(page, reader=actor))
        return shown, shown[-1].id if len(rooms) > len(shown) else None

    async def members(
        self, actor: str, room_id: str, after: tuple[int, str], limit: int
    ) -> tuple[list[MemberView], tuple[int, str] | None]:
        """The members of one of the actor's rooms, longest first; the cursor of the next page."""
        await self._directory.get_access(room_id, actor)
        members = await self._store.members(room_id, after, limit + 1)
        shown = first_that_fit(await self._views.members(members[:limit]))
        if len(shown) == len(members):
            return shown, None
        last = members[len(shown) - 1]
        return shown, (last.joined_at, last.user_id)

    async def _every_member(self, room_id: str) -> AsyncIterator[Member]:
        after = (0, "")
        while page := await self._store.members(room_id, after, 500):
            for member in page:
                yield member
            after = (page[-1].joined_at, page[-1].user_id)

    async def _get_visible(self, room_id: str, actor: str) -> Room:
        room = (await self._store.find_rooms([room_id])).get(room_id)
        if room is None or room.deleted_at is not None:
            raise NotFoundError("there is no such room, or you are not in it", field="room_id")
        if room.kind != "public":
            await self._directory.get_access(room_id, actor)
        return room

    async def _admin_access(self, room_id: str, actor: str) -> Access:
        access = await self._directory.get_access(room_id, actor)
        require_not_direct(access.room)
        require_admin(access.member)
        return access

    async def _get_member(self, room_id: str, user_id: str) -> Member:
        member = await self._store.find_member(room_id, user_id)
        if member is None:
            raise NotFoundError("this person is not in the room", field="user_id")
        return member

    async def _require_below_room_limit(self, user_id: str) -> None:
        limit = self._limits.rooms_per_user
        if limit is None:
            return
        # Direct rooms do not count: others open them.
        chosen = [each for each in await self._store.memberships(user_id) if each.room.kind != "direct"]
        if len(chosen) >= limit:
            raise ForbiddenError(f"a person is in at most {limit} rooms")

    async def _count_below_limit(self, room_id: str) -> int:
        limit = self._limits.members_per_room
        # Of the store itself: what others keep in memory is dropped only when a coming is told.
        count = (await self._store.member_counts([room_id])).get(room_id, 0)
        if limit is not None and count >= limit:
            raise ForbiddenError(f"a room has at most {limit} members")
        return count

    def _member(self, room: Room, user_id: str, role: Role = "member") -> Member:
        return Member(
            room_id=room.id, user_id=user_id, role=role, joined_at=self._clock(), incarnation=uuid4().hex
        )

    async def _create(self, room: Room, members: Sequence[Member]) -> tuple[Room, bool]:
        people = frozenset(member.user_id for member in members)
        notice = MembershipChanged(room_id=room.id, user_ids=people)
        counted = people if room.kind != "direct" else frozenset()
        async with self._turns.take(*counted):
            if counted and not await self._is_made(room):
                for user_id in counted:
                    await self._require_below_room_limit(user_id)
            stored, is_new = await self._written(notice, self._store.create_room(room, members))
        if is_new:
            await self._tell_joined(stored, notice)
        elif self._clock() - stored.created_at < _BEING_TOLD_MS:
            doubt = MembershipChanged(room_id=stored.id, user_ids=people, is_told=False)
            await self._publisher.publish(doubt)
        return stored, is_new

    async def _is_made(self, room: Room) -> bool:
        """Whether this is a repeat: it makes no room, so no limit stands against it."""
        return any(each.room.key == room.key for each in await self._store.memberships(room.created_by))

    async def _add(self, room: Room, user_id: str) -> None:
        if await self._store.keep_member(room.id, user_id) is None:
            await self._completion.run(self._add_and_tell(room, self._member(room, user_id)))

    async def _add_and_tell(self, room: Room, member: Member) -> None:
        notice = MembershipChanged(room_id=room.id, user_ids=frozenset([member.user_id]))
        async with self._turns.take(room.id, member.user_id):
            if await self._store.keep_member(room.id, member.user_id) is not None:
                return
            await self._require_below_room_limit(member.user_id)
            if await self._count_below_limit(room.id) == 0:  # everybody had left it, and it needs an owner
                member = msgspec.structs.replace(member, role="owner")
            stored = await self._written(notice, self._store.add_member(member))
        if stored.incarnation == member.incarnation:
            await self._tell_joined(room, notice)

    async def _remove(self, room: Room, user_id: str, *, reason: LeaveReason) -> None:
        people = frozenset([user_id])
        notice = MembershipChanged(room_id=room.id, user_ids=people, left_because=reason)
        async with self._turns.take(room.id):
            removed = await self._written(notice, self._store.remove_member(room.id, user_id))
        if removed is None:
            raise NotFoundError("this person is not in the room", field="user_id")
        left = Tell(event="room_left", data=RoomLeft(room_id=room.id, reason=reason), users=people)
        try:
            await self._publisher.publish(notice, left)
        finally:
            # Also where not all servers know yet: it is so, and another try finds nobody to remove.
            await self._directory.settled(room.id)
            await self._publisher.publish(*await self._told("member_left", room, [user_id]))

    async def _set_role(self, room: Room, user_id: str, role: Role) -> None:
        if not await self._written(
            RoomChanged(room_id=room.id), self._store.set_role(room.id, user_id, role)
        ):
            raise ConflictError("a room needs an owner: make another member the owner first")
        await self._publisher.publish(RoomChanged(room_id=room.id), await self._updated(room))
        await self._directory.settled(room.id)

    async def _rename(self, room_id: str, name: str) -> Room:
        changed = RoomChanged(room_id=room_id)
        await self._written(changed, self._store.update_room(room_id, name=name))
        await self._publisher.publish(changed)
        renamed = (await self._store.find_rooms([room_id]))[room_id]
        await self._publisher.publish(await self._updated(renamed))
        return renamed

    async def _delete(self, room: Room) -> None:
        # Who enters meanwhile would not be told that the room is gone.
        async with self._turns.take(room.id):
            people = frozenset([member.user_id async for member in self._every_member(room.id)])
            notice = MembershipChanged(room_id=room.id, user_ids=people, left_because="deleted")
            await self._written(notice, self._store.update_room(room.id, deleted_at=self._clock()))
        left = Tell(event="room_left", data=RoomLeft(room_id=room.id, reason="deleted"), users=people)
        await self._publisher.publish(notice, left)
        await self._directory.settled(room.id)

    async def _written(self, notice: Control, write: Awaitable[Written]) -> Written:
        """The write's result. When its outcome is unknown, everybody concerned looks at the store again."""
        doubt = notice
        if isinstance(notice, MembershipChanged):
            doubt = msgspec.structs.replace(notice, left_because=None, is_told=False)
        return await self._completion.written(write, lambda: self._publisher.publish(doubt))

    async def _tell_joined(self, room: Room, notice: MembershipChanged) -> None:
        joined = Tell(event="room_joined", data=RoomJoined(room_id=room.id), users=notice.user_ids)
        await self._publisher.publish(notice, joined)
        await self._publisher.publish(*await self._told("member_joined", room, sorted(notice.user_ids)))

    async def _told(self, event: str, room: Room, user_ids: Sequence[str]) -> list[Notice]:
        count = await self._directory.member_count(room.id)
        if room.kind == "direct" or count > self._limits.quiet_above:
            return []
        people = await self._views.users(user_ids)
        return [
            Tell(
                event=event,
                data=MemberChanged(room_id=room.id, user=people[user_id], member_count=count),
                rooms=frozenset([room.id]),
            )
            for user_id in user_ids
            if user_id in people
        ]

    async def _updated(self, room: Room) -> Tell:
        count = await self._directory.member_count(room.id)
        data = RoomUpdated(room_id=room.id, name=room.name, member_count=count)
        return Tell(event="room_updated", data=data, rooms=frozenset([room.id]))
