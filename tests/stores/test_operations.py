"""What operators ask a store: its clock, and the number of expired records."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from fastapi_async_sessions import MemoryStore, Record, Store
from fastapi_async_sessions.records import new_version
from fastapi_async_sessions.stores.http import HTTPStore
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.stores.service import session_service
from fastapi_async_sessions.stores.sql import SQLStore
from fastapi_async_sessions.testing import FrozenClock

from ..servers.asgi import serve

TOKEN = "a-token-of-these-tests-0123456789-abcdef"
MINUTE = timedelta(minutes=1)


def redis(request: Any) -> Store:
    return RedisStore.from_url(request.getfixturevalue("redis_url"))


def postgresql(request: Any) -> Store:
    return SQLStore.from_url(request.getfixturevalue("postgres_url"), create_table=True)


def sqlite(request: Any) -> Store:
    path = request.getfixturevalue("tmp_path") / "sessions.db"
    return SQLStore.from_url(f"sqlite+aiosqlite:///{path}", create_table=True)


@pytest.fixture
async def store(request: Any) -> AsyncIterator[Store]:
    store = request.param(request)
    await store.open()
    yield store
    await store.aclose()


@pytest.mark.parametrize("store", [redis, postgresql], indirect=True)
async def test_the_clock_of_a_server_can_be_read(store: Store) -> None:
    """A server on this machine has the time of this machine."""
    time = await store.server_time()
    assert time.utcoffset() == timedelta(0)
    assert abs(time - datetime.now(UTC)) < MINUTE


async def test_the_clock_of_a_cluster_is_that_of_one_of_its_nodes(redis_cluster: Any) -> None:
    """All of them answer."""
    client = redis_cluster.connect()
    time = await RedisStore(client).server_time()
    await client.aclose()
    assert abs(time - datetime.now(UTC)) < MINUTE


async def test_the_clock_of_a_session_service_is_in_its_answers() -> None:
    """It comes from the ``Date`` header of the server that runs the service."""
    with serve(session_service(MemoryStore(), token=TOKEN)) as url:
        store = HTTPStore(url, token=TOKEN, timeout=MINUTE)
        time = await store.server_time()
        await store.aclose()
    assert abs(time - datetime.now(UTC)) < MINUTE


async def test_a_service_without_a_date_has_no_clock() -> None:
    """An application that no server runs sends none."""
    service = session_service(MemoryStore(), token=TOKEN)
    async with service.router.lifespan_context(service):
        transport = httpx.ASGITransport(service)
        store = HTTPStore("http://localhost", token=TOKEN, transport=transport)
        assert await store.server_time() is None
        await store.aclose()


@pytest.mark.parametrize("store", [lambda _: MemoryStore(), sqlite], indirect=True)
async def test_a_store_in_this_process_has_no_clock_of_its_own(store: Store) -> None:
    """Its records expire by ours."""
    assert await store.server_time() is None


@pytest.mark.parametrize("make", [sqlite, postgresql])
async def test_expired_rows_are_counted_until_they_are_purged(make: Any, request: Any) -> None:
    """``count`` is the number of the others."""
    clock, store = FrozenClock(), make(request)
    store._clock = clock
    await store.open()
    for number in range(3):
        expires_at = clock() + number * MINUTE
        await store.create(f"{number:064x}", Record(b"", new_version(), None, expires_at))
    clock.advance(MINUTE)
    assert (await store.count_expired(), await store.count()) == (2, 1)
    assert await store.purge() == 2
    assert await store.count_expired() == 0
    await store.aclose()


async def test_a_session_service_does_not_say_how_many_records_have_expired() -> None:
    """``None`` is another answer than zero."""
    assert await HTTPStore("https://sessions.example", token=TOKEN).count_expired() is None


@pytest.mark.parametrize("make", [sqlite, postgresql])
async def test_a_table_can_be_created_again_and_again(make: Any, request: Any) -> None:
    """Records that are in it stay."""
    store = make(request)
    store._create_table = False
    for _ in range(2):
        await store.create_table()
        record = Record(b"", new_version(), None, datetime.now(UTC) + MINUTE)
        assert await store.create("0" * 64, record) in (True, False)
    assert await store.count() == 1
    await store.aclose()
