"""That one server at a time does something, for as long as a few commands take."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from server.domain.errors import UnavailableError
from server.storage.mongo.database import Database, Document

ABANDONED_AFTER_S = 6.0
"""A lock that stands so long has no holder any more: its commands take less."""

_PATIENCE = 3
_LOOK_AGAIN_S = 0.05


@asynccontextmanager
async def locked(database: Database, name: str) -> AsyncIterator[None]:
    """Hold the lock in the block. Raises UnavailableError when others keep it from us for too long.

    Nobody's clock is trusted: who waits takes over a lock that it has itself seen standing for so long. Its
    holder, should it wake up, does not know; what is done here must bear that.
    """
    lock = {"_id": f"lock:{name}", "holder": uuid.uuid4().hex}
    loop = asyncio.get_running_loop()
    seen, start_s = None, loop.time()
    since_s = start_s
    while not await _take(database, lock):
        present = await database.find_one("meta", {"_id": lock["_id"]})
        holder = {"_id": lock["_id"], "holder": present.get("holder")} if present else None
        if holder != seen:
            seen, since_s = holder, loop.time()
        elif holder is not None and loop.time() - since_s > ABANDONED_AFTER_S:
            await database.delete("meta", holder)
        if loop.time() - start_s > _PATIENCE * ABANDONED_AFTER_S:
            raise UnavailableError("others are changing this", retry_after_ms=1000)
        await asyncio.sleep(_LOOK_AGAIN_S)
    try:
        yield
    finally:
        await _give_back(database, lock)


async def _take(database: Database, lock: Document) -> bool:
    taking = asyncio.ensure_future(database.insert("meta", lock))
    try:
        return await asyncio.shield(taking)
    except asyncio.CancelledError:  # it is on its way all the same, for nobody
        await asyncio.gather(taking, return_exceptions=True)
        await _give_back(database, lock)
        raise


async def _give_back(database: Database, lock: Document) -> None:
    with suppress(UnavailableError):  # then it is taken over; what was done under it is done
        await database.delete("meta", lock)
