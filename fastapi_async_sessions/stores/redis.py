"""Sessions in Redis or Valkey: one server, behind Sentinel, in a cluster, over TLS."""

import asyncio
import logging
import os
import re
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from hashlib import sha256
from itertools import chain
from typing import Any, NamedTuple

from ..errors import ConfigurationError, StoreUnavailable
from ..lifetime import Clock, utc_now
from ..records import Record, from_microseconds, to_microseconds
from ._batcher import Batcher
from ._scripts import (
    ADD_TO_INDEX,
    CREATE,
    DELETE,
    REFUSED,
    SAVE,
    SAVED_NEW_HEAD,
    Operation,
    Script,
)
from .base import Store, translate_errors

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

_PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MILLISECOND = timedelta(milliseconds=1)
_CHUNK = 50


class RedisStore(Store):
    """For many processes: keeps sessions in the server of a redis-py asyncio client.

    The client is a ``Redis``, the ``master_for()`` of a ``Sentinel`` or a ``RedisCluster``; close
    it yourself. Keys begin with ``prefix``. Redis removes expired sessions by itself. Run it with
    ``maxmemory-policy noeviction``: under any other policy a server that is short of memory evicts
    live sessions, or the index of a user's sessions. A failover may lose the last writes, including
    a logout: ``min-replicas-to-write`` limits how many more of them an isolated master accepts.

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
        self._client = _BatchingClient(_checked(client))
        self._owns_client = False
        self._prefix = prefix
        self._clock = clock

    @classmethod
    def from_url(
        cls, url: str, *, prefix: str = "sessions", clock: Clock = utc_now, **options: Any
    ) -> "RedisStore":
        """Make a store with a client of its own, for ``redis://``, ``rediss://`` or ``unix://``.

        ``options`` are passed on to ``redis.asyncio.Redis.from_url``. By default, connecting may
        take one second and a reply two, and a command is sent once more when its connection was
        lost.
        """
        defaults: dict[str, Any] = {"socket_connect_timeout": 1.0, "socket_timeout": 2.0}
        if not {"retry", "retry_on_error"} & options.keys():
            # redis-py 5 retries a command only after errors that are named here as well
            errors = (RedisConnectionError,)
            defaults |= {"retry": Retry(NoBackoff(), 1, errors), "retry_on_error": [*errors]}
        untyped: Any = Redis
        with translate_errors(_wrong_address, TypeError, ValueError, RedisError):
            client = untyped.from_url(url, **(defaults | options))
            # otherwise a wrong option would only fail with the first request
            client.connection_pool.make_connection()
        store = cls(client, prefix=prefix, clock=clock)
        store._owns_client = True
        return store

    def __repr__(self) -> str:
        return f"RedisStore(prefix={self._prefix!r})"

    async def create(self, key: str, record: Record) -> bool:
        created = await self._client.run(CREATE, *self._operation(key, record))
        if created and self._client.is_cluster:
            await self._add_to_index(key, record)
        return bool(created)

    async def load(self, key: str) -> Record | None:
        value = await self._client.get(self._name(key))
        if value is None:
            return None
        try:
            record = _decode(value)
        except (ValueError, OverflowError):
            logger.warning("Redis holds no valid record for session %s: treated as missing", key)
            return None
        return record if record.expires_at > self._clock() else None

    async def save(self, key: str, record: Record, *, replaces: str) -> bool:
        saved = await self._client.run(SAVE, *self._operation(key, record, replaces))
        if saved == SAVED_NEW_HEAD and self._client.is_cluster:
            await self._add_to_index(key, record)
        return saved != REFUSED

    async def delete(self, key: str) -> bool:
        name, now = self._name(key), str(to_microseconds(self._clock()))
        return bool(await self._client.run(DELETE, name, name, now, ""))

    async def find(self, subject: str) -> list[tuple[str, Record]]:
        index = self._index(subject)
        keys = [member.decode() for member in await self._client.command("ZRANGE", index, 0, -1)]
        found = await self._load_all(keys, subject)
        stale = [key for key in keys if key not in found]
        if stale:
            await self._client.command("ZREM", index, *stale)
            # A session that was given this subject since we loaded it may just have lost its new
            # entry. Records are written before entries, so its record can be loaded by now.
            returned = await self._load_all(stale, subject)
            for key, record in returned.items():
                await self._add_to_index(key, record)
            found |= returned
        return sorted(found.items(), key=lambda item: item[1].expires_at, reverse=True)

    async def clear(self) -> None:
        ours = re.compile(rf"{re.escape(self._prefix)}:(subject:)?[0-9a-f]{{64}}".encode())
        names = [n for n in await self._client.scan(f"{self._prefix}:*") if ours.fullmatch(n)]
        for start in range(0, len(names), _CHUNK):
            await self._client.delete(names[start : start + _CHUNK])

    async def open(self) -> None:
        """Send the commands of a request, so that a wrong address, user or ACL is found now."""
        unused = "0" * 64
        await self.load(unused)
        await self.delete(unused)

    async def aclose(self) -> None:
        """Wait for the commands in flight, and close the client if ``from_url`` made it."""
        await self._client.drain()
        if self._owns_client:
            await self._client.close()

    def _name(self, key: str) -> str:
        return f"{self._prefix}:{key}"

    def _index(self, subject: str) -> str:
        return f"{self._prefix}:subject:{sha256(subject.encode()).hexdigest()}"

    def _operation(self, key: str, record: Record, replaces: str = "") -> Operation:
        name, now, head = self._name(key), self._clock(), _head(record)
        index = name
        if record.subject is not None and not self._client.is_cluster:
            # in a cluster the index is in another slot, which the script cannot reach
            index = self._index(record.subject)
        # Redis refuses a lifetime of 0: a record that has expired already lasts for a millisecond
        lifetime = max(1, -((now - record.expires_at) // _MILLISECOND))
        condition = f"{to_microseconds(now)} {lifetime} {len(head)} {replaces}"
        return name, index, condition, b"%b\n%b%b" % (record.version.encode(), head, record.body)

    async def _add_to_index(self, key: str, record: Record) -> None:
        """Add a session to the index of its subject, once its record has been written."""
        if record.subject is None:
            return
        moments = (record.expires_at, self._clock())
        expires_at, now = (to_microseconds(moment) // 1000 for moment in moments)
        index = self._index(record.subject)
        await self._client.run(ADD_TO_INDEX, index, index, key, f"{expires_at} {now}")

    async def _load_all(self, keys: Sequence[str], subject: str) -> dict[str, Record]:
        """Return those sessions that are live and belong to the subject."""
        found: dict[str, Record] = {}
        for start in range(0, len(keys), _CHUNK):
            chunk = keys[start : start + _CHUNK]
            loaded = zip(chunk, await asyncio.gather(*map(self.load, chunk)), strict=True)
            found |= {key: record for key, record in loaded if record and record.subject == subject}
        return found


class _BatchingClient:
    """A redis-py client that batches what can be batched and raises ``StoreUnavailable``."""

    def __init__(self, client: Redis | RedisCluster) -> None:
        # redis-py types its replies as sync or async at once: checked above, Any from here on
        self._redis: Any = client
        # A cluster gets no batches: few of their keys would be on the same node, and one lost node
        # would fail the others too.
        self.is_cluster = isinstance(client, RedisCluster)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def get(self, name: str) -> bytes | None:
        if not self.is_cluster:
            return await self._batchers().reads(name)
        (value,) = await self._read([name])
        return value

    async def run(self, script: Script, *operation: *Operation) -> int:
        """Run one operation of a script and return its answer."""
        if not self.is_cluster:
            answer = await self._batchers().scripts[script](operation)
        else:
            (answer,) = await self._run_all(script, [operation])
        if isinstance(answer, Exception):
            await self._leave_demoted_master(answer)
            raise _unavailable(answer)
        return answer

    async def command(self, *words: Any) -> Any:
        with _translated:
            return await self._redis.execute_command(*words)

    async def scan(self, pattern: str) -> list[bytes]:
        with _translated:
            return [name async for name in self._redis.scan_iter(match=pattern, count=1000)]

    async def delete(self, names: Sequence[bytes]) -> None:
        with _translated:
            # the client's own method: in a cluster it sorts the keys by slot
            await self._redis.delete(*names)

    async def drain(self) -> None:
        batchers = self._batchers()
        await batchers.reads.drain()
        for batcher in batchers.scripts.values():
            await batcher.drain()

    async def close(self) -> None:
        with _translated:
            await self._redis.aclose()

    def _batchers(self) -> "_Batchers":
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop = loop
            scripts = (CREATE, SAVE, DELETE, ADD_TO_INDEX)
            self._batchers_of_loop = _Batchers(
                Batcher(loop, self._read),
                {script: Batcher(loop, partial(self._run_all, script)) for script in scripts},
            )
        return self._batchers_of_loop

    async def _read(self, names: list[str]) -> list[bytes | None]:
        unique = list(dict.fromkeys(names))
        with _translated:
            found = await self._redis.execute_command("MGET", *unique)
        values = dict(zip(unique, found, strict=True))
        return [values[name] for name in names]

    async def _run_all(self, script: Script, operations: list[Operation]) -> list[int | Exception]:
        keys = chain.from_iterable(operation[:2] for operation in operations)
        arguments = chain.from_iterable(operation[2:] for operation in operations)
        words = (2 * len(operations), *keys, *arguments)
        with _translated:
            try:
                return await self._evaluate(script, words)
            except ResponseError as error:
                # refused as a whole
                return [error for _ in operations]

    async def _evaluate(self, script: Script, words: tuple[Any, ...]) -> list[int | Exception]:
        answers: list[int | Exception]
        try:
            answers = await self._redis.execute_command("EVALSHA", script.sha, *words)
        except NoScriptError:
            answers = await self._redis.execute_command("EVAL", script.text, *words)
        return answers

    async def _leave_demoted_master(self, error: Exception) -> None:
        # A script hides READONLY from redis-py, which would go on using a master that has been
        # demoted. New connections ask the sentinels, or the name server.
        if not self.is_cluster and _DEMOTED.search(_text(error)):
            with _translated:
                await self._redis.connection_pool.disconnect(inuse_connections=False)


class _Batchers(NamedTuple):
    """The batchers of one event loop: one for reads, and one for each script."""

    reads: Batcher[str, bytes | None]
    scripts: dict[Script, Batcher[Operation, int | Exception]]


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


def _head(record: Record) -> bytes:
    expires_at = to_microseconds(record.expires_at)
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
    return Record(rest, version.decode(), subject, from_microseconds(int(expires_at)))


def _wrong_address(error: Exception) -> ConfigurationError:
    return ConfigurationError(
        "RedisStore.from_url takes a redis://, rediss:// or unix:// URL and options of "
        f"redis.asyncio.Redis.from_url ({type(error).__name__})"
    )


def _unavailable(error: Exception) -> StoreUnavailable:
    return StoreUnavailable(_reason(error))


# of every Exception: during a failover drivers raise AttributeErrors and KeyErrors too
_translated = translate_errors(_unavailable)

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
        "the user may not run GET, MGET, EVALSHA, EVAL or what the scripts call on these keys",
    ),
    ("ReadOnlyError|READONLY", "the server is a read-only replica"),
    ("OutOfMemoryError|OOM", "the server is out of memory"),
    ("NOREPLICAS", "the server has too few replicas to accept writes"),
    ("MISCONF", "the server cannot save to disk and accepts no writes"),
    ("WRONGTYPE", "the key holds something else"),
    (
        "MaxConnectionsError|Too many connections",
        "all connections are in use: raise max_connections",
    ),
    ("BusyLoadingError", "the server is loading its data"),
    ("ClusterDownError|SlotNotCovered", "the cluster or a part of it is down"),
    ("MasterNotFoundError", "no sentinel knows a master"),
    ("SSL", "the TLS connection failed"),
    ("TimeoutError", "no answer in time"),
    (r"Error -\d+ connecting", "the server's name cannot be resolved"),
)
_DEMOTED = re.compile("ReadOnlyError|READONLY|NOREPLICAS")
_ERRNO = re.compile(r"Err(?:or|no) (\d+)|: \((\d+), ")


def _reason(error: Exception) -> str:
    """Explain a driver's error without its text, which may quote what was sent."""
    name, text = type(error).__name__, _text(error)
    for pattern, hint in _HINTS:
        if re.search(pattern, text):
            return f"{name}: {hint}"
    number = _ERRNO.search(text)
    return f"{name}: {os.strerror(int(number[1] or number[2]))}" if number else name


def _text(error: Exception) -> str:
    return f"{type(error).__name__} {error}"
