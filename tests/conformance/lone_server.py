"""The engine in a process of its own, which tells how much it keeps.

It prints its port. Each line that comes in is answered by one of JSON: `{table: how much is in it}`.
"""

import asyncio
import gc
import json
import sys
from typing import Any

import uvloop

from server.realtime import session, transport
from server.realtime.server import Connection, Options, RecoveryOptions
from tests.conformance.wire import Club, Site, running

# A client that leaves without a word is noticed within two seconds, and has one more to come back.
OPTIONS = Options(
    ping_interval_s=1.0,
    ping_timeout_s=1.0,
    connect_timeout_s=2.0,
    recovery=RecoveryOptions(max_away_s=1.0),
)


class Lodge(Club):
    """A club that remembers nobody. `say` tells the room, `leave` and `shut` have the server end it."""

    site: Site

    async def connect(self, connection: Connection, auth: Any) -> None:
        await self._admit(connection, auth)

    async def event(
        self, connection: Connection, name: str, args: list[object], *, wants_ack: bool
    ) -> object | None:
        match name:
            case "say":
                self.site.emit("said", args[0], "r")
            case "leave":
                connection.disconnect()
            case "shut":
                connection.close()
        return args if wants_ack else None

    def _note(self, *call: object) -> None:
        """Nothing is kept."""


def tables(site: Site) -> dict[str, int]:
    """How many there are of whatever the engine keeps, and of all objects that may hold others."""
    server, namespace = site.server, site.server.namespaces["/chat"]
    recovery = namespace.recovery
    gc.collect()
    return {
        "transports": len(server._engine._transports),
        "connections": len(namespace.connections),
        "rooms": len(namespace.rooms._members),
        "members": len(namespace.rooms._rooms),
        "lists of a room's transports": len(server._broadcasts["/chat"]._splits),
        "held writes": len(server._engine.hold._writes),
        "recoverable": len(recovery._connected),
        "away": len(recovery._away),
        "packets": len(recovery.log._entries),
        "rooms of packets": len(recovery.log._by_room),
        "bytes of packets": recovery.log._size_bytes,
        "tasks of the server": len(server._tasks),
        "tasks": len(asyncio.all_tasks()),
        "objects": len(gc.get_objects()),
    }


async def serve() -> None:
    lodge = Lodge()
    async with running(OPTIONS, lodge) as lodge.site:
        tell(lodge.site.url)
        while await asyncio.to_thread(sys.stdin.readline):
            tell(json.dumps(tables(lodge.site)))


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    # How long a transport is kept for a client that may be dead.
    for module in (session, transport):
        vars(module)["LINGER_S"] = 0.5
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
