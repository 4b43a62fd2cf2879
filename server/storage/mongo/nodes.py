"""The servers that share the database: that they live, whether they hear the bus, and what they wrote."""

import asyncio
import time
from contextlib import suppress
from uuid import uuid4

from bson.raw_bson import RawBSONDocument
from msgspec import Struct

from server.domain.errors import ChatError
from server.storage.base import NodeReport, NodeStore, StoreRefusedError
from server.storage.mongo.database import Database, Document
from server.storage.mongo.entries import Reader

_MOST_NODES = 1_000
_MOST_WRITTEN = 20_000
_ANNOUNCED_EVERY_S = 0.5
_ANNOUNCED_FOR_MS = 3600 * 1000


class _Written(Struct, frozen=True, kw_only=True):
    room_id: str
    rev: int


class Announcement:
    """That a server of a cluster is starting, in a document that counts on until the server reports.

    A server alone that takes its lease and then finds no document may write, and so may a server of a cluster
    that announces itself and then finds no lease: of two that do so at once, one finds the other's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._id = uuid4().hex
        self._task: asyncio.Task[None] | None = None

    async def make(self) -> None:
        """It stands when this returns."""
        past = {"starting_at": {"$lt": _now_ms() - _ANNOUNCED_FOR_MS}}
        await self._database.delete("nodes", past, is_many=True)
        await self._beat()
        self._task = asyncio.create_task(self._go_on(), name="mongo.announcement")

    async def end(self) -> None:
        """The server reports, or has ended. What may be left of it counts no more, and keeps nobody out."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self._database.delete("nodes", {"_id": self._id})

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(_ANNOUNCED_EVERY_S)
            with suppress(ChatError):
                await self._beat()

    async def _beat(self) -> None:
        await _count(self._database, self._id, {"starting_at": _now_ms()})


class MongoNodes(NodeStore):
    """The part of `MongoStorage` that knows the other servers. `_id` is the node."""

    _database: Database
    _reader: Reader
    _announcement: Announcement

    async def report(self, node: str, *, at: int, is_heard: bool) -> list[NodeReport]:
        await _count(self._database, node, {"at": at, "is_heard": is_heard})
        await self._announcement.end()
        reports = [each for each in await self._all_nodes() if "starting_at" not in each]
        return self._reader.each(NodeReport, reports, node="_id")

    async def forget_node(self, node: str) -> None:
        await self._database.delete("nodes", {"_id": node})

    async def written_by(self, node: str, since: int) -> list[tuple[str, int]]:
        found = await self._database.find(
            "changes",
            {"node": node, "at": {"$gte": since}},
            sort=[("node", -1), ("at", -1)],
            limit=_MOST_WRITTEN,
            fields=("room_id", "rev"),
        )
        return [(each.room_id, each.rev) for each in self._reader.each(_Written, found)]

    async def _require_no_nodes(self, watched_s: float) -> None:
        """Raises StoreRefusedError while servers of a cluster use this database."""
        before = await self._beats()
        if before:
            await asyncio.sleep(watched_s)
            after = await self._beats()
            if any(before.get(node) != beat for node, beat in after.items()):
                raise StoreRefusedError(
                    "servers of a cluster use this database. Give this one their cluster.url, or another "
                    "database.url."
                )
            await self._database.delete("nodes", {}, is_many=True)  # those are dead

    async def _beats(self) -> dict[str, object]:
        return {each["_id"]: each.get("beat") for each in await self._all_nodes()}

    async def _all_nodes(self) -> list[RawBSONDocument]:
        return await self._database.find("nodes", {}, limit=_MOST_NODES)


async def _count(database: Database, id_: str, told: Document) -> None:
    if not await database.update("nodes", {"_id": id_}, {"$set": told, "$inc": {"beat": 1}}):
        await database.insert("nodes", {"_id": id_, "beat": 1, **told})


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
