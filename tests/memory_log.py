"""The log of changes in memory: what a reader sees of a list of entries, and a store that fails to order."""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence

from server.domain.errors import UnavailableError
from server.domain.models import Change, Head, Message
from server.storage.base import CollisionError, LogStore, Slot


class LogView:
    """The answers to all reads of a log that holds these entries."""

    def __init__(self, entries: Iterable[Change]) -> None:
        self.entries = sorted(entries, key=lambda entry: (entry.room_id, entry.rev))

    def head(self, room_id: str) -> Head:
        entries = self.after(room_id, 0)
        return entries[-1].head if entries else Head()

    def after(self, room_id: str, rev: int) -> list[Change]:
        return [entry for entry in self.entries if entry.room_id == room_id and entry.rev > rev]

    def by_keys(self, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Change]:
        wanted = set(keys)
        return {ref: entry for entry in self.entries if (ref := (entry.room_id, entry.key)) in wanted}

    def messages(self, room_id: str) -> dict[str, Message]:
        """The present messages by id, in the order of their seq."""
        return {entry.message.id: entry.message for entry in self.after(room_id, 0)}

    def reaction(self, room_id: str, user_id: str, seq: int) -> str | None:
        of_message = [entry for entry in self.after(room_id, 0) if entry.message.seq == seq]
        if not of_message or of_message[-1].message.deleted_at is not None:
            return None
        own = [entry for entry in of_message if entry.kind == "react" and entry.by == user_id]
        return own[-1].reaction_type if own else None


class ViewStore(LogStore):
    """A log store whose every read is answered from `view()`."""

    async def view(self) -> LogView:
        """What is read now. Raises UnavailableError."""
        raise NotImplementedError

    async def heads(self, room_ids: Sequence[str]) -> dict[str, Head]:
        view = await self.view()
        return {room_id: view.head(room_id) for room_id in room_ids}

    async def find_by_keys(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Change]:
        return (await self.view()).by_keys(keys)

    async def find_messages(self, refs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Message]:
        view = await self.view()
        rooms = {room_id: view.messages(room_id) for room_id, _ in refs}
        return {ref: rooms[ref[0]][ref[1]] for ref in refs if ref[1] in rooms[ref[0]]}

    async def messages_between(self, room_id: str, first_seq: int, last_seq: int) -> list[Message]:
        messages = (await self.view()).messages(room_id).values()
        return [message for message in messages if first_seq <= message.seq <= last_seq]

    async def messages_at(self, refs: Sequence[tuple[str, int]]) -> dict[tuple[str, int], Message]:
        view = await self.view()
        wanted = set(refs)
        found = (message for room_id, _ in refs for message in view.messages(room_id).values())
        return {ref: each for each in found if (ref := (each.room_id, each.seq)) in wanted}

    async def changes_after(self, room_id: str, rev: int, limit: int) -> list[Change]:
        return (await self.view()).after(room_id, rev)[:limit]

    async def own_reactions(self, refs: Sequence[tuple[str, str, int]]) -> dict[tuple[str, str, int], str]:
        view = await self.view()
        found = ((ref, view.reaction(*ref)) for ref in refs)
        return {ref: reaction for ref, reaction in found if reaction is not None}

    async def count_undecodable(self) -> int:
        return 0


class Failing:
    """How an append goes wrong: the first `stored` entries are stored (None: all), then `error` is raised."""

    def __init__(self, error: Exception, *, stored: int | None = 0) -> None:
        self.error = error
        self.stored = stored


class MemoryLog(ViewStore):
    """A single log. `appends` are the batches that came; each waits for `gate`, and fails as `to_fail` says.

    `arrived` is set by each append. While `is_away` nothing is answered; `attempts` counts what was asked.
    The ends of `unreadable` rooms do not decode.
    """

    def __init__(self) -> None:
        self.entries: list[Change] = []
        self.appends: list[list[Change]] = []
        self.to_fail: deque[Failing] = deque()
        self.gate = asyncio.Event()
        self.gate.set()
        self.arrived = asyncio.Event()
        self.is_away = False
        self.unreadable: set[str] = set()
        self.attempts = 0

    async def heads(self, room_ids: Sequence[str]) -> dict[str, Head]:
        heads = await super().heads(room_ids)
        return {room_id: head for room_id, head in heads.items() if room_id not in self.unreadable}

    async def view(self) -> LogView:
        self._answer()
        return LogView(self.entries)

    async def append(self, changes: Sequence[Change]) -> None:
        self._answer()
        self.appends.append(list(changes))
        self.arrived.set()
        await self.gate.wait()
        failing = self.to_fail.popleft() if self.to_fail else None
        self.store(changes[: failing.stored] if failing else changes)
        if failing:
            raise failing.error

    def store(self, changes: Sequence[Change]) -> None:
        """Store entries, now: a write of which nobody hears. Raises CollisionError where one cannot be."""
        for number, change in enumerate(changes):
            taken = {(entry.room_id, entry.rev) for entry in self.entries}
            keys = {(entry.room_id, entry.key) for entry in self.entries}
            if (change.room_id, change.rev) in taken or (change.room_id, change.key) in keys:
                raise CollisionError(None if number else Slot(change.room_id, change.rev))
            self.entries.append(change)

    def _answer(self) -> None:
        self.attempts += 1
        if self.is_away:
            raise UnavailableError("the store is away")
