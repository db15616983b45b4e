"""Sessions in Redis or Valkey: one server, behind Sentinel, in a cluster, over TLS."""

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha1, sha256
from itertools import chain
from typing import Any, NamedTuple, TypeVar

from ..errors import ConfigurationError, StoreUnavailable
from ..lifetime import Clock, utc_now
from ..records import Record
from ._batcher import Batcher
from .base import Store

try:
    from redis.asyncio import Redis, RedisCluster
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as RedisConnectionError
    from redis.exceptions import NoScriptError, RedisError, ResponseError
except ImportError:
    raise ConfigurationError(
        'RedisStore needs redis-py: pip install "fastapi_async_sessions[redis]"'
    ) from None

logger = logging.getLogger("fastapi_async_sessions")

_T = TypeVar("_T")
_Step = tuple[str, str, str, str | bytes]

_PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MILLISECOND = timedelta(milliseconds=1)
_AT_ONCE = 50


class _Script:
    """Does a step in Lua for each of several keys; each answer is a number or the step's error.

    A step has two keys, which are one where there is no list, and two arguments. What one step
    meets, a key of another type, touches no other.
    """

    def __init__(self, *parts: str) -> None:
        self.text = "".join([*parts, _EACH_STEP])
        self.sha = sha1(self.text.encode(), usedforsecurity=False).hexdigest()


_EACH_STEP = r"""
local answers = {}
for i = 1, #KEYS, 2 do
  local is_done, answer = pcall(step, KEYS[i], KEYS[i + 1], ARGV[i], ARGV[i + 1])
  if not is_done and type(answer) ~= 'table' then
    answer = redis.error_reply(answer)
  end
  answers[#answers + 1] = answer
end
return answers
"""

# An index entry outlives its score by a day: a record may live a little longer than its entry
# says, when a process died between the two writes.
_INDEX_GRACE = 24 * 60 * 60 * 1000
_INDEX = f"""
local function index(list, member, ends, now)
  redis.call('ZADD', list, ends, member)
  redis.call('ZREMRANGEBYSCORE', list, '-inf', now - {_INDEX_GRACE})
  local last = redis.call('ZREVRANGE', list, 0, 0, 'WITHSCORES')
  if last[2] then
    redis.call('PEXPIRE', list, tonumber(last[2]) - now + {_INDEX_GRACE})
  end
end
"""

# A value is "<version>\n<head><body>", and a head "<expires_at> <length of subject>\n<subject>".
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

# the record first, for a list may not promise what is not there
_WRITE = r"""
local function enlist(key, list, now, value)
  if list ~= key then
    local expires_at = string.match(value, '\n(%d+)')
    index(list, string.sub(key, -64), string.sub(expires_at, 1, -4), string.sub(now, 1, -4))
  end
end

local function write(key, list, now, lifetime, value)
  redis.call('SET', key, value, 'PX', lifetime)
  enlist(key, list, now, value)
end
"""

_CREATE = _Script(
    _INDEX,
    _LIVE_VERSION,
    _WRITE,
    r"""
local function step(key, list, order, value)
  local now, lifetime = string.match(order, '^(%d+) (%d+)')
  local version = live_version(redis.call('GET', key), now)
  if version == string.match(value, '^[^\n]*') then
    enlist(key, list, now, value)
    return 1
  end
  if version then
    return 0
  end
  write(key, list, now, lifetime, value)
  return 1
end
""",
)

_REFUSED, _NEW_HEAD = 0, 2
_SAVE = _Script(
    _INDEX,
    _LIVE_VERSION,
    _WRITE,
    r"""
local function step(key, list, order, value)
  local now, lifetime, head_size, replaces = string.match(order, '^(%d+) (%d+) (%d+) (.*)$')
  local stored = redis.call('GET', key)
  local version, own_version = live_version(stored, now), string.match(value, '^[^\n]*')
  if version == own_version then
    enlist(key, list, now, value)
    return 2
  end
  if version ~= replaces then
    return 0
  end
  local old_head = string.sub(stored, #version + 2, #version + 1 + head_size)
  local head = string.sub(value, #own_version + 2, #own_version + 1 + head_size)
  local is_new = head ~= old_head
  write(key, is_new and list or key, now, lifetime, value)
  return is_new and 2 or 1
end
""",
)

_DELETE = _Script(
    _LIVE_VERSION,
    r"""
local function step(key, _, now)
  local stored = redis.call('GET', key)
  if stored then
    redis.call('DEL', key)
  end
  return live_version(stored, now) and 1 or 0
end
""",
)

_LIST = _Script(
    _INDEX,
    r"""
local function step(list, _, member, times)
  local ends, now = string.match(times, '^(%d+) (%d+)$')
  index(list, member, ends, now)
  return 1
end
""",
)


class RedisStore(Store):
    """For many processes: keeps sessions where a redis-py asyncio client leads.

    The client is a ``Redis``, the ``master_for()`` of a ``Sentinel`` or a ``RedisCluster``; who
    made it closes it. Keys begin with ``prefix``. Redis forgets expired sessions by itself. Run it
    with ``maxmemory-policy noeviction``: another one forgets live sessions too when memory is
    short, or the list of a user's sessions. A failover may lose the last writes, a logout too:
    ``min-replicas-to-write`` keeps a master that was left behind from taking more of them.

    Raises:
        ConfigurationError: the client is none of these or decodes responses, or the prefix has
            other characters than ``A-Z a-z 0-9 _ . -``.
    """

    def __init__(
        self, client: Redis | RedisCluster, *, prefix: str = "sessions", clock: Clock = utc_now
    ) -> None:
        if not _PREFIX.fullmatch(prefix):
            raise ConfigurationError(
                "RedisStore(prefix=...) takes 1 to 64 characters of A-Z a-z 0-9 _ . -"
            )
        self._link = _Link(_checked(client))
        self._owns_client = False
        self._prefix = prefix
        self._clock = clock

    @classmethod
    def from_url(
        cls, url: str, *, prefix: str = "sessions", clock: Clock = utc_now, **options: Any
    ) -> "RedisStore":
        """A store with a client of its own, for ``redis://``, ``rediss://`` or ``unix://``.

        ``options`` go to ``redis.asyncio.Redis.from_url``. Unless they say otherwise, a connection
        must be made within one second and an answer be there within two, and a command that meets
        a lost connection is sent once more.
        """
        defaults: dict[str, Any] = {"socket_connect_timeout": 1.0, "socket_timeout": 2.0}
        if not {"retry", "retry_on_error"} & options.keys():
            # redis-py 5 wants the errors named a second time to retry a command
            errors = (RedisConnectionError,)
            defaults |= {"retry": Retry(NoBackoff(), 1, errors), "retry_on_error": [*errors]}
        untyped: Any = Redis
        try:
            client = untyped.from_url(url, **(defaults | options))
            # else a wrong option would show with the first request
            client.connection_pool.make_connection()
        except (TypeError, ValueError, RedisError) as error:
            reason = type(error).__name__
        else:
            store = cls(client, prefix=prefix, clock=clock)
            store._owns_client = True
            return store
        # the driver's text is left out: it may quote the URL with its password
        raise ConfigurationError(
            "RedisStore.from_url takes a redis://, rediss:// or unix:// URL and options of "
            f"redis.asyncio.Redis.from_url ({reason})"
        )

    def __repr__(self) -> str:
        return f"RedisStore(prefix={self._prefix!r})"

    async def create(self, key: str, record: Record) -> bool:
        created = await self._link.run(_CREATE, *self._step(key, record))
        if created and self._link.is_cluster:
            await self._list(key, record)
        return bool(created)

    async def load(self, key: str) -> Record | None:
        value = await self._link.get(self._name(key))
        if value is None:
            return None
        try:
            record = _decode(value)
        except (ValueError, OverflowError):
            logger.warning("what Redis keeps for session %s is no record: taken as missing", key)
            return None
        return record if record.expires_at > self._clock() else None

    async def save(self, key: str, record: Record, *, replaces: str) -> bool:
        saved = await self._link.run(_SAVE, *self._step(key, record, replaces))
        if saved == _NEW_HEAD and self._link.is_cluster:
            await self._list(key, record)
        return saved != _REFUSED

    async def delete(self, key: str) -> bool:
        name, now = self._name(key), str(_microseconds(self._clock()))
        return bool(await self._link.run(_DELETE, name, name, now, ""))

    async def find(self, subject: str) -> list[tuple[str, Record]]:
        index = self._index(subject)
        keys = [member.decode() for member in await self._link.command("ZRANGE", index, 0, -1)]
        found: list[tuple[str, Record]] = []
        dead: list[str] = []
        for key, record in zip(keys, await self._load_all(keys), strict=True):
            if record is not None and record.subject == subject:
                found.append((key, record))
            else:
                dead.append(key)
        if dead:
            await self._link.command("ZREM", index, *dead)
            # who signed in meanwhile listed itself before that: its record is there by now
            for key, record in zip(dead, await self._load_all(dead), strict=True):
                if record is not None and record.subject == subject:
                    await self._list(key, record)
                    found.append((key, record))
        return sorted(found, key=lambda item: item[1].expires_at, reverse=True)

    async def clear(self) -> None:
        ours = re.compile(rf"{re.escape(self._prefix)}:(subject:)?[0-9a-f]{{64}}".encode())
        names = [n for n in await self._link.scan(f"{self._prefix}:*") if ours.fullmatch(n)]
        for start in range(0, len(names), _AT_ONCE):
            await self._link.remove(names[start : start + _AT_ONCE])

    async def open(self) -> None:
        """Ask what every request will ask: a wrong address, user or ACL shows now."""
        nobody = "0" * 64
        await self.load(nobody)
        await self.delete(nobody)

    async def aclose(self) -> None:
        """Finish what is on its way, and close the client if ``from_url`` made it."""
        await self._link.drain()
        if self._owns_client:
            await self._link.close()

    def _name(self, key: str) -> str:
        return f"{self._prefix}:{key}"

    def _index(self, subject: str) -> str:
        return f"{self._prefix}:subject:{sha256(subject.encode()).hexdigest()}"

    def _step(self, key: str, record: Record, replaces: str = "") -> _Step:
        name, now, head = self._name(key), self._clock(), _head(record)
        list_name = name
        if record.subject is not None and not self._link.is_cluster:
            # in a cluster it is in another slot, where the script does not reach
            list_name = self._index(record.subject)
        # Redis refuses a lifetime of 0: what has expired already is gone within a millisecond
        lifetime = max(1, -((now - record.expires_at) // _MILLISECOND))
        order = f"{_microseconds(now)} {lifetime} {len(head)} {replaces}"
        return name, list_name, order, b"%b\n%b%b" % (record.version.encode(), head, record.body)

    async def _list(self, key: str, record: Record) -> None:
        """Put a session on its subject's list; after the record, for a list may not promise."""
        if record.subject is None:
            return
        ends, now = ((time - _EPOCH) // _MILLISECOND for time in (record.expires_at, self._clock()))
        index = self._index(record.subject)
        await self._link.run(_LIST, index, index, key, f"{ends} {now}")

    async def _load_all(self, keys: Sequence[str]) -> list[Record | None]:
        records: list[Record | None] = []
        for start in range(0, len(keys), _AT_ONCE):
            loads = (self.load(key) for key in keys[start : start + _AT_ONCE])
            records += await asyncio.gather(*loads)
        return records


class _Link:
    """The way to Redis and back: commands, which of them travel together, and what goes wrong."""

    def __init__(self, client: Redis | RedisCluster) -> None:
        # redis-py types its answers as sync or async at once: checked above, Any from here on
        self._client: Any = client
        # in a cluster few requests go the same way, and a lost node would take others along
        self.is_cluster = isinstance(client, RedisCluster)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def get(self, name: str) -> bytes | None:
        if not self.is_cluster:
            return await self._lanes().reads(name)
        (value,) = await self._send_reads([name])
        return value

    async def run(self, script: _Script, *step: *_Step) -> int:
        """Do a script's step for one key."""
        if not self.is_cluster:
            answer = await self._lanes().steps[script](step)
        else:
            (answer,) = await self._send_steps(script, [step])
        if isinstance(answer, Exception):
            await self._look_for_master(answer)
            raise StoreUnavailable(_reason(answer))
        return answer

    async def _look_for_master(self, error: Exception) -> None:
        # Scripts hide READONLY from redis-py, which would go on with a master that is one no more.
        # The next connection asks the sentinels, or the name server.
        if not self.is_cluster and _DEMOTED.search(_text(error)):
            await self._ask(self._client.connection_pool.disconnect(inuse_connections=False))

    async def command(self, *words: Any) -> Any:
        return await self._ask(self._client.execute_command(*words))

    async def scan(self, pattern: str) -> list[bytes]:
        async def scan() -> list[bytes]:
            return [name async for name in self._client.scan_iter(match=pattern, count=1000)]

        return await self._ask(scan())

    async def remove(self, names: Sequence[bytes]) -> None:
        # the client's own method: in a cluster it sorts the keys by slot
        await self._ask(self._client.delete(*names))

    async def drain(self) -> None:
        lanes = self._lanes()
        await lanes.reads.drain()
        for lane in lanes.steps.values():
            await lane.drain()

    async def close(self) -> None:
        await self._ask(self._client.aclose())

    def _lanes(self) -> "_Lanes":
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop = loop
            scripts = (_CREATE, _SAVE, _DELETE, _LIST)
            self._lanes_of_loop = _Lanes(
                Batcher(loop, self._send_reads),
                {script: Batcher(loop, partial(self._send_steps, script)) for script in scripts},
            )
        return self._lanes_of_loop

    async def _send_reads(self, names: list[str]) -> list[bytes | None]:
        unique = list(dict.fromkeys(names))
        found = dict(zip(unique, await self.command("MGET", *unique), strict=True))
        return [found[name] for name in names]

    async def _send_steps(self, script: _Script, steps: list[_Step]) -> list[int | Exception]:
        return await self._ask(self._answers(script, steps))

    async def _answers(self, script: _Script, steps: list[_Step]) -> list[int | Exception]:
        keys = chain.from_iterable(step[:2] for step in steps)
        arguments = chain.from_iterable(step[2:] for step in steps)
        words = (2 * len(steps), *keys, *arguments)
        answers: list[int | Exception]
        try:
            try:
                answers = await self._client.execute_command("EVALSHA", script.sha, *words)
            except NoScriptError:
                answers = await self._client.execute_command("EVAL", script.text, *words)
        except ResponseError as error:
            answers = [error for _ in steps]
        return answers

    async def _ask(self, answer: Awaitable[_T]) -> _T:
        """Await the driver; what it raises leaves as ``StoreUnavailable``, without its words."""
        try:
            return await answer
        except Exception as error:
            # all of them: in a failover drivers raise AttributeErrors and KeyErrors too
            reason = _reason(error)
        # out here it has no context: the driver's text and frames may hold passwords and records
        raise StoreUnavailable(reason)


class _Lanes(NamedTuple):
    """Reads, and steps of each script, that meet in one event loop."""

    reads: Batcher[str, bytes | None]
    steps: dict[_Script, Batcher[_Step, int | Exception]]


def _checked(client: Redis | RedisCluster) -> Redis | RedisCluster:
    if not isinstance(client, Redis | RedisCluster):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(
            "RedisStore takes a client of redis.asyncio (Redis, RedisCluster, or master_for() of "
            f"a Sentinel), not a {type(client).__module__}.{type(client).__name__}; "
            "for a URL write RedisStore.from_url(...)"
        )
    if client.get_encoder().decode_responses:
        raise ConfigurationError(
            "RedisStore keeps bytes: give it a client without decode_responses=True"
        )
    return client


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _head(record: Record) -> bytes:
    expires_at = _microseconds(record.expires_at)
    if record.subject is None:
        return b"%d -\n" % expires_at
    subject = record.subject.encode()
    return b"%d %d\n%b" % (expires_at, len(subject), subject)


def _decode(value: bytes) -> Record:
    version, head, rest = value.split(b"\n", 2)
    expires_at, length = head.split(b" ")
    subject = None
    if length != b"-":
        size = int(length)
        subject, rest = rest[:size].decode(), rest[size:]
    moment = _EPOCH + timedelta(microseconds=int(expires_at))
    return Record(body=rest, version=version.decode(), subject=subject, expires_at=moment)


_HINTS = (
    (
        "different (event )?loop|[Ee]vent loop is closed|handler is closed",
        "the store was used from another event loop: run the application in one, "
        "as in `with TestClient(app) as client:`",
    ),
    (
        "MovedError|AskError|CrossSlot|MOVED|CROSSSLOT",
        "the server belongs to a cluster: give the store a redis.asyncio.RedisCluster",
    ),
    ("AuthenticationError|AuthenticationWrong", "the server refuses the user or the password"),
    (
        "NoPermissionError|can't run this command",
        "the user may not run GET, MGET, EVALSHA, EVAL and what scripts call on these keys",
    ),
    ("ReadOnlyError|READONLY", "the server is a read-only replica"),
    ("OutOfMemoryError|OOM", "the server is out of memory"),
    ("NOREPLICAS", "the server has too few replicas to take writes"),
    ("MISCONF", "the server can't save to disk and takes no writes"),
    ("WRONGTYPE", "the key holds something else"),
    (
        "MaxConnectionsError|Too many connections",
        "all connections are in use: raise max_connections",
    ),
    ("BusyLoadingError", "the server is loading its data"),
    ("ClusterDownError|SlotNotCovered", "the cluster is down, or a part of it"),
    ("MasterNotFoundError", "no sentinel knows a master"),
    ("SSL", "the TLS connection failed"),
    ("TimeoutError", "no answer in time"),
    (r"Error -\d+ connecting", "the server's name is not known"),
)
_DEMOTED = re.compile("ReadOnlyError|READONLY|NOREPLICAS")
_ERRNO = re.compile(r"Err(?:or|no) (\d+)|: \((\d+), ")


def _reason(error: Exception) -> str:
    """What a driver's error means. Its text is read and not shown: it may quote what was sent."""
    name, text = type(error).__name__, _text(error)
    for pattern, hint in _HINTS:
        if re.search(pattern, text):
            return f"{name}: {hint}"
    number = _ERRNO.search(text)
    return f"{name}: {os.strerror(int(number[1] or number[2]))}" if number else name


def _text(error: Exception) -> str:
    return f"{type(error).__name__} {error}"
