"""This project's engine as a node of a cluster joined by Redis, without store and limits.

What is said has a gapless order, as messages have. The last of it is kept in memory in place of the store.
"""

import os
from collections import deque
from collections.abc import Collection, Mapping

from aiohttp import web

from bench.frames import EVENT, NAMESPACE, ROOM, SOCKETIO_PATH
from bench.servers.common import listen, run
from bench.servers.ours import Bench
from server.realtime.bus import Emit, Order
from server.realtime.redis_streams.bus import RedisBus
from server.realtime.redis_streams.recovery import make_recovery
from server.realtime.server import Connection, Options, Server
from server.redis_client import make_client
from server.runtime import calm_garbage_collection
from server.settings import LogSettings
from server.telemetry import configure

# As the server has it.
_WRITE_TIMEOUT_S, _READ_TIMEOUT_S = 1.0, 3.0
_MOST_KEPT = 1_000


class Said:
    """The source: what was said here. The other node has nothing of it."""

    def __init__(self) -> None:
        self._emits: deque[Emit] = deque(maxlen=_MOST_KEPT)
        self._head = 0

    def say(self, data: object) -> Emit:
        """Keep it; the next one of the room."""
        self._head += 1
        self._emits.append(
            Emit(event=EVENT, data=data, rooms=frozenset([ROOM]), order=Order(ROOM, self._head))
        )
        return self._emits[-1]

    async def emits_after(self, key: str, number: int) -> list[Emit]:  # noqa: ARG002 - there is one room
        first = number - (self._head - len(self._emits))
        return list(self._emits)[max(first, 0) :]

    async def heads(self, keys: Collection[str]) -> Mapping[str, int]:
        return dict.fromkeys(keys, self._head)

    async def settle(self, key: str) -> None:
        """Everybody is in the room."""

    def passed(self, key: str, number: int, memo: str) -> None: ...

    def forget(self) -> None:
        """There are no controls."""

    async def refresh(self) -> None:
        """There are no controls."""


class ClusterBench(Bench):
    """The application."""

    def __init__(self, server: Server, bus: RedisBus, said: Said) -> None:
        super().__init__(server)
        self._bus = bus
        self._said = said

    async def connect(self, connection: Connection, auth: Mapping[str, object]) -> None:
        await self._bus.follow([ROOM])
        await super().connect(connection, auth)

    async def event(self, connection: Connection, name: str, args: list[object], *, wants_ack: bool) -> None:  # noqa: ARG002 - the protocol's
        if name == EVENT:
            await self._bus.publish([self._said.say(args[0])])


async def start() -> int:
    """Listen; the port."""
    calm_garbage_collection()
    configure(LogSettings())
    url, options, said = os.environ["BENCH_REDIS"], Options(), Said()
    writing, reading = (
        make_client(url, timeout_s=timeout_s) for timeout_s in (_WRITE_TIMEOUT_S, _READ_TIMEOUT_S)
    )
    recovery = make_recovery(writing, options)
    server = Server(options)
    bus = RedisBus(server, said, recovery, (writing, reading), namespace=NAMESPACE)
    server.register(NAMESPACE, ClusterBench(server, bus, said), recovery=recovery)
    await bus.start()
    application = web.Application()
    application.router.add_route("*", SOCKETIO_PATH, server.handle)
    return await listen(application)


if __name__ == "__main__":
    run(start)
