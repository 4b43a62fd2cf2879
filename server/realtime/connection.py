"""One client socket in one namespace, and what a namespace provides."""

import asyncio
import math
import secrets
from collections.abc import Coroutine
from enum import Enum, auto
from typing import Any, Protocol

from server.realtime import packets
from server.realtime.application import Application, RefusedError, TransportClosedError
from server.realtime.backlog import Backlog
from server.realtime.event_queue import Event, EventQueue
from server.realtime.packet_log import Stay
from server.realtime.packets import Encoded, EventPacket, Packet, UnencodableError
from server.realtime.recovery import Recovery, Trail
from server.realtime.replay import Replay
from server.realtime.rooms import Rooms
from server.realtime.session import NOT_BY_US, RECOVERABLE, Options, Reason, Session
from server.telemetry import get_logger, new_error_id

log = get_logger(__name__)

# How long a connection may take to be over on its old transport before it goes on with another one.
_SETTLE_TIMEOUT_S = 5.0
_MAX_LOGGED_CHARS = 64


class Owner(Protocol):
    """What a connection needs of who made it."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Run a task that is cancelled, and whose exception is logged, by the owner."""

    def opened(self) -> None:
        """CONNECT has been queued."""

    def ended(self, connection: "Connection", reason: Reason) -> None:
        """It is no longer one of the client's."""


class _State(Enum):
    CONNECTING = auto()
    # Accepted, and being sent what it missed; what is sent meanwhile is in the log as well.
    REPLAYING = auto()
    OPEN = auto()
    ENDED = auto()


class Connection:
    """One client socket in one namespace, from its CONNECT to its end.

    Made by the server. While `Application.connect` decides, it may enter rooms already; what is emitted to it
    is held back and follows its CONNECT, in order. Its events wait in its own queue; when it ends, those
    received are still handled, unless the server ended it. `state` is the application's own. Before `connect`
    it may turn out to be one that was away: then `is_recovered`, and `sid` is what it was.
    """

    def __init__(
        self,
        namespace: str,
        session: Session,
        *,
        application: Application,
        rooms: "Rooms[Connection]",
        recovery: Recovery,
        options: Options,
        owner: Owner,
    ) -> None:
        self.sid = secrets.token_urlsafe(15)
        self.namespace = namespace
        self.request: Any = session.request
        self.state: Any = None
        self.is_recovered = False
        # Whether it is sent offsets.
        self.is_marked = False
        self._session = session
        self._application = application
        self._rooms = rooms
        self._recovery = recovery
        # What makes it recoverable, if it asked to be; and one that it takes back as soon as that is over.
        self._trail: Trail | None = None
        self._claimed: Trail | None = None
        self._replay: Replay | None = None
        self._opened_at_s = math.inf
        self._options = options
        self._owner = owner
        self._phase = _State.CONNECTING
        self._reason = Reason.TRANSPORT_CLOSE
        self._connecting: asyncio.Task[None] | None = None
        self._backlog = Backlog(options)
        self._events = EventQueue(self._handle, spawn=owner.spawn, idle=self._became_idle, options=options)

    # For the application

    @property
    def rooms(self) -> frozenset[str]:
        """The rooms it is in; none once it has ended. Costs O(own rooms)."""
        return self._rooms.rooms_of(self)

    @property
    def is_open(self) -> bool:
        """Until it has ended; true already while `Application.connect` decides."""
        return self._phase is not _State.ENDED

    def emit(self, event: str, data: object, *, is_kept: bool = True) -> None:
        """Queue an event for this client alone; nothing happens once it has ended.

        What is not kept is about this transport: it goes ahead of what is missed still, and is not sent again
        to who is recovered. Raises UnencodableError when `data` is not JSON or holds a lone surrogate.
        """
        if not self.is_open:
            return
        packet = packets.encode_event(self.namespace, event, data)
        if self._trail is None:
            self.deliver(packet, "")
        elif is_kept:
            offset = self._recovery.record_own(packet, self._trail)
            if offset is not None:
                self.deliver(packet, offset)
        elif self._replay is not None and self._phase is not _State.OPEN:
            ahead = packet.marked(self._recovery.offset(self._replay.position))
            (self._hold_back if self.is_connecting else self._session.send)(ahead)
        else:
            self.deliver(packet, self._recovery.offset())

    def enter(self, room: str, *, tag: str | None = None) -> bool:
        """Be among the recipients of `room`; nothing happens once it has ended.

        Who is recovered and enters with the `tag` it had (True) is given what was sent to the room meanwhile.
        """
        if not self.is_open or self._rooms.has(self, room):
            return False
        stay = self._trail.enter(room, tag, self._recovery.log.head) if self._trail is not None else None
        self._rooms.enter(self, room, stay)
        if self._trail is None:
            return False
        self._recovery.changed(self._trail)
        return stay is self._trail.kept.get(room)

    def leave(self, room: str) -> None:
        """Be among them no longer."""
        stay = self._rooms.leave(self, room)
        if self._trail is not None and stay is not None:
            log = self._recovery.log
            self._trail.leave(room, stay, head=log.head, dropped=log.dropped)
            self._recovery.changed(self._trail)

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
        return self._events.is_full

    async def wait_for_room(self) -> None:
        """Return once it is not full."""
        await self._events.wait_for_room()

    def begin(self, auth: dict[str, object]) -> None:
        """Let the application decide."""
        self._connecting = self._owner.spawn(self._connect(auth))

    def answered(self) -> None:
        """Its client has answered a ping."""
        # One sent while it came back says nothing of what was to follow.
        if self._trail is not None and self._phase is _State.OPEN:
            at_s = self._session.received_until_s
            if at_s > self._opened_at_s:
                self._recovery.answered(self._trail, at_s)

    def received(self, packet: Packet) -> None:
        """Put an EVENT into the queue."""
        name, *args = packet.data
        self._events.add(Event(name, args, packet.ack_id, packet.size_bytes))

    def deliver(self, packet: EventPacket, offset: str, *, volatile: bool = False) -> None:
        """Send an event to the client, or hold it back until its CONNECT.

        `offset` is the event's, or the newest one if it is volatile, where recovery is in use.
        """
        if self._phase is _State.OPEN:
            if not (volatile and self._session.is_behind):
                self._session.send(packet.marked(offset) if self.is_marked else packet.plain())
        elif self.is_connecting and not (volatile or self.is_recovered):
            self._hold_back(packet.marked(offset) if self.is_marked else packet.plain())

    def find_free(self) -> asyncio.Transport | None:
        """What it is written to, if it is open, on a websocket and idle: see `Outlet.find_free`."""
        return self._session.outlet.find_free() if self._phase is _State.OPEN else None

    def end(self, reason: Reason) -> None:
        """End in this moment; the application hears of it when it has finished what runs."""
        if not self.is_open:
            return
        was_connecting, self._phase, self._reason = self.is_connecting, _State.ENDED, reason
        self._backlog.take()
        stays = self._rooms.leave_all(self)
        if trail := self._claimed or self._trail:
            self._part_with(trail, stays, was_connecting=was_connecting)
        self._events.close(discard=reason not in NOT_BY_US)
        self._owner.ended(self, reason)
        if was_connecting:
            if self._connecting is not None:
                self._connecting.cancel()
        elif not self._events.is_working:
            self._owner.spawn(self._tell_ended())

    def _hold_back(self, packet: Encoded) -> None:
        if not self._backlog.add(packet):
            self._session.abort(Reason.SLOW_CONSUMER)

    def _part_with(self, trail: Trail, stays: dict[str, Stay | None], *, was_connecting: bool) -> None:
        """Keep for later what somebody may come back for."""
        is_lost = self._reason in RECOVERABLE
        kept = {room: stay for room, stay in stays.items() if stay is not None}
        if is_lost and not was_connecting:
            self._recovery.leave(trail, kept)
        elif is_lost and (self.is_recovered or self._claimed):
            trail.kept.update(kept)
            self._recovery.restore(trail)
        else:
            self._recovery.end(trail)

    async def _connect(self, auth: dict[str, object]) -> None:
        pid, offset = auth.pop("pid", None), auth.pop("offset", None)
        try:
            owner = await self._application.authenticate(self, auth)
            # An application may have gone on although the connection ended.
            if self.is_open and (auth.get("recovery") is True or auth.get("recovery") == "true"):
                trail = await self._take_back(owner, pid, offset)
                self._trail = trail or self._recovery.begin(self.sid, owner)
            if self._trail is not None:
                self.is_marked = True
                self._hold(self._trail)
            await self._application.connect(self, auth)
            if self._trail and self._replay and not self._replay.is_complete():
                self._connecting = None
                self._forsake(self._trail)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - whatever it is, no ghost may stay
            if self._refuse(error):
                self._settle()
                return
        if self.is_open:
            self._accept()
        else:
            self._owner.spawn(self._tell_ended())

    def _hold(self, trail: Trail) -> None:
        trail.abandon = self._abandon
        trail.receive = self.deliver
        trail.current = lambda: self._rooms.stays_of(self)

    async def _take_back(self, owner: str, pid: object, offset: object) -> Trail | None:
        """Go on as the owner's connection of that name, if that can be."""
        if not isinstance(pid, str):
            return None
        if connected := self._recovery.find_connected(pid, owner):
            # Its transport broke and the server has not noticed yet.
            connected.abandon()
        trail = self._claimed = await self._recovery.take(pid, owner)
        if trail is None:
            return None
        self._hold(trail)
        try:
            async with asyncio.timeout(_SETTLE_TIMEOUT_S):
                await trail.settled.wait()
                position = await self._recovery.find_position_in_time(trail, offset)
        except TimeoutError:
            position = None
        self._claimed = None
        replay = Replay(
            trail,
            trail.start if position is None else position,
            recovery=self._recovery,
            session=self._session,
            stays=lambda: self._rooms.stays_of(self),
            options=self._options,
        )
        if position is None or replay.is_too_much(trail.kept):
            self._recovery.end(trail)
            return None
        trail.start = replay.skip_received(trail.kept)
        trail.settled.clear()
        self.sid, self.is_recovered, self._replay = trail.sid, True, replay
        return trail

    def _abandon(self) -> None:
        self._session.abort(Reason.TRANSPORT_CLOSE)

    def _accept(self) -> None:
        if self.is_recovered:
            self._phase = _State.REPLAYING
        else:
            self._open()
        pid = self._trail.pid if self._trail is not None else None
        for packet in (packets.encode_connect(self.namespace, self.sid, pid), *self._backlog.take()):
            self._session.send(packet)
        self._owner.opened()
        try:
            self._application.connected(self)
        except Exception:
            log.exception("realtime.connected_failed", error_id=new_error_id(), namespace=self.namespace)
            self.close()
        if self._trail and self._replay and self._phase is _State.REPLAYING:
            self._trail.kept, self._trail.is_whole = {}, True
            self._owner.spawn(self._send_missed(self._replay, self._trail))

    async def _send_missed(self, replay: Replay, trail: Trail) -> None:
        if await replay.run(lambda: self._phase is _State.REPLAYING):
            self._open()
        elif self._phase is _State.REPLAYING:
            self._forsake(trail)

    def _open(self) -> None:
        self._phase, self._opened_at_s = _State.OPEN, asyncio.get_running_loop().time()

    def _forsake(self, trail: Trail) -> None:
        """It can be given what it missed no more: it shall begin anew."""
        trail.is_forgotten = True
        self._session.abort(Reason.SLOW_CONSUMER)

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

    def _refusal(self, error: BaseException, error_id: str) -> Encoded:
        if isinstance(error, RefusedError):
            try:
                refusal: dict[str, object] = {"message": error.message, "data": error.data}
                return packets.encode_connect_error(self.namespace, refusal)
            except UnencodableError:
                log.exception("realtime.refusal_failed", error_id=error_id, namespace=self.namespace)
        data: dict[str, object] = {"code": "internal", "retry": "never", "error_id": error_id}
        return packets.encode_connect_error(self.namespace, {"message": "internal error", "data": data})

    def _became_idle(self) -> None:
        if not self.is_open:
            self._owner.spawn(self._tell_ended())

    async def _handle(self, event: Event) -> None:
        wants_ack = event.ack_id is not None
        try:
            result = await self._application.event(self, event.name, event.args, wants_ack=wants_ack)
            if event.ack_id is not None:
                answer = packets.encode_ack(self.namespace, event.ack_id, result)
                if self.is_open:
                    self._session.send(answer)
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
        self._settle()

    def _settle(self) -> None:
        if self._trail is not None:
            self._trail.settled.set()


def _is_being_cancelled() -> bool:
    """Whether a cancellation is meant for this task, not only for something that it awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
