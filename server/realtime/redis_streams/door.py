"""The way into the stream: one script puts a batch in, in order, each entry once.

Order is made here and nowhere else. An entry with a gapless order comes in right behind the one before it of
its key; any other entry of a server comes in if no later one of that server has. What comes in is published
besides, so that nobody has to ask for it, with the id before it: who hears it knows that nothing is between.
"""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from hashlib import sha1
from secrets import token_urlsafe
from typing import Any

import msgspec

from server.realtime.redis_streams.line import Line, NoScriptError
from server.redis_client import Client

# A key, or a server, of which nothing came in for so long is one that the door does not know. Of the first
# that comes in of such a key (`f`) it is not known whether the stream has, or ever will, what is before it.
_KNOWN_S = 86_400
# Scripts count in doubles, which hold every `rev` there will be. What may have been in the stream of an epoch
# before, and so been told, begins another one: nobody goes on from before it. What a script has done when it
# fails is not undone: it adds first.
# Published is `version before epoch id first size id first size…`, a new line, and the entries one behind the
# other.
_PUBLISH = """
redis.replicate_commands()
local stream, epoch_key = KEYS[1], KEYS[2]
local prefix, retention_ms, most, known_s, fresh = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
local channel = ARGV[6]
local before = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)
local head, entries, in_epoch = {'1', before[1] and before[1][1] or '0-0', ''}, {}, nil
local function tell()
  if #entries == 0 then return end
  head[3] = in_epoch
  redis.call('PUBLISH', channel, table.concat(head, ' ') .. '\\n' .. table.concat(entries))
  head, entries = {'1', head[#head - 2], ''}, {}
end
local epoch = redis.call('GET', epoch_key)
if not epoch then
  epoch = fresh
  redis.call('SET', epoch_key, epoch)
end
local results, is_renewed = {}, false
for i = 7, #ARGV, 5 do
  local kind, key, number = ARGV[i], prefix .. ARGV[i] .. ARGV[i + 1], tonumber(ARGV[i + 2])
  local tried_in = ARGV[i + 4]
  local last = tonumber(redis.call('GET', key))
  local is_first = not last and kind == 'gapless:' and number > 1
  if not last then last = kind == 'gapless:' and number - 1 or 0 end
  if number <= last then
    results[#results + 1] = 0
  elseif kind == 'gapless:' and number > last + 1 then
    results[#results + 1] = last
    break
  else
    if tried_in ~= '' and tried_in ~= epoch and not is_renewed then
      epoch, is_renewed = fresh, true
      redis.call('SET', epoch_key, epoch)
    end
    local data, first = ARGV[i + 3], is_first and '1' or ''
    local id = redis.call('XADD', stream, '*', 'v', '1', 'e', epoch, 'd', data, 'f', first)
    redis.call('SET', key, ARGV[i + 2], 'EX', known_s)
    if in_epoch ~= epoch then tell() end
    in_epoch = epoch
    head[#head + 1], head[#head + 2], head[#head + 3] = id, is_first and '1' or '0', #data
    entries[#entries + 1] = data
    results[#results + 1] = -1
  end
end
tell()
local time = redis.call('TIME')
redis.call('XTRIM', stream, 'MINID', '~', string.format('%.0f', time[1] * 1000 - retention_ms))
redis.call('XTRIM', stream, 'MAXLEN', '~', most)
return results
"""
# The stream was lost or has another end than was read: what was said of it before holds no longer.
_BEGIN_EPOCH = """
redis.replicate_commands()
local epoch = redis.call('GET', KEYS[2])
if not epoch or epoch == ARGV[1] then
  epoch = ARGV[2]
  redis.call('SET', KEYS[2], epoch)
end
return epoch
"""

# A Redis that calls itself otherwise than before was started anew or promoted: it may lack what was told.
_ENTER = """
redis.replicate_commands()
local known = redis.call('GET', KEYS[3])
if known ~= ARGV[1] then
  redis.call('SET', KEYS[3], ARGV[1])
  if known then redis.call('SET', KEYS[2], ARGV[2]) end
end
return 1
"""

GAPLESS, NUMBERED = "gapless:", "numbered:"


_SHA = {text: sha1(text.encode(), usedforsecurity=False).hexdigest() for text in (_PUBLISH, _ENTER)}


class Passage(msgspec.Struct, frozen=True, kw_only=True):
    """An entry before the door: `kind` GAPLESS or NUMBERED, its place, and its bytes.

    `tried_in`: the epoch in which it may have come in already, without anybody here knowing.
    """

    kind: str
    key: str
    number: int
    data: bytes
    tried_in: str = ""


def _nothing(*_: object) -> None:
    """Nobody hears."""


class Door:
    """The stream `name` of one Redis. Each method raises one of `redis_client.FAILURES`."""

    def __init__(
        self,
        client: Client,
        name: str,
        *,
        retention_s: float,
        most_entries: int,
        heard: Callable[[bytes], None] = _nothing,
        broken: Callable[[], None] = _nothing,
        timeout_s: float = 1.0,
    ) -> None:
        """`heard` is given what is published, while it is `open`; `broken` is called when it is no more."""
        self.stream = f"{name}:stream"
        self._epoch_key = f"{name}:epoch"
        self._primary_key = f"{name}:primary"
        self._prefix = f"{name}:last:"
        self._retention_ms = int(retention_s * 1000)
        self._most_entries = most_entries
        # Keys are those of a database of Redis, channels those of all of them.
        self._channel = f"{self.stream}:{client.connection_pool.connection_kwargs.get('db') or 0}"
        self._line = Line(client, self._channel, heard=heard, broken=broken, timeout_s=timeout_s)
        self._opening = asyncio.Lock()
        self._epochs = map(f"{token_urlsafe(6)}~{{:x}}".format, itertools.count())
        self._begin_epoch = client.register_script(_BEGIN_EPOCH)

    async def open(self) -> None:
        """Be open."""
        if not self._line.is_open:
            async with self._opening:
                await self._open()

    async def _open(self) -> None:
        if self._line.is_open:
            return
        await self._line.open()
        try:
            about = await self._line.call("INFO", "replication")
            (primary,) = (line for line in about.split() if line.startswith(b"master_replid:"))
            await self._run(_ENTER, primary, next(self._epochs))
        except BaseException:
            self._line.close()
            raise

    def close(self) -> None:
        """Be open no more."""
        self._line.close()

    async def publish(self, batch: Sequence[Passage]) -> list[int | None]:
        """Put them in, up to the first one that is too early.

        Of each that was looked at: None, it is in now; 0, it was in before, or a later one is; more: it
        is too early, and the last one looked at; to this number its key has come.
        """
        if not self._line.is_open:
            await self.open()
        arguments: list[str | int | bytes] = [
            self._prefix,
            self._retention_ms,
            self._most_entries,
            _KNOWN_S,
            next(self._epochs),
            self._channel,
        ]
        for each in batch:
            arguments += (each.kind, each.key, each.number, each.data, each.tried_in)
        answers = await self._run(_PUBLISH, *arguments)
        return [None if answer < 0 else int(answer) for answer in answers]

    async def begin_epoch(self, known: str) -> str:
        """The epoch that comes after `known`: a new one, unless another server has begun it already."""
        answer = await self._begin_epoch(
            keys=[self.stream, self._epoch_key], args=[known, next(self._epochs)]
        )
        return str(answer, "ascii")

    async def _run(self, script: str, *arguments: str | int | bytes) -> Any:
        keys = (3, self.stream, self._epoch_key, self._primary_key)
        try:
            return await self._line.call("EVALSHA", _SHA[script], *keys, *arguments)
        except NoScriptError:
            return await self._line.call("EVAL", script, *keys, *arguments)
