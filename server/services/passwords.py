"""Password hashes: argon2id, on threads of its own, since one hash takes tens of milliseconds and 64 MiB."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from server.domain.errors import InvalidError, RateLimitedError

_LEAST_CHARS, _MOST_CHARS = 8, 128
_MOST_WAITING = 50
_THREADS = 2


class Passwords:
    """Hashes and verifies. Refuses with RateLimitedError when too many wait already."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="argon2")
        self._unknown_hash: str | None = None
        self._waiting = 0

    def close(self) -> None:
        """Let what is being hashed finish; nothing more is taken."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def hash(self, password: str) -> str:
        """The hash to store. Raises InvalidError unless it has 8 to 128 characters."""
        if not _LEAST_CHARS <= len(password) <= _MOST_CHARS:
            raise InvalidError("a password has 8 to 128 characters", field="password")
        return await self._run(self._hasher.hash, password)

    async def verify(self, password: str, stored: str | None) -> bool:
        """Whether it is the password. Takes as long for an account without one (None)."""
        if stored is None:
            if self._unknown_hash is None:
                self._unknown_hash = await self._run(self._hasher.hash, "no account has this hash")
            await self._run(self._check, password, self._unknown_hash)
            return False
        return await self._run(self._check, password, stored) == "right"

    def _check(self, password: str, stored: str) -> str:
        try:
            self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return "wrong"
        return "right"

    async def _run(self, work: Callable[..., str], *args: str) -> str:
        if self._waiting >= _MOST_WAITING:
            raise RateLimitedError("too many people log in at once", retry_after_ms=2000)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)
        finally:
            self._waiting -= 1
