"""Presence and typing of all servers together, kept in Redis. `redis_scripts` says how."""

import asyncio
import contextlib
import itertools
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from server.ephemeral.base import Arrival, StatusChange, Typing
from server.ephemeral.memory import Claims
from server.ephemeral.redis_line import AwayError, Line
from server.ephemeral.redis_own import OwnConnections, arguments, entry
from server.ephemeral.redis_scripts import (
    ABANDON,
    ARRIVE,
    BEAT,
    CLAIM,
    LEAVE,
    ONLINE,
    PUT_BACK,
    REAP,
    REAP_TYPING,
    START_TYPING,
    STOP_TYPING,
    Script,
)
from server.telemetry import get_logger, new_error_id

PREFIX = "{tertulia}:p:"
"""The braces keep all keys on one server of a Redis Cluster."""

# What one call of a script goes through at most, so that Redis is not held up.
_MOST = 1000
_LATE_TYPING_MS = 2000
_log = get_logger(__name__)


class Times(Struct, frozen=True, kw_only=True):
    """Seconds. People of a server that died are offline `lease_s` after it last renewed, at the latest.

    A lease is renewed every `renew_s`. When nobody has renewed for `gap_s`, Redis was away: then nobody is
    declared gone for `settle_s`, in which each server comes back, as each tries every `probe_s`.
    """

    lease_s: float = 15.0
    renew_s: float = 3.0
    gap_s: float = 6.0
    settle_s: float = 4.0
    probe_s: float = 1.0


class RedisEphemeral:
    """The guarantees of `Ephemeral` for all servers that share a Redis, its database and `prefix`.

    While Redis is away connections are remembered, and put back when it is there again; typing is lost.
    A call then waits for at most `timeout_s`, and most do not wait at all.
    """

    def __init__(
        self,
        url: str,
        *,
        node: str,
        timeout_s: float = 1.0,
        times: Times | None = None,
        prefix: str = PREFIX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`node` is this server's name, for who looks into Redis. Raises RedisRefusedError.

        By `clock` (seconds) goes what is known here alone; all that servers share goes by the clock of Redis.
        """
        self._times = times or Times()
        # Whoever is to tell of a change and has not asked for others for so long may have died.
        self._retry_ms = round(self._times.lease_s * 1000)
        self._prefix = prefix
        self._wake = asyncio.Event()
        self._line = Line(url, timeout_s=timeout_s, broken=self._wake.set)
        # Of this run alone: a server that is started again has nothing to do with what the last one left.
        self._name = f"{node.replace('|', '-')}~{secrets.token_hex(4)}"
        self._numbers = itertools.count(1)
        self._node = self._next_node()
        self._abandoned: list[str] = []
        self._clock = clock
        self._own = OwnConnections(clock=clock)
        self._typed: dict[str, set[Typing]] = {}
        self._claims = Claims(clock=clock)
        self._named: list[str] = []
        self._one_beat = asyncio.Lock()
        self._beating: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take a lease, and renew it from now on. Redis may be away."""
        await self.beat()
        self._beating = asyncio.create_task(self._keep_beating(), name="ephemeral.beat")

    async def close(self) -> None:
        """Stop renewing. What is still held runs out with the lease, as do the graces of those who left."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
        await self._line.close()

    async def arrive(self, user_id: str, connection_id: str, most: int | None = None) -> Arrival:
        """Hold a lease."""
        own = self._own.begin(user_id, connection_id)
        named = entry(self._node, own)
        call = self._send(ARRIVE, self._node, named, user_id, most or 0, self._retry_ms)
        with contextlib.suppress(AwayError):
            answer = await call
            if answer is not None:
                came, *surplus = _texts(answer)
                self._own.arrived(own, is_told=bool(came))
                return Arrival(self._change(came, 0) if came else None, surplus)
            # Redis knows nothing of this server: the next beat puts back what is here, this one too.
            self._wake.set()
        return Arrival(None, self._own.surplus(user_id, most))

    async def leave(self, user_id: str, connection_id: str, grace_s: float) -> None:
        """Let the lease run out in `grace_s`."""
        own = self._own.end(user_id, connection_id, grace_s)
        if own is not None:
            call = self._send(LEAVE, self._node, entry(self._node, own), round(grace_s * 1000))
            with contextlib.suppress(AwayError):
                if await call:
                    self._own.ended(user_id, grace_s)
                else:
                    self._wake.set()

    async def reap(self) -> list[StatusChange]:
        """The people whose last lease has run out, and those put back whom others believe offline."""
        self._claims.sweep()
        # To ask again is to have told of those who were named before.
        named, asked_at_s = tuple(self._named), self._clock()
        try:
            answer = await self._send(REAP, _MOST, self._retry_ms, *named)
        except AwayError:
            return []
        self._named = self._named[len(named) :]
        now = int(answer[0])
        if now:
            self._own.reaped(asked_at_s)
        return [self._change(each, now) for each in _texts(answer[1:])]

    def _change(self, named: str, now: int) -> StatusChange:
        """What Redis names USER|VERSION|ENDED, which this server tells of before it asks for more."""
        self._named.append(named)
        user_id, version, ended = named.rsplit("|", 2)
        ago_s = max(0.0, now - float(ended)) / 1000 if ended else 0.0
        return StatusChange(user_id=user_id, is_online=not ended, version=int(version), ago_s=ago_s)

    async def online(self, user_ids: set[str]) -> set[str]:
        """Those of these people who are online; while Redis is away those who are here."""
        here = self._own.online(user_ids)
        elsewhere = user_ids - here
        if not elsewhere:
            return here
        try:
            return here | set(_texts(await self._send(ONLINE, *elsewhere)))
        except AwayError:
            return here

    async def start_typing(self, typing: Typing, connection_id: str, ttl_s: float, most: int) -> bool:
        """Show it for `ttl_s` more. False when it is not shown."""
        self._typed.setdefault(connection_id, set()).add(typing)
        by, ttl_ms = f"{self._name}|{connection_id}", round(ttl_s * 1000)
        try:
            return bool(await self._send(START_TYPING, typing.room_id, typing.user_id, by, ttl_ms, most))
        except AwayError:
            return False

    async def stop_typing(self, typing: Typing) -> bool:
        """True when it was shown."""
        return bool(await self._stop_typing("", [typing]))

    async def stop_typing_from(self, connection_id: str) -> list[Typing]:
        """End what this connection began. One that has never typed costs nothing."""
        typed = self._typed.pop(connection_id, None)
        return await self._stop_typing(f"{self._name}|{connection_id}", list(typed)) if typed else []

    async def _stop_typing(self, by: str, typing: list[Typing]) -> list[Typing]:
        pairs = [text for each in typing for text in (each.room_id, each.user_id)]
        try:
            return _typings(await self._send(STOP_TYPING, by, *pairs))
        except AwayError:
            return []

    async def reap_typing(self) -> list[Typing]:
        """End what has run out of what began here, and what others should have ended."""
        try:
            return _typings(await self._send(REAP_TYPING, f"{self._name}|", _LATE_TYPING_MS, _MOST))
        except AwayError:
            return []

    async def claim(self, name: str, ttl_s: float) -> bool:
        """True for the first who asks; while Redis is away for the first on this server."""
        if self._claims.is_taken(name):
            return False
        try:
            left_ms = int(await self._send(CLAIM, name, round(ttl_s * 1000)))
        except AwayError:
            return self._claims.take(name, ttl_s)
        # So many ask about one that is taken that they are not all to ask Redis.
        self._claims.take(name, left_ms / 1000 if left_ms else ttl_s)
        return left_ms == 0

    async def beat(self) -> None:
        """Renew the lease; begin anew where Redis was away, or knows nothing of this server any more."""
        times = self._times
        durations = [round(each * 1000) for each in (times.lease_s, times.gap_s, times.settle_s)]
        async with self._one_beat:
            with contextlib.suppress(AwayError):
                if not self._line.is_open:
                    await self._line.open()
                    await self._begin_anew(durations)
                elif not await self._send(BEAT, self._node, 0, *durations):
                    await self._begin_anew(durations)
                else:
                    self._own.heard()

    async def _begin_anew(self, durations: list[int]) -> None:
        """Take another name and put back under it all that is here, before anything else is said.

        What the old one held is removed by and by; commands of it that come late find that it has no lease.
        """
        self._abandoned.append(self._node)
        self._node = self._next_node()
        kept = list(self._own.kept(self._node))
        chunks = [kept[at : at + _MOST] for at in range(0, len(kept), _MOST)]
        begun = self._send(BEAT, self._node, 1, *durations)
        calls = [self._send(PUT_BACK, self._node, f"{self._name}.", *arguments(each)) for each in chunks]
        done = self._send(ABANDON, *self._abandoned)
        answers = await asyncio.gather(begun, *calls, done, return_exceptions=True)
        for chunk, answer in zip(chunks, answers[1:-1], strict=True):
            if isinstance(answer, list):
                self._own.put_back(chunk, set(_texts(answer)))
        if not isinstance(answers[-1], BaseException):
            self._abandoned.clear()

    async def _keep_beating(self) -> None:
        while True:
            if self._line.is_open:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), self._times.renew_s)
            self._wake.clear()
            if not self._line.is_open:
                await asyncio.sleep(self._times.probe_s)
            try:
                await self.beat()
            except Exception:  # noqa: BLE001 - logged; without another beat all people here were gone
                _log.exception("ephemeral.beat_failed", error_id=new_error_id())

    def _send(self, script: Script, *args: str | int) -> asyncio.Future[Any]:
        return self._line.send(script, self._prefix, *args)

    def _next_node(self) -> str:
        return f"{self._name}.{next(self._numbers)}"


def _texts(answer: Sequence[bytes]) -> list[str]:
    return [each.decode() for each in answer]


def _typings(answer: Sequence[bytes]) -> list[Typing]:
    texts = _texts(answer)
    return [Typing(*pair) for pair in zip(texts[::2], texts[1::2], strict=True)]
