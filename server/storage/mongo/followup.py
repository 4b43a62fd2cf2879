"""What follows an append: the senders' cursors, and the blanking of texts that were deleted.

Cursors are moved once a second; a crash loses those of that second. Texts are blanked at once, or once a
second until it is done; the log marks their deletions, and the next start finds those that are left.
"""

import asyncio
from collections.abc import Sequence
from itertools import islice
from typing import Any

from server.domain.errors import ChatError
from server.domain.models import Change
from server.storage.mongo.database import Database
from server.storage.mongo.entries import Place, Reader
from server.telemetry import get_logger, new_error_id

INTERVAL_S = 1.0
_PATIENCE_S = 1.0
_AT_ONCE = 200
_MOST_WAITING = 100_000

Cursor = tuple[str, str, int]

_log = get_logger(__name__)


class FollowUp:
    """Keeps what is to be done, and does it in a task of its own."""

    def __init__(self, database: Database, reader: Reader) -> None:
        self._database = database
        self._reader = reader
        self._cursors: dict[tuple[str, str], int] = {}
        self._deletions: dict[str, tuple[str, int]] = {}
        self._moving = asyncio.Lock()
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def note(self, changes: Sequence[Change]) -> None:
        """These were stored."""
        for change in changes:
            seq = change.message.seq
            if change.kind == "message" and len(self._cursors) < _MOST_WAITING:
                whose = (change.room_id, change.by)
                self._cursors[whose] = max(seq, self._cursors.get(whose, 0))
            elif change.kind == "delete" and len(self._deletions) < _MOST_WAITING:
                self._deletions[f"{change.room_id}:{change.rev}"] = (change.room_id, seq)
        if self._cursors or self._deletions:
            self._arrived.set()

    def cursor(self, room_id: str, user_id: str) -> int:
        """How far the sender of messages just stored has read, by them alone."""
        return self._cursors.get((room_id, user_id), 0)

    async def blank(self) -> None:
        """Blank the texts of the deletions noted; later, where that takes too long."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._blank(self._deletions)
        except (ChatError, TimeoutError) as error:
            _log.warning("store.follow_up_failed", reason=type(error).__name__)

    async def start(self) -> None:
        """Blank what earlier runs left, then go on in the background."""
        await self._sweep()
        self._task = asyncio.create_task(self._run(), name="mongo.follow_up")

    async def close(self) -> None:
        """Do what waits, then stop."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await self._try()

    async def move(self, cursors: Sequence[Cursor]) -> None:
        """Move cursors forward, one batch at a time."""
        # Where a database replaces documents as a whole, two batches at once could take back each other's.
        async with self._moving:
            await self._database.update_each(
                "members",
                [
                    ({"_id": f"{room_id}:{user_id}", "last_read_seq": {"$lt": seq}}, _moved_to(seq))
                    for room_id, user_id, seq in cursors
                ],
            )

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            await asyncio.sleep(INTERVAL_S)
            await self._try()

    async def _try(self) -> None:
        try:
            await self._move_own()
            await self._blank(self._deletions)
        except ChatError as error:
            _log.warning("store.follow_up_failed", reason=error.message)
        except Exception:  # noqa: BLE001 - a bug must not end the task that does the rest
            _log.exception("store.follow_up_failed", error_id=new_error_id())
        if not self._cursors and not self._deletions:
            self._arrived.clear()

    async def _move_own(self) -> None:
        waiting = list(self._cursors)
        for start in range(0, len(waiting), _AT_ONCE):
            moved = {whose: self._cursors[whose] for whose in waiting[start : start + _AT_ONCE]}
            await self.move([(*whose, seq) for whose, seq in moved.items()])
            for whose, seq in moved.items():
                if self._cursors[whose] == seq:
                    del self._cursors[whose]

    async def _blank(self, deletions: dict[str, tuple[str, int]]) -> None:
        while deletions:
            done = dict(islice(deletions.items(), _AT_ONCE))
            await self._blank_now(done)
            for id_ in done:
                deletions.pop(id_, None)

    async def _blank_now(self, done: dict[str, tuple[str, int]]) -> None:
        await self._database.update_each(
            "changes",
            [
                (
                    {"room_id": room_id, "seq": seq, "kind": {"$in": ["message", "edit"]}},
                    {"$unset": {"content": "", "attachments": ""}},
                )
                for room_id, seq in done.values()
            ],
            is_many=True,
        )
        mark = {"$unset": {"is_unblanked": ""}}
        await self._database.update_each("changes", [({"_id": id_}, mark) for id_ in done])

    async def _sweep(self) -> None:
        broken: list[Any] = []
        while True:
            query = {"is_unblanked": True, "_id": {"$nin": broken}}
            found = await self._database.find("changes", query, limit=_AT_ONCE, fields=("room_id", "seq"))
            if not found:
                return
            places = {each["_id"]: self._reader.find(Place, each) for each in found}
            broken += [id_ for id_, place in places.items() if place is None]
            await self._blank({id_: (each.room_id, each.seq) for id_, each in places.items() if each})


def _moved_to(seq: int) -> dict[str, dict[str, int]]:
    return {"$max": {"last_read_seq": seq}}
