"""Where implementations of `Ephemeral` live in tests: time passes there when it is told to."""

import contextlib
import secrets
from typing import Any, Protocol

import redis

from server.ephemeral.base import Ephemeral
from server.ephemeral.memory import MemoryEphemeral
from server.ephemeral.redis import RedisEphemeral, Times
from tests.services import Clock

_STEP_S = 2.0


class EphemeralWorld(Protocol):
    """One implementation, and its time."""

    @property
    def ephemeral(self) -> Ephemeral:
        """The one of the test."""

    async def start(self) -> None:
        """Begin."""

    async def close(self) -> None:
        """End what was begun."""

    async def elapse(self, seconds: float) -> None:
        """Have time pass."""


class MemoryWorld:
    """A server alone."""

    def __init__(self) -> None:
        self._clock = Clock()
        self.ephemeral = MemoryEphemeral(clock=self._clock.s)

    async def start(self) -> None:
        await self.ephemeral.start()

    async def close(self) -> None:
        await self.ephemeral.close()

    async def elapse(self, seconds: float) -> None:
        self._clock.advance(seconds)


class RedisWorld:
    """Servers on one Redis. Its clock cannot be moved, so whatever it holds is made older instead."""

    def __init__(self, url: str, *, times: Times | None = None) -> None:
        self.times = times or Times()
        self.prefix = f"{{test-{secrets.token_hex(8)}}}:p:"
        self._url = url
        self._clock = Clock()
        self._living: list[RedisEphemeral] = []
        self.redis = redis.Redis.from_url(url)

    @property
    def ephemeral(self) -> RedisEphemeral:
        """The first of those that live."""
        return self._living[0]

    async def start(self) -> None:
        """Start one server, and wait until it declares people gone."""
        await self.open()
        await self.settle()

    async def settle(self) -> None:
        """Have the time pass in which nobody is declared gone."""
        await self.elapse(self.times.settle_s + 0.1)

    async def open(self, *, timeout_s: float = 5.0) -> RedisEphemeral:
        """Start another server."""
        opened = RedisEphemeral(
            self._url,
            node=f"node{len(self._living)}",
            timeout_s=timeout_s,
            times=self.times,
            prefix=self.prefix,
            clock=self._clock.s,
        )
        await opened.start()
        self._living.append(opened)
        return opened

    async def die(self, server: RedisEphemeral) -> None:
        """Have it end without another word to Redis."""
        self._living.remove(server)
        await server.close()

    async def close(self) -> None:
        for server in list(self._living):
            await self.die(server)
        # It may have been made to fail, and what it held is gone.
        with contextlib.suppress(redis.ConnectionError):
            self.forget()
        self.redis.close()

    async def elapse(self, seconds: float) -> None:
        """Have time pass, in which the living renew their leases."""
        while seconds > 0:
            step_s = min(seconds, _STEP_S)
            self.make_older(step_s)
            for server in self._living:
                await server.beat()
            seconds -= step_s

    def make_older(self, seconds: float) -> None:
        """Have time pass, in which nobody does anything, as when Redis was paused."""
        self._clock.advance(seconds)
        past_ms = round(seconds * 1000)
        for name in ("nodes", "ending", "untold", "typing"):
            key = f"{self.prefix}{name}"
            members: Any = self.redis.zrange(key, 0, -1)
            for member in members:
                self.redis.zincrby(key, -past_ms, member)
        for key in self.stored():
            left_ms = self.redis.pttl(self.prefix + key)
            if 0 <= left_ms <= past_ms:
                self.redis.delete(self.prefix + key)
            elif left_ms > 0:
                self.redis.pexpire(self.prefix + key, left_ms - past_ms)

    def stored(self) -> list[str]:
        """What Redis holds, without the prefix."""
        found = self.redis.scan_iter(match=f"{self.prefix}*", count=1000)
        return sorted(key.decode().removeprefix(self.prefix) for key in found)

    def forget(self) -> None:
        """Have Redis lose all of it."""
        for key in self.stored():
            self.redis.delete(self.prefix + key)
