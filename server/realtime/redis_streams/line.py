"""One connection to Redis by which a server both writes and hears, with little around each call.

The library opens it (TLS, Sentinel, who asks); what it speaks from then on is RESP 3. Answers to calls come
in the order of these, and in between what is published on the channel: often both at once.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import hiredis
from redis._parsers.base import BaseParser
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError

from server.redis_client import Client

__all__ = ["Line", "NoScriptError"]

_Command = tuple[str | int | bytes, ...]
_pack: Callable[[_Command], bytes] = hiredis.pack_command  # type: ignore[assignment]  # its stub is wrong


class Line(asyncio.Protocol):
    """`heard` is given what is published on the channel, `broken` is called when the connection has ended."""

    def __init__(
        self,
        client: Client,
        channel: str,
        *,
        heard: Callable[[bytes], None],
        broken: Callable[[], None],
        timeout_s: float,
    ) -> None:
        """The connection is to where those of the client are; a call takes at most `timeout_s`."""
        self._client = client
        self._channel = channel
        self._heard = heard
        self._broken = broken
        self._timeout_s = timeout_s
        self._connection: Any = None
        self._transport: asyncio.Transport | None = None
        self._reader: Any = None
        # What is awaited, and until when, by the loop's clock.
        self._answers: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._expiry: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    async def open(self) -> None:
        """Connect and hear. To be called while it is closed, by one at a time. Raises one of FAILURES."""
        try:
            async with asyncio.timeout(self._timeout_s):
                pool: Any = self._client.connection_pool
                connection = pool.make_connection()
                await connection.connect()
                # It is closed when the library's own object of it goes.
                self._connection = connection
                self._reader = hiredis.Reader(replyError=BaseParser.parse_error)
                self._transport = connection._writer.transport  # noqa: SLF001 - the library gives its socket to nobody
                self._transport.set_protocol(self)
                await self.call("HELLO", "3")
                # That it is subscribed is pushed, that it may not be is answered.
                self._transport.write(_pack(("SUBSCRIBE", self._channel)))
                await self.call("PING")
        except BaseException:
            self.close()
            raise

    async def call(self, *arguments: str | int | bytes) -> Any:
        """The answer to a command. Raises one of FAILURES; whether it was done is unknown then."""
        if self._transport is None:
            raise ConnectionError("closed")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        self._answers.append((answer, loop.time() + self._timeout_s))
        # One for all calls: they are many, and their answers come in order.
        if self._expiry is None:
            self._expiry = loop.call_later(self._timeout_s, self._expire)
        self._transport.write(_pack(arguments))
        return await answer

    def close(self) -> None:
        """End it; what waits fails."""
        self._end(ConnectionError("closed"))

    # As asyncio's protocols

    def data_received(self, data: bytes) -> None:
        """Answers, and what others say."""
        self._reader.feed(data)
        try:
            # There is no answer that is the truth value.
            while self._transport is not None and (reply := self._reader.gets()) is not False:
                if isinstance(reply, hiredis.PushNotification):
                    if reply[0] == b"message":
                        self._heard(reply[2])
                else:
                    self._answer(reply)
        except hiredis.ProtocolError:
            self._end(ConnectionError("it is not Redis"))

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended."""
        self._end(exc or ConnectionError("ended"))

    def _answer(self, reply: Any) -> None:
        if not self._answers:  # behind a refusal to be subscribed, or of something that is not Redis
            self._end(ConnectionError("an answer that nobody asked for"))
            return
        answer, _ = self._answers.popleft()
        if not isinstance(reply, RedisError):
            if not answer.done():
                answer.set_result(reply)
            return
        if not answer.done():
            answer.set_exception(reply)
        if isinstance(reply, ReadOnlyError):
            # It was a primary: who is one now Sentinel says to who asks anew.
            self._end(ConnectionError("not a primary any more"))

    def _expire(self) -> None:
        self._expiry = None
        if not self._answers:
            return
        loop, (_, until_s) = asyncio.get_running_loop(), self._answers[0]
        if until_s <= loop.time():
            self._end(TimeoutError())
        else:
            self._expiry = loop.call_at(until_s, self._expire)

    def _end(self, error: Exception) -> None:
        transport, self._transport = self._transport, None
        if transport is None:
            return
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        transport.abort()
        connection, self._connection = self._connection, None
        connection._reader = connection._writer = None  # noqa: SLF001 - as above
        waiting, self._answers = self._answers, deque()
        for answer, _ in waiting:
            if not answer.done():
                answer.set_exception(error)
        self._broken()
