"""`sync`: what somebody who was away needs to be up to date, in pages within the limit of an answer."""

import re
import time
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from server.domain.errors import InvalidError
from server.domain.models import Change, Head, Member, Message
from server.domain.rules import digest_of
from server.events import MOST_ANSWER_BYTES, MOST_CHANGES_BEHIND, NEWEST_MESSAGES, VERSION, Sync
from server.services.directory import Directory
from server.services.messages import nearest_that_fit
from server.services.views import Views, first_that_fit, size_bytes
from server.storage.base import LogStore, Membership, MetaStore, RoomStore
from server.views import RoomView, SyncData, SyncRoom

_MOST_ROOMS = 100
_ENVELOPE_BYTES = 8 * 1024
_BUDGET_BYTES = MOST_ANSWER_BYTES - _ENVELOPE_BYTES
# A change is dated when it is asked for, by the clock of its server, and may be stored seconds later.
_CLOCK_SLACK_MS = 15_000
_BYTES_PER_ID = 90
_CURSOR = re.compile(r"([0-9]{1,16})\.([0-9a-f]{32})\.([0-9]{0,16})\.([A-Za-z0-9_~-]{0,80})")


class _Cursor(Struct, frozen=True):
    """Where a page ended. First come all rooms, newest activity first: (`at`, `room_id`) was the last one.

    Then, without `at`, those that moved up meanwhile, by id: so each comes once more, however much goes on.
    `state` stands for all rooms as they were when the first page was made, at `started_at`.
    """

    started_at: int
    state: str
    at: int | None
    room_id: str

    @classmethod
    def parse(cls, text: str) -> "_Cursor":
        found = _CURSOR.fullmatch(text)
        if found is None:
            raise InvalidError("cursor is not one that sync gave", field="cursor")
        started_at, state, at, room_id = found.groups()
        return cls(int(started_at), state, int(at) if at else None, room_id)

    def text(self) -> str:
        return f"{self.started_at}.{self.state}.{'' if self.at is None else self.at}.{self.room_id}"

    @property
    def floor(self) -> int:
        """No room whose activity is older moved up since the first page."""
        return self.started_at - _CLOCK_SLACK_MS


class _Active(Struct, frozen=True):
    """One of the reader's rooms, its head, and when something last happened in it."""

    membership: Membership
    head: Head
    at: int

    @property
    def order(self) -> tuple[int, str]:
        return self.at, self.membership.room.id


class SyncService:
    """Answers `sync`."""

    def __init__(
        self,
        log: LogStore,
        rooms: RoomStore,
        meta: MetaStore,
        directory: Directory,
        views: Views,
        *,
        quiet_above: int,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._log = log
        self._rooms = rooms
        self._meta = meta
        self._directory = directory
        self._views = views
        self._quiet_above = quiet_above
        self._clock = clock

    async def sync(self, actor: str, wanted: Sync, *, only_room_id: str | None = None) -> SyncData:
        """A page of the actor's rooms (or of the one room alone), newest activity first."""
        started_at = self._clock()
        epoch = await self._meta.epoch()
        memberships = await self._rooms.memberships(actor)
        left = sorted(wanted.rooms.keys() - {each.room.id for each in memberships})
        active = await self._active([each for each in memberships if only_room_id in (None, each.room.id)])
        cursor = _Cursor.parse(wanted.cursor) if wanted.cursor is not None else None
        listed = _listed(active, cursor)
        me = (await self._views.users([actor]))[actor]
        budget = _BUDGET_BYTES - size_bytes(left) - size_bytes(me)
        rooms, online, taken = await self._page(actor, listed, wanted.rooms, budget)
        lost = await self._lost_since(actor, memberships)
        left += sorted(lost & wanted.rooms.keys())
        return SyncData(
            me=me,
            epoch=epoch,
            rooms=[room for room in rooms if room.room.id not in lost],
            left=left,
            online=sorted(online),
            version=VERSION,
            next=_next(active, listed, taken, cursor, started_at),
        )

    async def _lost_since(self, actor: str, memberships: Sequence[Membership]) -> set[str]:
        """The rooms that the actor has left since, and must not be shown what was said in afterwards."""
        now = {each.room.id: each.member for each in await self._rooms.memberships(actor)}
        return {
            each.room.id
            for each in memberships
            if _incarnation(now.get(each.room.id)) != _incarnation(each.member)
        }

    async def _active(self, memberships: Sequence[Membership]) -> list[_Active]:
        heads = await self._log.heads([each.room.id for each in memberships])
        readable = [each for each in memberships if each.room.id in heads]
        return sorted((_activity(each, heads[each.room.id]) for each in readable), key=_order, reverse=True)

    async def _page(
        self, actor: str, listed: Sequence[_Active], named: Mapping[str, int | None], most_bytes: int
    ) -> tuple[list[SyncRoom], set[str], int]:
        """(the rooms that fit, who of them is online, how many rooms were taken)."""
        left_bytes = most_bytes
        page: list[SyncRoom] = []
        people: set[str] = set()
        candidates = listed[:_MOST_ROOMS]
        views = await self._views.rooms([each.membership for each in candidates], reader=actor)
        for each, view in zip(candidates, views, strict=True):
            members = await self._small_room_members(view)
            lists = 2 if view.id in named else 1
            spent = size_bytes(view) + _BYTES_PER_ID * (1 + lists * len(members or ()))
            room = await self._room(actor, each, view, named, members, most_bytes - spent)
            spent += size_bytes(room.changes)
            if page and spent > left_bytes:
                break
            left_bytes -= spent
            page.append(room)
            people.update(members or ())
        return page, await self._views.online(people), len(page)

    async def _small_room_members(self, view: RoomView) -> dict[str, int] | None:
        """How far each member has read; None in large rooms."""
        if view.member_count > self._quiet_above:
            return None
        members = await self._rooms.members(view.id, (0, ""), self._quiet_above + 1)
        return {member.user_id: member.last_read_seq for member in members}

    async def _room(
        self,
        actor: str,
        each: _Active,
        view: RoomView,
        named: Mapping[str, int | None],
        members: dict[str, int] | None,
        budget: int,
    ) -> SyncRoom:
        if view.id not in named:
            return SyncRoom(room=view, rev=each.head.rev, changes=[], read=None, truncated=False, reset=False)
        rev = named[view.id]
        changes = None if rev is None else await self._changes_since(view.id, rev, each.head.rev)
        if changes is None:
            shown = await self._views.messages(await self._newest(view.id, each.head), reader=actor)
            newest = nearest_that_fit(shown, each.head.last_seq, budget)
            newest.sort(key=lambda message: message.rev)
            end, must_reset = each.head.rev, rev is not None
            return SyncRoom(
                room=view, rev=end, changes=newest, read=members, truncated=False, reset=must_reset
            )
        shown = await self._views.messages([change.message for change in changes], reader=actor)
        fitting = first_that_fit(shown, budget)
        is_cut = len(fitting) < len(shown)
        end = fitting[-1].rev if is_cut else each.head.rev
        return SyncRoom(room=view, rev=end, changes=fitting, read=members, truncated=is_cut, reset=False)

    async def _changes_since(self, room_id: str, rev: int, head_rev: int) -> list[Change] | None:
        """The last change of each changed message, by ascending rev; None: the reader must start anew."""
        if rev == head_rev:
            return []
        if rev > head_rev or head_rev - rev > MOST_CHANGES_BEHIND:
            return None
        entries = await self._log.changes_after(room_id, rev, head_rev - rev)
        last = {entry.message.seq: entry for entry in entries if entry.rev <= head_rev}
        # One that was deleted after the head was read comes with its deletion.
        shown = [entry for entry in last.values() if not entry.message.is_blank]
        return sorted(shown, key=lambda entry: entry.rev)

    async def _newest(self, room_id: str, head: Head) -> list[Message]:
        first = max(1, head.last_seq - NEWEST_MESSAGES + 1)
        return await self._log.messages_between(room_id, first, head.last_seq) if head.last_seq else []


def _activity(membership: Membership, head: Head) -> _Active:
    joined_at = membership.member.joined_at if membership.member is not None else 0
    return _Active(membership, head, max(head.at, joined_at, membership.room.created_at))


def _incarnation(member: Member | None) -> str | None:
    return member.incarnation if member is not None else None


def _order(active: _Active) -> tuple[int, str]:
    return active.order


def _listed(active: Sequence[_Active], cursor: _Cursor | None) -> list[_Active]:
    if cursor is None:
        return list(active)
    if cursor.at is not None:
        below = (cursor.at, cursor.room_id)
        return [each for each in active if each.order < below]
    moved = [each for each in active if each.at >= cursor.floor and each.membership.room.id > cursor.room_id]
    return sorted(moved, key=lambda each: each.membership.room.id)


def _state_of(active: Sequence[_Active]) -> str:
    return digest_of(*sorted(f"{room_id}:{at}" for at, room_id in map(_order, active)))


def _next(
    active: Sequence[_Active], listed: Sequence[_Active], taken: int, cursor: _Cursor | None, started_at: int
) -> str | None:
    """The cursor of the next page, if there is one."""
    begun = cursor if cursor is not None else _Cursor(started_at, _state_of(active), 0, "")
    if taken < len(listed):
        at, room_id = listed[taken - 1].order
        return _Cursor(begun.started_at, begun.state, None if begun.at is None else at, room_id).text()
    if cursor is None or cursor.at is None or begun.state == _state_of(active):
        return None
    return _Cursor(begun.started_at, begun.state, None, "").text()
