"""Fixtures for every test."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from fastapi_async_sessions import MemoryStore, SessionEvent, SessionInvalid
from fastapi_async_sessions._core.state import SessionState
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.testing import FrozenClock

from .apps import make_provider
from .doubles import SpyStore
from .generated import load_profile

load_profile()

pytest_plugins = [
    "tests.slow",
    "tests.servers.releases",
    "tests.servers.redis",
    "tests.servers.sentinel",
    "tests.servers.cluster",
    "tests.servers.postgres",
    "tests.servers.packages",
    "tests.servers.tls",
    "tests.servers.pgbouncer",
    "tests.servers.nginx",
    "tests.servers.chromium",
    "tests.servers.oidc",
]


def pytest_collection_finish() -> None:
    """What the tests are made of stays: a garbage collection that skips it takes no time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def clock() -> FrozenClock:
    """A clock that stands still until the test moves it."""
    return FrozenClock()


@pytest.fixture
async def lost_errors() -> Callable[[], list[dict[str, Any]]]:
    """Gives what asyncio has logged by now about errors of tasks that nobody has taken."""
    lost: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(context))

    def collected() -> list[dict[str, Any]]:
        gc.collect()  # asyncio logs an error when its task is dropped
        return lost

    return collected


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


@pytest.fixture(autouse=True)
def merged_data_is_stored_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """After each merged commit of each test, the live data dumps to what the store holds.

    Unless another task of the request changed it while the commit ran.
    """
    accept = SessionState._accept

    def checked(state: Any, committed: Any, change: Any, data: Any) -> None:
        if committed.merged is None:
            accept(state, committed, change, data)
            return
        repository = state._repository
        try:
            is_late = repository.codec.differs(change.ours, data._dump())
        except SessionInvalid:
            is_late = True
        accept(state, committed, change, data)
        if data is state.data and not is_late:
            stored = repository.dump_of(committed.stored.raw)
            assert repository.codec.reads_alike(data._dump(), stored)

    monkeypatch.setattr(SessionState, "_accept", checked)
