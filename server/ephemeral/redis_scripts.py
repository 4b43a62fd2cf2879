"""What Redis decides, each in one step and by its own clock. KEYS[1] is the prefix of all keys.

nodes           sorted set: node → when its lease ends (ms). A node is one run of a server between two
                troubles: in a new one it begins anew under another name, so that commands of the old one
                that come late find no lease and change nothing
beaten, calm    there while a node has renewed its lease of late; while nobody is to be declared gone
dead            hash: node without lease, whose connections are being removed → when its lease ended (ms)
user:USER       sorted set: the person's entries NODE|GENERATION|CONNECTION → since when (µs); there while
                they are online
held:NODE       hash: the node's entries → person
ending          sorted set: entries of connections that have left → when the grace ends (ms)
untold          sorted set: USER|VERSION|ENDED who came online (ENDED is empty) or went offline → when to
                name them (again) (ms): whoever was to tell of it may have died before
version:USER    the version of the last change, so that a clock that is set back does not give a lower one
typing          sorted set: ROOM|USER → when it runs out (ms)
typing:ROOM     hash: person → NAME|CONNECTION who began it
claim:NAME      there while it is taken

What a dead server leaves is removed by any other: all is owned by a lease of `nodes` or has a time to live.
"""

import hashlib

_HEAD = """
local P = KEYS[1]
local function key(name, of) return P .. name .. (of or '') end
local clock = redis.call('TIME')
local us = clock[1] * 1000000 + clock[2]
local now = math.floor(us / 1000)
local function text(number) return string.format('%.0f', number) end
-- When a person changed last (µs), of late; 0: not of late.
local function last_version(user) return tonumber(redis.call('GET', key('version:', user)) or 0) end
local function version(user)
  local new = math.max(us, last_version(user) + 1)
  redis.call('SET', key('version:', user), text(new), 'PX', 600000)
  return new
end
local function online(user) return redis.call('EXISTS', key('user:', user)) == 1 end
-- To be named at that time, if nobody has told of it by then; what is named.
local function untold(user, ended, at)
  local change = user .. '|' .. text(version(user)) .. '|' .. ended
  redis.call('ZADD', key('untold'), at, change)
  return change
end
local function starts(long, short) return string.sub(long, 1, #short) == short end
"""


class Script:
    """A script as Redis knows it: by its `sha` once the text was loaded."""

    def __init__(self, body: str) -> None:
        self.text = _HEAD + body
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


# node, joins, lease_ms, gap_ms, settle_ms → whether it has a lease.
# Where nobody has renewed for `gap_ms`, Redis was paused or emptied: everybody gets a lease's time to do so.
BEAT = Script("""
local node, joins, lease, gap, settle = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
if redis.call('EXISTS', key('beaten')) == 0 then
  for _, each in ipairs(redis.call('ZRANGE', key('nodes'), 0, -1)) do
    redis.call('ZADD', key('nodes'), 'GT', now + lease, each)
  end
  redis.call('SET', key('calm'), 1, 'PX', settle)
end
redis.call('SET', key('beaten'), 1, 'PX', gap)
if joins == '0' and not redis.call('ZSCORE', key('nodes'), node) then return 0 end
redis.call('ZADD', key('nodes'), now + lease, node)
return 1
""")

# node… → nothing. Their connections are removed as those of the dead.
ABANDON = Script("""
for _, node in ipairs(ARGV) do
  redis.call('ZREM', key('nodes'), node)
  redis.call('HSET', key('dead'), node, now)
end
""")

# node, entry, user, most (0: any number), retry_ms → ['' or USER|VERSION| who came online, connection too
# many…]; nil: the node has no lease.
# A connection that two entries have moved from one server to another; it counts once, as the newer one.
ARRIVE = Script("""
local node, entry, user, most = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
if not redis.call('ZSCORE', key('nodes'), node) then return nil end
local answer = {''}
if not online(user) then answer[1] = untold(user, '', now + tonumber(ARGV[5])) end
redis.call('ZADD', key('user:', user), 'NX', us, entry)
redis.call('HSET', key('held:', node), entry, user)
if most == 0 or redis.call('ZCARD', key('user:', user)) <= most then return answer end
local seen, count = {}, 0
for _, each in ipairs(redis.call('ZREVRANGE', key('user:', user), 0, -1)) do
  local connection = string.match(each, '^[^|]*|[^|]*|(.*)$')
  if not seen[connection] and not redis.call('ZSCORE', key('ending'), each) then
    seen[connection] = true
    count = count + 1
    if count > most then table.insert(answer, 2, connection) end
  end
end
return answer
""")

# node, entry, grace_ms → whether it was held.
LEAVE = Script("""
local node, entry, grace = ARGV[1], ARGV[2], tonumber(ARGV[3])
if redis.call('HEXISTS', key('held:', node), entry) == 0 then return 0 end
redis.call('ZADD', key('ending'), now + grace, entry)
return 1
""")

# node, own (how all entries of this server begin), then for each connection entry, user, kind, ago_ms,
# grace_ms → [user, …] who are to be told of as having come online; nil: the node has no lease.
# `ago_ms` is for how long it has been held. `new` ones were never told. Others (`known`) that nobody holds
# were declared gone, or everything was lost: then each node puts back its own, as if nothing had been.
# Who has left (`left`, `ago_ms` ago) is offline in `grace_ms`, which may be past, unless they are back. If
# Redis has lost them they are offline for it at once, so that it is told when they come back. Who has changed
# since they left is not lost: they were declared gone, or another server has put them back already.
PUT_BACK = Script("""
local node, own = ARGV[1], ARGV[2]
if not redis.call('ZSCORE', key('nodes'), node) then return nil end
local calm = redis.call('EXISTS', key('calm')) == 1
local answer = {}
for at = 3, #ARGV, 5 do
  local entry, user, kind = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local since, ends = us - tonumber(ARGV[at + 3]) * 1000, now + tonumber(ARGV[at + 4])
  local is_elsewhere, is_known = false, false
  for _, each in ipairs(redis.call('ZRANGE', key('user:', user), 0, -1)) do
    is_known = true
    is_elsewhere = is_elsewhere or not starts(each, own)
  end
  if (kind == 'new' and not is_elsewhere) or (kind == 'known' and not is_known and not calm) then
    untold(user, '', now)
    table.insert(answer, user)
  end
  if kind == 'left' and not is_known then
    if last_version(user) <= since then untold(user, text(ends), ends) end
  elseif kind == 'left' then
    redis.call('HSET', key('held:', node), entry, user)
    redis.call('ZADD', key('user:', user), 'NX', us, entry)
    redis.call('ZADD', key('ending'), ends, entry)
  else
    redis.call('HSET', key('held:', node), entry, user)
    redis.call('ZADD', key('user:', user), 'NX', since, entry)
  end
end
return answer
""")

# most, retry_ms, USER|VERSION|ENDED that were told… → [now, USER|VERSION|ENDED…] to be told. `now` is 0 where
# nobody is declared gone at present. `most` bounds how long Redis is busy with one call.
REAP = Script("""
local most, retry = tonumber(ARGV[1]), tonumber(ARGV[2])
for at = 3, #ARGV do redis.call('ZREM', key('untold'), ARGV[at]) end
local calm = redis.call('EXISTS', key('beaten')) == 0 or redis.call('EXISTS', key('calm')) == 1
local answer = {calm and 0 or now}
for _, each in ipairs(redis.call('ZRANGEBYSCORE', key('untold'), '-inf', now, 'LIMIT', 0, most)) do
  local user, ended = string.match(each, '^([^|]*)|[^|]*|(.*)$')
  if (ended == '') ~= online(user) then
    redis.call('ZREM', key('untold'), each)
  elseif ended == '' or not calm then
    redis.call('ZADD', key('untold'), now + retry, each)
    table.insert(answer, each)
  end
end
if calm then return answer end
local function remove(node, entry, ended)
  local user = redis.call('HGET', key('held:', node), entry)
  redis.call('ZREM', key('ending'), entry)
  if not user then return end
  redis.call('HDEL', key('held:', node), entry)
  redis.call('ZREM', key('user:', user), entry)
  if not online(user) then table.insert(answer, untold(user, ended, now + retry)) end
end
local over = redis.call('ZRANGEBYSCORE', key('ending'), '-inf', now, 'WITHSCORES', 'LIMIT', 0, most)
for at = 1, #over, 2 do remove(string.match(over[at], '^[^|]*'), over[at], over[at + 1]) end
local lost = redis.call('ZRANGEBYSCORE', key('nodes'), '-inf', now, 'WITHSCORES')
for at = 1, #lost, 2 do
  redis.call('ZREM', key('nodes'), lost[at])
  redis.call('HSET', key('dead'), lost[at], lost[at + 1])
end
local dead = redis.call('HGETALL', key('dead'))
for at = 1, #dead, 2 do
  if most <= 0 then break end
  local held = redis.call('HSCAN', key('held:', dead[at]), 0, 'COUNT', most)[2]
  for each = 1, #held, 2 do remove(dead[at], held[each], dead[at + 1]) end
  if redis.call('EXISTS', key('held:', dead[at])) == 0 then redis.call('HDEL', key('dead'), dead[at]) end
  most = most - #held / 2
end
return answer
""")

# user… → those of them who are online.
ONLINE = Script("""
local answer = {}
for _, user in ipairs(ARGV) do
  if online(user) then table.insert(answer, user) end
end
return answer
""")

# room, user, by, ttl_ms, most → whether it is shown.
START_TYPING = Script("""
local room, user, by, ttl, most = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local people = key('typing:', room)
if redis.call('HEXISTS', people, user) == 0 and redis.call('HLEN', people) >= most then return 0 end
redis.call('HSET', people, user, by)
redis.call('PEXPIRE', people, ttl + 60000)
redis.call('ZADD', key('typing'), now + ttl, room .. '|' .. user)
return 1
""")

# by ('': whoever), then room and user… → [room, user, …] who were shown.
STOP_TYPING = Script("""
local by, answer = ARGV[1], {}
for at = 2, #ARGV, 2 do
  local room, user = ARGV[at], ARGV[at + 1]
  local began = redis.call('HGET', key('typing:', room), user)
  if began and (by == '' or by == began) then
    redis.call('HDEL', key('typing:', room), user)
    redis.call('ZREM', key('typing'), room .. '|' .. user)
    table.insert(answer, room)
    table.insert(answer, user)
  end
end
return answer
""")

# own (how everything begins that this server began), patience_ms, most → [room, user, …] who were shown.
# Who began it ends it, so that what is told of it stays in order; what is left after `patience_ms`, anybody.
REAP_TYPING = Script("""
local own, late = ARGV[1], now - tonumber(ARGV[2])
local answer = {}
local over = redis.call('ZRANGEBYSCORE', key('typing'), '-inf', now, 'WITHSCORES', 'LIMIT', 0, ARGV[3])
for at = 1, #over, 2 do
  local room, user = string.match(over[at], '^([^|]*)|(.*)$')
  local began = redis.call('HGET', key('typing:', room), user)
  if not began or starts(began, own) or tonumber(over[at + 1]) <= late then
    redis.call('HDEL', key('typing:', room), user)
    redis.call('ZREM', key('typing'), over[at])
    table.insert(answer, room)
    table.insert(answer, user)
  end
end
return answer
""")

# name, ttl_ms → 0: it is taken now, else for how many ms it is taken yet.
CLAIM = Script("""
local left = redis.call('PTTL', key('claim:', ARGV[1]))
if left > 0 then return left end
redis.call('SET', key('claim:', ARGV[1]), 1, 'PX', ARGV[2])
return 0
""")

SCRIPTS = (
    BEAT,
    ABANDON,
    ARRIVE,
    LEAVE,
    PUT_BACK,
    REAP,
    ONLINE,
    START_TYPING,
    STOP_TYPING,
    REAP_TYPING,
    CLAIM,
)
