"""The log of changes in MongoDB.

One entry is a document that never moves or goes, with `_id` "<room>:<rev>". An insert under unique indexes is
the only way in. Nothing here needs a transaction: what follows from an entry (the sender's cursor, the
blanking of deleted texts) is done after it, and again after a crash.
"""

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import bson
from bson.raw_bson import RawBSONDocument

from server.domain.errors import UnavailableError
from server.domain.models import Change, Head, Message
from server.storage.base import CollisionError, LogStore, Slot
from server.storage.mongo.database import Database, TakenError
from server.storage.mongo.entries import Entry, Place, Reader, id_of, needs_body, to_document
from server.storage.mongo.followup import FollowUp

_CHUNK = 100
"""How many alternatives a query may have."""

_ENTRIES_EACH = 4
"""How many entries of a message are read in the hope of its last one; where there are more it is sought."""

_SEEKS = 16
_MOST_BYTES = 8 * 1024 * 1024
_HEAD_FIELDS = ("room_id", "rev", "last_seq", "at")
_MOST_REVS = 50_000
_MOST_UNSURE = 20_000

_T = TypeVar("_T")


class _LogEnd(Head, frozen=True, kw_only=True):
    room_id: str


class _OwnReaction(Place, frozen=True, kw_only=True):
    by: str
    reaction_type: str | None = None


class MongoLog(LogStore):
    """The part of `MongoStorage` that keeps the log."""

    _database: Database
    _reader: Reader
    _follow_up: FollowUp
    # By room a rev that is there for good: where to look for the head.
    _revs: OrderedDict[str, int]
    # (room, key) of appends without a clean answer: what is found of them later is followed up then.
    _unsure: OrderedDict[tuple[str, str], None]

    async def append(self, changes: Sequence[Change]) -> None:
        if not changes:
            return
        is_begun = False
        try:
            for part in _parts([RawBSONDocument(bson.encode(to_document(change))) for change in changes]):
                await self._database.insert_in_order("changes", part)
                is_begun = True
        except (TakenError, UnavailableError) as error:
            self._doubt(changes)
            if isinstance(error, UnavailableError):
                raise
            is_nothing_stored = error.is_first and not is_begun
            raise CollisionError(
                Slot(changes[0].room_id, changes[0].rev) if is_nothing_stored else None
            ) from None
        self._follow_up.note(changes)
        if any(change.kind == "delete" for change in changes):
            await self._follow_up.blank()

    async def heads(self, room_ids: Sequence[str]) -> dict[str, Head]:
        heads = dict.fromkeys(room_ids, Head())
        found: list[RawBSONDocument] = []
        for chunk in _chunks([room_id for room_id in heads if room_id in self._revs]):
            alternatives = [{"room_id": room_id, "rev": {"$gte": self._revs[room_id]}} for room_id in chunk]
            limit = _ENTRIES_EACH * len(chunk)
            page = await self._database.find(
                "changes", {"$or": alternatives}, limit=limit, fields=_HEAD_FIELDS
            )
            found += page if len(page) < limit else []
        sought = heads.keys() - {each["room_id"] for each in found}
        found += await self._seek([{"room_id": room_id} for room_id in sought], _HEAD_FIELDS)
        unreadable: set[str] = set()
        for document in found:
            end = self._reader.find(_LogEnd, document)
            if end is None:  # whoever numbers by the one before it would take its number
                unreadable.add(document["room_id"])
            elif end.rev > heads[end.room_id].rev:
                heads[end.room_id] = Head(rev=end.rev, last_seq=end.last_seq, at=end.at)
        heads = {room_id: head for room_id, head in heads.items() if room_id not in unreadable}
        self._remember(heads)
        return heads

    async def find_by_keys(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Change]:
        entries = self._reader.each(Entry, await self._with_keys(keys))
        found = {(each.room_id, each.key): each for each in await self._changes(entries)}
        self._follow_up.note([change for key, change in found.items() if key in self._unsure])
        for key in found:
            self._unsure.pop(key, None)
        return found

    async def find_messages(self, refs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Message]:
        found = await self._with_keys(refs, "room_id", "seq", kind="message")
        places = self._reader.each(Place, found)
        messages = await self.messages_at([(each.room_id, each.seq) for each in places])
        return {(each.room_id, each.id): each for each in messages.values()}

    async def messages_between(self, room_id: str, first_seq: int, last_seq: int) -> list[Message]:
        newest: dict[int, RawBSONDocument] = {}
        read: list[RawBSONDocument] = []
        first_seq = max(first_seq, 1)
        while first_seq <= last_seq:
            limit = _ENTRIES_EACH * min(last_seq - first_seq + 1, _CHUNK)
            page = await self._database.find(
                "changes",
                {"room_id": room_id, "seq": {"$gte": first_seq, "$lte": last_seq}},
                sort=[("room_id", -1), ("seq", -1), ("rev", -1)],
                limit=limit,
            )
            read += page
            for document in page:
                newest.setdefault(document["seq"], document)
            if len(page) < limit:
                break
            # Everything down to the last one read is known, that one too: its last entry came first.
            last_seq = page[-1]["seq"] - 1
            if page[0]["seq"] - last_seq < _SEEKS:  # messages of many entries
                wanted = range(max(first_seq, last_seq - _SEEKS + 1), last_seq + 1)
                sought = await self._seek([{"room_id": room_id, "seq": seq} for seq in wanted])
                newest |= {document["seq"]: document for document in sought}
                last_seq = wanted.start - 1
        return await self._messages([newest[seq] for seq in sorted(newest)], read)

    async def messages_at(self, refs: Sequence[tuple[str, int]]) -> dict[tuple[str, int], Message]:
        newest = await self._newest(("room_id", "seq"), refs)
        return {(each.room_id, each.seq): each for each in await self._messages(list(newest.values()))}

    async def changes_after(self, room_id: str, rev: int, limit: int) -> list[Change]:
        changes: list[Change] = []
        while (wanted := limit - len(changes)) > 0:
            found = await self._database.find(
                "changes", {"room_id": room_id, "rev": {"$gt": rev}}, sort=[("rev", 1)], limit=wanted
            )
            changes += await self._changes(self._reader.each(Entry, found))
            if len(found) < wanted:
                break
            # Another turn only where some were skipped: a short page would look like the last one.
            rev = found[-1]["rev"]
        return changes

    async def own_reactions(self, refs: Sequence[tuple[str, str, int]]) -> dict[tuple[str, str, int], str]:
        names = ("room_id", "by", "seq")
        found = await self._newest(names, refs, fields=(*names, "reaction_type"), kind="react")
        last_words = self._reader.each(_OwnReaction, found.values())
        own = {(each.room_id, each.by, each.seq): each.reaction_type for each in last_words}
        # Nothing follows a deletion, so a message is deleted when its last entry says so; its reactions too.
        messages = {(room_id, seq) for (room_id, _, seq), what in own.items() if what}
        last = await self._newest(("room_id", "seq"), list(messages), fields=("room_id", "seq", "kind"))
        gone = {place for place, each in last.items() if each.get("kind") == "delete"}
        return {ref: what for ref, what in own.items() if what and (ref[0], ref[2]) not in gone}

    async def count_undecodable(self) -> int:
        return self._reader.skipped

    async def _with_keys(
        self, keys: Sequence[tuple[str, str]], *fields: str, **equal: str
    ) -> list[RawBSONDocument]:
        found: list[RawBSONDocument] = []
        for chunk in _chunks(list(dict.fromkeys(keys))):
            query = _any_of(("room_id", "key"), chunk, equal)
            found += await self._database.find("changes", query, limit=len(chunk), fields=fields or None)
        return found

    async def _newest(
        self,
        names: Sequence[str],
        refs: Sequence[Any],
        *,
        fields: Sequence[str] | None = None,
        **equal: str,
    ) -> dict[Any, RawBSONDocument]:
        """For each ref: the last entry, by rev, of those whose fields `names` are as in it."""
        newest: dict[Any, RawBSONDocument] = {}
        for chunk in _chunks(sorted(set(refs), reverse=True)):
            limit = _ENTRIES_EACH * len(chunk)
            page = await self._database.find(
                "changes",
                _any_of(names, chunk, equal),
                sort=[*((name, -1) for name in names), ("rev", -1)],
                limit=limit,
                fields=fields,
            )
            for document in page:
                newest.setdefault(tuple(document[name] for name in names), document)
            if len(page) == limit:  # cut off in the middle: what is below was not reached
                lowest = tuple(page[-1][name] for name in names)
                missing = [dict(zip(names, ref, strict=True)) | equal for ref in chunk if ref < lowest]
                for document in await self._seek(missing, fields):
                    newest[tuple(document[name] for name in names)] = document
        return newest

    async def _seek(
        self, queries: Sequence[dict[str, Any]], fields: Sequence[str] | None = None
    ) -> list[RawBSONDocument]:
        """The last entry, by rev, that each query finds."""
        found: list[RawBSONDocument] = []
        for chunk in _chunks(queries, _SEEKS):
            pages = await asyncio.gather(
                *(
                    self._database.find("changes", query, sort=[("rev", -1)], limit=1, fields=fields)
                    for query in chunk
                )
            )
            found += [document for page in pages for document in page]
        return found

    async def _messages(
        self, documents: Sequence[RawBSONDocument], read: Sequence[RawBSONDocument] = ()
    ) -> list[Message]:
        entries = self._reader.each(Entry, documents)
        wanted = {id_of(each.room_id, each.content_rev) for each in entries if needs_body(each)}
        bodies = self._reader.each(Entry, [each for each in read if each["_id"] in wanted])
        messages = [change.message for change in await self._changes(entries, bodies)]
        # Its entry was read, then it was deleted, then its text was to be read: now its last entry says so.
        places = {(each.room_id, each.seq) for each in messages if each.is_blank}
        if not places:
            return messages
        newest = await self._newest(("room_id", "seq"), list(places))
        changes = await self._changes(self._reader.each(Entry, newest.values()))
        now = {(each.room_id, each.message.seq): each.message for each in changes}
        return [now.get((each.room_id, each.seq), each) for each in messages]

    async def _changes(self, entries: Sequence[Entry], bodies: Sequence[Entry] = ()) -> list[Change]:
        known = {(each.room_id, each.rev): each for each in (*entries, *bodies)}
        missing = {(each.room_id, each.content_rev) for each in entries if needs_body(each)} - known.keys()
        for chunk in _chunks(sorted(missing)):
            ids = [id_of(*ref) for ref in chunk]
            found = await self._database.find("changes", {"_id": {"$in": ids}}, limit=len(ids))
            known |= {(each.room_id, each.rev): each for each in self._reader.each(Entry, found)}
        return self._reader.changes(entries, known)

    def _doubt(self, changes: Sequence[Change]) -> None:
        self._unsure |= dict.fromkeys((change.room_id, change.key) for change in changes)
        while len(self._unsure) > _MOST_UNSURE:
            self._unsure.popitem(last=False)

    def _remember(self, heads: dict[str, Head]) -> None:
        for room_id, head in heads.items():
            if head.rev >= self._revs.get(room_id, 1):
                self._revs[room_id] = head.rev
                self._revs.move_to_end(room_id)
        while len(self._revs) > _MOST_REVS:
            self._revs.popitem(last=False)


def _any_of(
    names: Sequence[str], refs: Sequence[tuple[str | int, ...]], equal: Mapping[str, str]
) -> dict[str, Any]:
    """Finds the entries whose fields `names` are as in one of the refs, and the others as in `equal`."""
    groups: defaultdict[tuple[str | int, ...], list[str | int]] = defaultdict(list)
    for ref in refs:
        groups[ref[:-1]].append(ref[-1])
    queries: list[dict[str, Any]] = [
        {**dict(zip(names, first, strict=False)), names[-1]: {"$in": last}, **equal}
        for first, last in groups.items()
    ]
    return queries[0] if len(queries) == 1 else {"$or": queries}


def _parts(documents: Sequence[RawBSONDocument]) -> Iterator[list[RawBSONDocument]]:
    """What one insert takes each: what a change weighs shows only in its document."""
    part: list[RawBSONDocument] = []
    size_bytes = 0
    for document in documents:
        size_bytes += len(document.raw)
        if part and size_bytes > _MOST_BYTES:
            yield part
            part, size_bytes = [], len(document.raw)
        part.append(document)
    yield part


def _chunks(items: Sequence[_T], size: int = _CHUNK) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
