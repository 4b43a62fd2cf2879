"""A bus of several servers over one Redis stream: what comes out of it is told, in one order everywhere.

While Redis is away each server tells its own connections alone: what has a gapless order from the source,
the rest as it was published. Offsets are `!` then, and until the stream has caught up with what was told.
"""

import asyncio
import time
from collections.abc import Collection, Sequence
from secrets import token_urlsafe

import msgspec

from server.realtime.bus import (
    BusAwayError,
    BusRefusedError,
    Control,
    ControlHandler,
    Emit,
    Source,
    SourceAwayError,
)
from server.realtime.packets import EventPacket, encode_event
from server.realtime.recovery import Trail
from server.realtime.redis_streams import entries
from server.realtime.redis_streams.door import Door
from server.realtime.redis_streams.entries import (
    ControlEntry,
    EchoEntry,
    EmitEntry,
    Entry,
    RepairEntry,
    TakeoverEntry,
)
from server.realtime.redis_streams.fallback import Fallback, kept_up, stop
from server.realtime.redis_streams.origins import Origins
from server.realtime.redis_streams.outbox import Out, Outbox
from server.realtime.redis_streams.publisher import Publisher
from server.realtime.redis_streams.reader import Reader, Taken
from server.realtime.redis_streams.recovery import DEFAULT_NAME, INEXACT, SharedRecovery
from server.realtime.redis_streams.tracks import Tracks
from server.realtime.server import Server
from server.redis_client import FAILURES, Client, RedisRefusedError, check, refusal, unreachable
from server.telemetry import get_logger, new_error_id

log = get_logger(__name__)

_OPEN_TIMEOUT_S = 10.0
_CLOSE_TIMEOUT_S = 2.0
_PATIENCE_S = 5.0


class RedisBusOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`name` begins every key in Redis; the rest bounds the stream and what is not in it yet.

    `retention_s` is at least as long as a client may be away with its death unnoticed.
    """

    name: str = DEFAULT_NAME
    retention_s: float = 180.0
    most_entries: int = 100_000
    most_unsent: int = 10_000
    most_unsent_bytes: int = 32 * 1024 * 1024


DEFAULTS = RedisBusOptions()


class RedisBus:
    """The guarantees of `Bus` for the servers of one Redis."""

    def __init__(
        self,
        server: Server,
        source: Source,
        recovery: SharedRecovery,
        clients: tuple[Client, Client],
        *,
        namespace: str,
        options: RedisBusOptions = DEFAULTS,
    ) -> None:
        """`recovery` is the namespace's; the clients are one to write and one that waits for what to read."""
        self.node = token_urlsafe(9)
        self._server = server
        self._source = source
        self._namespace = namespace
        self._recovery = recovery
        self._handlers: list[ControlHandler] = []
        self._outbox = Outbox(most_entries=options.most_unsent, most_bytes=options.most_unsent_bytes)
        self._writing, self._reading = clients
        self._door = Door(
            self._writing,
            options.name,
            retention_s=options.retention_s,
            most_entries=options.most_entries,
            heard=self._heard,
            broken=self._broken,
        )
        self._reader = Reader(
            self._reading, self._door.stream, self._take, self._lost, self._skipped, listen=self._door.open
        )
        self._tracks = Tracks(source, self._tell_here, self._is_anybody_in, self._owe, recovery.begin_anew)
        self._fallback = Fallback(
            self._outbox, self._tracks, source, deal=self._deal_with_own, give_up=self.read_anew
        )
        self._publisher = Publisher(
            self._door,
            self._outbox,
            source,
            namespace=namespace,
            node=self.node,
            epoch=lambda: self._epoch,
            failed=self._fallback.went_away,
        )
        recovery.join(self)
        self._tasks: list[asyncio.Task[None]] = []
        self._epoch = ""
        self._is_live = False
        self._origins = Origins()

    @property
    def is_exact(self) -> bool:
        """Whether a connection has been told what the stream has brought, no more and no less."""
        return not (
            self._fallback.is_away
            or self._fallback.must_read_anew
            or self._outbox.told
            or self._tracks.ahead
            or self._tracks.broken
        )

    async def start(self) -> None:
        """Read what stands in the stream, then begin to write and to hear."""
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(_OPEN_TIMEOUT_S):
                await check(self._writing)
                await self._door.open()
                self._epoch = await self._door.begin_epoch("")
                self._recovery.begin_epoch(self._epoch, await self._reader.open())
                await self._reader.catch_up()
                await self._tracks.require_stored()
        except RedisRefusedError as error:
            raise BusRefusedError(str(error)) from None
        except FAILURES as error:
            raise BusRefusedError(refusal(error) or unreachable(error, time.monotonic() - began_s)) from None
        self._is_live = True
        loops = [self._reader.run, self._publisher.run, self._recovery.run]
        loops += [self._fallback.deal, self._fallback.watch]
        self._tasks = [asyncio.create_task(kept_up(loop), name="bus") for loop in loops]
        try:
            await self._fallback.heard(_OPEN_TIMEOUT_S)
        except TimeoutError:
            raise BusRefusedError(
                f"Redis does not take what is written within {_OPEN_TIMEOUT_S:g} s. "
                "See the log for what it says; the URL has to be that of a primary with free memory."
            ) from None

    async def close(self) -> None:
        """Publish what waits and write down who is away, for a bounded time; then stop."""
        if self._tasks:
            await self._publisher.flush(_CLOSE_TIMEOUT_S)
            await self._recovery.flush(_CLOSE_TIMEOUT_S)
        await stop(self._tasks)
        self._door.close()
        for client in (self._reading, self._writing):
            await client.aclose()

    def subscribe(self, handler: ControlHandler) -> None:
        """Have each control handled."""
        self._handlers.append(handler)

    def is_heard(self) -> bool:
        """Whether an entry of this server's has come back that it wrote a moment ago."""
        return self._fallback.is_heard

    async def follow(self, keys: Collection[str]) -> None:
        """As `Bus.follow`."""
        await self._tracks.follow(keys)

    def owe(self, key: str, first: int, last: int) -> None:
        """As `Bus.owe`."""
        self._outbox.owe(key, first, last)
        self._publisher.wake()

    def read_anew(self) -> None:
        """As `Bus.read_anew`."""
        self._add(self._publisher.numbered(RepairEntry(self.node, self._outbox.next_number())))

    async def publish(self, published: Sequence[Emit | Control]) -> None:
        """As `Bus.publish`."""
        outs = []
        for each in published:
            try:
                outs.append(self._publisher.out(each))
            except Exception:
                name = each.event if isinstance(each, Emit) else each.name
                log.exception("realtime.entry_failed", error_id=new_error_id(), name=name)
        for out in outs:
            self._add(out)
        if self._outbox.is_full:
            await self._publisher.room(_PATIENCE_S)
        last = next((out for out in reversed(outs) if isinstance(out.entry, ControlEntry)), None)
        if last is not None:
            await self._dealt_with(last)

    def relay(self, packet: EventPacket, trail: Trail) -> None:
        """Send an event to one connection by way of the stream, so that it has an offset."""
        number = self._outbox.next_number()
        opening, attachments = packet.parts
        entry = EmitEntry(
            self.node,
            number,
            rooms=(trail.pid,),
            except_rooms=(),
            volatile=False,
            key="",
            rev=0,
            pid=trail.pid,
            opening=opening,
            attachments=attachments,
        )
        self._add(self._publisher.numbered(entry))

    def ask_for(self, pid: str) -> None:
        """Have whoever has this connection let go of it."""
        self._add(self._publisher.numbered(TakeoverEntry(self.node, self._outbox.next_number(), pid)))

    # Publishing

    def _add(self, out: Out) -> None:
        if isinstance(out.entry, ControlEntry):
            out.done = asyncio.get_running_loop().create_future()
        self._outbox.add(out)
        self._fallback.wake()
        self._publisher.wake()

    async def _dealt_with(self, out: Out) -> None:
        assert out.done is not None  # noqa: S101 - a control has it
        done, _ = await asyncio.wait([out.done], timeout=_PATIENCE_S)
        if out.is_strict and not (done and out.done.result()):
            raise BusAwayError

    # What the stream brings

    def _heard(self, published: bytes) -> None:
        self._reader.heard(published)

    def _broken(self) -> None:
        self._reader.doubt()

    async def _take(self, taken: Taken) -> None:
        async with self._fallback.dealing:
            if self._reader.has_more:
                self._server.hold()
            if taken.epoch != self._epoch:
                self._begin_epoch(taken.epoch, taken.position - 1)
            try:
                entry = entries.decode(taken.data)
            except msgspec.MsgspecError:
                log.error("bus.entry_skipped", reason="it does not decode", position=taken.position)  # noqa: TRY400 - no trace of it helps
                self._skipped(taken.position)
                return
            try:
                if taken.is_first and isinstance(entry, EmitEntry):
                    self._recovery.doubt(entry.rooms, taken.position)
                    if not self._tracks.is_known(entry.key):
                        self._recovery.begin_anew(entry.rooms)
                await self._deal(entry, taken.position)
            except Exception:
                log.exception("realtime.entry_failed", error_id=new_error_id())
            if entry.node == self.node and entry.number:
                self._came_back(entry.number)
            self._recovery.advance(taken.position)

    async def _deal(self, entry: Entry, position: int) -> None:
        is_told = entry.node == self.node and entry.number in self._outbox.told
        is_live = self._origins.is_new(entry) and self._is_live and not is_told
        entry = entries.lost(entry)
        if isinstance(entry, EmitEntry):
            if entry.key:
                if self._is_live:  # what stands in the stream at the start may be newer than the source
                    self._source.passed(entry.key, entry.rev, entry.memo)
                is_live = await self._tracks.admit(entry.key, entry.rev, is_live=is_live)
            # What is of no use later is of none to who has been deaf.
            self._emit(entry, position, is_live=is_live and not (entry.volatile and self._fallback.is_away))
        elif not is_live:
            return
        elif isinstance(entry, ControlEntry):
            await self._handle(entry)
        elif isinstance(entry, TakeoverEntry):
            self._recovery.abandon(entry.pid)
        elif isinstance(entry, RepairEntry):
            self._fallback.read_anew()
        elif isinstance(entry, EchoEntry) and entry.node == self.node:
            self._fallback.heard_at(entry.at_s)

    def _skipped(self, position: int) -> None:
        """What came there is not known here: nobody goes on from before it."""
        self._recovery.begin_epoch(self._epoch, position)
        if self._is_live:
            self._fallback.read_anew()

    def _emit(self, entry: EmitEntry, position: int, *, is_live: bool) -> None:
        packet, rooms, except_rooms = entry.packet, frozenset(entry.rooms), frozenset(entry.except_rooms)
        if entry.volatile or not rooms:
            offset = self._recovery.offset()
        else:
            offset = self._recovery.record(packet, rooms, except_rooms, position)
        if not is_live:
            return
        if entry.pid:
            self._recovery.deliver(entry.pid, packet, offset)
        else:
            self._send(packet, offset, rooms, except_rooms, volatile=entry.volatile)

    def _send(
        self,
        packet: EventPacket,
        offset: str,
        rooms: Collection[str],
        except_rooms: Collection[str],
        *,
        volatile: bool,
    ) -> None:
        self._server.deliver(
            packet,
            offset,
            namespace=self._namespace,
            rooms=rooms,
            except_rooms=except_rooms,
            volatile=volatile,
        )

    async def _handle(self, entry: ControlEntry) -> None:
        control = Control(name=entry.name, data=entry.data)
        for handler in self._handlers:
            try:
                await handler(control)
            except Exception:
                log.exception("realtime.entry_failed", error_id=new_error_id(), name=entry.name)

    def _came_back(self, number: int) -> None:
        self._outbox.came_back(number)
        for lost, is_told in self._outbox.overtaken(number):
            self._publisher.again(lost, is_told=is_told)
        for key, last in self._outbox.passed(number).items():
            self._tracks.passed(key, last)

    async def _lost(self, position: int) -> None:
        """What was read last is gone from the stream: trimmed, or Redis is another one than it was."""
        log.warning("bus.lost")
        self._begin_epoch(await self._door.begin_epoch(self._epoch), position)

    def _begin_epoch(self, epoch: str, position: int) -> None:
        log.info("bus.epoch_began")
        self._origins.end_epoch(self._epoch)
        self._epoch = epoch
        self._recovery.begin_epoch(epoch, position)
        self._outbox.fences.clear()
        self._tracks.begin_anew()
        if self._is_live:
            self._fallback.read_anew()

    # While Redis is away

    async def _deal_with_own(self, out: Out) -> None:
        number, entry = out.entry.number, entries.lost(out.entry)
        if isinstance(entry, ControlEntry):
            self._outbox.told[number] = out
            await self._handle(entry)
        elif isinstance(entry, EmitEntry) and entry.key:
            out.is_void = True
            self._owe(entry.key, entry.rev, entry.rev)
            try:
                await self._tracks.repair([entry.key])
            except SourceAwayError:
                self._tracks.broken.add(entry.key)
        elif isinstance(entry, EmitEntry) and entry.volatile:
            out.is_void = True
        elif isinstance(entry, EmitEntry):
            self._outbox.told[number] = out
            if entry.pid:
                self._recovery.deliver(entry.pid, entry.packet, INEXACT)
            else:
                self._send(entry.packet, INEXACT, entry.rooms, entry.except_rooms, volatile=False)

    def _tell_here(self, emit: Emit) -> None:
        packet = encode_event(self._namespace, emit.event, emit.data)
        self._send(packet, INEXACT, emit.rooms, emit.except_rooms, volatile=emit.volatile)

    def _owe(self, key: str, first: int, last: int) -> None:
        self._outbox.owe(key, first, last)
        self._publisher.wake()

    def _is_anybody_in(self, room: str) -> bool:
        return self._server.namespaces[self._namespace].rooms.has_members(room)
