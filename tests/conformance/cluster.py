"""Servers on one Redis stream, each with the same application, and a source of what has a gapless order."""

import json
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from secrets import token_hex
from typing import Any

from server.realtime.bus import Control, Emit, Order, SourceAwayError
from server.realtime.recovery import Recovery
from server.realtime.redis_streams.bus import RedisBus, RedisBusOptions
from server.realtime.redis_streams.fallback import stop
from server.realtime.redis_streams.recovery import INEXACT, SharedRecovery, make_recovery
from server.realtime.server import Connection, Options
from server.realtime.session import Reason
from server.redis_client import make_client
from tests.conformance.wire import Club, Returning, Site, eventually, running


class Log:
    """The `Source`: what was said in each room, `{n}` counting from 1. It does not answer while `is_away`."""

    def __init__(self) -> None:
        self.emits: dict[str, list[Emit]] = {}
        self.is_away = False
        self.refreshes = 0
        self.settled: list[str] = []
        self.passages: list[tuple[str, int, str]] = []

    def say(self, room: str) -> Emit:
        """The next one of a room, stored and told to nobody yet."""
        said = self.emits.setdefault(room, [])
        number = len(said) + 1
        said.append(Emit(event="said", data=number, rooms=frozenset([room]), order=Order(room, number)))
        return said[-1]

    async def emits_after(self, key: str, number: int) -> list[Emit]:
        self._require_here()
        return self.emits.get(key, [])[number : number + 3]

    async def heads(self, keys: Collection[str]) -> Mapping[str, int]:
        self._require_here()
        return {key: len(self.emits.get(key, [])) for key in keys}

    async def settle(self, key: str) -> None:
        self._require_here()
        self.settled.append(key)

    def passed(self, key: str, number: int, memo: str) -> None:
        self.passages.append((key, number, memo))

    def forget(self) -> None: ...

    async def refresh(self) -> None:
        self._require_here()
        self.refreshes += 1

    def _require_here(self) -> None:
        if self.is_away:
            raise SourceAwayError


class FollowingClub(Club):
    """Has the bus of its server miss nothing of the rooms that somebody enters."""

    def __init__(self, buses: Mapping[Recovery, RedisBus]) -> None:
        super().__init__()
        self._buses = buses

    async def _admit(self, connection: Connection, auth: Any) -> None:
        await self._buses[connection._recovery].follow(list(self.rooms[auth["user"]]))
        await super()._admit(connection, auth)


class Node:
    """One server of the cluster."""

    def __init__(self, site: Site, bus: RedisBus, log: Log) -> None:
        self.site = site
        self.bus = bus
        self.log = log

    async def say(self, room: str = "r", count: int = 1) -> None:
        """Store and publish."""
        await self.bus.publish([self.log.say(room) for _ in range(count)])

    async def tell(self, data: object, room: str = "r", *, volatile: bool = False) -> None:
        """Publish what has no order of its own."""
        await self.bus.publish([Emit(event="told", data=data, rooms=frozenset([room]), volatile=volatile)])

    async def settled(self) -> None:
        """Return once this server has dealt with all that it published and written down who is connected."""
        await self.bus.publish([Control(name="fence", data={})])
        await self.bus._recovery.flush(1)


class ClubMember(Returning):
    """A client that comes back to any server; `data` is what it heard."""

    async def come(self) -> bool:
        """As of the base, and its server has written down that it is there."""
        is_recovered = await super().come()
        recovery = self.site.server.namespaces["/chat"].recovery
        assert isinstance(recovery, SharedRecovery)
        await recovery.flush(1)
        return is_recovered

    def note(self, text: str, attachments: list[bytes] | None = None) -> list[Any]:
        """As of the base, whose offsets are places alone."""
        if not text.endswith(',"!"]'):
            if self.offset == INEXACT:
                self.offset = None
            return super().note(text, attachments)
        event: list[Any] = json.loads(text[text.index("[") :])
        self.offset = event.pop()
        if event[0] != "fence":
            self.heard.append(event)
        return event

    def at(self, node: Node) -> "ClubMember":
        """The server that it turns to next."""
        self.site = node.site
        return self

    async def hear_until(self, data: object) -> list[object]:
        """Hear until something is said; all that was heard."""
        while not self.heard or self.heard[-1][1] != data:
            await self.hear()
        return self.data()


class Cluster:
    """Servers over one Redis."""

    def __init__(self, url: str, options: Options) -> None:
        self.url = url
        self.options = options
        self.buses: dict[Recovery, RedisBus] = {}
        self.club = FollowingClub(self.buses)
        self.log = Log()
        self.bus_options = RedisBusOptions(name=f"{{test-{token_hex(6)}}}")

    @asynccontextmanager
    async def node(self) -> AsyncIterator[Node]:
        """One more server."""
        writing, reading = (make_client(self.url, timeout_s=timeout_s) for timeout_s in (1.0, 3.0))
        recovery = make_recovery(writing, self.options, name=self.bus_options.name)
        async with running(self.options, self.club, recovery=recovery) as site:
            bus = RedisBus(
                site.server,
                self.log,
                recovery,
                (writing, reading),
                namespace="/chat",
                options=self.bus_options,
            )
            self.buses[recovery] = bus
            try:
                await bus.start()
                yield Node(site, bus, self.log)
            finally:
                for transport in list(site.server._engine._transports.values()):
                    # Else a client that reads no more would be waited for.
                    transport.abort(Reason.SHUTDOWN)
                await site.server.close()
                await bus.close()


@asynccontextmanager
async def cluster(
    url: str, count: int = 2, *, options: Options | None = None
) -> AsyncIterator[tuple[Cluster, list[Node]]]:
    """So many servers."""
    made = Cluster(url, options or Options())
    async with AsyncExitStack() as stack:
        yield made, [await stack.enter_async_context(made.node()) for _ in range(count)]


async def away(cluster: Cluster, member: ClubMember) -> None:
    """Have it come, lose its connection, and its server notice."""
    ended = len(cluster.club.named("disconnected"))
    assert not await member.come()
    member.drop()
    await cluster.club.until("disconnected", count=ended + 1)


async def crash(node: Node) -> None:
    """End a server as `kill -9` does: nothing is written or said any more."""
    tasks = list(node.bus._tasks)
    node.bus._tasks.clear()
    await stop(tasks)
    for transport in list(node.site.server._engine._transports.values()):
        transport.outlet.abort()
    await eventually(lambda: not node.site.server._engine._transports)
