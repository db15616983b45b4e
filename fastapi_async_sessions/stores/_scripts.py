"""The Lua scripts of ``RedisStore``, which make each write one atomic step.

A session is a string, "<version>\\n<head><body>", and its head "<expires_at> <length>\\n<owner>",
where the length is that of the owner in bytes, or "-" when there is none. The index of an owner is
a sorted set of keys, scored with the milliseconds at which the sessions expire.

Times are passed as arguments, so that the store's clock decides what has expired.
"""

from hashlib import sha1

# Two keys and two arguments. The second key is the index of the owner; where there is no index
# to write, it repeats the first, for a script may touch only the keys that it is given.
Operation = tuple[bytes, bytes, str | bytes, str | bytes]


class Script:
    """Performs one operation in Lua for each pair of keys, and answers each with a number or list.

    An operation that fails, say on a key of another type, is answered with its error and does not
    affect the others.
    """

    def __init__(self, *parts: str) -> None:
        self.text = "".join([_CALL, *parts, _FOR_EACH])
        self.sha = sha1(self.text.encode(), usedforsecurity=False).hexdigest()


# An error names its command: that of Redis 6.2 about a missing right does not.
_CALL = r"""
local function call(command, ...)
  local reply = redis.pcall(command, ...)
  if type(reply) == 'table' and reply.err then
    error({err = reply.err .. " in '" .. command .. "'"})
  end
  return reply
end
"""

_FOR_EACH = r"""
local answers = {}
for i = 1, #KEYS, 2 do
  local is_done, answer = pcall(operation, KEYS[i], KEYS[i + 1], ARGV[i], ARGV[i + 1])
  if not is_done and type(answer) ~= 'table' then
    answer = redis.error_reply(answer)
  end
  answers[#answers + 1] = answer
end
return answers
"""

# An entry stays in the index for a day after its score. In a cluster session and index are written
# by two commands: if the process dies in between, the session outlives what its entry says.
_GRACE = 24 * 60 * 60 * 1000
_ADD_ENTRY = f"""
local function add_entry(index, member, expires_at, now)
  call('ZADD', index, expires_at, member)
  call('ZREMRANGEBYSCORE', index, '-inf', now - {_GRACE})
  local last = call('ZREVRANGE', index, 0, 0, 'WITHSCORES')
  if last[2] then
    call('PEXPIRE', index, tonumber(last[2]) - now + {_GRACE})
  end
end
"""

_LIVE_VERSION = r"""
local function live_version(stored, now)
  if not stored then
    return nil
  end
  local version, expires_at = string.match(stored, '^([^\n]*)\n(%d+) ')
  if expires_at and tonumber(expires_at) > tonumber(now) then
    return version
  end
end
"""

# Write the record first: the index must never list a session that does not exist.
_WRITE = r"""
local function add_to_index(key, index, now, value)
  if index ~= key then
    local expires_at = string.match(value, '\n(%d+)')
    add_entry(index, string.sub(key, -64), string.sub(expires_at, 1, -4), string.sub(now, 1, -4))
  end
end

local function write(key, index, now, lifetime, value)
  call('SET', key, value, 'PX', lifetime)
  add_to_index(key, index, now, value)
end
"""

CREATE = Script(
    _ADD_ENTRY,
    _LIVE_VERSION,
    _WRITE,
    r"""
local function operation(key, index, times, value)
  local now, lifetime = string.match(times, '^(%d+) (%d+)')
  local version = live_version(call('GET', key), now)
  if version == string.match(value, '^[^\n]*') then
    add_to_index(key, index, now, value)
    return 1
  end
  if version then
    return 0
  end
  write(key, index, now, lifetime, value)
  return 1
end
""",
)

# What SAVE answers. After a save that changed the head, the index needs an update.
REFUSED, SAVED, SAVED_NEW_HEAD = 0, 1, 2
SAVE = Script(
    _ADD_ENTRY,
    _LIVE_VERSION,
    _WRITE,
    rf"""
local function operation(key, index, condition, value)
  local now, lifetime, head_size, replaces = string.match(condition, '^(%d+) (%d+) (%d+) (.*)$')
  local stored = call('GET', key)
  local version, own_version = live_version(stored, now), string.match(value, '^[^\n]*')
  if version == own_version then
    add_to_index(key, index, now, value)
    return {SAVED_NEW_HEAD}
  end
  if version ~= replaces then
    return {REFUSED}
  end
  local old_head = string.sub(stored, #version + 2, #version + 1 + head_size)
  local head = string.sub(value, #own_version + 2, #own_version + 1 + head_size)
  local is_new = head ~= old_head
  write(key, is_new and index or key, now, lifetime, value)
  return is_new and {SAVED_NEW_HEAD} or {SAVED}
end
""",
)

# No body is read: version and head are at most 2200 bytes.
_HEAD = r"""
local function read_head(key)
  return call('GETRANGE', key, 0, 4095)
end

local function owner_of(head)
  local length, start = string.match(head, '^[^\n]*\n%d+ (%d+)\n()')
  return length and string.sub(head, start, start + length - 1)
end
"""

# Answers whether the session was live, and whose it was.
DELETE = Script(
    _LIVE_VERSION,
    _HEAD,
    r"""
local function operation(key, _, now)
  local head = read_head(key)
  call('DEL', key)
  return {live_version(head, now) and 1 or 0, owner_of(head) or ''}
end
""",
)

# Answers whether a session is live and belongs to the owner, and drops its entry if not. With
# "delete" a session that does is deleted, and its entry dropped as well.
CHECK_OWNER = Script(
    _LIVE_VERSION,
    _HEAD,
    r"""
local function operation(key, index, condition, owner)
  local now, verb = string.match(condition, '^(%d+) (%a+)$')
  local head = read_head(key)
  local stays = live_version(head, now) and owner_of(head) == owner
  local answer = stays and 1 or 0
  if stays and verb == 'delete' then
    call('DEL', key)
    stays = false
  end
  if index ~= key and not stays then
    call('ZREM', index, string.sub(key, -64))
  end
  return answer
end
""",
)

DROP_FROM_INDEX = Script(
    """
local function operation(index, _, member)
  call('ZREM', index, member)
  return 1
end
""",
)

ADD_TO_INDEX = Script(
    _ADD_ENTRY,
    r"""
local function operation(index, _, member, times)
  local expires_at, now = string.match(times, '^(%d+) (%d+)$')
  add_entry(index, member, expires_at, now)
  return 1
end
""",
)
