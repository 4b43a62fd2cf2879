"""Rooms and their members in MongoDB, without transactions.

Each method is a sequence of single commands, in an order that leaves a right state wherever a crash cuts it:

- A room is created after its members. Members of a room that is not there are not seen; who loses a race for
  the room's key removes its own.
- A room is deleted before its members are. Every read of members asks whether the room is open; the mark
  `is_emptying` stays until they are gone, and the next start goes on with it. Who is added looks again
  afterwards whether the room is still open: either that look or the removal sees the other.
- The last owner who goes makes the next one owner first, and looks again when gone. Two who go at once may
  have chosen each other: then the one removed later sees that no owner is left, and chooses again.
- Stepping down is done under a lock of the room, so that of two owners one stays. A holder that was
  taken for gone looks afterwards whether an owner is left, as everybody does.
"""

import asyncio
import re
from collections.abc import Sequence

from bson.raw_bson import RawBSONDocument
from msgspec.structs import asdict, replace

from server.domain.errors import NotFoundError, UnavailableError
from server.domain.models import Head, Member, Role, Room
from server.storage.base import Membership, RoomStore
from server.storage.mongo.database import Database, Document, TakenError
from server.storage.mongo.entries import Reader
from server.storage.mongo.followup import FollowUp
from server.storage.mongo.lock import locked

_MOST_ROOMS = 10_000
_ATTEMPTS = 10
_NOT_FOUND = "there is no such room"


class MongoRooms(RoomStore):
    """The part of `MongoStorage` that keeps rooms and memberships. A deleted room has no members."""

    _database: Database
    _reader: Reader
    _follow_up: FollowUp

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
        present = self._room(await self._database.find_one("rooms", {"key": room.key}))
        if present is None or present.id != room.id:
            await self._database.delete("members", {"room_id": room.id}, is_many=True)
        if present is None:
            raise TakenError
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
        found = await self._database.find("rooms", wanted, sort=[("_id", 1)], limit=limit)
        return self._reader.each(Room, found, id="_id")

    async def find_member(self, room_id: str, user_id: str) -> Member | None:
        found, is_open = await asyncio.gather(self._find_member(room_id, user_id), self._is_open(room_id))
        return found if is_open else None

    async def members(self, room_id: str, after: tuple[int, str], limit: int) -> list[Member]:
        joined_at, user_id = after
        later: list[Document] = [
            {"room_id": room_id, "joined_at": {"$gt": joined_at}},
            {"room_id": room_id, "joined_at": joined_at, "user_id": {"$gt": user_id}},
        ]
        found, is_open = await asyncio.gather(
            self._database.find(
                "members", {"$or": later}, sort=[("joined_at", 1), ("user_id", 1)], limit=limit
            ),
            self._is_open(room_id),
        )
        return self._members(found) if is_open else []

    async def memberships(self, user_id: str) -> list[Membership]:
        found = await self._database.find("members", {"user_id": user_id}, limit=_MOST_ROOMS)
        members = self._members(found)
        rooms = await self.find_rooms([member.room_id for member in members])
        open_rooms = {room.id: room for room in rooms.values() if room.deleted_at is None}
        return [
            Membership(room=open_rooms[member.room_id], member=member)
            for member in members
            if member.room_id in open_rooms
        ]

    async def add_member(self, member: Member) -> Member:
        if not await self._is_open(member.room_id):
            raise NotFoundError(_NOT_FOUND, field="room_id")
        head = (await self.heads([member.room_id]))[member.room_id]
        added = replace(member, last_read_seq=head.last_seq)
        for _ in range(_ATTEMPTS):
            if await self._database.insert("members", _to_document(added)):
                break
            present = await self._find_member(member.room_id, member.user_id)
            if present is not None:
                return present
        else:  # one that comes and goes, or does not decode
            raise UnavailableError("the membership cannot be read", retry_after_ms=1000)
        if not await self._is_open(member.room_id):
            await self._empty(member.room_id)
            raise NotFoundError(_NOT_FOUND, field="room_id")
        return added

    async def remove_member(self, room_id: str, user_id: str) -> Member | None:
        member = await self._find_member(room_id, user_id)
        if member is None:
            await self._ensure_owner(room_id)  # a removal before may have been cut off
            return None
        if member.role == "owner":
            await self._ensure_owner(room_id, without=user_id)
        query = {"_id": _id_of(member), "incarnation": member.incarnation}
        is_removed = await self._database.delete("members", query) > 0
        await self._ensure_owner(room_id)
        return member if is_removed else None

    async def set_role(self, room_id: str, user_id: str, role: Role) -> bool:
        query = {"_id": f"{room_id}:{user_id}"}
        if role == "owner":
            return await self._database.update("members", query, {"$set": {"role": role}}) > 0
        async with locked(self._database, room_id):
            member = await self._find_member(room_id, user_id)
            if member is None:
                return False
            if member.role == "owner" and not await self._find_owner(room_id, without=user_id):
                return False
            await self._database.update("members", query, {"$set": {"role": role}})
            await self._ensure_owner(room_id)
        return True

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

    async def _empty(self, room_id: str) -> None:
        await self._database.delete("members", {"room_id": room_id}, is_many=True)
        await self._database.update("rooms", {"_id": room_id}, {"$unset": {"is_emptying": ""}})

    async def _is_open(self, room_id: str) -> bool:
        room = self._room(await self._database.find_one("rooms", {"_id": room_id}))
        return room is not None and room.deleted_at is None

    async def _find_member(self, room_id: str, user_id: str) -> Member | None:
        found = await self._database.find_one("members", {"_id": f"{room_id}:{user_id}"})
        return next(iter(self._members([found] if found else [])), None)

    async def _find_owner(self, room_id: str, *, without: str = "") -> bool:
        owners = await self._database.find(
            "members", {"room_id": room_id, "role": "owner"}, limit=2, fields=("user_id",)
        )
        return any(each["user_id"] != without for each in owners)

    async def _ensure_owner(self, room_id: str, *, without: str = "") -> None:
        """Make the member of longest standing the owner where there is none, `without` left aside."""
        while not await self._find_owner(room_id, without=without):
            oldest = await self._database.find(
                "members",
                {"room_id": room_id, "user_id": {"$ne": without}},
                sort=[("joined_at", 1), ("user_id", 1)],
                limit=1,
            )
            if not oldest:
                return
            await self._database.update("members", {"_id": oldest[0]["_id"]}, {"$set": {"role": "owner"}})

    def _room(self, document: RawBSONDocument | None) -> Room | None:
        return self._reader.find(Room, document, id="_id")

    def _members(self, documents: Sequence[RawBSONDocument]) -> list[Member]:
        return [self._with_own_messages(member) for member in self._reader.each(Member, documents)]

    def _with_own_messages(self, member: Member) -> Member:
        read = self._follow_up.cursor(member.room_id, member.user_id)
        return replace(member, last_read_seq=read) if read > member.last_read_seq else member


def _id_of(member: Member) -> str:
    return f"{member.room_id}:{member.user_id}"


def _to_document(member: Member) -> dict[str, object]:
    return {"_id": _id_of(member)} | asdict(member)


def _fold(name: str | None) -> str | None:
    """A name as searches compare it, without case."""
    return None if name is None else name.casefold()
