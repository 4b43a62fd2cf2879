"""Many members of one room who talk while parts of a cluster fail; whether nothing was lost or doubled."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator

from aiohttp import ClientSession, ClientTimeout, TCPConnector

from server.storage.mongo.store import MongoStorage
from tests.cluster import figures as figures_file
from tests.cluster.member import ANSWER_S, Member
from tests.cluster.site import Cluster
from tests.harness import PATIENCE_S, Api, site_token

# Of each writer, by how many there are: the store that stands in takes no more.
_PAUSE_S = (0.025, 0.075)
_AT_A_TIME = 20
_MOST_AT_ONCE = 100


class Crowd:
    """The members of one room; the first `writers` of them talk."""

    def __init__(self, cluster: Cluster, members: list[Member], writers: int, room_id: str) -> None:
        self.cluster = cluster
        self.members = members
        self.room_id = room_id
        self._writers = members[:writers]
        self._patience_s = PATIENCE_S + len(members)
        self._is_talking = False
        self._tasks: list[asyncio.Task[None]] = []
        self._before = self._counts()

    @contextlib.asynccontextmanager
    async def talking(self) -> AsyncIterator[None]:
        """The writers send for the length of the block, and each until its last message is acknowledged."""
        self._is_talking = True
        writing = [asyncio.create_task(self._write(writer)) for writer in self._writers]
        try:
            yield
        finally:
            self._is_talking = False
            async with asyncio.timeout(self._patience_s):
                await asyncio.gather(*writing)

    async def check(self, scenario: str) -> None:
        """Everything acknowledged is stored once, and each member has each change, none twice as an event."""
        began_s = time.monotonic()
        await self._writers[0].say("the last one")
        log = await self._log()
        revs = [rev for rev, _, _ in log]
        assert revs == list(range(1, len(log) + 1))
        assert [seq for _, seq, _ in log] == list(range(1, len(log) + 1))
        counts = {what: count - self._before[what] for what, count in self._counts().items()}
        stored = {message_id: seq for _, seq, message_id in log}
        acked = {key: seq for writer in self._writers for key, seq in writer.acked.items()}
        assert acked.items() <= stored.items()
        async with asyncio.timeout(self._patience_s):
            await asyncio.gather(*(member.knows(len(log)) for member in self.members))
        settled_s = time.monotonic() - began_s
        lost = sum(member.known != {rev: message_id for rev, _, message_id in log} for member in self.members)
        figures: dict[str, object] = {
            "scenario": scenario,
            "members": len(self.members),
            "acked": counts["acked"],
            "lost": lost + len(acked.keys() - stored.keys()),
            "doubled": counts["doubled"],
            "out of order": counts["out of order"],
            "recovered": counts["recovered"],
            "synced": counts["synced"],
            "settled, s": round(settled_s, 2),
        }
        self._before = self._counts()
        figures_file.keep(figures)
        assert (figures["lost"], figures["doubled"], figures["out of order"]) == (0, 0, 0), figures
        assert not [refused for member in self.members for refused in member.refused]

    def _counts(self) -> dict[str, int]:
        """What members have counted since they came."""
        return {
            "acked": sum(len(writer.acked) for writer in self._writers),
            "doubled": sum(member.doubled for member in self.members),
            "out of order": sum(member.disordered for member in self.members),
            "recovered": sum(member.recovered for member in self.members),
            "synced": sum(member.synced for member in self.members),
        }

    async def _write(self, writer: Member) -> None:
        while self._is_talking:
            await writer.say("hello")
            await asyncio.sleep(random.uniform(*_PAUSE_S) * len(self._writers))

    async def _log(self) -> list[tuple[int, int, str]]:
        storage = MongoStorage(self.cluster.store_url, is_alone=False, timeout_s=20)
        await storage.open()
        try:
            changes = await storage.changes_after(self.room_id, 0, 100_000)
        finally:
            await storage.close()
        return [(change.rev, change.message.seq, change.message.id) for change in changes]


@contextlib.asynccontextmanager
async def gathered(
    cluster: Cluster, members: int, writers: int, answer_s: float = ANSWER_S
) -> AsyncIterator[Crowd]:
    """Everybody connected, each to any server that runs; acks are awaited for `answer_s`."""

    def anywhere() -> str:
        return random.choice(cluster.nodes).url

    names = [f"m{number}" for number in range(members)]
    async with ClientSession(timeout=ClientTimeout(PATIENCE_S), connector=TCPConnector(limit=0)) as http:
        api = Api(cluster.nodes[0].url, http)
        for start in range(0, members, _AT_A_TIME):
            tokens = map(site_token, names[start : start + _AT_A_TIME])
            await asyncio.gather(*(api.call("GET", "/api/me", token=token) for token in tokens))
        room_id = await _make_room(api, names)
        crowd = [Member(name, anywhere, http, room_id, answer_s) for name in names]
        running: list[asyncio.Task[None]] = []
        try:
            for start in range(0, members, _AT_A_TIME):
                coming = crowd[start : start + _AT_A_TIME]
                running += [asyncio.create_task(member.run()) for member in coming]
                async with asyncio.timeout(PATIENCE_S):
                    await asyncio.gather(*(member.is_synced.wait() for member in coming))
            yield Crowd(cluster, crowd, writers, room_id)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)


async def _make_room(api: Api, names: list[str]) -> str:
    """A group of all of them; its id."""
    owner = site_token(names[0])
    body = {"kind": "group", "name": "Crowd", "member_ids": names[:_MOST_AT_ONCE]}
    status, made = await api.call("POST", "/api/rooms", body, token=owner)
    assert status == 200, made
    room_id: str = made["room"]["id"]
    path = f"/api/rooms/{room_id}/members"
    for start in range(_MOST_AT_ONCE, len(names), _AT_A_TIME):
        more = names[start : start + _AT_A_TIME]
        adding = (api.call("POST", path, {"user_id": name}, token=owner) for name in more)
        assert all(status == 200 for status, _ in await asyncio.gather(*adding))
    return room_id
