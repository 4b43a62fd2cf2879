"""The embedded store: everything in one SQLite file, for one server."""

from pathlib import Path

from server.storage.base import Storage
from server.storage.sqlite.database import Database
from server.storage.sqlite.entries import EntryReader
from server.storage.sqlite.log import SqliteLog
from server.storage.sqlite.rooms import SqliteRooms
from server.storage.sqlite.schema import prepare
from server.storage.sqlite.users import SqliteUsers

_EPOCH = "SELECT value FROM meta WHERE key = 'epoch'"


class SqliteStorage(SqliteLog, SqliteRooms, SqliteUsers, Storage):
    """A store in the file `path`, which is made (mode 0600) with its directory where it is missing.

    `readers` is how many reads run at a time. Beside the file stand `-wal`, `-shm` and `.lease`.
    """

    def __init__(self, path: Path, *, readers: int = 4, timeout_s: float = 5.0) -> None:
        self._database = Database(path, readers=readers, timeout_s=timeout_s)
        self._reader = EntryReader()

    async def open(self) -> None:
        await self._database.open(prepare)

    async def close(self) -> None:
        await self._database.close()

    async def epoch(self) -> str:
        return str(await self._database.read(_EPOCH))

    async def ping(self) -> None:
        await self._database.read(_EPOCH)
