"""The store that several servers may share: everything in one database of MongoDB."""

from collections import OrderedDict
from contextlib import suppress

from server.domain.errors import UnavailableError
from server.storage.base import Storage
from server.storage.mongo import schema
from server.storage.mongo.database import Database, Driver
from server.storage.mongo.entries import Reader
from server.storage.mongo.followup import FollowUp
from server.storage.mongo.lease import Lease
from server.storage.mongo.log import MongoLog
from server.storage.mongo.nodes import Announcement, MongoNodes
from server.storage.mongo.rooms import MongoRooms
from server.storage.mongo.users import MongoUsers


class MongoStorage(MongoLog, MongoRooms, MongoUsers, MongoNodes, Storage):
    """A store in the database that the URL names (`tertulia` if none).

    `is_alone`: no other server may use it, for they would not hear of each other. One that crashed has
    its lease taken over after `lease_s`.
    """

    def __init__(
        self,
        url: str,
        *,
        driver: Driver = "pymongo",
        timeout_s: float = 5.0,
        is_alone: bool = True,
        lease_s: float = 6.0,
    ) -> None:
        self._database = Database(url, driver=driver, timeout_s=timeout_s)
        self._reader = Reader()
        self._follow_up = FollowUp(self._database, self._reader)
        self._lease = Lease(self._database, self._beats, length_s=lease_s)
        self._database.fence = self._lease.check
        self._announcement = Announcement(self._database)
        self._lease_s = lease_s
        self._is_alone = is_alone
        self._revs = OrderedDict()
        self._unsure = OrderedDict()

    async def open(self) -> None:
        try:
            await self._database.open()
            await schema.check(self._database)
            if self._is_alone:
                await self._lease.take()
                await self._require_no_nodes(self._lease_s)
            else:
                await self._lease.require_free()  # or it would give way to who is refused
                await self._announcement.make()
                await self._lease.require_free()
            await schema.prepare(self._database)
            await self._go_on_emptying()
            await self._go_on_settling()
            await self._follow_up.start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        await self._follow_up.close()
        with suppress(UnavailableError):
            await self._announcement.end()
        await self._lease.give_back()
        await self._database.close()

    async def epoch(self) -> str:
        found = await self._database.find_one("meta", {"_id": "schema"})
        if found is None or not isinstance(found.get("epoch"), str):
            raise UnavailableError("the database lost its schema version")
        return str(found["epoch"])

    async def ping(self) -> None:
        self._lease.check()
        await self.epoch()
