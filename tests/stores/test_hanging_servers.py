"""A server that hangs for a moment with calls in flight, and a store that is closed meanwhile."""

import asyncio
import gc
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial

import pytest

from fastapi_async_sessions._core.bounded import BoundedStore
from fastapi_async_sessions.errors import StoreUnavailable
from fastapi_async_sessions.events import Events
from fastapi_async_sessions.stores import _loops, redis, sql
from fastapi_async_sessions.stores.http import HTTPStore
from fastapi_async_sessions.stores.memory import MemoryStore
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.stores.service import session_service
from fastapi_async_sessions.stores.sql import SQLStore
from tests.servers.asgi import serve
from tests.servers.proxy import Proxy
from tests.servers.waits import until

KEY = "ab" * 32
TOKEN = "t0ken-of-more-than-thirty-two-characters"
MORE_THAN_CONNECTIONS = 250
MINUTE = timedelta(minutes=1)


@pytest.fixture(params=["redis", "asyncpg", "psycopg", "http"])
def behind_a_proxy(request):
    """Opens a store of each kind that reaches its server through a proxy."""
    kind = request.param
    if kind == "http":
        with serve(session_service(MemoryStore(), token=TOKEN)) as url:
            yield opener(url, lambda url: HTTPStore(url, token=TOKEN, timeout=MINUTE))
    elif kind == "redis":
        patience = dict.fromkeys(("socket_connect_timeout", "socket_timeout"), 60)
        make_store = partial(RedisStore.from_url, **patience)
        yield opener(request.getfixturevalue("redis_url"), make_store)
    else:
        request.getfixturevalue("postgres_url")  # empties the database
        server = request.getfixturevalue("postgres_server")
        url = server.url_for("postgres", driver=kind)
        yield opener(url, lambda url: SQLStore.from_url(url, create_table=True))


def opener(url, make_store):
    @asynccontextmanager
    async def opened():
        async with Proxy(url) as proxy:
            store = make_store(proxy.url)
            try:
                await store.open()
                yield store, proxy
            finally:
                await store.aclose()

    return opened


async def load_many(store):
    """As requests do: each waits for half a second."""
    bounded = BoundedStore(store, timedelta(seconds=0.5), Events("session", None))
    loads = [bounded.load(f"{number:064x}") for number in range(MORE_THAN_CONNECTIONS)]
    return await asyncio.gather(*loads, return_exceptions=True)


async def test_callers_that_gave_up_leave_the_store_usable(behind_a_proxy):
    """However many there were: none of them keeps a connection that others need."""
    async with behind_a_proxy() as (store, proxy):
        for _ in range(3):
            proxy.pause()
            for error in await load_many(store):
                assert isinstance(error, StoreUnavailable)
            proxy.resume()
            assert await store.load(KEY) is None


async def test_callers_that_gave_up_while_connecting_leave_no_connection(behind_a_proxy):
    """Not even until the garbage is collected, which may take minutes."""
    async with behind_a_proxy() as (store, proxy):
        await store.aclose()
        gc.collect()
        gc.disable()
        try:
            proxy.pause()
            await load_many(store)
            proxy.resume()
            assert await store.load(KEY) is None
            await store.aclose()
            # PostgreSQL itself closes them after a minute
            await asyncio.to_thread(until, lambda: not proxy.open, within=30, what="all closed")
        finally:
            gc.enable()


async def in_flight(store, proxy):
    """Calls that have begun, and get no answer while the proxy is paused."""
    proxy.pause()
    calls = [store.load("cd" * 32), store.load(KEY), store.find("ada"), store.find("bob")]
    tasks = [asyncio.create_task(call) for call in calls]
    await asyncio.to_thread(until, lambda: proxy.open, within=60, what="a call")
    return tasks


async def test_closing_waits_for_calls_in_flight(behind_a_proxy, close_seconds):
    """They get their answers, and then all connections are closed."""
    close_seconds(60)
    async with behind_a_proxy() as (store, proxy):
        calls = await in_flight(store, proxy)
        # twice, as two providers do that share it
        closing = [asyncio.create_task(store.aclose()) for _ in range(2)]
        await asyncio.sleep(0)
        proxy.resume()
        async with asyncio.timeout(30):
            await asyncio.gather(*closing)
        assert await asyncio.gather(*calls) == [None, None, [], []]
        await asyncio.to_thread(until, lambda: not proxy.open, within=60, what="all closed")


# redis-py sends what was in flight once more, and cannot be told to stop
@pytest.mark.parametrize("behind_a_proxy", ["asyncpg", "psycopg", "http"], indirect=True)
async def test_closing_does_not_wait_for_ever(behind_a_proxy, close_seconds):
    """For calls that are still in flight the store is unavailable: they were not cancelled."""
    close_seconds(0.01)
    async with behind_a_proxy() as (store, proxy):
        calls = await in_flight(store, proxy)
        await store.aclose()
        async with asyncio.timeout(60):
            for error in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(error, StoreUnavailable)
                assert "the store was closed before" in error.reason
        proxy.resume()
        assert await store.load(KEY) is None


@pytest.fixture
def close_seconds(monkeypatch):
    """Sets how long stores wait for calls in flight when they are closed."""

    def set_to(seconds):
        for module in (_loops, redis, sql):
            monkeypatch.setattr(module, "CLOSE_SECONDS", seconds)

    return set_to
