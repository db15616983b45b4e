"""Sessions in Redis or Valkey: one server, behind Sentinel, in a cluster, over TLS."""

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha1, sha256
from typing import Any, TypeVar

from ..errors import ConfigurationError, StoreUnavailable
from ..lifetime import Clock, utc_now
from ..records import Record
from .base import Store
from .batch import Together

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
_Call = tuple[Any, ...]

_PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MILLISECOND = timedelta(milliseconds=1)
_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class _Script:
    text: str
    sha: str


def _script(*parts: str) -> _Script:
    text = "".join(parts)
    return _Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


# A value is "<version>\n<head><body>", and a head "<expires_at> <length of subject>\n<subject>".
_LIVE_VERSION = r"""
local stored = redis.call('GET', KEYS[1])
local version, expires_at
if stored then
  version, expires_at = string.match(stored, '^([^\n]*)\n(%d+) ')
end
if not expires_at or tonumber(expires_at) <= tonumber(ARGV[1]) then
  version = nil
end
"""

_WRITE = r"""
redis.call('SET', KEYS[1], ARGV[2] .. '\n' .. ARGV[3] .. ARGV[4], 'PX', ARGV[5])
"""

_CREATE = _script(
    _LIVE_VERSION,
    """
if version then
  return version == ARGV[2] and 1 or 0
end
""",
    _WRITE,
    "return 1",
)

_REFUSED, _NEW_HEAD = 0, 2
_SAVE = _script(
    _LIVE_VERSION,
    """
if version == ARGV[2] then
  return 2
end
if version ~= ARGV[6] then
  return 0
end
local old_head = string.sub(stored, #version + 2, #version + 1 + #ARGV[3])
""",
    _WRITE,
    "return old_head == ARGV[3] and 1 or 2",
)

_DELETE = _script(
    _LIVE_VERSION,
    """
if stored then
  redis.call('DEL', KEYS[1])
end
return version and 1 or 0
""",
)

# An index entry outlives its score by a day: a record may live a little longer than its entry
# says, when a process died between the two writes.
_INDEX_GRACE = 24 * 60 * 60 * 1000
_INDEX = _script(
    f"""
local now = tonumber(ARGV[3])
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - {_INDEX_GRACE})
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if last[2] then
  redis.call('PEXPIRE', KEYS[1], tonumber(last[2]) - now + {_INDEX_GRACE})
end
return 1
"""
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
        created = await self._link.run(_CREATE, self._name(key), *self._arguments(record))
        if created:
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
        arguments = self._arguments(record)
        saved = await self._link.run(_SAVE, self._name(key), *arguments, replaces)
        if saved == _NEW_HEAD:
            await self._list(key, record)
        return saved != _REFUSED

    async def delete(self, key: str) -> bool:
        now = _microseconds(self._clock())
        return bool(await self._link.run(_DELETE, self._name(key), now))

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
        await self._link.settle()
        if self._owns_client:
            await self._link.close()

    def _name(self, key: str) -> str:
        return f"{self._prefix}:{key}"

    def _index(self, subject: str) -> str:
        return f"{self._prefix}:subject:{sha256(subject.encode()).hexdigest()}"

    def _arguments(self, record: Record) -> tuple[int, str, bytes, bytes, int]:
        now = self._clock()
        # Redis refuses a lifetime of 0: what has expired already is gone within a millisecond
        lifetime = max(1, -((now - record.expires_at) // _MILLISECOND))
        return _microseconds(now), record.version, _head(record), record.body, lifetime

    async def _list(self, key: str, record: Record) -> None:
        """Put a session on its subject's list; after the record, for a list may not promise."""
        if record.subject is None:
            return
        ends, now = ((time - _EPOCH) // _MILLISECOND for time in (record.expires_at, self._clock()))
        await self._link.run(_INDEX, self._index(record.subject), key, ends, now)

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
        self._together = not isinstance(client, RedisCluster)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def get(self, name: str) -> bytes | None:
        if self._together:
            return await self._lanes()[0](name)
        (value,) = await self._send_reads([name])
        return value

    async def run(self, script: _Script, name: str, *arguments: Any) -> int:
        """Run a script on one key, and send its text where the server does not know it yet."""
        rest = (1, name, *arguments)
        answer = await self._call(("EVALSHA", script.sha, *rest))
        if isinstance(answer, NoScriptError):
            answer = await self._call(("EVAL", script.text, *rest))
        if isinstance(answer, Exception):
            await self._look_for_master(answer)
            raise StoreUnavailable(_reason(answer))
        return answer

    async def _look_for_master(self, error: Exception) -> None:
        # Scripts hide READONLY from redis-py, which would go on with a master that is one no more.
        # The next connection asks the sentinels, or the name server.
        if self._together and _DEMOTED.search(_text(error)):
            await self._ask(self._client.connection_pool.disconnect(inuse_connections=False))

    async def _call(self, call: _Call) -> int | Exception:
        if self._together:
            return await self._lanes()[1](call)
        (answer,) = await self._send_calls([call])
        return answer

    async def command(self, *words: Any) -> Any:
        return await self._ask(self._client.execute_command(*words))

    async def scan(self, pattern: str) -> list[bytes]:
        async def scan() -> list[bytes]:
            return [name async for name in self._client.scan_iter(match=pattern, count=1000)]

        return await self._ask(scan())

    async def remove(self, names: Sequence[bytes]) -> None:
        # the client's own method: in a cluster it sorts the keys by slot
        await self._ask(self._client.delete(*names))

    async def settle(self) -> None:
        for lane in self._lanes():
            await lane.settle()

    async def close(self) -> None:
        await self._ask(self._client.aclose())

    def _lanes(self) -> tuple[Together[str, bytes | None], Together[_Call, int | Exception]]:
        """Reads and script calls that meet in this event loop."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop = loop
            self._reads = Together(loop, self._send_reads)
            self._calls = Together(loop, self._send_calls)
        return self._reads, self._calls

    async def _send_reads(self, names: list[str]) -> list[bytes | None]:
        unique = list(dict.fromkeys(names))
        found = dict(zip(unique, await self.command("MGET", *unique), strict=True))
        return [found[name] for name in names]

    async def _send_calls(self, calls: list[_Call]) -> list[int | Exception]:
        return await self._ask(self._answers(calls))

    async def _answers(self, calls: list[_Call]) -> list[int | Exception]:
        if len(calls) == 1:
            try:
                return [await self._client.execute_command(*calls[0])]
            except ResponseError as error:
                return [error]
        pipeline = self._client.pipeline(transaction=False)
        for call in calls:
            pipeline.execute_command(*call)
        answers: list[int | Exception] = await pipeline.execute(raise_on_error=False)
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
