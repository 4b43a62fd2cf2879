"""Rooms and their members in MongoDB, without transactions.

Each method is a sequence of single commands, in an order that leaves a right state wherever a crash cuts it,
and whenever a command that nobody waits for any more is done:

- A room is created after its members. Members of a room that is not there are not seen; who loses a race for
  the room's key removes its own.
- A room is deleted before its members are. Every read of members asks whether the room is open; the mark
  `is_emptying` stays until they are gone, and the next start goes on with it. Who is added looks again
  afterwards whether the room is still open: either that look or the removal sees the other.
- Who is removed is marked as `leaving` first, and removed by that mark: who is found to be there takes it
  away, and so what an unanswered removal still has on its way comes to nothing.
- Who was removed leaves a document in their place, without any field of a member: an insert of before, which
  comes late, finds its `_id` taken. Who is added again takes it away first.
- A role is changed, and its holder removed, only as it was when that was decided: `role_version` counts. An
  owner goes or steps down after another was made sure of, which counts too: so what was decided against
  that one and is still on its way comes to nothing. One room's owners do so one at a time, under a lock.
- An owner who goes and leaves nobody first marks the room `vacated`. Who is added afterwards sees that and
  makes sure of an owner; so does whoever finds somebody in such a room, and the next start.
"""

import asyncio
import re
import time
import uuid
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from bson.raw_bson import RawBSONDocument
from msgspec.structs import asdict, replace

from server.domain.errors import NotFoundError, UnavailableError
from server.domain.models import Head, Member, Role, Room
from server.storage.base import Membership, RoomStore
from server.storage.mongo.database import Database, Document, TakenError
from server.storage.mongo.entries import Reader
from server.storage.mongo.followup import FollowUp
from server.storage.mongo.lock import locked
from server.storage.mongo.pages import every_page, find_page

_ATTEMPTS = 10
_SETTLED_AT_ONCE = 100
_ASKED_AT_ONCE = 1_000
_SEEN = ("_id", "incarnation", "role", "role_version")

GONE_FOR_MS = 3600 * 1000
"""How long it is remembered that somebody was removed: no command comes later than that."""

_FORGET_AFTER_S = 600.0
_NOT_FOUND = "there is no such room"
_UNREADABLE = "the room cannot be read"


class MongoRooms(RoomStore):
    """The part of `MongoStorage` that keeps rooms and memberships. A deleted room has no members."""

    _database: Database
    _reader: Reader
    _follow_up: FollowUp
    _forgot_gone_s: float | None = None

    async def heads(self, room_ids: Sequence[str]) -> dict[str, Head]:
        """The log's."""
        raise NotImplementedError

    async def create_room(self, room: Room, members: Sequence[Member]) -> tuple[Room, bool]:
        documents = [_to_document(replace(member, last_read_seq=0)) for member in members]
        if documents:
            try:
                await self._database.insert_in_order("members", documents)
            except TakenError:  # of an earlier try
                for document in documents:
                    await self._database.insert("members", document)
        fields = asdict(room) | {"_id": room.id, "folded_name": _fold(room.name)}
        del fields["id"]
        if await self._database.insert("rooms", fields):
            return room, True
        found = await self._database.find_one("rooms", {"key": room.key})
        if found is not None and found["_id"] != room.id:
            await self._database.delete("members", {"room_id": room.id}, is_many=True)
        present = self._room(found)
        if present is None:
            raise UnavailableError(_UNREADABLE, retry_after_ms=1000)
        return present, False

    async def find_rooms(self, room_ids: Sequence[str]) -> dict[str, Room]:
        found = await self._database.find("rooms", {"_id": {"$in": list(room_ids)}}, limit=len(room_ids))
        return {room.id: room for room in self._reader.each(Room, found, id="_id")}

    async def update_room(
        self, room_id: str, *, name: str | None = None, deleted_at: int | None = None
    ) -> None:
        fields: dict[str, object] = {}
        if name is not None:
            fields |= {"name": name, "folded_name": _fold(name)}
        if deleted_at is not None:
            fields |= {"deleted_at": deleted_at, "is_emptying": True}
        if fields:
            await self._database.update("rooms", {"_id": room_id}, {"$set": fields})
        if deleted_at is not None:
            await self._empty(room_id)

    async def public_rooms(self, query: str, after: str, limit: int) -> list[Room]:
        wanted: dict[str, object] = {"kind": "public", "deleted_at": None, "_id": {"$gt": after}}
        if query:
            if "\0" in query:  # a pattern cannot have it, nor has any name
                return []
            wanted["folded_name"] = {"$regex": re.escape(query.casefold())}
        order = [("_id", 1)]
        return await find_page(
            self._database, self._reader, Room, "rooms", wanted, sort=order, limit=limit, id="_id"
        )

    async def find_member(self, room_id: str, user_id: str) -> Member | None:
        found, document = await asyncio.gather(
            self._find_member(room_id, user_id), self._database.find_one("rooms", {"_id": room_id})
        )
        room = self._room(document)
        if found is None or document is None or room is None or room.deleted_at is not None:
            return None
        if "vacated" not in document:
            return found
        # Who came late, or whose server crashed: nobody has looked whether the room has an owner.
        await self._settle(room_id, document["vacated"])
        return await self._find_member(room_id, user_id)

    async def keep_member(self, room_id: str, user_id: str) -> Member | None:
        document = await self._find_document(room_id, user_id)
        if document is not None and "leaving" in document:
            as_seen = {"_id": document["_id"], "leaving": document["leaving"]}
            await self._database.update("members", as_seen, {"$unset": {"leaving": ""}})
        return await self.find_member(room_id, user_id)

    async def members_among(self, room_id: str, user_ids: Sequence[str]) -> set[str]:
        if not user_ids or not await self._is_open(room_id):
            return set()
        found: list[RawBSONDocument] = []
        for start in range(0, len(user_ids), _ASKED_AT_ONCE):
            ids = [f"{room_id}:{user_id}" for user_id in user_ids[start : start + _ASKED_AT_ONCE]]
            found += await self._database.find("members", {"_id": {"$in": ids}}, limit=len(ids))
        return {member.user_id for member in self._members(found)}

    async def members(self, room_id: str, after: tuple[int, str], limit: int) -> list[Member]:
        joined_at, user_id = after
        later: list[Document] = [
            {"room_id": room_id, "joined_at": {"$gt": joined_at}},
            {"room_id": room_id, "joined_at": joined_at, "user_id": {"$gt": user_id}},
        ]
        found, is_open = await asyncio.gather(
            find_page(
                self._database,
                self._reader,
                Member,
                "members",
                {"$or": later},
                sort=[("joined_at", 1), ("user_id", 1)],
                limit=limit,
            ),
            self._is_open(room_id),
        )
        return [self._with_own_messages(member) for member in found] if is_open else []

    async def memberships(self, user_id: str) -> list[Membership]:
        found: list[Membership] = []
        async for page in every_page(self._database, "members", {"user_id": user_id}):
            members = self._members(page)
            rooms = await self.find_rooms([member.room_id for member in members])
            found += [
                Membership(room=room, member=member)
                for member in members
                if (room := rooms.get(member.room_id)) and room.deleted_at is None
            ]
        return found

    async def add_member(self, member: Member) -> Member:
        if not await self._is_open(member.room_id):
            raise NotFoundError(_NOT_FOUND, field="room_id")
        head = (await self.heads([member.room_id])).get(member.room_id)
        if head is None:
            raise UnavailableError("the log of this room cannot be read")
        added = replace(member, last_read_seq=head.last_seq)
        for _ in range(_ATTEMPTS):
            if await self._database.insert("members", _to_document(added)):
                break
            document = await self._find_document(member.room_id, member.user_id)
            if document is not None and "gone" in document:
                query = {"_id": _id_of(member), "gone": document["gone"]}
                await self._database.delete("members", query)
            elif (present := await self.keep_member(member.room_id, member.user_id)) is not None:
                return present
        else:  # one that comes and goes, or does not decode
            raise UnavailableError("the membership cannot be read", retry_after_ms=1000)
        document = await self._database.find_one("rooms", {"_id": member.room_id})
        room = self._room(document)
        if document is None or room is None:  # it was there, and no longer decodes
            raise UnavailableError(_UNREADABLE, retry_after_ms=1000)
        if room.deleted_at is not None:
            await self._empty(member.room_id)
            raise NotFoundError(_NOT_FOUND, field="room_id")
        if "vacated" in document:
            await self._settle(member.room_id, document["vacated"])
            return await self._find_member(member.room_id, member.user_id) or added
        return added

    async def remove_member(self, room_id: str, user_id: str) -> Member | None:
        removed: Member | None = None
        for _ in range(_ATTEMPTS):
            member = await self._find_member(room_id, user_id)
            if member is None:
                break
            async with locked(self._database, room_id) if member.role == "owner" else nullcontext():
                taken_out = await self._take_out(room_id, user_id)
            removed = taken_out or removed
            if taken_out is not None and await self._bury(taken_out):
                break
        else:
            raise UnavailableError("others are changing this", retry_after_ms=1000)
        await self._ensure_owner(room_id)  # where a removal before was cut off, too
        return removed

    async def set_role(self, room_id: str, user_id: str, role: Role) -> bool:
        async with nullcontext() if role == "owner" else locked(self._database, room_id):
            for _ in range(_ATTEMPTS):
                document = await self._find_document(room_id, user_id)
                member = self._member(document)
                if document is None or member is None:
                    return False
                if member.role == "owner" != role and not await self._claim_owner(
                    room_id, without=user_id, may_promote=False
                ):
                    return False
                if await self._change_role(document, role):
                    return True
        raise UnavailableError("others are changing this", retry_after_ms=1000)

    async def advance_cursors(self, cursors: Sequence[tuple[str, str, int]]) -> list[int]:
        if not cursors:
            return []
        await self._follow_up.move(cursors)
        ids = {f"{room_id}:{user_id}" for room_id, user_id, _ in cursors}
        found = await self._database.find("members", {"_id": {"$in": list(ids)}}, limit=len(ids))
        members = {_id_of(member): member for member in self._members(found)}
        reached = [members.get(f"{room_id}:{user_id}") for room_id, user_id, _ in cursors]
        return [member.last_read_seq if member else 0 for member in reached]

    async def member_counts(self, room_ids: Sequence[str]) -> dict[str, int]:
        if not room_ids:
            return {}
        counts = await self._database.count_by("members", {"room_id": {"$in": list(room_ids)}}, "room_id")
        return {room_id: counts.get(room_id, 0) for room_id in room_ids}

    async def _go_on_emptying(self) -> None:
        """Remove the members of rooms whose deletion was cut off."""
        while found := await self._database.find("rooms", {"is_emptying": True}, limit=100):
            for room in found:
                await self._empty(room["_id"])

    async def _go_on_settling(self) -> None:
        """See to it that rooms which everybody left have an owner where somebody was added since."""
        after = ""
        while found := await self._database.find(
            "rooms", {"vacated": {"$gt": after}}, sort=[("vacated", 1)], limit=_SETTLED_AT_ONCE
        ):
            marks = {room["_id"]: room["vacated"] for room in found}
            counts = await self.member_counts(list(marks))
            for room_id in [room_id for room_id, count in counts.items() if count > 0]:
                await self._settle(room_id, marks[room_id])
            after = found[-1]["vacated"]

    async def _settle(self, room_id: str, mark: str) -> None:
        await self._claim_owner(room_id)
        await self._database.update("rooms", {"_id": room_id, "vacated": mark}, {"$unset": {"vacated": ""}})

    async def _empty(self, room_id: str) -> None:
        await self._database.delete("members", {"room_id": room_id}, is_many=True)
        await self._database.update("rooms", {"_id": room_id}, {"$unset": {"is_emptying": ""}})

    async def _is_open(self, room_id: str) -> bool:
        room = self._room(await self._database.find_one("rooms", {"_id": room_id}))
        return room is not None and room.deleted_at is None

    async def _find_document(self, room_id: str, user_id: str) -> RawBSONDocument | None:
        return await self._database.find_one("members", {"_id": f"{room_id}:{user_id}"})

    async def _find_member(self, room_id: str, user_id: str) -> Member | None:
        return self._member(await self._find_document(room_id, user_id))

    async def _take_out(self, room_id: str, user_id: str) -> Member | None:
        """Remove a member as it is now, and return it; None: it changes at this moment, or is gone."""
        document = await self._find_document(room_id, user_id)
        member = self._member(document)
        if document is None or member is None:
            return None
        if member.role == "owner" and not await self._claim_owner(room_id, without=user_id):
            await self._database.update("rooms", {"_id": room_id}, {"$set": {"vacated": uuid.uuid4().hex}})
            await self._claim_owner(room_id, without=user_id)  # who was added before did not see the mark
        leaving = {"leaving": uuid.uuid4().hex}
        if not await self._database.update("members", _as_seen(document), {"$set": leaving}):
            return None
        return member if await self._database.delete("members", _as_seen(document) | leaving) else None

    async def _bury(self, member: Member) -> bool:
        """Leave the document that stands in the place of who was removed; False: somebody is there."""
        now_s = time.monotonic()
        now_ms = time.time_ns() // 1_000_000
        if self._forgot_gone_s is None or now_s - self._forgot_gone_s > _FORGET_AFTER_S:
            self._forgot_gone_s = now_s
            past = {"gone_at": {"$lt": now_ms - GONE_FOR_MS}}
            await self._database.delete("members", past, is_many=True)
        gone = {"_id": _id_of(member), "gone": member.incarnation, "gone_at": now_ms}
        return await self._database.insert("members", gone)

    async def _change_role(self, document: RawBSONDocument, role: Role) -> bool:
        update = {"$set": {"role": role}, "$inc": {"role_version": 1}}
        return await self._database.update("members", _as_seen(document), update) > 0

    async def _ensure_owner(self, room_id: str) -> None:
        """Make the member of longest standing the owner where there is none."""
        owners = {"room_id": room_id, "role": "owner"}
        if not self._members(await self._database.find("members", owners, limit=_ATTEMPTS)):
            await self._claim_owner(room_id)

    async def _claim_owner(self, room_id: str, *, without: str = "", may_promote: bool = True) -> bool:
        """Make sure that somebody beside `without` is an owner, and stays one whatever was decided before.

        Where there is none the member of longest standing becomes one. False: nobody can be.
        """
        others: dict[str, Any] = {"room_id": room_id, "user_id": {"$ne": without}}
        for _ in range(_ATTEMPTS):
            found = await self._database.find("members", others | {"role": "owner"}, limit=_ATTEMPTS)
            chosen = next((each for each in found if self._member(each)), None)
            if chosen is None and may_promote:
                order = [("joined_at", 1), ("user_id", 1)]
                found = await self._database.find("members", others, sort=order, limit=_ATTEMPTS)
                chosen = next((each for each in found if self._member(each)), None)
            if chosen is None:
                return False
            if await self._change_role(chosen, "owner"):
                return True
        raise UnavailableError("others are changing this", retry_after_ms=1000)

    def _room(self, document: RawBSONDocument | None) -> Room | None:
        return self._reader.find(Room, document, id="_id")

    def _member(self, document: RawBSONDocument | None) -> Member | None:
        return next(iter(self._members([document] if document is not None else [])), None)

    def _members(self, documents: Sequence[RawBSONDocument]) -> list[Member]:
        there = [each for each in documents if "gone" not in each]
        return [self._with_own_messages(member) for member in self._reader.each(Member, there)]

    def _with_own_messages(self, member: Member) -> Member:
        read = self._follow_up.cursor(member.room_id, member.user_id)
        return replace(member, last_read_seq=read) if read > member.last_read_seq else member


def _id_of(member: Member) -> str:
    return f"{member.room_id}:{member.user_id}"


def _to_document(member: Member) -> dict[str, object]:
    return {"_id": _id_of(member), "role_version": 0} | asdict(member)


def _as_seen(document: RawBSONDocument) -> dict[str, object]:
    """Finds this very membership while its role is what it was."""
    return {name: document.get(name) for name in _SEEN}


def _fold(name: str | None) -> str | None:
    """A name as searches compare it, without case."""
    return None if name is None else name.casefold()
