"""A server that hangs for a moment, with many calls in flight, and then goes on."""

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial

import pytest

from fastapi_async_sessions._core.bounded import BoundedStore
from fastapi_async_sessions.errors import StoreUnavailable
from fastapi_async_sessions.events import Events
from fastapi_async_sessions.stores.http import HTTPStore
from fastapi_async_sessions.stores.memory import MemoryStore
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.stores.service import session_service
from fastapi_async_sessions.stores.sql import SQLStore
from tests.servers.asgi import serve
from tests.servers.proxy import Proxy

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
