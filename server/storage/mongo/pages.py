"""Lists that are too long for one answer, and pages of them that are full where there is more."""

from collections.abc import AsyncIterator
from typing import Any, TypeVar

from bson.raw_bson import RawBSONDocument

from server.storage.mongo.database import Database, Document, Sort
from server.storage.mongo.entries import Reader

_AT_ONCE = 1_000
_MOST_BROKEN = 1_000

_T = TypeVar("_T")


async def find_page(
    database: Database,
    reader: Reader,
    kind: type[_T],
    collection: str,
    query: Document,
    *,
    sort: Sort,
    limit: int,
    **renamed: str,
) -> list[_T]:
    """The first `limit` documents that decode as `kind`; fewer only where there are no more.

    Also where over a thousand do not decode: they are not read past for ever.
    """
    broken: list[Any] = []
    while True:
        wanted = {"$and": [query, {"_id": {"$nin": broken}}]} if broken else query
        found = await database.find(collection, wanted, sort=sort, limit=limit)
        read = [(document["_id"], reader.find(kind, document, **renamed)) for document in found]
        skipped = [id_ for id_, each in read if each is None]
        broken += skipped
        if not skipped or len(found) < limit or len(broken) > _MOST_BROKEN:
            return [each for _, each in read if each is not None]


async def every_page(
    database: Database, collection: str, query: Document
) -> AsyncIterator[list[RawBSONDocument]]:
    """All that the query finds, a thousand at a time, by ascending `_id`; it says nothing of the `_id`."""
    after = ""
    while True:
        wanted = {**query, "_id": {"$gt": after}}
        found = await database.find(collection, wanted, sort=[("_id", 1)], limit=_AT_ONCE)
        if found:
            yield found
        if len(found) < _AT_ONCE:
            return
        after = found[-1]["_id"]
