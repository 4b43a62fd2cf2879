"""The log of changes in SQLite."""

from collections.abc import Sequence
from functools import partial

import msgspec

from server.domain.models import Change, Head, Message
from server.storage.base import CollisionError, LogStore
from server.storage.sqlite.database import Connection, Database, TakenError, to_json
from server.storage.sqlite.entries import EntryReader, insert, split

# A list of what is wanted goes in as JSON. CROSS JOIN keeps SQLite to this order: one seek for each wanted.
_HEADS = """SELECT json_group_array(json_array(c.room_id, c.rev, c.last_seq, c.at))
    FROM json_each(?) AS wanted CROSS JOIN changes AS c ON c.room_id = wanted.value AND c.rev = (
        SELECT rev FROM changes WHERE room_id = wanted.value ORDER BY rev DESC LIMIT 1)"""
_BY_KEYS = """SELECT CAST('[' || group_concat(e.entry) || ']' AS BLOB)
    FROM json_each(?) AS wanted CROSS JOIN entries AS e
        ON e.room_id = json_extract(wanted.value, '$[0]') AND e.key = json_extract(wanted.value, '$[1]')"""
_PRESENT_BY_ID = """SELECT CAST('[' || group_concat(e.entry) || ']' AS BLOB)
    FROM json_each(?) AS wanted
    CROSS JOIN changes AS first ON first.room_id = json_extract(wanted.value, '$[0]')
        AND first.key = json_extract(wanted.value, '$[1]') AND first.kind = 'message'
    CROSS JOIN entries AS e ON e.room_id = first.room_id AND e.rev = (
        SELECT rev FROM changes WHERE room_id = first.room_id AND seq = first.seq
        ORDER BY rev DESC LIMIT 1)"""
_PRESENT_AT = """SELECT CAST('[' || group_concat(e.entry) || ']' AS BLOB)
    FROM (SELECT json_extract(value, '$[0]') AS room_id, json_extract(value, '$[1]') AS seq
        FROM json_each(?)) AS wanted
    CROSS JOIN entries AS e ON e.room_id = wanted.room_id AND e.rev = (
        SELECT rev FROM changes WHERE room_id = wanted.room_id AND seq = wanted.seq
        ORDER BY rev DESC LIMIT 1)"""
_PRESENT_BETWEEN = """WITH RECURSIVE
        head (last_seq) AS (SELECT last_seq FROM changes WHERE room_id = ?1 ORDER BY rev DESC LIMIT 1),
        wanted (seq, last_seq) AS (
            SELECT max(?2, 1), min(?3, last_seq) FROM head WHERE max(?2, 1) <= min(?3, last_seq)
            UNION ALL SELECT seq + 1, last_seq FROM wanted WHERE seq < last_seq)
    SELECT CAST('[' || group_concat(e.entry) || ']' AS BLOB)
    FROM wanted CROSS JOIN entries AS e ON e.room_id = ?1 AND e.rev = (
        SELECT rev FROM changes WHERE room_id = ?1 AND seq = wanted.seq ORDER BY rev DESC LIMIT 1)"""
_AFTER = """SELECT CAST('[' || group_concat(entry) || ']' AS BLOB) FROM (
        SELECT entry FROM entries WHERE room_id = ? AND rev > ? ORDER BY rev LIMIT ?)"""
# Nothing follows a deletion, so a message is deleted when its last entry says so; its reactions went with it.
_OWN_REACTIONS = """SELECT json_group_array(json_array(r.room_id, r.by_id, r.seq, r.reaction_type))
    FROM (SELECT json_extract(value, '$[0]') AS room_id, json_extract(value, '$[1]') AS by_id,
        json_extract(value, '$[2]') AS seq FROM json_each(?)) AS wanted
    CROSS JOIN changes AS r ON r.room_id = wanted.room_id AND r.rev = (
        SELECT rev FROM changes WHERE room_id = wanted.room_id AND by_id = wanted.by_id AND seq = wanted.seq
            AND kind = 'react' ORDER BY rev DESC LIMIT 1)
    WHERE r.reaction_type IS NOT NULL AND 'delete' <> (
        SELECT kind FROM changes WHERE room_id = wanted.room_id AND seq = wanted.seq
        ORDER BY rev DESC LIMIT 1)"""
_MOVE_CURSORS = """UPDATE members SET last_read_seq = max(last_read_seq, json_extract(seen.value, '$[2]'))
    FROM json_each(?) AS seen
    WHERE room_id = json_extract(seen.value, '$[0]') AND user_id = json_extract(seen.value, '$[1]')"""
_BLANK = """UPDATE changes SET content = NULL, attachments = NULL
    WHERE room_id = ? AND seq = ? AND rev < ? AND kind IN ('message', 'edit')"""

_decode_heads = msgspec.json.Decoder(list[tuple[str, int, int, int]]).decode
_decode_reactions = msgspec.json.Decoder(list[tuple[str, str, int, str]]).decode


class SqliteLog(LogStore):
    """The part of `SqliteStorage` that keeps the log. A batch of reads is one statement with one value."""

    _database: Database
    _reader: EntryReader

    async def append(self, changes: Sequence[Change]) -> None:
        if not changes:
            return
        try:
            await self._database.write(partial(_append, changes))
        except TakenError:
            raise CollisionError from None

    async def heads(self, room_ids: Sequence[str]) -> dict[str, Head]:
        heads = dict.fromkeys(room_ids, Head())
        for room_id, rev, last_seq, at in _decode_heads(await self._database.read(_HEADS, to_json(room_ids))):
            heads[room_id] = Head(rev=rev, last_seq=last_seq, at=at)
        return heads

    async def find_by_keys(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Change]:
        found = split(await self._database.read(_BY_KEYS, to_json(keys)))
        return {(each.room_id, each.key): each for each in self._reader.changes(found)}

    async def find_messages(self, refs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Message]:
        found = split(await self._database.read(_PRESENT_BY_ID, to_json(refs)))
        return {(each.room_id, each.id): each for each in self._reader.messages(found)}

    async def messages_between(self, room_id: str, first_seq: int, last_seq: int) -> list[Message]:
        found = split(await self._database.read(_PRESENT_BETWEEN, room_id, first_seq, last_seq))
        return self._reader.messages(found)

    async def messages_at(self, refs: Sequence[tuple[str, int]]) -> dict[tuple[str, int], Message]:
        found = split(await self._database.read(_PRESENT_AT, to_json(refs)))
        return {(each.room_id, each.seq): each for each in self._reader.messages(found)}

    async def changes_after(self, room_id: str, rev: int, limit: int) -> list[Change]:
        changes: list[Change] = []
        while (wanted := limit - len(changes)) > 0:
            found = split(await self._database.read(_AFTER, room_id, rev, wanted))
            changes += self._reader.changes(found)
            if len(found) < wanted:
                break
            # Another turn only where some were skipped: a short page would look like the last one.
            rev = found[-1][1]
        return changes

    async def own_reactions(self, refs: Sequence[tuple[str, str, int]]) -> dict[tuple[str, str, int], str]:
        found = _decode_reactions(await self._database.read(_OWN_REACTIONS, to_json(refs)))
        return {(room_id, user_id, seq): reaction for room_id, user_id, seq, reaction in found}

    async def count_undecodable(self) -> int:
        return self._reader.skipped


def _append(changes: Sequence[Change], connection: Connection) -> None:
    insert(connection, changes)
    seen = {(each.room_id, each.by): each.message.seq for each in changes if each.kind == "message"}
    if seen:
        connection.execute(_MOVE_CURSORS, (to_json([(*whose, seq) for whose, seq in seen.items()]),))
    for each in changes:
        if each.kind == "delete":
            connection.execute(_BLANK, (each.room_id, each.message.seq, each.rev))
