"""A connection without a network, for tests of what it does."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from server.realtime import packets
from server.realtime.connection import Connection
from server.realtime.packets import Frame, Packet
from server.realtime.recovery import Recovery
from server.realtime.rooms import Rooms
from server.realtime.session import Options, Reason, Session
from tests.conformance.wire import Recorder

OPTIONS = Options(max_queued_events=3, max_queued_bytes=100)


class World:
    """A session without a network, its one connection, and what they do to the rest."""

    def __init__(self, application: Recorder, options: Options = OPTIONS) -> None:
        self.application = application
        self.ends: list[Reason] = []
        self.opened_count = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.session = Session("the request", options, lambda _: None)
        self.session.receiver = self
        self.rooms: Rooms[Connection] = Rooms()
        self.recovery = Recovery(options.recovery, ping_s=1)
        self.connection = Connection(
            "/chat",
            self.session,
            application=application,
            rooms=self.rooms,
            recovery=self.recovery,
            options=options,
            owner=self,
        )

    # The session's receiver.
    is_full = False

    def answered(self) -> None: ...

    async def wait_for_room(self) -> None: ...

    def received(self, frame: Frame) -> None: ...

    def closed(self, reason: Reason) -> None:
        self.connection.end(reason)

    # The connection's owner.
    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self.tasks.add(task)
        return task

    def opened(self) -> None:
        self.opened_count += 1

    def ended(self, connection: Connection, reason: Reason) -> None:
        assert connection is self.connection
        self.ends.append(reason)

    async def settled(self) -> None:
        """Wait until nothing runs."""
        async with asyncio.timeout(2):
            while pending := {task for task in self.tasks if not task.done()}:
                await asyncio.wait(pending)

    async def connected(self) -> "World":
        self.connection.begin({})
        await self.settled()
        self.session._take_unsent()
        return self

    def event(self, name: str, *args: object, ack_id: int | None = None, size_bytes: int = 1) -> None:
        data = [name, *args]
        packet = Packet(
            type=packets.EVENT, namespace="/chat", data=data, ack_id=ack_id, size_bytes=size_bytes
        )
        self.connection.received(packet)

    def sent(self) -> list[str]:
        return [frame.payload.decode() for frame in self.session._take_unsent()]
