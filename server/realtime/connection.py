"""One client socket in one namespace, and what a namespace provides."""

import asyncio
import secrets
from collections import deque
from collections.abc import Coroutine, Sequence
from enum import Enum, auto
from typing import Any, NamedTuple, Protocol

from server.realtime import packets
from server.realtime.packets import Frame, Packet, UnencodableError
from server.realtime.rooms import Rooms
from server.realtime.session import MAX_UNSENT_FRAMES, Options, Reason, Session
from server.telemetry import get_logger, new_error_id

log = get_logger(__name__)

# What the client did, or what happened to it: the events it had sent before are still handled.
_NOT_BY_US = {Reason.CLIENT_DISCONNECT, Reason.TRANSPORT_CLOSE, Reason.TRANSPORT_ERROR, Reason.PING_TIMEOUT}

_MAX_LOGGED_CHARS = 64


class RefusedError(Exception):
    """Raised by `Application.connect`: the client is answered CONNECT_ERROR `{message, data}`."""

    def __init__(self, message: str, data: dict[str, object]) -> None:
        super().__init__(message)
        self.message = message
        self.data = data


class TransportClosedError(Exception):
    """Raised by `Application.connect`: the transport is closed unanswered; standard clients come back."""


class Application(Protocol):
    """What a namespace provides."""

    async def connect(self, connection: "Connection", auth: object) -> None:
        """Decide whether `connection` may stay. `auth` is the CONNECT packet's object, {} where it had none.

        On return CONNECT is sent. RefusedError: CONNECT_ERROR; TransportClosedError: the transport is closed;
        else: logged and refused with code `internal`. Cancelled when the connection ends meanwhile.
        """

    def connected(self, connection: "Connection") -> None:
        """CONNECT, and behind it what was held back, has been queued in this moment."""

    async def event(
        self, connection: "Connection", name: str, args: list[object], *, wants_ack: bool
    ) -> object | None:
        """Handle an event: one at a time a connection, in the order sent. Returns the ack's one argument.

        It should not raise: then the client gets no ack. `args` may hold bytes, of any client's making.
        """

    async def disconnected(self, connection: "Connection", reason: str) -> None:
        """The connection has ended. Called once, after `connect` and the last `event` have finished.

        Not called when `connect` raised while the connection was open: that connection never came to be.
        """


class Owner(Protocol):
    """What a connection needs of who made it."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Run a task that is cancelled, and whose exception is logged, by the owner."""

    def opened(self, connection: "Connection") -> None:
        """CONNECT has been queued."""

    def ended(self, connection: "Connection", reason: Reason) -> None:
        """It is no longer one of the client's."""


class _Event(NamedTuple):
    name: str
    args: list[object]
    ack_id: int | None
    size_bytes: int


class _State(Enum):
    CONNECTING = auto()
    OPEN = auto()
    ENDED = auto()


class Connection:
    """One client socket in one namespace, from its CONNECT to its end.

    Made by the server. While `Application.connect` decides, it may enter rooms already; what is emitted to it
    is held back and follows its CONNECT, in order. Its events wait in its own queue; when it ends, those
    received are still handled, unless the server ended it. `state` is the application's own.
    """

    def __init__(
        self,
        namespace: str,
        session: Session,
        *,
        application: Application,
        rooms: "Rooms[Connection]",
        options: Options,
        owner: Owner,
    ) -> None:
        self.sid = secrets.token_urlsafe(15)
        self.namespace = namespace
        self.request: Any = session.request
        self.state: Any = None
        self._session = session
        self._application = application
        self._rooms = rooms
        self._options = options
        self._owner = owner
        self._phase = _State.CONNECTING
        self._reason = Reason.TRANSPORT_CLOSE
        self._connecting: asyncio.Task[None] | None = None
        self._held: list[Frame] = []
        self._held_bytes = 0
        self._events: deque[_Event] = deque()
        # With the one being handled.
        self._unhandled_count = 0
        self._unhandled_bytes = 0
        self._is_working = False
        self._has_room = asyncio.Event()

    # For the application

    @property
    def rooms(self) -> frozenset[str]:
        """The rooms it is in; none once it has ended. Costs O(own rooms)."""
        return self._rooms.rooms_of(self)

    @property
    def is_open(self) -> bool:
        """Until it has ended; true already while `Application.connect` decides."""
        return self._phase is not _State.ENDED

    def emit(self, event: str, data: object) -> None:
        """Queue an event for this client alone; nothing happens once it has ended.

        Raises UnencodableError when `data` is not JSON or holds a lone surrogate.
        """
        self.deliver(packets.encode_event(self.namespace, event, data))

    def enter(self, room: str) -> None:
        """Be among the recipients of `room`; nothing happens once it has ended."""
        if self.is_open:
            self._rooms.enter(self, room)

    def leave(self, room: str) -> None:
        """Be among them no longer."""
        self._rooms.leave(self, room)

    def disconnect(self) -> None:
        """Send DISCONNECT and end at once: standard clients stay away. Cancels an `Application.connect`."""
        if self.is_open:
            self._session.send(packets.encode_disconnect(self.namespace))
            self.end(Reason.SERVER_DISCONNECT)

    def close(self) -> None:
        """End at once with the transport, which sends what is queued first: standard clients come back."""
        if self.is_open:
            self._session.close(Reason.FORCED_CLOSE)

    # For the server

    @property
    def is_connecting(self) -> bool:
        """Whether `Application.connect` still decides."""
        return self._phase is _State.CONNECTING

    @property
    def is_full(self) -> bool:
        """Whether its client should be read no further for now."""
        return self.is_open and (
            self._unhandled_count >= self._options.max_queued_events
            or self._unhandled_bytes >= self._options.max_queued_bytes
        )

    async def wait_for_room(self) -> None:
        """Return once it is not full."""
        while self.is_full:
            self._has_room.clear()
            await self._has_room.wait()

    def begin(self, auth: object) -> None:
        """Let the application decide."""
        self._connecting = self._owner.spawn(self._connect(auth))

    def received(self, packet: Packet) -> None:
        """Put an EVENT into the queue."""
        name, *args = packet.data
        self._events.append(_Event(name, args, packet.ack_id, packet.size_bytes))
        self._unhandled_count += 1
        self._unhandled_bytes += packet.size_bytes
        if not self._is_working:
            self._is_working = True
            self._owner.spawn(self._work())

    def deliver(self, frames: Sequence[Frame], *, volatile: bool = False) -> None:
        """Queue the frames of one packet for the client, or hold them back until its CONNECT."""
        if volatile and (self.is_connecting or self._session.has_unsent):
            return
        if self._phase is _State.OPEN:
            self._session.send(frames)
        elif self._phase is _State.CONNECTING:
            if self._held_bytes >= self._options.max_buffer_bytes or len(self._held) >= MAX_UNSENT_FRAMES:
                self._session.abort(Reason.SLOW_CONSUMER)
                return
            self._held.extend(frames)
            self._held_bytes += sum(len(frame.payload) for frame in frames)

    def end(self, reason: Reason) -> None:
        """End in this moment; the application hears of it when it has finished what runs."""
        if not self.is_open:
            return
        was_connecting, self._phase, self._reason = self.is_connecting, _State.ENDED, reason
        self._held.clear()
        self._rooms.leave_all(self)
        self._has_room.set()
        self._owner.ended(self, reason)
        if was_connecting:
            if self._connecting is not None:
                self._connecting.cancel()
            return
        if reason not in _NOT_BY_US:
            self._events.clear()
        if not self._is_working:
            self._owner.spawn(self._tell_ended())

    async def _connect(self, auth: object) -> None:
        try:
            await self._application.connect(self, auth)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - whatever it is, no ghost may stay
            if self._refuse(error):
                return
        if self.is_open:
            self._accept()
        else:
            self._owner.spawn(self._tell_ended())

    def _accept(self) -> None:
        self._phase = _State.OPEN
        self._session.send([*packets.encode_connect(self.namespace, self.sid), *self._held])
        self._held.clear()
        self._owner.opened(self)
        try:
            self._application.connected(self)
        except Exception:
            log.exception("realtime.connected_failed", error_id=new_error_id(), namespace=self.namespace)
            self.close()

    def _refuse(self, error: BaseException) -> bool:
        """Answer a failed connect; False when there is nobody left to answer."""
        error_id = new_error_id()
        is_cancelled = isinstance(error, asyncio.CancelledError) and not self.is_open
        if not is_cancelled and not isinstance(error, RefusedError | TransportClosedError):
            log.error("realtime.connect_failed", exc_info=error, error_id=error_id, namespace=self.namespace)
        if not self.is_open:
            return False
        self._connecting = None
        if isinstance(error, TransportClosedError):
            self.close()
            return True
        self._session.send(self._refusal(error, error_id))
        self.end(Reason.REFUSED)
        return True

    def _refusal(self, error: BaseException, error_id: str) -> list[Frame]:
        if isinstance(error, RefusedError):
            try:
                refusal: dict[str, object] = {"message": error.message, "data": error.data}
                return packets.encode_connect_error(self.namespace, refusal)
            except UnencodableError:
                log.exception("realtime.refusal_failed", error_id=error_id, namespace=self.namespace)
        data: dict[str, object] = {"code": "internal", "retry": "never", "error_id": error_id}
        return packets.encode_connect_error(self.namespace, {"message": "internal error", "data": data})

    async def _work(self) -> None:
        try:
            while self._events:
                event = self._events.popleft()
                await self._handle(event)
                self._unhandled_count -= 1
                self._unhandled_bytes -= event.size_bytes
                self._has_room.set()
        finally:
            self._is_working = False
            if not self.is_open:
                self._owner.spawn(self._tell_ended())

    async def _handle(self, event: _Event) -> None:
        wants_ack = event.ack_id is not None
        try:
            result = await self._application.event(self, event.name, event.args, wants_ack=wants_ack)
            if event.ack_id is not None:
                self.deliver(packets.encode_ack(self.namespace, event.ack_id, result))
        except (Exception, asyncio.CancelledError):
            if _is_being_cancelled():
                raise
            name = event.name[:_MAX_LOGGED_CHARS]
            log.exception(
                "realtime.event_failed", error_id=new_error_id(), namespace=self.namespace, name=name
            )

    async def _tell_ended(self) -> None:
        try:
            await self._application.disconnected(self, self._reason.value)
        except Exception:
            log.exception("realtime.disconnected_failed", error_id=new_error_id(), namespace=self.namespace)


def _is_being_cancelled() -> bool:
    """Whether a cancellation is meant for this task, not only for something that it awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
