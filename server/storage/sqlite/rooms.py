"""Rooms and their members in SQLite."""

from collections.abc import Sequence

import msgspec
from msgspec.structs import asdict, replace

from server.domain.errors import NotFoundError
from server.domain.models import Member, Role, Room
from server.storage.base import Membership, RoomStore
from server.storage.sqlite.database import Connection, Database, to_json

_INSERT_ROOM = """INSERT INTO rooms
        (id, kind, name, folded_name, key, digest, created_by, created_at, first_seq, deleted_at)
    VALUES (:id, :kind, :name, :folded_name, :key, :digest, :created_by, :created_at, :first_seq,
        :deleted_at)"""
_ROOMS = """SELECT '[' || group_concat(r.document) || ']'
    FROM json_each(?) AS wanted CROSS JOIN room_documents AS r ON r.id = wanted.value"""
_ROOM_BY_KEY = "SELECT document FROM room_documents WHERE key = ?"
_PUBLIC_ROOMS = """SELECT '[' || group_concat(document) || ']' FROM (
        SELECT document FROM room_documents
        WHERE kind = 'public' AND deleted_at IS NULL AND id > ? AND instr(folded_name, ?)
        ORDER BY id LIMIT ?)"""
_SET_NAME = "UPDATE rooms SET name = ?, folded_name = ? WHERE id = ?"
_SET_DELETED = "UPDATE rooms SET deleted_at = ? WHERE id = ?"
_IS_OPEN = "SELECT 1 FROM rooms WHERE id = ? AND deleted_at IS NULL"
_LAST_SEQ = "SELECT last_seq FROM changes WHERE room_id = ? ORDER BY rev DESC LIMIT 1"
_INSERT_MEMBER = """INSERT INTO members (room_id, user_id, role, joined_at, incarnation, last_read_seq)
    VALUES (:room_id, :user_id, :role, :joined_at, :incarnation, :last_read_seq)"""
_MEMBER = "SELECT document FROM member_documents WHERE room_id = ? AND user_id = ?"
_AMONG = """SELECT json_group_array(m.user_id)
    FROM json_each(?2) AS wanted CROSS JOIN members AS m ON m.room_id = ?1 AND m.user_id = wanted.value"""
_MEMBERS = """SELECT '[' || group_concat(document) || ']' FROM (
        SELECT document FROM member_documents
        WHERE room_id = ? AND (joined_at, user_id) > (?, ?) ORDER BY joined_at, user_id LIMIT ?)"""
_MEMBERSHIPS = """SELECT
        '[' || group_concat('{"room":' || r.document || ',"member":' || m.document || '}') || ']'
    FROM member_documents AS m CROSS JOIN room_documents AS r ON r.id = m.room_id
    WHERE m.user_id = ? AND r.deleted_at IS NULL"""
_DELETE_MEMBER = "DELETE FROM members WHERE room_id = ? AND user_id = ?"
_DELETE_MEMBERS = "DELETE FROM members WHERE room_id = ?"
_OTHER_OWNER = "SELECT 1 FROM members WHERE room_id = ? AND role = 'owner' AND user_id <> ? LIMIT 1"
_OLDEST_MEMBER = "SELECT user_id FROM members WHERE room_id = ? ORDER BY joined_at, user_id LIMIT 1"
_SET_ROLE = "UPDATE members SET role = ? WHERE room_id = ? AND user_id = ?"
_MOVE_CURSOR = """UPDATE members SET last_read_seq = ?3
    WHERE room_id = ?1 AND user_id = ?2 AND last_read_seq < ?3"""
_CURSOR = "SELECT last_read_seq FROM members WHERE room_id = ? AND user_id = ?"
_COUNTS = """SELECT json_group_object(
        value, (SELECT count(*) FROM members WHERE room_id = wanted.value))
    FROM json_each(?) AS wanted"""

_decode_room = msgspec.json.Decoder(Room).decode
_decode_rooms = msgspec.json.Decoder(list[Room]).decode
_decode_member = msgspec.json.Decoder(Member).decode
_decode_members = msgspec.json.Decoder(list[Member]).decode
_decode_memberships = msgspec.json.Decoder(list[Membership]).decode
_decode_counts = msgspec.json.Decoder(dict[str, int]).decode


class SqliteRooms(RoomStore):
    """The part of `SqliteStorage` that keeps rooms and memberships. A deleted room has no members."""

    _database: Database

    async def create_room(self, room: Room, members: Sequence[Member]) -> tuple[Room, bool]:
        def create(connection: Connection) -> tuple[Room, bool]:
            present = connection.execute(_ROOM_BY_KEY, (room.key,)).fetchone()
            if present:
                return _decode_room(present[0]), False
            connection.execute(_INSERT_ROOM, {**asdict(room), "folded_name": _fold(room.name)})
            for member in members:
                connection.execute(_INSERT_MEMBER, asdict(replace(member, last_read_seq=0)))
            return room, True

        return await self._database.write(create)

    async def find_rooms(self, room_ids: Sequence[str]) -> dict[str, Room]:
        found = await self._database.read(_ROOMS, to_json(room_ids))
        return {room.id: room for room in _decode_rooms(found or "[]")}

    async def update_room(
        self, room_id: str, *, name: str | None = None, deleted_at: int | None = None
    ) -> None:
        def update(connection: Connection) -> None:
            if name is not None:
                connection.execute(_SET_NAME, (name, _fold(name), room_id))
            if deleted_at is not None:
                connection.execute(_SET_DELETED, (deleted_at, room_id))
                connection.execute(_DELETE_MEMBERS, (room_id,))

        await self._database.write(update)

    async def public_rooms(self, query: str, after: str, limit: int) -> list[Room]:
        found = await self._database.read(_PUBLIC_ROOMS, after, query.casefold(), limit)
        return _decode_rooms(found or "[]")

    async def find_member(self, room_id: str, user_id: str) -> Member | None:
        found = await self._database.read(_MEMBER, room_id, user_id)
        return _decode_member(found) if found else None

    async def keep_member(self, room_id: str, user_id: str) -> Member | None:
        # On the writer's thread, behind each removal that has begun.
        return await self._database.write(lambda connection: _find_member(connection, room_id, user_id))

    async def members_among(self, room_id: str, user_ids: Sequence[str]) -> set[str]:
        found = await self._database.read(_AMONG, room_id, to_json(user_ids))
        return set(msgspec.json.decode(found or "[]", type=list[str]))

    async def members(self, room_id: str, after: tuple[int, str], limit: int) -> list[Member]:
        found = await self._database.read(_MEMBERS, room_id, *after, limit)
        return _decode_members(found or "[]")

    async def memberships(self, user_id: str) -> list[Membership]:
        return _decode_memberships(await self._database.read(_MEMBERSHIPS, user_id) or "[]")

    async def add_member(self, member: Member) -> Member:
        def add(connection: Connection) -> Member:
            if not connection.execute(_IS_OPEN, (member.room_id,)).fetchone():
                raise NotFoundError("there is no such room", field="room_id")
            present = _find_member(connection, member.room_id, member.user_id)
            if present is not None:
                return present
            head = connection.execute(_LAST_SEQ, (member.room_id,)).fetchone()
            added = replace(member, last_read_seq=head[0] if head else 0)
            connection.execute(_INSERT_MEMBER, asdict(added))
            return added

        return await self._database.write(add)

    async def remove_member(self, room_id: str, user_id: str) -> Member | None:
        def remove(connection: Connection) -> Member | None:
            member = _find_member(connection, room_id, user_id)
            if member is None:
                return None
            connection.execute(_DELETE_MEMBER, (room_id, user_id))
            if _is_last_owner(connection, member):
                oldest = connection.execute(_OLDEST_MEMBER, (room_id,)).fetchone()
                if oldest:
                    connection.execute(_SET_ROLE, ("owner", room_id, oldest[0]))
            return member

        return await self._database.write(remove)

    async def set_role(self, room_id: str, user_id: str, role: Role) -> bool:
        def change(connection: Connection) -> bool:
            member = _find_member(connection, room_id, user_id)
            if member is None or (role != "owner" and _is_last_owner(connection, member)):
                return False
            connection.execute(_SET_ROLE, (role, room_id, user_id))
            return True

        return await self._database.write(change)

    async def advance_cursors(self, cursors: Sequence[tuple[str, str, int]]) -> list[int]:
        if not cursors:
            return []

        def advance(connection: Connection) -> list[int]:
            connection.executemany(_MOVE_CURSOR, cursors)
            rows = (connection.execute(_CURSOR, cursor[:2]).fetchone() for cursor in cursors)
            return [row[0] if row else 0 for row in rows]

        return await self._database.write(advance)

    async def member_counts(self, room_ids: Sequence[str]) -> dict[str, int]:
        return _decode_counts(await self._database.read(_COUNTS, to_json(room_ids)))


def _find_member(connection: Connection, room_id: str, user_id: str) -> Member | None:
    row = connection.execute(_MEMBER, (room_id, user_id)).fetchone()
    return _decode_member(row[0]) if row else None


def _is_last_owner(connection: Connection, member: Member) -> bool:
    if member.role != "owner":
        return False
    return connection.execute(_OTHER_OWNER, (member.room_id, member.user_id)).fetchone() is None


def _fold(name: str | None) -> str | None:
    """A name as searches compare it, without case (SQLite's own functions know that of ASCII alone)."""
    return None if name is None else name.casefold()
