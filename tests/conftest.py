"""Fixtures for every test."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from fastapi_async_sessions import MemoryStore, SessionEvent
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.testing import FrozenClock

from .apps import make_provider
from .doubles import SpyStore

pytest_plugins = ["tests.servers.redis", "tests.servers.postgres"]


@pytest.fixture
def clock() -> FrozenClock:
    """A clock that stands still until the test moves it."""
    return FrozenClock()


@pytest.fixture(params=["memory", "redis"])
async def store(request, clock) -> AsyncIterator[SpyStore]:
    """A store that records its calls: in memory, and on a real Redis."""
    if request.param == "memory":
        yield SpyStore(MemoryStore(clock=clock))
    else:
        redis = RedisStore.from_url(request.getfixturevalue("redis_url"), clock=clock)
        yield SpyStore(redis)
        await redis.aclose()


@pytest.fixture
def get_session(store, clock) -> Any:
    """A provider with that store."""
    return make_provider(store, clock=clock)


@pytest.fixture
def events() -> list[SessionEvent]:
    """Collects the events of a provider that is given ``on_event=events.append``."""
    return []
