"""The servers that share the database: that they live, whether they hear the bus, and what they wrote."""

import asyncio

from bson.raw_bson import RawBSONDocument
from msgspec import Struct

from server.storage.base import NodeReport, NodeStore, StoreRefusedError
from server.storage.mongo.database import Database
from server.storage.mongo.entries import Reader

_MOST_NODES = 1_000
_MOST_WRITTEN = 20_000


class _Written(Struct, frozen=True, kw_only=True):
    room_id: str
    rev: int


class MongoNodes(NodeStore):
    """The part of `MongoStorage` that knows the other servers. `_id` is the node."""

    _database: Database
    _reader: Reader

    async def report(self, node: str, *, at: int, is_heard: bool) -> list[NodeReport]:
        told = {"at": at, "is_heard": is_heard}
        if not await self._database.update("nodes", {"_id": node}, {"$set": told, "$inc": {"beat": 1}}):
            await self._database.insert("nodes", {"_id": node, "beat": 1, **told})
        return self._reader.each(NodeReport, await self._all_nodes(), node="_id")

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
