"""One client: a session and its connections, one a namespace."""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, Protocol

from server.realtime import packets
from server.realtime.application import Application
from server.realtime.connection import Connection
from server.realtime.packets import Decoder, Frame, InvalidPacketError, Packet
from server.realtime.recovery import Recovery
from server.realtime.rooms import Rooms
from server.realtime.session import Options, Reason, Session

# The limits on new connections are on transports: who wants more CONNECTs than this is to open another one.
_MAX_CONNECTS = 100


class Namespace:
    """What is served under one name, and who is connected to it."""

    def __init__(self, application: Application, recovery: Recovery) -> None:
        self.application = application
        self.recovery = recovery
        self.rooms: Rooms[Connection] = Rooms()
        self.connections: set[Connection] = set()


class Host(Protocol):
    """What a client needs of the server."""

    @property
    def options(self) -> Options:
        """The limits."""

    @property
    def namespaces(self) -> Mapping[str, Namespace]:
        """What is served."""

    @property
    def unknown_namespace(self) -> dict[str, object]:
        """The CONNECT_ERROR of any other: `{message, data?}`."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Run a task that is cancelled, and whose exception is logged, by the server."""


class Client:
    """Gives each packet of a session to the connection that it is for, and never waits for one.

    A session without an open connection is closed after `connect_timeout_s`.
    """

    def __init__(self, session: Session, host: Host) -> None:
        self._session = session
        self._host = host
        self._decoder = Decoder(host.options.max_packet_bytes)
        self._connections: dict[str, Connection] = {}
        # Disconnected by the server: what the client sent before it knew is no fault.
        self._left: set[str] = set()
        self._connect_count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._expect_connect()

    # For the session

    @property
    def is_full(self) -> bool:
        """Whether one of its connections is."""
        return any(connection.is_full for connection in self._connections.values())

    async def wait_for_room(self) -> None:
        """Return once none is."""
        for connection in list(self._connections.values()):
            await connection.wait_for_room()

    def received(self, frame: Frame) -> None:
        """Act on a MESSAGE. Raises InvalidPacketError."""
        packet = self._decoder.feed(frame)
        if packet is None:
            return
        if packet.type == packets.CONNECT:
            self._connect(packet)
            return
        connection = self._connections.get(packet.namespace)
        if connection is None:
            if packet.namespace not in self._left:
                raise InvalidPacketError("no connection to this namespace")
        elif packet.type == packets.DISCONNECT:
            connection.end(Reason.CLIENT_DISCONNECT)
        elif connection.is_connecting:
            raise InvalidPacketError("CONNECT has not been answered")
        elif packet.type == packets.EVENT:
            connection.received(packet)

    def answered(self) -> None:
        """The client has answered a ping."""
        for connection in self._connections.values():
            connection.answered()

    def closed(self, reason: Reason) -> None:
        """The session has ended, and with it every connection."""
        self._stop_timer()
        for connection in list(self._connections.values()):
            connection.end(reason)

    # For its connections

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Run a task of the server's."""
        return self._host.spawn(work)

    def opened(self) -> None:
        """A connection has been accepted."""
        self._stop_timer()

    def ended(self, connection: Connection, reason: Reason) -> None:
        """Forget a connection."""
        self._connections.pop(connection.namespace, None)
        self._host.namespaces[connection.namespace].connections.discard(connection)
        if reason is Reason.SERVER_DISCONNECT:
            self._left.add(connection.namespace)
        if self._timer is None and all(other.is_connecting for other in self._connections.values()):
            self._expect_connect()

    def _connect(self, packet: Packet) -> None:
        self._connect_count += 1
        if packet.namespace in self._connections or self._connect_count > _MAX_CONNECTS:
            raise InvalidPacketError("connected already, or too often")
        namespace = self._host.namespaces.get(packet.namespace)
        if namespace is None:
            refusal = packets.encode_connect_error(packet.namespace, self._host.unknown_namespace)
            self._session.send(refusal)
            return
        connection = Connection(
            packet.namespace,
            self._session,
            application=namespace.application,
            rooms=namespace.rooms,
            recovery=namespace.recovery,
            options=self._host.options,
            owner=self,
        )
        self._left.discard(packet.namespace)
        self._connections[packet.namespace] = connection
        namespace.connections.add(connection)
        connection.begin(packet.data)

    def _expect_connect(self) -> None:
        if self._session.is_open:
            self._timer = asyncio.get_running_loop().call_later(
                self._host.options.connect_timeout_s, self._session.close, Reason.CONNECT_TIMEOUT
            )

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
