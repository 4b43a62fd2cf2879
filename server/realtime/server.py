"""A Socket.IO 5 server: namespaces, connections, rooms. It knows nothing of what is said in them."""

import asyncio
from collections.abc import Collection, Coroutine
from contextlib import suppress
from typing import Any

from server.realtime import packets
from server.realtime.application import Application, RefusedError, TransportClosedError
from server.realtime.broadcast import Broadcast
from server.realtime.client import Client, Namespace
from server.realtime.connection import Connection
from server.realtime.recovery import Recovery, RecoveryOptions
from server.realtime.session import Options
from server.realtime.transport import Engine, Request, Response
from server.telemetry import get_logger, new_error_id

__all__ = [
    "Application",
    "Connection",
    "Options",
    "RecoveryOptions",
    "RefusedError",
    "Server",
    "TransportClosedError",
]

log = get_logger(__name__)

# How long `close` waits for handlers that run, and again for them to end when they have been cancelled.
_CLOSE_TIMEOUT_S = 10.0
_CANCEL_TIMEOUT_S = 2.0


class Server:
    """All connections of this process, for use from one event loop."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.namespaces: dict[str, Namespace] = {}
        self.unknown_namespace: dict[str, object] = {"message": "Invalid namespace"}
        self._engine = Engine(options, lambda session: Client(session, self))
        self._broadcasts: dict[str, Broadcast[Connection]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def register(
        self,
        namespace: str,
        application: Application,
        *,
        unknown_namespace_message: str | None = None,
        unknown_namespace_data: dict[str, object] | None = None,
        recovery: Recovery | None = None,
    ) -> None:
        """Serve `namespace`. A CONNECT to any other is refused with `unknown_namespace_message` and `_data`.

        Without a message that is what the JavaScript server says; a message without data comes with
        `{code: "not_found", retry: "never"}`. `recovery` is this process's own, unless one is given.
        """
        if not namespace.startswith("/"):
            raise ValueError("a namespace begins with a slash")
        if recovery is None:
            ping_s = self.options.ping_interval_s + self.options.ping_timeout_s
            recovery = Recovery(self.options.recovery, ping_s=ping_s)
        self.namespaces[namespace] = Namespace(application, recovery)
        self._broadcasts[namespace] = Broadcast(
            self.namespaces[namespace].rooms,
            self._engine.hold,
            max_buffer_bytes=self.options.max_buffer_bytes,
        )
        if unknown_namespace_message is not None:
            data = unknown_namespace_data or {"code": "not_found", "retry": "never"}
            self.unknown_namespace = {"message": unknown_namespace_message, "data": data}

    def emit(
        self,
        event: str,
        data: object,
        *,
        namespace: str,
        rooms: Collection[str],
        except_rooms: Collection[str] = (),
        volatile: bool = False,
    ) -> None:
        """Queue an event for every connection in one of `rooms` and in none of `except_rooms`, once each.

        The recipients are those of this moment: nothing is awaited, and the packet is encoded once.
        `volatile`: not for a connection that has unsent packets. Raises ValueError when no room is named or
        `rooms` is one string, UnencodableError when `data` is not JSON or holds a lone surrogate.
        """
        if not rooms or isinstance(rooms, str) or isinstance(except_rooms, str):
            raise ValueError("an emit names its rooms, as a collection")
        recovery = self.namespaces[namespace].recovery
        is_kept = recovery.is_used and not volatile
        if not is_kept and not any(map(self.namespaces[namespace].rooms.has_members, rooms)):
            return
        packet = packets.encode_event(namespace, event, data)
        # Nothing is awaited from here on: what a client is sent is in the order of the offsets.
        offset = (
            recovery.record(packet, frozenset(rooms), frozenset(except_rooms))
            if is_kept
            else recovery.offset()
        )
        self._broadcasts[namespace].send(packet, offset, rooms, except_rooms, volatile=volatile)

    def deliver(
        self,
        packet: packets.EventPacket,
        offset: str,
        *,
        namespace: str,
        rooms: Collection[str],
        except_rooms: Collection[str] = (),
        volatile: bool = False,
    ) -> None:
        """As `emit`, for a packet that a bus has encoded and given its offset, and that is not to be kept."""
        self._broadcasts[namespace].send(packet, offset, rooms, except_rooms, volatile=volatile)

    def hold(self) -> None:
        """Write what each client is sent from now on together, before anything is done that is waited for."""
        self._engine.hold.begin()

    def away(self, namespace: str, owner: str) -> list[str]:
        """The sids of the owner's connections that are away, of those that this process keeps."""
        return self.namespaces[namespace].recovery.away(owner)

    def forget_away(self, namespace: str, owner: str) -> None:
        """Let no connection of the owner be recovered that is away."""
        self.namespaces[namespace].recovery.forget_away(owner)

    def forget(self, namespace: str, sid: str) -> None:
        """Let a connection not be recovered, whether it is away or still open."""
        self.namespaces[namespace].recovery.forget(sid)

    def connections_in(self, namespace: str, room: str) -> list[Connection]:
        """The connections in a room, also those that `Application.connect` still decides on."""
        return self.namespaces[namespace].rooms.members([room])

    @property
    def connection_count(self) -> int:
        """The connections of all namespaces that have not ended."""
        return sum(len(namespace.connections) for namespace in self.namespaces.values())

    async def handle(self, request: Request) -> Response:
        """Answer a request to the Socket.IO path, of any method; for a websocket, when it has ended."""
        return await self._engine.handle(request)

    async def close(self) -> None:
        """Close every transport, wait a bounded time for handlers that run, cancel the rest.

        Handshakes that still come are answered 503.
        """
        await self._engine.close()
        await self._wait_for_tasks(_CLOSE_TIMEOUT_S)
        # Work that is cancelled may leave work to do: a connection's end is still told to its application.
        for _ in range(2):
            for task in self._tasks:
                task.cancel()
            await self._wait_for_tasks(_CANCEL_TIMEOUT_S)

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Run a task until `close` cancels it; what it raises is logged."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("realtime.task_failed", exc_info=error, error_id=new_error_id())

    async def _wait_for_tasks(self, timeout_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._tasks:
                    await asyncio.wait(self._tasks)
