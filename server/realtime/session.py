"""One client's Engine.IO session: whether it is open, what is to be sent, how it ends. No network in here."""

import asyncio
import secrets
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Protocol

import msgspec
from engineio import packet as engineio_packet

from server.realtime import packets
from server.realtime.heartbeat import Heartbeat
from server.realtime.hold import Hold
from server.realtime.outlet import Outlet
from server.realtime.packets import Encoded, Frame, InvalidPacketError
from server.realtime.recovery import RecoveryOptions

# What a slow client may leave unsent, beside `Options.max_buffer_bytes`.
MAX_UNSENT_FRAMES = 4_096
# How long a client may take to fetch what was queued for it before its session ended.
LINGER_S = 5.0
_PING = packets.encoded(packets.PING)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a server. A client learns the ping times and `max_packet_bytes` at its handshake.

    `max_packet_bytes` bounds a websocket message, the body of a POST, and a packet with its attachments.
    `max_queued_events` and `max_queued_bytes` are what may wait of one connection before its session is read
    no further; `max_buffer_bytes` is what may be unsent before the client counts as too slow and is cut off.
    """

    ping_interval_s: float = 25.0
    ping_timeout_s: float = 20.0
    connect_timeout_s: float = 10.0
    max_packet_bytes: int = 65_536
    max_queued_events: int = 64
    max_queued_bytes: int = 262_144
    max_buffer_bytes: int = 1_048_576
    transports: tuple[str, ...] = ("polling", "websocket")
    recovery: RecoveryOptions = RecoveryOptions()


class Reason(StrEnum):
    """Why something ended; in the words of the JavaScript server where it has some."""

    CLIENT_DISCONNECT = "client namespace disconnect"
    SERVER_DISCONNECT = "server namespace disconnect"
    TRANSPORT_CLOSE = "transport close"
    TRANSPORT_ERROR = "transport error"
    PING_TIMEOUT = "ping timeout"
    PARSE_ERROR = "parse error"
    FORCED_CLOSE = "forced close"
    CONNECT_TIMEOUT = "connect timeout"
    REFUSED = "refused"
    SLOW_CONSUMER = "slow consumer"
    SHUTDOWN = "server shutting down"


# What the client did, or what happened to it: the events it had sent before are still handled.
NOT_BY_US = {Reason.CLIENT_DISCONNECT, Reason.TRANSPORT_CLOSE, Reason.TRANSPORT_ERROR, Reason.PING_TIMEOUT}

# After these a connection may be recovered; the rest are somebody's decision.
RECOVERABLE = {
    Reason.TRANSPORT_CLOSE,
    Reason.TRANSPORT_ERROR,
    Reason.PING_TIMEOUT,
    Reason.FORCED_CLOSE,
    Reason.CONNECT_TIMEOUT,
    Reason.SLOW_CONSUMER,
    Reason.SHUTDOWN,
}
# Only these end a polling session by CLOSE, for which the Python client stays away. All clients come back
# when a poll is answered that there is no such session.
_FAULTS = {Reason.PARSE_ERROR, Reason.TRANSPORT_ERROR}


class Receiver(Protocol):
    """What takes a session's messages."""

    @property
    def is_full(self) -> bool:
        """Whether nothing more should be read for now."""

    async def wait_for_room(self) -> None:
        """Return once it is not full."""

    def received(self, frame: Frame) -> None:
        """Take a MESSAGE. Raises InvalidPacketError."""

    def answered(self) -> None:
        """The client has answered a ping: see `Session.received_until_s`."""

    def closed(self, reason: Reason) -> None:
        """The session has ended, in this moment. Called once."""


class Session:
    """One client's Engine.IO session.

    It is open until either side ends it; then it lingers at most LINGER_S, so that the client can take what
    was queued. `request` is the handshake's. `receiver` has to be set before anything is received. `outlet`
    is open once a websocket serves it and all that was queued has been written.
    """

    receiver: Receiver

    def __init__(
        self, request: Any, options: Options, forget: Callable[["Session"], None], hold: Hold | None = None
    ) -> None:
        self.sid = secrets.token_urlsafe(15)
        self.request = request
        self.is_open = True
        self._options = options
        self.outlet = Outlet(hold or Hold(), options.max_buffer_bytes)
        self._forget = forget
        self._is_over = False
        self._unsent: deque[Frame] = deque()
        self._unsent_bytes = 0
        self._changed = asyncio.Event()
        self._deadline: asyncio.TimerHandle | None = None
        self._is_polled = False
        self._is_websocket = False
        self._heartbeat = Heartbeat(
            interval_s=options.ping_interval_s,
            timeout_s=options.ping_timeout_s,
            ping=lambda: self.send(_PING),
            give_up=self._give_up,
        )

    def start(self, *, is_websocket: bool) -> None:
        """Queue OPEN, ahead of all else, and begin to ping."""
        options = self._options
        self._is_websocket = is_websocket
        may_upgrade = "websocket" in options.transports and not is_websocket
        handshake: dict[str, object] = {
            "sid": self.sid,
            "upgrades": ["websocket"] if may_upgrade else [],
            "pingInterval": round(options.ping_interval_s * 1000),
            "pingTimeout": round(options.ping_timeout_s * 1000),
            "maxPayload": options.max_packet_bytes,
        }
        self.send(packets.encode_open(handshake))
        self._heartbeat.start()

    @property
    def is_behind(self) -> bool:
        """Whether the client has not taken yet what it was sent before."""
        return self.outlet.is_behind if self.outlet.is_open else bool(self._unsent)

    @property
    def received_until_s(self) -> float:
        """What was sent before this time of the loop's, the client has: it answered a ping behind it."""
        return self._heartbeat.answered_at_s

    def send(self, packet: Encoded) -> None:
        """Send it or queue it; nothing happens once it has ended. A client that is too slow is cut off."""
        if not self.is_open:
            return
        if self.outlet.is_open:
            if not self.outlet.send(packet.wire):
                self.abort(Reason.SLOW_CONSUMER)
            return
        if self._unsent_bytes >= self._options.max_buffer_bytes or len(self._unsent) >= MAX_UNSENT_FRAMES:
            self.abort(Reason.SLOW_CONSUMER)
            return
        self._unsent.extend(packet.frames)
        self._unsent_bytes += sum(len(frame.payload) for frame in packet.frames)
        self._changed.set()

    def close(self, reason: Reason) -> None:
        """End it; what is queued is still sent if the client takes it within LINGER_S."""
        if not self._end(reason):
            return
        if reason in _FAULTS and not self._is_websocket:
            self._unsent.append(packets.CLOSE)
            self._unsent_bytes += len(packets.CLOSE.payload)
        if self._is_websocket or self._is_polled or self._unsent:
            self._deadline = asyncio.get_running_loop().call_later(LINGER_S, self._cut)
            self._changed.set()
        else:
            self._finish()

    def abort(self, reason: Reason) -> None:
        """End it and send nothing more."""
        self._end(reason)
        self._cut()

    def receive(self, frame: Frame) -> None:
        """Act on a frame of the client. Raises InvalidPacketError. See `wait_for_room`."""
        match packets.engine_type(frame):
            case engineio_packet.MESSAGE:
                self.receiver.received(frame)
            case engineio_packet.PONG:
                if self._heartbeat.pong():
                    self.receiver.answered()
            case engineio_packet.CLOSE:
                self._end(Reason.TRANSPORT_CLOSE)
                self._finish()
            case _:
                raise InvalidPacketError("an Engine.IO packet that clients do not send")

    async def wait_for_room(self) -> None:
        """Return once the receiver takes more. To be awaited before the next frame is read."""
        if self.receiver.is_full:
            self._heartbeat.pause()
            try:
                await self.receiver.wait_for_room()
            finally:
                self._heartbeat.resume()

    async def drained(self) -> None:
        """Return once the client has taken most of what was queued, or has gone."""
        self.outlet.flush()
        while self.is_open and self._unsent:
            self._changed.clear()
            await self._changed.wait()

    def _end(self, reason: Reason) -> bool:
        if not self.is_open:
            return False
        # Ahead of the close frame.
        self.outlet.flush()
        self.is_open = False
        self._heartbeat.stop()
        self.receiver.closed(reason)
        return True

    def _finish(self) -> None:
        """Nothing is sent any more."""
        if self._is_over:
            return
        self._is_over = True
        if self._deadline is not None:
            self._deadline.cancel()
        self._unsent.clear()
        self._unsent_bytes = 0
        self._changed.set()
        self._forget(self)

    def _cut(self) -> None:
        self._finish()
        self.outlet.abort()

    def _give_up(self) -> None:
        # A poll that is held open wants an answer; a client that does not even poll takes nothing.
        if self._is_websocket or self._is_polled:
            self.close(Reason.PING_TIMEOUT)
        else:
            self.abort(Reason.PING_TIMEOUT)

    def _take_unsent(self, most: int | None = None) -> list[Frame]:
        count = len(self._unsent) if most is None else min(most, len(self._unsent))
        frames = [self._unsent.popleft() for _ in range(count)]
        self._unsent_bytes -= sum(len(frame.payload) for frame in frames)
        self._changed.set()
        return frames
