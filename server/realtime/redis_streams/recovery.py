"""Connections that any server of the cluster may take back, with what has to be known of them in Redis.

A server writes a connection's record when it is accepted, when its times in rooms change and when its client
answers a ping, so that a connection of a server that was killed is there as well. A record has a generation,
which each taking raises: who lost a connection to another server writes nothing of it any more.
"""

import asyncio
import re
from collections.abc import Collection
from contextlib import suppress
from typing import Any, Protocol
from weakref import WeakValueDictionary

import msgspec

from server.realtime.packet_log import Stay
from server.realtime.packets import EventPacket
from server.realtime.recovery import POSITION, Recovery, RecoveryOptions, Trail
from server.realtime.redis_streams.shelf import Record, Shelf, Taken
from server.realtime.session import Options
from server.redis_client import FAILURES, Client
from server.telemetry import get_logger

log = get_logger(__name__)

# It is a part of names in Redis, and comes from the client.
_PID = re.compile(r"[A-Za-z0-9_-]{1,64}")

DEFAULT_NAME = "{tertulia}"
"""Begins every key in Redis. The braces keep all of them on one server of a Redis Cluster."""

INEXACT = "!"
"""The offset of what the stream has not brought: nobody recovers from it."""

_TAKE_TIMEOUT_S = 4.0
_READ_TIMEOUT_S = 2.0
_LOOK_EVERY_S = 0.02
# How long another server may take to let go of a connection before it counts as dead.
_LET_GO_S = 1.5
_MANY_DOUBTS = 1_000


class _Bus(Protocol):
    """What is needed of the bus."""

    @property
    def is_exact(self) -> bool:
        """Whether the stream has brought what connections were told."""

    def relay(self, packet: EventPacket, trail: Trail) -> None:
        """Send an event to one connection."""

    def ask_for(self, pid: str) -> None:
        """Have its server let go of a connection."""


class SharedRecovery(Recovery):
    """As `Recovery`, over a stream: positions are the stream's, and who is away is known to all servers."""

    def __init__(self, options: RecoveryOptions, *, ping_s: float, shelf: Shelf) -> None:
        super().__init__(options, ping_s=ping_s)
        self._shelf = shelf
        self._bus: _Bus
        # By room, the position before which something may be missing from the stream.
        self._doubts: dict[str, int] = {}
        # Those that went, until their application has been told so.
        self._parting: WeakValueDictionary[str, Trail] = WeakValueDictionary()

    # For the bus

    def join(self, bus: "_Bus") -> None:
        """Use this bus. To be called before anything is connected."""
        self._bus = bus

    def begin_epoch(self, epoch: str, position: int) -> None:
        """From now on the stream is another one: nobody recovers from a position before."""
        self._epoch = epoch
        self.log.begin(position)
        for trail in self._connected.values():
            trail.start = trail.received = position
            trail.stays = {trail.pid: [Stay(since=position)]}
            for stay in trail.current().values():
                stay.since = position
            self._shelf.note(trail)

    def doubt(self, rooms: Collection[str], position: int) -> None:
        """Before it something for these rooms may be missing: nobody in them goes on from there."""
        if len(self._doubts) >= _MANY_DOUBTS:
            self._doubts = {room: at for room, at in self._doubts.items() if at > self.log.dropped}
        self._doubts.update(dict.fromkeys(rooms, position))

    def begin_anew(self, rooms: Collection[str]) -> None:
        """Have those in these rooms begin anew who went on here: they may lack what nobody tells any more."""
        for trail in list(self._connected.values()):
            if trail.generation > 1 and not trail.current().keys().isdisjoint(rooms):
                trail.is_forgotten = True
                trail.abandon()

    def advance(self, position: int) -> None:
        """The stream has come to this position, with or without a packet."""
        self.log.head = max(self.log.head, position)

    async def run(self) -> None:
        """Write the records, until cancelled."""
        await self._shelf.run()

    async def flush(self, timeout_s: float) -> None:
        """Write those that wait, if that can be done in time."""
        with suppress(*FAILURES):
            async with asyncio.timeout(timeout_s):
                await self._shelf.flush()

    def abandon(self, pid: str) -> None:
        """Let go of a connection that another server is to have."""
        if trail := self._connected.get(pid):
            trail.abandon()

    def deliver(self, pid: str, packet: EventPacket, offset: str) -> None:
        """Send an event to one connection, if it is here."""
        if trail := self._connected.get(pid):
            trail.receive(packet, offset)

    # As the base

    @property
    def is_used(self) -> bool:
        """Always: who is away may come to this server."""
        return True

    def offset(self, position: int | None = None) -> str:
        """As of the base; of what is sent now only where the stream brought it."""
        return super().offset(position) if position is not None or self._bus.is_exact else INEXACT

    def has_all(self, trail: Trail, position: int) -> bool:
        """As of the base. What others were told ahead of the stream it brings to nobody any more."""
        return (
            self._bus.is_exact
            and super().has_all(trail, position)
            and not (self._doubts and self._is_doubtful(trail, max(position, trail.received)))
        )

    def _is_doubtful(self, trail: Trail, position: int) -> bool:
        times = {room: list(stays) for room, stays in trail.stays.items()}
        for room, stay in (*trail.kept.items(), *trail.current().items()):
            times.setdefault(room, []).append(stay)
        return any(
            max(position, stay.since) < self._doubts.get(room, 0)
            for room, stays in times.items()
            for stay in stays
        )

    def record_own(self, packet: EventPacket, trail: Trail) -> str | None:
        """It goes by the stream, so that its position is the same everywhere."""
        self._bus.relay(packet, trail)
        return None

    def begin(self, sid: str, owner: str) -> Trail | None:
        """As of the base."""
        trail = super().begin(sid, owner)
        if trail is not None:
            self._shelf.note(trail)
        return trail

    def answered(self, trail: Trail, at_s: float) -> None:
        """As of the base; the record lives on."""
        super().answered(trail, at_s)
        self._shelf.note(trail)

    def changed(self, trail: Trail) -> None:
        """What another server would have to know is another now."""
        if trail.pid in self._connected:
            self._shelf.note(trail)

    def leave(self, trail: Trail, stays: dict[str, Stay]) -> None:
        """As of the base."""
        self._connected.pop(trail.pid, None)
        trail.kept = stays
        self._parting[trail.pid] = trail
        self._put(trail)

    def restore(self, trail: Trail) -> None:
        """As of the base."""
        self._connected.pop(trail.pid, None)
        self._parting[trail.pid] = trail
        self._put(trail)

    def end(self, trail: Trail) -> None:
        """As of the base."""
        self._connected.pop(trail.pid, None)
        self._shelf.remove(trail)

    def forget(self, sid: str) -> None:
        """As of the base, wherever it is."""
        for trail in self._connected.values():
            if trail.sid == sid:
                trail.is_forgotten = True
        self._shelf.forget(sid)

    def forget_away(self, owner: str) -> None:
        """As of the base, wherever they are."""
        self._shelf.forget_away(owner)

    async def take(self, pid: str, owner: str) -> Trail | None:
        """As of the base. None too when Redis does not answer in time."""
        if not _PID.fullmatch(pid):
            return None
        if parting := self._parting.get(pid):
            with suppress(TimeoutError):
                async with asyncio.timeout(_TAKE_TIMEOUT_S):
                    await parting.settled.wait()
        taking = asyncio.ensure_future(self._take(pid, owner))
        try:
            trail = await asyncio.shield(taking)
        except asyncio.CancelledError:
            # Its client went meanwhile, and may come once more.
            taking.add_done_callback(self._put_back)
            raise
        if trail is not None:
            self._connected[pid] = trail
        return trail

    async def find_position_in_time(self, trail: Trail, offset: object) -> int | None:
        """As of the base, when this server has read as far as the one that the client comes from."""
        _, _, text = offset.rpartition(".") if isinstance(offset, str) else ("", "", "")
        wanted = max(
            trail.start,
            trail.received,
            *(stay.since for stay in trail.kept.values()),
            int(text, 16) if POSITION.fullmatch(text) else 0,
        )
        until_s = asyncio.get_running_loop().time() + _READ_TIMEOUT_S
        while wanted > self.log.head or not self._bus.is_exact:
            if asyncio.get_running_loop().time() >= until_s:
                return None
            await asyncio.sleep(_LOOK_EVERY_S)
        return self.find_position(trail, offset)

    async def _take(self, pid: str, owner: str) -> Trail | None:
        try:
            async with asyncio.timeout(_TAKE_TIMEOUT_S):
                taken = await self._shelf.take(pid, owner)
                if taken is not None and not taken.is_away:
                    taken = await self._take_over(pid, owner, taken.generation)
        except FAILURES as error:
            log.warning("recovery.failed", reason=type(error).__name__)
            return None
        return _trail(pid, owner, taken) if taken is not None and taken.record is not None else None

    async def _take_over(self, pid: str, owner: str, generation: int) -> Taken | None:
        """Ask whoever has it to let go; from a server that does not answer it is taken all the same."""
        self._bus.ask_for(pid)
        loop = asyncio.get_running_loop()
        until_s = loop.time() + _LET_GO_S
        while loop.time() < until_s:
            await asyncio.sleep(_LOOK_EVERY_S)
            taken = await self._shelf.take(pid, owner)
            if taken is None or taken.is_away:
                return taken
        return await self._shelf.take(pid, owner, by_force_of=generation)

    def _put_back(self, taking: "asyncio.Future[Trail | None]") -> None:
        if not taking.cancelled() and taking.exception() is None and (trail := taking.result()) is not None:
            self._put(trail)

    def _put(self, trail: Trail) -> None:
        trail.abandon, trail.receive, trail.current = _nothing, _nothing, dict
        if trail.is_forgotten:
            self._shelf.remove(trail)
        else:
            self._shelf.put(trail)


def make_recovery(client: Client, options: Options, *, name: str = DEFAULT_NAME) -> SharedRecovery:
    """What a namespace is registered with whose bus is a `RedisBus` of this name."""
    max_away_s, ping_s = options.recovery.max_away_s, options.ping_interval_s + options.ping_timeout_s
    shelf = Shelf(client, name, max_away_s=max_away_s, ping_s=ping_s)
    return SharedRecovery(options.recovery, ping_s=ping_s, shelf=shelf)


def _nothing(*_: Any) -> None:
    """There is nobody yet, or no more."""


def _trail(pid: str, owner: str, taken: Taken) -> Trail | None:
    """The connection as its record has it; None when that does not decode."""
    try:
        record = msgspec.msgpack.decode(taken.record or b"", type=Record)
    except msgspec.MsgspecError:
        log.error("recovery.undecodable")  # noqa: TRY400 - no trace of it helps
        return None
    trail = Trail(record.sid, owner, record.start)
    trail.pid, trail.generation, trail.received = pid, taken.generation, record.received
    trail.stays, trail.kept = record.stays, record.kept
    trail.is_whole = taken.is_whole
    trail.settled.set()
    return trail
