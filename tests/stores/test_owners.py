"""Owners of very many sessions: listed and signed out in steps that end in time, in every store."""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest
from pydantic import BaseModel
from redis.asyncio import Redis
from sqlalchemy import insert

from fastapi_async_sessions import SessionProvider, StoreUnavailable
from fastapi_async_sessions._core.state import SessionState
from fastapi_async_sessions.records import Record, new_version, to_microseconds
from fastapi_async_sessions.stores.base import Store
from fastapi_async_sessions.stores.http import HTTPStore
from fastapi_async_sessions.stores.memory import MemoryStore
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.stores.service import session_service
from fastapi_async_sessions.stores.sql import SQLStore
from tests.apps import SECRET
from tests.doubles import SpyStore, before
from tests.servers.asgi import serve

TOKEN = "t0ken-of-more-than-thirty-two-characters"
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
IN_TIME = timedelta(seconds=20)  # on the busiest machine
STEP = 5000
SIZES = [pytest.param(2500, id="2500"), pytest.param(100_000, id="100000", marks=pytest.mark.slow)]
PAGE = 1000

Rows = list[tuple[str, Record]]


class Data(BaseModel):
    name: str = ""


class Memory:
    @asynccontextmanager
    async def opened(self, request: Any) -> AsyncIterator[Store]:
        self.store = MemoryStore()
        yield self.store

    async def write(self, rows: Rows) -> None:
        for key, record in rows:
            await self.store.create(key, record)

    async def write_dead(self, rows: Rows) -> None:
        await self.write([(key, expired(record)) for key, record in rows])


class HTTP(Memory):
    @asynccontextmanager
    async def opened(self, request: Any) -> AsyncIterator[Store]:
        self.store = MemoryStore()
        with serve(session_service(self.store, token=TOKEN)) as url:
            store = HTTPStore(url, token=TOKEN, timeout=MINUTE)
            yield store
            await store.aclose()


class OneRedis:
    @asynccontextmanager
    async def opened(self, request: Any) -> AsyncIterator[Store]:
        self.client: Any = Redis.from_url(request.getfixturevalue("redis_url"))
        self.store = RedisStore(self.client)
        yield self.store
        await self.client.aclose()

    async def write(self, rows: Rows) -> None:
        """As the store does, but many at once."""
        pipeline = self._pipeline()
        for key, record in rows:
            name, _, _, value = self.store._operation(key, record)
            pipeline.execute_command("SET", name, value)
        await pipeline.execute()
        await self.write_dead(rows)

    async def write_dead(self, rows: Rows) -> None:
        """Entries whose records were evicted or flushed."""
        index = self.store._index(str(rows[0][1].owner))
        scores = {key: to_microseconds(record.expires_at) // 1000 for key, record in rows}
        await self.client.zadd(index, scores)

    def _pipeline(self) -> Any:
        return self.client.pipeline(transaction=False)


class Cluster(OneRedis):
    @asynccontextmanager
    async def opened(self, request: Any) -> AsyncIterator[Store]:
        cluster = request.getfixturevalue("redis_cluster")
        cluster.flush()
        self.client = cluster.connect()
        self.store = RedisStore(self.client)
        yield self.store
        await self.client.aclose()

    def _pipeline(self) -> Any:
        return self.client.pipeline()


class SQL:
    @asynccontextmanager
    async def opened(self, request: Any) -> AsyncIterator[Store]:
        self.store = SQLStore.from_url(self.url(request), create_table=True)
        await self.store.open()
        yield self.store
        await self.store.aclose()

    async def write(self, rows: Rows) -> None:
        values = [
            {
                "key": key,
                "version": record.version,
                "owner": record.owner,
                "expires_at": to_microseconds(record.expires_at),
                "body": record.body,
            }
            for key, record in rows
        ]
        async with self.store._engine.connect() as connection:
            connection = await connection.execution_options(isolation_level="SERIALIZABLE")
            await connection.execute(insert(self.store.table), values)
            await connection.commit()

    async def write_dead(self, rows: Rows) -> None:
        await self.write([(key, expired(record)) for key, record in rows])


class SQLite(SQL):
    def url(self, request: Any) -> str:
        return f"sqlite+aiosqlite:///{request.getfixturevalue('tmp_path')}/sessions.db?timeout=60"


class PostgreSQL(SQL):
    def url(self, request: Any) -> str:
        return request.getfixturevalue("postgres_url")


@pytest.fixture(params=[Memory, HTTP, OneRedis, Cluster, SQLite, PostgreSQL])
async def crowd(request: Any) -> AsyncIterator[Any]:
    """A store, and a way to write many sessions into it."""
    backend = request.param()
    async with AsyncExitStack() as stack:
        backend.opened_store = await stack.enter_async_context(backend.opened(request))
        yield backend


def expired(record: Record) -> Record:
    return Record(record.body, record.version, record.owner, record.expires_at - 2 * HOUR)


async def sign_in_many(write: Callable[[Rows], Any], provider: Any, count: int) -> None:
    """Sessions of ada, each under a key of its own and with an end of its own."""
    repository = provider.repository
    state = SessionState(repository, repository.settings.now())
    header = state.header._replace(secret_hash=bytes(32), subject="ada")
    owner = repository.seal.owner("ada")
    ends = datetime.now(UTC) + HOUR
    keys = iter(lambda: secrets.token_hex(32), "")
    for first in range(0, count, STEP):
        await write(
            [
                (
                    key,
                    Record(
                        repository.new_record(key, header, b"{}", owner).body,
                        new_version(),
                        owner,
                        ends + timedelta(milliseconds=first + number),
                    ),
                )
                for number, key in enumerate(islice(keys, min(STEP, count - first)))
            ]
        )


def make_provider(store: Store) -> SessionProvider[Data]:
    timeouts: Any = {"store_timeout": IN_TIME, "commit_timeout": IN_TIME}
    return SessionProvider(Data, store=store, secret_key=SECRET, **timeouts)


@pytest.mark.parametrize("count", SIZES)
async def test_a_hundred_of_very_many_sessions_are_listed(crowd, count):
    """Within ``store_timeout``, and those that expire last."""
    provider = make_provider(crowd.opened_store)
    await sign_in_many(crowd.write, provider, count)
    assert len(await provider.sessions("ada")) == 100
    ends = [
        each.expires_at
        for _, each in await crowd.opened_store.find(provider.repository.seal.owner("ada"))
    ]
    assert ends == sorted(ends, reverse=True)
    assert ends[0] - ends[-1] == timedelta(milliseconds=99)


@pytest.mark.parametrize("count", SIZES)
async def test_very_many_sessions_are_revoked_in_a_few_calls(crowd, count):
    """Each call ends within ``commit_timeout``; one that fails has made progress, and at most ten
    are needed."""
    provider = make_provider(crowd.opened_store)
    await sign_in_many(crowd.write, provider, count)
    assert await calls_until_revoked(provider) <= 10
    assert await provider.sessions("ada") == []


@pytest.mark.parametrize("count", SIZES)
async def test_very_many_dead_entries_hold_nothing_up(crowd, count):
    """The live sessions among them are listed and revoked."""
    provider = make_provider(crowd.opened_store)
    await sign_in_many(crowd.write_dead, provider, count)
    await sign_in_many(crowd.write, provider, 3)
    assert await calls_until_listed(provider, 3) <= 10
    await sign_in_many(crowd.write_dead, provider, count)
    assert await calls_until_revoked(provider) <= 10
    assert await provider.sessions("ada") == []


async def test_a_revocation_that_fails_has_made_progress(crowd):
    """What it has deleted stays deleted, and another call deletes the rest."""
    store = SpyStore(crowd.opened_store)
    provider = make_provider(store)
    await sign_in_many(crowd.write, provider, PAGE + 500)

    async def fail() -> None:
        raise StoreUnavailable("told to fail")

    store.hook = before("delete_owned", fail, nth=2)
    with pytest.raises(StoreUnavailable):
        await provider.revoke_all("ada")
    left = await provider.sessions("ada", PAGE + 500)
    assert 500 <= len(left) < PAGE + 500
    assert await provider.revoke_all("ada") == len(left)
    assert await provider.sessions("ada") == []


async def calls_until_listed(provider: Any, count: int) -> int:
    for calls in range(1, 20):
        try:
            assert len(await provider.sessions("ada")) == count
        except StoreUnavailable:
            continue
        return calls
    raise AssertionError("the sessions are never listed")


async def calls_until_revoked(provider: Any) -> int:
    """Repeat ``revoke_all`` after each 503, as an operator does."""
    for calls in range(1, 20):
        try:
            await provider.revoke_all("ada")
        except StoreUnavailable:
            continue
        return calls
    raise AssertionError("the sessions are never revoked")


@pytest.mark.parametrize("keep", [False, True])
async def test_each_call_deletes_a_bounded_page(crowd, keep):
    """Those that expire first, and never the one to keep, wherever it stands."""
    store, provider = crowd.opened_store, make_provider(crowd.opened_store)
    owner = provider.repository.seal.owner("ada")
    await sign_in_many(crowd.write, provider, PAGE + 500)
    found = [key for key, _ in await store.find(owner, PAGE + 500)][::-1]
    kept = found[10] if keep else None
    first = await store.delete_owned(owner, keep=kept)
    assert 0 < first <= PAGE
    left = [key for key, _ in await store.find(owner, PAGE + 500)][::-1]
    assert left == [key for key in found if key == kept or key in found[first + keep :]]
    assert await store.delete_owned(owner, keep=kept) == len(left) - keep
    assert await store.delete_owned(owner, keep=kept) == 0
    assert [key for key, _ in await store.find(owner)] == found[10 : 10 + keep]
