"""Sessions in Redis or Valkey: one server, behind Sentinel, in a cluster, over TLS."""

import asyncio
import logging
import os
import re
import secrets
import ssl
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from hashlib import sha256
from itertools import chain
from math import inf
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import parse_qsl, urlsplit

from ..errors import ConfigurationError, StoreUnavailable
from ..lifetime import Clock, checked_clock, utc_now
from ..records import Record, from_microseconds, new_version, read_clock, to_microseconds
from ._batcher import Batcher
from ._calls import Calls, ClusterCalls
from ._loops import CLOSE_SECONDS, PerLoop
from ._scripts import (
    ADD_TO_INDEX,
    CHECK_OWNER,
    CREATE,
    DELETE,
    DROP_FROM_INDEX,
    REFUSED,
    SAVE,
    SAVED_NEW_HEAD,
    Operation,
    Script,
)
from .base import Store, translate_errors

try:
    from redis.asyncio import Redis, RedisCluster
    from redis.asyncio.client import Pipeline
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as RedisConnectionError
    from redis.exceptions import NoScriptError, RedisError, ResponseError
except ImportError:
    raise ConfigurationError(
        'RedisStore needs redis-py: pip install "fastapi_async_sessions[redis]"'
    ) from None

_Item = TypeVar("_Item")
_Words = str | bytes | tuple[Any, ...]

logger = logging.getLogger("fastapi_async_sessions")

_PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MINUTE = timedelta(minutes=1)
_CHUNK = 100
_PAGE = 1000
_BATCHED = (CREATE, SAVE, DELETE, ADD_TO_INDEX, DROP_FROM_INDEX)


class RedisStore(Store):
    """For many processes: keeps sessions in the server of a redis-py asyncio client.

    The client is a ``Redis``, the ``master_for()`` of a ``Sentinel`` or a ``RedisCluster``; close
    it yourself. Keys begin with ``prefix``. Redis removes expired sessions by itself. Run it with
    ``maxmemory-policy noeviction``: under any other policy a server that is short of memory evicts
    live sessions, or the index of a user's sessions. A failover may lose the last writes, including
    a logout: ``min-replicas-to-write`` limits how many more of them an isolated master accepts.

    Calls beyond the client's ``max_connections``, or beyond 64, wait. The ``reinitialize_steps`` of
    a ``RedisCluster`` are set to 0; give it a ``socket_timeout`` that is shorter than the
    ``store_timeout`` of the provider.

    The user of the client needs these rights, the last three in a cluster only, and ``scan`` for
    ``count`` and ``clear``::

        ACL SETUSER app on >password ~sessions:* +get +getrange +mget +set +del +pexpire
            +zadd +zrem +zrevrange +zremrangebyscore +eval +evalsha +scan
            +exists +cluster|slots +command

    Raises:
        ConfigurationError: the client is none of these or decodes responses, or the prefix has
            other characters than ``A-Z a-z 0-9 _ . -``.
    """

    def __init__(
        self, client: Redis | RedisCluster, *, prefix: str = "sessions", clock: Clock = utc_now
    ) -> None:
        if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix):
            raise ConfigurationError(
                "RedisStore(prefix=...) takes 1 to 64 characters of A-Z a-z 0-9 _ . -"
            )
        self._client = _BatchingClient(_checked(client))
        self._prefix = prefix
        self._clock = checked_clock(clock, "RedisStore")

    @classmethod
    def from_url(
        cls, url: str, *, prefix: str = "sessions", clock: Clock = utc_now, **options: Any
    ) -> "RedisStore":
        """Make a store with its own client, for ``redis://``, ``rediss://`` or ``unix://``.

        ``options`` are passed on to ``redis.asyncio.Redis.from_url``. By default, connecting may
        take one second and a reply two, a command is sent once more when its connection was lost,
        and a certificate must be for the host of the URL.
        """
        defaults: dict[str, Any] = {"socket_connect_timeout": 1.0, "socket_timeout": 2.0}
        if not {"retry", "retry_on_error"} & options.keys():
            # redis-py 5 retries a command only after errors that are named here as well
            errors = (RedisConnectionError,)
            defaults |= {"retry": Retry(NoBackoff(), 1, errors), "retry_on_error": [*errors]}
        _check_options(url, options)
        untyped: Any = Redis
        with translate_errors(_wrong_address, TypeError, ValueError, RedisError):
            in_url = dict(parse_qsl(urlsplit(url).query))
            if url.startswith("rediss:") and _verifies(options | in_url):
                # before 6.0 redis-py accepts the certificate of any host
                defaults["ssl_check_hostname"] = True
            make = partial(untyped.from_url, url, **(defaults | options))
            client = make()
            # otherwise a wrong option would only fail with the first request
            client.connection_pool.make_connection()
        store = cls(client, prefix=prefix, clock=clock)
        store._client = _BatchingClient(client, make)
        return store

    def __repr__(self) -> str:
        return f"RedisStore(prefix={self._prefix!r})"

    async def create(self, key: str, record: Record) -> bool:
        created = await self._client.run(CREATE, *self._operation(key, record))
        if created and self._client.is_cluster:
            await self._add_to_index(key, record)
        return bool(created)

    async def load(self, key: str) -> Record | None:
        return self._read(key, await self._client.get(self._name(key)))

    def _read(self, key: str, value: bytes | None) -> Record | None:
        if value is None:
            return None
        try:
            expires_at, record = _decode(value)
        except (ValueError, OverflowError):
            logger.warning("Redis holds no valid record for session %s: treated as missing", key)
            return None
        return record if expires_at > read_clock(self._clock) else None

    async def save(self, key: str, record: Record, *, replaces: str) -> bool:
        saved = await self._client.run(SAVE, *self._operation(key, record, replaces))
        if saved == SAVED_NEW_HEAD and self._client.is_cluster:
            await self._add_to_index(key, record)
        return bool(saved != REFUSED)

    async def delete(self, key: str) -> bool:
        name, now = self._name(key), str(read_clock(self._clock))
        was_live, owner = await self._client.run(DELETE, name, name, now, "")
        if owner:
            # Only the record says whose it was, and in a cluster the index is on another node. An
            # entry that is left behind is removed when the index is next read.
            try:
                index = self._index(owner.decode())
                await self._client.run(DROP_FROM_INDEX, index, index, key, "")
            except _Forbidden:
                raise
            except StoreUnavailable:
                pass
        return bool(was_live)

    async def find(self, owner: str, limit: int = 100) -> list[tuple[str, Record]]:
        while True:
            words = ("ZREVRANGE", self._index(owner), 0, limit + _PAGE - 1)
            keys = [member.decode() for member in await self._client.command(*words)]
            found = await self._load_owned(keys[:limit], owner)
            # where some have ended, the window moves on to others; all of it is checked at once
            if len(found) == len(keys[:limit]) or await self._check(keys, owner) == keys:
                break
        return sorted(found.items(), key=lambda item: item[1].expires_at, reverse=True)

    async def delete_owned(self, owner: str, *, keep: str | None = None) -> int:
        words = ("ZREVRANGE", self._index(owner), -_PAGE, -1)  # those that expire first
        while True:
            members = await self._client.command(*words)
            keys = [key for key in (member.decode() for member in members) if key != keep]
            if not keys:
                return 0
            if deleted := await self._check(keys, owner, "delete"):
                return len(deleted)

    async def count(self) -> int:
        ours = re.compile(rf"{re.escape(self._prefix)}:[0-9a-f]{{64}}".encode())
        names = self._client.scan(f"{self._prefix}:*")
        return sum([1 async for name in names if ours.fullmatch(name)])

    async def count_expired(self) -> int:
        return 0  # Redis removes them

    async def server_time(self) -> datetime:
        answer = await self._client.command("TIME")
        if isinstance(answer, dict):  # in a cluster every node answers
            answer = next(iter(cast(dict[str, Any], answer).values()))
        seconds, microseconds = map(int, answer)
        return from_microseconds(seconds * 1_000_000 + microseconds)

    async def clear(self) -> None:
        ours = re.compile(rf"{re.escape(self._prefix)}:(owner:)?[0-9a-f]{{64}}".encode())
        names = [n async for n in self._client.scan(f"{self._prefix}:*") if ours.fullmatch(n)]
        for chunk in _chunks(names):
            await self._client.delete(chunk)

    async def open(self) -> None:
        """Do what requests do with a probe, so that a wrong address, user or ACL is found now.

        Raises:
            StoreUnavailable: the reason names the right that is missing, if it is one.
        """
        key, owner = secrets.token_hex(32), secrets.token_hex(16)
        await self._client.command("EVAL", "return 0", 0)  # sends scripts to a new server
        await self.create(key, Record(b"", new_version(), owner, self._clock() + _MINUTE))
        await self.find(owner)
        await self.load(key)
        await self.delete(key)
        if self._client.is_cluster:
            await self._client.existing([self._name(key)])

    def observe_batches(self, observer: Callable[[int], None]) -> None:
        """Call a function with the number of calls in each batch that is sent from now on."""
        self._client.observer = observer

    async def aclose(self) -> None:
        """Wait for the commands in flight, five seconds at most; close a client of ``from_url``."""
        await self._client.aclose()

    # as bytes, because redis-py takes several times as long to encode a word as Python does

    def _name(self, key: str) -> bytes:
        return f"{self._prefix}:{key}".encode()

    def _index(self, owner: str) -> bytes:
        return f"{self._prefix}:owner:{sha256(owner.encode()).hexdigest()}".encode()

    def _operation(self, key: str, record: Record, replaces: str = "") -> Operation:
        name, now = self._name(key), read_clock(self._clock)
        expires_at = to_microseconds(record.expires_at)
        head = _head(expires_at, record.owner)
        index = name
        if record.owner is not None and not self._client.is_cluster:
            # in a cluster the index is in another slot, which the script cannot reach
            index = self._index(record.owner)
        # Redis refuses a lifetime of 0: a record that has expired already lasts for a millisecond
        lifetime = max(1, -((now - expires_at) // 1000))
        condition = f"{now} {lifetime} {len(head)} {replaces}".encode()
        return name, index, condition, b"%b\n%b%b" % (record.version.encode(), head, record.body)

    async def _add_to_index(self, key: str, record: Record) -> None:
        """Add a session to the index of its owner, once its record has been written."""
        if record.owner is None:
            return
        moments = to_microseconds(record.expires_at), read_clock(self._clock)
        expires_at, now = (moment // 1000 for moment in moments)
        index = self._index(record.owner)
        await self._client.run(ADD_TO_INDEX, index, index, key, f"{expires_at} {now}")

    async def _check(self, keys: Sequence[str], owner: str, verb: str = "check") -> list[str]:
        """Return the keys of live sessions of the owner; its index loses the others.

        With "delete" those sessions are deleted, and the index loses all of these keys.
        """
        condition = f"{read_clock(self._clock)} {verb}"
        index = None if self._client.is_cluster else self._index(owner)
        names = [self._name(key) for key in keys]
        answers = await self._client.run_many(
            CHECK_OWNER, [(name, index or name, condition, owner) for name in names]
        )
        owned = [key for key, answer in zip(keys, answers, strict=True) if answer]
        if self._client.is_cluster:
            stale = [key for key, answer in zip(keys, answers, strict=True) if not answer]
            await self._drop_entries(keys if verb == "delete" else stale, stale, owner)
        return owned

    async def _drop_entries(self, keys: Sequence[str], stale: Sequence[str], owner: str) -> None:
        """Remove keys from an index that is on another node than their records.

        A stale one may have been given to this owner again since we looked, and just have lost its
        new entry. Records are written before entries, so its record can be loaded by now.
        """
        if keys:
            await self._client.command("ZREM", self._index(owner), *keys)
        names = {self._name(key): key for key in stale}
        existing = [names[name] for name in await self._client.existing(list(names))]
        for key, record in (await self._load_owned(existing, owner)).items():
            await self._add_to_index(key, record)

    async def _load_owned(self, keys: Sequence[str], owner: str) -> dict[str, Record]:
        """Return those sessions that are live and belong to the owner."""
        found: dict[str, Record] = {}
        for chunk in _chunks(keys):
            values = await self._client.get_many([self._name(key) for key in chunk])
            loaded = {key: self._read(key, value) for key, value in zip(chunk, values, strict=True)}
            found |= {key: record for key, record in loaded.items() if record}
        return {key: record for key, record in found.items() if record.owner == owner}


class _BatchingClient:
    """A redis-py client that batches what can be batched and raises ``StoreUnavailable``."""

    def __init__(
        self, client: Redis | RedisCluster, make: Callable[[], Redis] | None = None
    ) -> None:
        # A cluster gets no batches: few of their keys would be on the same node, and one lost node
        # would fail the others too.
        self.is_cluster = isinstance(client, RedisCluster)
        self.observer: Callable[[int], None] | None = None
        self._owns_clients = make is not None
        self._make: Callable[[], Redis | RedisCluster] = make or (lambda: client)
        self._loops = PerLoop(self._begin, self._end, ours=self._owns_clients)

    async def get(self, name: bytes) -> bytes | None:
        if not self.is_cluster:
            return await self._loops.here().reads(name)
        (value,) = await self._read([name])
        return value

    async def get_many(self, names: Sequence[bytes]) -> list[bytes | None]:
        if not self.is_cluster:
            return await self._read(list(names))
        return [value for (value,) in _checked_answers(await self._pipeline("MGET", names))]

    async def existing(self, names: Sequence[bytes]) -> list[bytes]:
        """Return those names that a cluster has."""
        answers = _checked_answers(await self._pipeline("EXISTS", names))
        return [name for name, exists in zip(names, answers, strict=True) if exists]

    async def run(self, script: Script, *operation: *Operation) -> Any:
        """Run one operation of a script and return its answer."""
        if not self.is_cluster:
            answer = await self._loops.here().scripts[script](operation)
        else:
            (answer,) = await self._run_all(script, [operation])
        if isinstance(answer, Exception):
            await self._leave_demoted_master(answer)
            raise _unavailable(answer)
        return answer

    async def run_many(self, script: Script, operations: Sequence[Operation]) -> list[Any]:
        """Run operations of a script and return their answers, or raise the error of one."""
        if not self.is_cluster:
            return _checked_answers(await self._run_all(script, list(operations)))
        calls = [(2, *operation) for operation in operations]
        answers = await self._pipeline(("EVALSHA", script.sha), calls)
        # a node may not know the script yet
        unknown = [at for at, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        again = await self._pipeline(("EVAL", script.text), [calls[at] for at in unknown])
        for at, answer in zip(unknown, again, strict=True):
            answers[at] = answer
        return _checked_answers([answer for (answer,) in _checked_answers(answers)])

    async def _pipeline(self, command: _Words, arguments: Sequence[_Words]) -> list[Any]:
        """Send a command to the nodes of a cluster, to each of them with its own arguments."""
        if not arguments:
            return []
        here = self._loops.here()
        with _translated:
            pipeline = here.redis.pipeline()
            for each in arguments:
                pipeline.execute_command(*_words(command), *_words(each))
            return list(await here.calls(partial(pipeline.execute, raise_on_error=False)))

    async def command(self, *words: Any) -> Any:
        with _translated:
            return await self._execute(*words)

    async def scan(self, pattern: str) -> AsyncGenerator[bytes]:
        with _translated:
            async for name in self._loops.here().redis.scan_iter(match=pattern, count=1000):
                yield name

    async def delete(self, names: Sequence[bytes]) -> None:
        if self.is_cluster:
            _checked_answers(await self._pipeline("DEL", names))
        else:
            await self.command("DEL", *names)

    async def aclose(self) -> None:
        """Wait for the commands in flight, and close the clients if the store created them."""
        here = self._loops.here()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await here.drain()
        if self._owns_clients:
            await self._loops.close()

    def _begin(self) -> "_InOneLoop":
        loop, client = asyncio.get_running_loop(), self._make()
        run_all = {script: partial(self._run_all, script) for script in _BATCHED}
        return _InOneLoop(
            client,
            self._calls(client),
            Batcher(loop, self._read, self._on_batch),
            {script: Batcher(loop, run, self._on_batch) for script, run in run_all.items()},
        )

    async def _end(self, here: "_InOneLoop") -> None:
        """Close all connections, also those of an application's client: no other loop has a use for
        them."""
        if self.is_cluster:
            await here.redis.aclose()
            return
        manager = getattr(here.redis.connection_pool, "sentinel_manager", None)
        for client in [here.redis, *(manager.sentinels if manager else ())]:
            await client.aclose(close_connection_pool=True)

    def _on_batch(self, size: int) -> None:
        if self.observer is not None:
            self.observer(size)

    def _calls(self, client: Any) -> Calls:
        if self.is_cluster:
            return ClusterCalls(client)
        return Calls(client.connection_pool.max_connections)

    async def _execute(self, *words: Any) -> Any:
        here = self._loops.here()
        return await here.calls(here.redis.execute_command, *words)

    async def _read(self, names: list[bytes]) -> list[bytes | None]:
        unique = list(dict.fromkeys(names))
        with _translated:
            found = await self._execute("MGET", *unique)
        values = dict(zip(unique, found, strict=True))
        return [values[name] for name in names]

    async def _run_all(self, script: Script, operations: list[Operation]) -> list[Any]:
        keys = chain.from_iterable(operation[:2] for operation in operations)
        arguments = chain.from_iterable(operation[2:] for operation in operations)
        words = (2 * len(operations), *keys, *arguments)
        with _translated:
            try:
                return await self._evaluate(script, words)
            except ResponseError as error:
                # refused as a whole
                return [error for _ in operations]

    async def _evaluate(self, script: Script, words: tuple[Any, ...]) -> list[Any]:
        answers: list[Any]
        try:
            answers = await self._execute("EVALSHA", script.sha, *words)
        except NoScriptError:
            answers = await self._execute("EVAL", script.text, *words)
        return answers

    async def _leave_demoted_master(self, error: Exception) -> None:
        # A script hides READONLY from redis-py, which would go on using a master that has been
        # demoted. New connections find the master through the sentinels or the name server.
        if not self.is_cluster and _DEMOTED.search(_text(error)):
            with _translated:
                pool = self._loops.here().redis.connection_pool
                await pool.disconnect(inuse_connections=False)


class _InOneLoop(NamedTuple):
    """What belongs to one event loop: a client, its calls, and batchers of reads and scripts."""

    # redis-py types its replies as sync or async at once
    redis: Any
    calls: Calls
    reads: Batcher[bytes, bytes | None]
    scripts: dict[Script, Batcher[Operation, Any]]

    async def drain(self) -> None:
        """Wait for everything that is in flight."""
        await self.reads.drain()
        for batcher in self.scripts.values():
            await batcher.drain()
        await self.calls.drain()


def _words(words: _Words) -> tuple[Any, ...]:
    return words if isinstance(words, tuple) else (words,)


def _checked_answers(answers: list[Any]) -> list[Any]:
    for answer in answers:
        if isinstance(answer, Exception):
            raise _unavailable(answer)
    return answers


def _chunks(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    return (items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK))


def _checked(client: Redis | RedisCluster) -> Redis | RedisCluster:
    if not isinstance(client, Redis | RedisCluster) or isinstance(client, Pipeline):
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


def _check_options(url: object, options: Mapping[str, Any]) -> None:
    """Refuse what redis-py would only notice when it connects."""
    if not isinstance(url, str):
        given = f"a {type(url).__name__}: for a URL of Pydantic's write str(url)"
        if url is None:
            given = "None: is the environment variable set?"
        raise ConfigurationError(f"RedisStore.from_url takes a URL as a str, not {given}")
    for name in ("socket_timeout", "socket_connect_timeout"):
        seconds = options.get(name)
        is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if seconds is not None and not (is_number and 0 < seconds < inf):
            raise ConfigurationError(
                f"RedisStore.from_url({name}=...) takes seconds, as a number: write {name}=2"
            )


def _verifies(options: Mapping[str, Any]) -> bool:
    return options.get("ssl_cert_reqs", "required") not in (None, "none", ssl.CERT_NONE)


def _head(expires_at: int, owner: str | None) -> bytes:
    if owner is None:
        return b"%d -\n" % expires_at
    name = owner.encode()
    return b"%d %d\n%b" % (expires_at, len(name), name)


def _decode(value: bytes) -> tuple[int, Record]:
    """Return a record, after its expiry in microseconds since 1970."""
    version, head, rest = value.split(b"\n", 2)
    expiry, length = head.split(b" ")
    owner = None
    if length != b"-":
        size = int(length)
        owner, rest = rest[:size].decode(), rest[size:]
    expires_at = int(expiry)
    return expires_at, Record(rest, version.decode(), owner, from_microseconds(expires_at))


def _wrong_address(error: Exception) -> ConfigurationError:
    return ConfigurationError(
        "RedisStore.from_url takes a redis://, rediss:// or unix:// URL and options of "
        f"redis.asyncio.Redis.from_url ({type(error).__name__})"
    )


class _Forbidden(StoreUnavailable):
    """The user of the client lacks a right."""


def _unavailable(error: Exception) -> StoreUnavailable:
    kind = _Forbidden if re.search(_FORBIDDEN, _text(error)) else StoreUnavailable
    return kind(_reason(error))


# of every Exception: during a failover drivers raise AttributeErrors and KeyErrors too
_translated = translate_errors(_unavailable)

_FORBIDDEN = "NoPermissionError|NOPERM|ACL failure|The user executing the script can't"
_HINTS = (
    (
        "different (?:event )?loop|[Ee]vent loop is closed|handler is closed",
        "the connections of this client belong to another event loop: let "
        "RedisStore.from_url(...) make a client for each loop, or write `await client.aclose()` "
        "at the end of each",
    ),
    (
        "MovedError|AskError|CrossSlot|MOVED|CROSSSLOT",
        "the server belongs to a cluster: give the store a redis.asyncio.RedisCluster",
    ),
    ("AuthenticationError|AuthenticationWrong", "the server refuses the user or the password"),
    (
        "(?:to run the|can't run this command.* in) '([^' ]+)'",
        "the user may not run {}: give it the rights that RedisStore needs",
    ),
    (
        _FORBIDDEN,
        "the user may not use these keys: allow those of the prefix, by default ~sessions:*",
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
    ("ClusterDownError|SlotNotCovered|not covered", "the cluster or a part of it is down"),
    ("Cluster mode is not enabled", "this is not a cluster, or the user may not run CLUSTER SLOTS"),
    ("Redis Cluster cannot be connected", "no node of the cluster can be reached"),
    ("MasterNotFoundError", "no sentinel knows a master"),
    ("SSL", "the TLS connection failed"),
    ("TimeoutError", "no answer in time"),
    ("NoneType' object has no", "another call closed the connection"),
    (r"Error -\d+ connecting", "the server's name cannot be resolved"),
)
_DEMOTED = re.compile("ReadOnlyError|READONLY|NOREPLICAS")
_ERRNO = re.compile(r"Err(?:or|no) (\d+)|: \((\d+), ")


def _reason(error: Exception) -> str:
    """Explain a driver's error without its text, which may quote what was sent."""
    name, text = type(error).__name__, _text(error)
    for pattern, hint in _HINTS:
        if found := re.search(pattern, text):
            return f"{name}: {hint.format(*map(str.upper, found.groups()))}"
    number = _ERRNO.search(text)
    return f"{name}: {os.strerror(int(number[1] or number[2]))}" if number else name


def _text(error: Exception) -> str:
    return f"{type(error).__name__} {error}"
