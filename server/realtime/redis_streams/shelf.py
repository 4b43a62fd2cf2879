"""The records of recoverable connections in Redis, each written by the one server that has the connection."""

import asyncio
from typing import NamedTuple

import msgspec

from server.realtime.packet_log import Stay
from server.realtime.recovery import Trail
from server.redis_client import FAILURES, Client
from server.telemetry import Repeats, get_logger

log = get_logger(__name__)

_MOST_WAITING = 200_000
_PAGE = 200
_GATHER_S = 0.005
_RETRY_S = 0.5

# KEYS: the record, its owner's index, its sid's index. ARGV: generation, state, ttl_ms, pid, record.
_WRITE = """
redis.replicate_commands()
local generation = tonumber(redis.call('HGET', KEYS[1], 'generation') or '0')
if generation > tonumber(ARGV[1]) then return 0 end
if ARGV[2] == 'over' then
  redis.call('DEL', KEYS[1], KEYS[3])
  redis.call('ZREM', KEYS[2], ARGV[4])
  return 1
end
redis.call('HSET', KEYS[1], 'generation', ARGV[1], 'state', ARGV[2], 'record', ARGV[5])
if ARGV[2] == 'away' then redis.call('HDEL', KEYS[1], 'doubted') end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local now_s = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now_s)
redis.call('ZADD', KEYS[2], now_s + 1 + math.ceil(ARGV[3] / 1000), ARGV[4])
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[2], ARGV[3]) end
redis.call('SET', KEYS[3], KEYS[1], 'PX', ARGV[3])
return 1
"""
# KEYS: the record. ARGV: ttl_ms, the generation from which it is taken although it is not away (0: none).
_TAKE = """
local known = redis.call('HMGET', KEYS[1], 'generation', 'state', 'record', 'doubted')
if not known[1] or known[2] == 'forgotten' then return {} end
if known[2] ~= 'away' and known[1] ~= ARGV[2] then return {tonumber(known[1]), known[2]} end
if known[2] ~= 'away' and known[4] then return {} end
local generation = tonumber(known[1]) + 1
redis.call('HSET', KEYS[1], 'generation', generation, 'state', 'here')
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return {generation, known[2], known[3]}
"""
# KEYS: the index. ARGV: 'sid', or 'owner' and the prefix of its records.
# Of an owner those are forgotten that are away. What becomes of those that are here their servers know: they
# are doubted until their server has let go of them, and not taken from one that does not.
_FORGET = """
local function forget(key)
  if redis.call('EXISTS', key) == 1 then
    redis.call('HINCRBY', key, 'generation', 1)
    redis.call('HSET', key, 'state', 'forgotten', 'record', '')
  end
end
if ARGV[1] == 'sid' then
  local key = redis.call('GET', KEYS[1])
  if key then forget(key) end
  return 1
end
for _, pid in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local key = ARGV[2] .. pid
  local state = redis.call('HGET', key, 'state')
  if state == 'away' then forget(key) elseif state == 'here' then redis.call('HSET', key, 'doubted', 1) end
end
return 1
"""


class Record(msgspec.Struct, frozen=True, array_like=True):
    """What another server has to know of a connection; see `Trail`."""

    sid: str
    start: int
    received: int
    stays: dict[str, list[Stay]]
    kept: dict[str, Stay]


class Taken(NamedTuple):
    """A record, if it was away or taken by force, and its generation.

    `is_whole`: whoever had the connection wrote it when it ended; else it is what was known a while ago.
    """

    generation: int
    is_away: bool
    record: bytes | None
    is_whole: bool


class Shelf:
    """Writes are gathered and done soon, the newest of each connection; while Redis is away they wait."""

    def __init__(self, client: Client, name: str, *, max_away_s: float, ping_s: float) -> None:
        self._client = client
        self._name = f"{name}:away"
        self._away_ms = int(max_away_s * 1000)
        # A record lives as long as its client may be away behind the last ping that it answered.
        self._here_ms = int((max_away_s + 2 * ping_s) * 1000)
        self._write = client.register_script(_WRITE)
        self._take = client.register_script(_TAKE)
        self._forget = client.register_script(_FORGET)
        self._waiting: dict[str, tuple[Trail, str]] = {}
        self._forgetting: list[tuple[str, str]] = []
        self._filled = asyncio.Event()
        self._writing = asyncio.Lock()
        self._failures = Repeats()

    def note(self, trail: Trail) -> None:
        """Something of a connection that is here changed."""
        self._add(trail, "here")

    def put(self, trail: Trail) -> None:
        """A connection is away."""
        self._add(trail, "away")

    def remove(self, trail: Trail) -> None:
        """A connection is over."""
        self._add(trail, "over")

    def forget(self, sid: str) -> None:
        """The connection of that sid is not to be taken."""
        self._forgetting.append(("sid", sid))
        self._filled.set()

    def forget_away(self, owner: str) -> None:
        """No connection of the owner that is away is to be taken, nor one whose server has died."""
        self._forgetting.append(("owner", owner))
        self._filled.set()

    async def take(self, pid: str, owner: str, *, by_force_of: int = 0) -> Taken | None:
        """Take a connection that is away, or one of this generation wherever it is. None: there is none.

        Raises one of FAILURES.
        """
        await self._flush()
        answer = await self._take(keys=[self._key(owner, pid)], args=[self._here_ms, by_force_of])
        if not answer:
            return None
        generation, state = int(answer[0]), answer[1]
        if len(answer) == 2:  # noqa: PLR2004 - without the record
            return Taken(generation, is_away=False, record=None, is_whole=False)
        return Taken(generation, is_away=True, record=answer[2], is_whole=state == b"away")

    async def run(self) -> None:
        """Write, until cancelled."""
        while True:
            await self._filled.wait()
            await asyncio.sleep(_GATHER_S)
            try:
                await self._flush()
            except FAILURES as error:
                if (left_out := self._failures.admit(type(error).__name__)) is not None:
                    log.warning("recovery.unwritable", reason=type(error).__name__, left_out=left_out)
                await asyncio.sleep(_RETRY_S)

    async def flush(self) -> None:
        """Write all that waits. Raises one of FAILURES."""
        await self._flush()

    def _add(self, trail: Trail, state: str) -> None:
        # The newest stands; among those not written yet it keeps its turn.
        if trail.pid in self._waiting or len(self._waiting) < _MOST_WAITING:
            self._waiting[trail.pid] = (trail, state)
            self._filled.set()

    def _key(self, owner: str, pid: str) -> str:
        return f"{self._name}:{owner}:{pid}"

    def _index(self, kind: str, name: str) -> str:
        return f"{self._name}-by-{kind}:{name}"

    async def _flush(self) -> None:
        async with self._writing:
            while self._waiting or self._forgetting:
                await self._write_page()
            self._filled.clear()

    async def _write_page(self) -> None:
        page = list(self._waiting.items())[:_PAGE]
        # Not before what was written down until then, or that could be taken all the same.
        forgetting = self._forgetting[:_PAGE] if len(self._waiting) <= _PAGE else []
        async with self._client.pipeline(transaction=False) as pipeline:
            for _, (trail, state) in page:
                await self._write(keys=self._keys(trail), args=self._arguments(trail, state), client=pipeline)
            for kind, name in forgetting:
                prefix = self._key(name, "") if kind == "owner" else ""
                await self._forget(keys=[self._index(kind, name)], args=[kind, prefix], client=pipeline)
            answers = await pipeline.execute()
        for (pid, written), is_ours in zip(page, answers, strict=False):
            if not is_ours:
                # Forgotten, or somewhere else by now. It must not come up again when the record expires.
                written[0].is_forgotten = True
            if self._waiting.get(pid) is written:
                del self._waiting[pid]
        del self._forgetting[: len(forgetting)]

    def _keys(self, trail: Trail) -> list[str]:
        return [
            self._key(trail.owner, trail.pid),
            self._index("owner", trail.owner),
            self._index("sid", trail.sid),
        ]

    def _arguments(self, trail: Trail, state: str) -> list[str | int | bytes]:
        kept = trail.current() if state == "here" else trail.kept
        record = Record(trail.sid, trail.start, trail.received, trail.stays, kept)
        return [
            trail.generation,
            state,
            self._away_ms if state == "away" else self._here_ms,
            trail.pid,
            b"" if state == "over" else msgspec.msgpack.encode(record),
        ]
