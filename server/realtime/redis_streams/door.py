"""The way into the stream: one script puts a batch in, in order, each entry once.

Order is made here and nowhere else. An entry with a gapless order comes in right behind the one before it of
its key; any other entry of a server comes in if no later one of that server has.
"""

from collections.abc import Sequence
from secrets import token_urlsafe

import msgspec

from server.redis_client import Client

# A key, or a server, of which nothing came in for so long is one that the door does not know. Of the first
# that comes in of such a key (`f`) it is not known whether the stream has, or ever will, what is before it.
_KNOWN_S = 86_400
# Scripts count in doubles, which hold every `rev` there will be. What may have been in the stream of an epoch
# before, and so been told, begins another one: nobody goes on from before it. What a script has done when it
# fails is not undone: it adds first.
_PUBLISH = """
redis.replicate_commands()
local stream, epoch_key = KEYS[1], KEYS[2]
local prefix, retention_ms, most, known_s, fresh = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
local epoch = redis.call('GET', epoch_key)
if not epoch then
  epoch = fresh
  redis.call('SET', epoch_key, epoch)
end
local results, is_renewed = {}, false
for i = 6, #ARGV, 5 do
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
    redis.call('XADD', stream, '*', 'v', '1', 'e', epoch, 'd', ARGV[i + 3], 'f', is_first and '1' or '')
    redis.call('SET', key, ARGV[i + 2], 'EX', known_s)
    results[#results + 1] = -1
  end
end
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

GAPLESS, NUMBERED = "gapless:", "numbered:"


class Passage(msgspec.Struct, frozen=True, kw_only=True):
    """An entry before the door: `kind` GAPLESS or NUMBERED, its place, and its bytes.

    `tried_in`: the epoch in which it may have come in already, without anybody here knowing.
    """

    kind: str
    key: str
    number: int
    data: bytes
    tried_in: str = ""


class Door:
    """The stream `name` of one Redis. Each method raises one of `redis_client.FAILURES`."""

    def __init__(self, client: Client, name: str, *, retention_s: float, most_entries: int) -> None:
        self.stream = f"{name}:stream"
        self._epoch_key = f"{name}:epoch"
        self._prefix = f"{name}:last:"
        self._retention_ms = int(retention_s * 1000)
        self._most_entries = most_entries
        self._client = client
        self._publish = client.register_script(_PUBLISH)
        self._begin_epoch = client.register_script(_BEGIN_EPOCH)

    async def publish(self, batch: Sequence[Passage]) -> list[int | None]:
        """Put them in, up to the first one that is too early.

        Of each that was looked at: None, it is in now; 0, it was in before, or a later one is; more: it
        is too early, and the last one looked at; to this number its key has come.
        """
        arguments: list[str | int | bytes] = [
            self._prefix,
            self._retention_ms,
            self._most_entries,
            _KNOWN_S,
            token_urlsafe(6),
        ]
        for each in batch:
            arguments += (each.kind, each.key, each.number, each.data, each.tried_in)
        answers = await self._publish(keys=[self.stream, self._epoch_key], args=arguments)
        return [None if answer < 0 else int(answer) for answer in answers]

    async def begin_epoch(self, known: str) -> str:
        """The epoch that comes after `known`: a new one, unless another server has begun it already."""
        answer = await self._begin_epoch(keys=[self.stream, self._epoch_key], args=[known, token_urlsafe(6)])
        return str(answer, "ascii")
