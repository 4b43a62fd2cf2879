"""That one server alone uses a database, where more than one would not hear of each other."""

import asyncio
import math
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping

from server.domain.errors import ChatError, UnavailableError
from server.storage.base import StoreRefusedError
from server.storage.mongo.database import Database, Document
from server.telemetry import get_logger

_ID = "lease"
_PARTS = 4
_log = get_logger(__name__)

Beats = Callable[[], Awaitable[Mapping[str, object]]]


class Lease:
    """A document that its holder changes every quarter of `length_s`.

    No clocks are compared: who finds it there watches it. It changes: somebody holds it. It stays as it is
    for `length_s`: its holder is gone, and it is taken over.

    Servers of a cluster take none. `beats` gives their reports by name: while one of them changes, this
    server, which would not hear of them, gives way. They may have stood still for as long as it started.
    """

    def __init__(self, database: Database, beats: Beats, *, length_s: float) -> None:
        self._database = database
        self._beats = beats
        self._length_s = length_s
        self._holder = uuid.uuid4().hex
        self._is_lost = False
        self._kept_s = math.inf
        self._others: Mapping[str, object] = {}
        self._others_s = -math.inf
        self._task: asyncio.Task[None] | None = None

    async def take(self) -> None:
        """Hold it from now on. Raises StoreRefusedError while another server does."""
        now_s = time.monotonic()
        while not await self._insert():
            await self.require_free()
            now_s = time.monotonic()
        self._kept_s = now_s
        self._others = await self._beats()
        self._task = asyncio.create_task(self._keep(), name="mongo.lease")

    async def require_free(self) -> None:
        """Raises StoreRefusedError while another server holds it."""
        if await self._is_kept():
            raise StoreRefusedError(
                "another server uses this database. Stop it, or give this one another database.url; "
                "several servers on one database need redis:// as cluster.url."
            )

    def check(self) -> None:
        """Raises UnavailableError when another server has taken it, or may have, for this one was stopped.

        Of a server that never took it nothing is asked.
        """
        if self._is_lost:
            raise UnavailableError("another server has taken over this database")
        if time.monotonic() - self._kept_s > self._length_s:
            raise UnavailableError("another server may have taken over this database")

    async def give_back(self) -> None:
        """Let the next one have it at once."""
        task, self._task, self._kept_s, self._is_lost = self._task, None, math.inf, False
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            try:
                await self._drop()
            except UnavailableError:
                return  # the next one finds that nobody keeps it

    async def _drop(self) -> None:
        await self._database.delete("meta", {"_id": _ID, "holder": self._holder})

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
            now_s = time.monotonic()
            try:
                if await self._is_alone():
                    is_held = await self._beat() or await self._insert()
                    self._kept_s = now_s if is_held else self._kept_s
                    self._note(is_held=is_held)
                else:  # and does not keep others of them from starting
                    self._note(is_held=False)
                    await self._drop()
            except ChatError:
                continue  # the store is away; who took the lease meanwhile shows when it is back

    def _note(self, *, is_held: bool) -> None:
        if self._is_lost == is_held:
            self._is_lost = not is_held
            (_log.error if self._is_lost else _log.warning)("store.lease", is_held=is_held)

    async def _is_alone(self) -> bool:
        before, self._others = self._others, await self._beats()
        if any(before.get(node) != beat for node, beat in self._others.items()):
            self._others_s = time.monotonic()
        return time.monotonic() - self._others_s > self._length_s

    async def _beat(self) -> bool:
        found = await self._database.update(
            "meta", {"_id": _ID, "holder": self._holder}, {"$inc": {"beat": 1}}
        )
        return found > 0


def _seen(document: Document) -> dict[str, object]:
    """Finds the lease while it is held and kept as it was."""
    return {"_id": _ID, "holder": document.get("holder"), "beat": document.get("beat")}
