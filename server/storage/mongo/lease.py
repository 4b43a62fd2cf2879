"""That one server alone uses a database, where more than one would not hear of each other."""

import asyncio
import uuid

from server.domain.errors import ChatError, UnavailableError
from server.storage.base import StoreRefusedError
from server.storage.mongo.database import Database, Document
from server.telemetry import get_logger

_ID = "lease"
_PARTS = 4
_log = get_logger(__name__)


class Lease:
    """A document that its holder changes every quarter of `length_s`.

    No clocks are compared: who finds it there watches it. It changes: somebody holds it. It stays as it is
    for `length_s`: its holder is gone, and it is taken over.
    """

    def __init__(self, database: Database, *, length_s: float) -> None:
        self._database = database
        self._length_s = length_s
        self._holder = uuid.uuid4().hex
        self._is_lost = False
        self._task: asyncio.Task[None] | None = None

    async def take(self) -> None:
        """Hold it from now on. Raises StoreRefusedError while another server does."""
        while not await self._insert():
            await self.require_free()
        self._task = asyncio.create_task(self._keep(), name="mongo.lease")

    async def require_free(self) -> None:
        """Raises StoreRefusedError while another server holds it."""
        if await self._is_kept():
            raise StoreRefusedError(
                "another server uses this database. Stop it, or give this one another database.url; "
                "several servers on one database need redis:// as cluster.url."
            )

    def check(self) -> None:
        """Raises UnavailableError when another server has taken it, after this one was stopped for long."""
        if self._is_lost:
            raise UnavailableError("another server has taken over this database")

    async def give_back(self) -> None:
        """Let the next one have it at once."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            try:
                await self._database.delete("meta", {"_id": _ID, "holder": self._holder})
            except UnavailableError:
                return  # the next one finds that nobody keeps it

    async def _insert(self) -> bool:
        return await self._database.insert("meta", {"_id": _ID, "holder": self._holder, "beat": 0})

    async def _is_kept(self) -> bool:
        """Watch it until it changes (True), or is gone or taken away (False)."""
        first = await self._database.find_one("meta", {"_id": _ID})
        if first is None:
            return False
        for _ in range(_PARTS + 1):
            await asyncio.sleep(self._length_s / _PARTS)
            now = await self._database.find_one("meta", {"_id": _ID})
            if now is None:
                return False
            if _seen(now) != _seen(first):
                return True
        await self._database.delete("meta", _seen(first))
        return False

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._length_s / _PARTS)
            try:
                is_held = await self._beat() or await self._insert()
            except ChatError:
                continue  # the store is away; who took the lease meanwhile shows when it is back
            if self._is_lost == is_held:
                self._is_lost = not is_held
                (_log.error if self._is_lost else _log.warning)("store.lease", is_held=is_held)

    async def _beat(self) -> bool:
        found = await self._database.update(
            "meta", {"_id": _ID, "holder": self._holder}, {"$inc": {"beat": 1}}
        )
        return found > 0


def _seen(document: Document) -> dict[str, object]:
    """Finds the lease while it is held and kept as it was."""
    return {"_id": _ID, "holder": document.get("holder"), "beat": document.get("beat")}
