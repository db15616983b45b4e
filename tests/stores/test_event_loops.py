"""A store in more than one event loop: jobs, scripts, threads, notebooks, test clients.

Connections of client libraries work only in the loop that made them. A store makes its own in each
loop, and a loop that ends closes them.
"""

import asyncio
import gc
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Barrier, Event
from typing import Annotated, Any

import pytest
from fastapi import Depends
from fastapi.testclient import TestClient
from pydantic import BaseModel
from redis.asyncio import Redis, Sentinel
from sqlalchemy.ext.asyncio import create_async_engine

from fastapi_async_sessions import Additive, MemoryStore, Record, Session, Store, StoreUnavailable
from fastapi_async_sessions.stores._loops import PerLoop
from fastapi_async_sessions.stores.http import HTTPStore
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.stores.service import session_service
from fastapi_async_sessions.stores.sql import SQLStore
from fastapi_async_sessions.testing import session_cookies
from tests.apps import Data, make_app, make_provider
from tests.doubles import SpyStore
from tests.servers.asgi import serve

pytestmark = pytest.mark.one_server

TOKEN = "a-token-of-the-session-service-0123456789"

# what makes its connections itself
OWN = ["memory", "redis", "sqlite", "asyncpg", "psycopg", "http"]
# what is given the application's client or engine
GIVEN = ["redis-client", "sentinel", "cluster", "sqlite-engine", "asyncpg-engine", "psycopg-engine"]

CROWD = 10

MakeStore = Callable[[], Store]

ANOTHER_LOOP = r"another event loop: let \w+Store.from_url\(...\) .* or write `await .*\(\)` at"


SLOW = ["sentinel", "cluster"]


@pytest.fixture(
    params=[pytest.param(kind, marks=[pytest.mark.slow] * (kind in SLOW)) for kind in OWN + GIVEN]
)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def make_store(kind: str, request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[MakeStore]:
    """Makes a store of each kind, whose tables exist."""
    give: Callable[[str], Any] = request.getfixturevalue
    if kind == "http":
        with serve(session_service(MemoryStore(), token=TOKEN)) as url:
            yield lambda: HTTPStore(url, token=TOKEN, timeout=timedelta(minutes=1))
        return
    yield lambda: _make_store(kind, give, tmp_path)


def _make_store(kind: str, give: Callable[[str], Any], tmp_path: Any) -> Store:
    match kind:
        case "memory":
            return MemoryStore()
        case "redis":
            return RedisStore.from_url(give("redis_url"))
        case "redis-client":
            return RedisStore(Redis.from_url(give("redis_url")))
        case "sentinel":
            return RedisStore(Sentinel(give("redis_sentinels").addresses).master_for("main"))
        case "cluster":
            return RedisStore(give("redis_cluster").connect())
    driver = kind.removesuffix("-engine")
    url = f"sqlite+aiosqlite:///{tmp_path}/sessions.db"
    if driver != "sqlite":
        url = give("postgres_url").replace("asyncpg", driver)
    store = SQLStore.from_url(url) if kind == driver else SQLStore(create_async_engine(url))
    asyncio.run(store.create_table())
    return store


class Counter(BaseModel):
    count: Annotated[int, Additive] = 0


async def sign_in_often(get_session: Any, subject: str) -> int:
    """Sign a user in ten times at once, and return how often they are signed in then."""
    await asyncio.gather(*(session_cookies(get_session, subject=subject) for _ in range(CROWD)))
    return len(await get_session.sessions(subject))


def test_a_script_runs_one_event_loop_after_another(make_store: MakeStore, kind: str) -> None:
    """As cron jobs, tasks of Celery and scripts do, which call asyncio.run() again and again."""
    get_session = make_provider(make_store())
    assert asyncio.run(sign_in_often(get_session, f"ada {kind}")) == CROWD
    assert len(asyncio.run(get_session.sessions(f"ada {kind}"))) == CROWD
    assert asyncio.run(get_session.revoke_all(f"ada {kind}")) == CROWD
    assert asyncio.run(sign_in_often(get_session, f"ada {kind}")) == CROWD
    del get_session
    gc.collect()  # a warning of an unclosed connection would be an error


@pytest.mark.slow
def test_a_job_may_close_the_store(make_store: MakeStore, kind: str) -> None:
    """At its end, and use it again afterwards, in the same loop and in another."""
    store = make_store()
    get_session = make_provider(store)

    async def job() -> int:
        for _ in range(2):
            await store.open()
            await sign_in_often(get_session, f"bob {kind}")
            await store.aclose()
        return await get_session.revoke_all(f"bob {kind}")

    assert [asyncio.run(job()), asyncio.run(job())] == [2 * CROWD] * 2


@pytest.mark.slow
# what such a loop leaves behind is found by the garbage collector alone
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)
def test_a_loop_that_is_only_closed_leaves_nothing_that_is_used(
    make_store: MakeStore, kind: str
) -> None:
    """It finishes no generators, so connections stay open; a store drops its own ones.

    Those of an application's client it cannot drop, and says what to write.
    """
    get_session = make_provider(make_store())
    for number in range(3):
        loop = asyncio.new_event_loop()
        cookies = loop.run_until_complete(session_cookies_or_reason(get_session))
        assert isinstance(cookies, dict) or (number and kind in GIVEN), cookies
        loop.close()
    del get_session
    gc.collect()


async def session_cookies_or_reason(get_session: Any) -> dict[str, str] | str:
    try:
        return await session_cookies(get_session, subject="ada")
    except StoreUnavailable as error:
        reason = error.reason
    assert re.search(ANOTHER_LOOP, reason), reason
    return reason


@pytest.mark.slow
@pytest.mark.parametrize("kind", OWN, indirect=True)
def test_each_thread_has_an_event_loop(make_store: MakeStore, kind: str) -> None:
    """At the same time, as servers and workers of several threads do."""
    store = make_store()
    get_session = make_provider(store)
    together = Barrier(4, timeout=60)

    async def job(number: int) -> int:
        await store.open()
        together.wait()
        held = await sign_in_often(get_session, f"{number} {kind}")
        together.wait()
        return held + await get_session.revoke_all(f"{number} {kind}")

    with ThreadPoolExecutor(4) as threads:
        assert (
            list(threads.map(lambda number: asyncio.run(job(number)), range(4))) == [2 * CROWD] * 4
        )
    assert asyncio.run(sign_in_often(get_session, f"0 {kind}")) == CROWD


@pytest.mark.slow
@pytest.mark.parametrize("kind", OWN, indirect=True)
def test_a_thread_closes_the_store(make_store: MakeStore, kind: str) -> None:
    """While another one uses it."""
    store = make_store()
    get_session = make_provider(store)

    async def close_again_and_again(is_done: Event) -> None:
        while not is_done.is_set():
            await store.open()
            await store.aclose()

    async def sign_in_again_and_again() -> int:
        for _ in range(5):
            held = await sign_in_often(get_session, f"cyd {kind}")
        return held

    is_done = Event()
    with ThreadPoolExecutor(1) as thread:
        closing = thread.submit(asyncio.run, close_again_and_again(is_done))
        try:
            assert asyncio.run(sign_in_again_and_again()) == 5 * CROWD
        finally:
            is_done.set()
        closing.result(60)


def test_each_thread_runs_an_application() -> None:
    """Each has its own store open, which is purged and closed in its own event loop."""
    store = SpyStore(MemoryStore())
    get_session = make_provider(store)
    have_started = Barrier(2, timeout=60)

    async def run() -> None:
        async with get_session.lifespan(make_app()):
            have_started.wait()

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda _: asyncio.run(run()), range(2)))
    assert sorted(store.calls) == ["aclose", "aclose", "open", "open"]


def test_commits_of_one_session_in_several_threads() -> None:
    """They queue after a conflict, each in its own event loop; none is lost."""
    get_session = make_provider(MemoryStore(), Counter)
    cookies = asyncio.run(session_cookies(get_session, Counter()))
    [(_, value)] = cookies.items()
    (verified,) = get_session.verifier.verify([value.encode()])
    key = verified.token.key("session")

    async def count() -> None:
        async with get_session.open(key) as session:
            await asyncio.sleep(0.001)
            session.data.count += 1

    async def job() -> None:
        await asyncio.gather(*(count() for _ in range(10)))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: asyncio.run(job()), range(4)))

    async def total() -> int:
        async with get_session.open(key) as session:
            return session.data.count

    assert asyncio.run(total()) == 40


def test_a_test_client_that_was_not_entered(make_store: MakeStore, kind: str) -> None:
    """Each of its requests has an event loop of its own."""
    get_session = make_provider(make_store())
    app = make_app()

    @app.post("/in")
    async def sign_in(session: Session[Data] = Depends(get_session)) -> None:
        session.renew(subject="ada")

    @app.get("/me")
    async def me(session: Session[Data] = Depends(get_session)) -> str | None:
        return session.subject

    client = TestClient(app, base_url="https://testserver")
    assert client.post("/in").status_code == 200
    assert [client.get("/me").json() for _ in range(3)] == ["ada"] * 3


def test_threads_share_the_memory() -> None:
    """Each call of one is a whole, wherever another thread interrupts it."""
    interval = sys.getswitchinterval()
    store = MemoryStore()
    record = Record(b"", "1", "ada", datetime.now(UTC) + timedelta(hours=1))

    async def job(number: int) -> None:
        for n in range(3000):
            key = f"{number * 3000 + n:064x}"
            await store.create(key, record)
            await store.save(key, replace(record, version="2"), replaces="1")
            await store.delete(key)

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda number: asyncio.run(job(number)), range(4)))
    finally:
        sys.setswitchinterval(interval)
    assert asyncio.run(store.find("ada")) == []


async def test_no_connection_is_left_on_the_server(redis_url: str, redis_client: Redis) -> None:
    """When a loop has ended; a program that runs for long would collect them otherwise."""
    get_session = make_provider(RedisStore.from_url(redis_url))
    before = len(await redis_client.client_list())
    for _ in range(3):
        await asyncio.to_thread(asyncio.run, sign_in_often(get_session, "ada"))
    assert len(await redis_client.client_list()) == before
    assert len(await get_session.sessions("ada")) == 3 * CROWD
    await get_session.repository.settings.store.aclose()


# the mechanism


class Client:
    def __init__(self) -> None:
        self.is_closed = False

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.is_closed = True


@pytest.fixture
def clients() -> AsyncIterator[Any]:
    return PerLoop(Client, Client.aclose)


def test_the_client_is_the_same_throughout_a_loop(clients: Any) -> None:
    """And closed at its end."""

    async def run() -> Client:
        assert clients.here() is clients.here()
        return clients.here()

    first, second = asyncio.run(run()), asyncio.run(run())
    assert first is not second
    assert first.is_closed
    assert second.is_closed


async def test_a_client_is_closed_by_hand(clients: Any) -> None:
    """In its own loop only; the next call makes another, and closing twice is closing once."""
    first = clients.here()
    await asyncio.to_thread(asyncio.run, clients.close())
    assert not first.is_closed
    await asyncio.gather(clients.close(), clients.close())
    assert first.is_closed
    assert clients.here() is not first
    await clients.close()


async def test_a_client_that_cannot_be_closed_does_not_disturb_the_end() -> None:
    """A server may be down when a loop ends."""

    async def refuse(_: Client) -> None:
        raise OSError

    clients = PerLoop(Client, refuse)
    clients.here()
    await clients.close()


def test_the_clients_of_closed_loops_are_forgotten(clients: Any) -> None:
    """Also where a loop was closed without finishing its generators."""

    async def run() -> None:
        clients.here()

    for _ in range(5):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(run())
        loop.close()
    assert len(clients._held) == 1


@pytest.mark.parametrize("ours", [True, False])
async def test_a_store_that_is_no_longer_used_closes_only_a_client_of_its_own(ours: bool) -> None:
    """The application's may be in use elsewhere in the same loop."""
    client = Client()
    clients = PerLoop(lambda: client, Client.aclose, ours=ours)
    clients.here()
    del clients
    gc.collect()
    for _ in range(10):
        await asyncio.sleep(0)
    assert client.is_closed is ours


async def test_a_store_that_is_dropped_leaves_the_connections_of_its_client(
    redis_client: Redis,
) -> None:
    """A subscription of the application misses no message."""
    async with redis_client.pubsub() as subscription:
        await subscription.subscribe("news")
        await RedisStore(redis_client).load("0" * 64)
        gc.collect()
        for _ in range(10):
            await asyncio.sleep(0.01)
        await redis_client.publish("news", "one")
        received = [await subscription.get_message(timeout=60) for _ in range(2)]
    assert [message and message["type"] for message in received] == ["subscribe", "message"]
