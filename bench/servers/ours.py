"""This project's engine as the server runs it, without store and limits.

A connection's token is checked, then it enters the room.
"""

import time
from collections.abc import Mapping

from aiohttp import web

from bench.frames import EVENT, NAMESPACE, ROOM, SOCKETIO_PATH
from bench.servers.common import SECRET, listen, run
from server.domain.errors import ChatError
from server.realtime.server import Connection, Options, RefusedError, Server
from server.runtime import calm_garbage_collection
from server.services.tokens import ClaimNames, Tokens
from server.settings import LogSettings
from server.telemetry import configure


class Bench:
    """The application."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._tokens = Tokens(SECRET, claim_names=ClaimNames())

    async def authenticate(self, connection: Connection, auth: Mapping[str, object]) -> str:  # noqa: ARG002 - the protocol's
        try:
            return self._tokens.read_access(str(auth.get("token")), now=time.time()).subject
        except ChatError as error:
            raise RefusedError("refused", {"code": error.code}) from None

    async def connect(self, connection: Connection, auth: Mapping[str, object]) -> None:  # noqa: ARG002 - the protocol's
        connection.enter(ROOM)

    def connected(self, connection: Connection) -> None:
        """Nothing is to be done."""

    async def event(self, connection: Connection, name: str, args: list[object], *, wants_ack: bool) -> None:  # noqa: ARG002 - the protocol's
        if name == EVENT:
            self._server.emit(EVENT, args[0], namespace=NAMESPACE, rooms=[ROOM])

    async def disconnected(self, connection: Connection, reason: str) -> None:
        """Nothing is to be done."""


async def start() -> int:
    """Listen; the port."""
    calm_garbage_collection()
    configure(LogSettings())
    server = Server(Options())
    server.register(NAMESPACE, Bench(server))
    application = web.Application()
    application.router.add_route("*", SOCKETIO_PATH, server.handle)
    return await listen(application)


if __name__ == "__main__":
    run(start)
