"""An unavailable store: what needs it fails in time, everything else works, and it recovers."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient

from fastapi_async_sessions import (
    ConfigurationError,
    MemoryStore,
    Record,
    Session,
    SessionEvent,
    Store,
    StoreUnavailable,
)
from fastapi_async_sessions._core.outage import Outage
from fastapi_async_sessions._core.upkeep import Upkeep
from fastapi_async_sessions.records import new_version
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.testing import FrozenClock

from .apps import (
    COOKIE,
    Data,
    browser,
    make_app,
    make_provider,
    session_records,
    set_cookie_kind,
)
from .doubles import WAIT_LIMIT, Gate, Hook, SpyStore, StoreCall, before, failing, pass_on
from .sites import make_sign_in_site

START = datetime(2026, 3, 1, 9, tzinfo=UTC)
SOON = timedelta(milliseconds=20)
TINY = timedelta(milliseconds=1)
VERBS = ("create", "load", "save", "delete", "find")


class DriverError(Exception):
    """An error of a database driver, whose text may hold secrets."""


def unavailable(*verbs: str) -> Hook:
    return failing(*verbs, error=StoreUnavailable("away"))


def raises(*verbs: str) -> Hook:
    return failing(*verbs, error=DriverError("hunter2"))


def hangs(*verbs: str) -> Hook:
    """The connection is open and nothing comes back."""
    return Gate(*verbs)


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock(START)


@pytest.fixture
def store(clock) -> SpyStore:
    return SpyStore(MemoryStore(clock=clock))


@pytest.fixture
def events() -> list[SessionEvent]:
    return []


def make_site(store: Store, events: list[SessionEvent], **options: Any) -> FastAPI:
    """Routes that need the store in different ways, one that needs none, and a readiness probe."""
    get_session = make_provider(store, on_event=events.append, **options)
    app = make_sign_in_site(get_session)
    site_session = Annotated[Session[Data], Depends(get_session)]

    @app.post("/sign-out-unawaited")
    async def sign_out_unawaited(session: site_session) -> None:
        session.destroy()

    @app.post("/reload")
    async def reload(session: site_session) -> bool:
        return await session.reload()

    @app.get("/plain")
    async def plain() -> str:
        return "no session"

    @app.get("/ready")
    async def ready() -> None:
        await get_session.check()

    return app


@pytest.fixture
def app(store, clock, events) -> FastAPI:
    return make_site(store, events, clock=clock, store_timeout=SOON)


def is_unavailable(response: Any) -> bool:
    """503 with ``Retry-After``, without a cookie, and without the text of the store's error."""
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert set_cookie_kind(response) is None
    detail = "The session store is unavailable. Please try again."
    return bool(response.json() == {"detail": detail})


REQUESTS = [
    # the verb that fails, and a request that needs it
    ("load", "GET", "/"),
    ("load", "POST", "/change"),
    ("save", "POST", "/change"),
    ("save", "POST", "/sign-in/ada"),
    ("delete", "POST", "/sign-out"),
    ("delete", "POST", "/sign-out-unawaited"),
]


ERRORS = [
    OSError(111, "Connection refused"),
    ConnectionResetError(),
    TimeoutError("10.0.0.5:6379 with password hunter2"),
    asyncio.CancelledError(),
    RuntimeError("hunter2"),
    DriverError("redis://:hunter2@10.0.0.5"),
    KeyError("key"),
    StopAsyncIteration(),
    ExceptionGroup("two", [OSError(), DriverError()]),
    RecursionError(),
    AttributeError("'NoneType' object has no attribute 'read'"),
]


@pytest.mark.parametrize(("verb", "method", "path"), REQUESTS)
async def test_a_call_to_a_store_that_hangs_times_out(app, store, events, verb, method, path):
    """The response is a 503, and each event names ``store_timeout``."""
    client = browser(app)
    await client.post("/change")
    events.clear()
    store.hook = hangs(verb)
    async with asyncio.timeout(WAIT_LIMIT):
        assert is_unavailable(await client.request(method, path))
    assert {(event.kind, event.facts["reason"]) for event in events} == {
        ("store_error", "no answer within 0.02 seconds")
    }


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(("verb", "method", "path"), REQUESTS)
async def test_whatever_a_driver_raises_is_unavailable(
    app, store, events, caplog, verb, method, path, error
):
    """The response is a 503, and the text of the driver's error is not shown."""
    client = browser(app)
    await client.post("/change")
    events.clear()
    store.hook = failing(verb, error=error)
    assert is_unavailable(await client.request(method, path))
    assert {event.kind for event in events} == {"store_error"}
    assert "hunter2" not in caplog.text


async def test_a_new_session_that_cannot_be_stored_is_unavailable(app, store):
    """No cookie is sent, since there is no session that it could open."""
    for hook in (hangs("create"), failing("create", error=OSError())):
        store.hook = hook
        assert is_unavailable(await browser(app).post("/change"))
        assert is_unavailable(await browser(app).post("/sign-in/ada"))


async def test_a_store_can_set_retry_after(app, store):
    """The response to ``StoreUnavailable(retry_after=...)`` has that value."""
    client = browser(app)
    await client.post("/change")
    store.hook = failing("load", error=StoreUnavailable("maintenance", retry_after=30))
    response = await client.get("/")
    assert (response.status_code, response.headers["retry-after"]) == (503, "30")
    assert "maintenance" not in response.text


async def test_the_error_names_the_class_of_the_driver_s_error(store):
    """It has neither the driver's text nor the error itself as its cause or context."""
    get_session = make_provider(store)
    store.hook = raises(*VERBS)
    with pytest.raises(StoreUnavailable) as raised:
        await get_session.sessions("42")
    assert raised.value.reason == "the store raised DriverError"
    assert raised.value.__cause__ is raised.value.__context__ is None


async def test_an_application_can_handle_an_outage(app, store):
    """It registers an exception handler for ``StoreUnavailable``."""

    @app.exception_handler(StoreUnavailable)
    async def sorry(request: Request, error: StoreUnavailable) -> JSONResponse:
        return JSONResponse({"sorry": error.retry_after}, 503)

    store.hook = hangs("create")
    response = await browser(app).post("/change")
    assert (response.status_code, response.json()) == (503, {"sorry": 1})
    assert set_cookie_kind(response) is None


async def test_a_cancelled_request_is_not_an_outage(app, store, events):
    """The cancellation is raised, and not turned into a 503."""
    client = browser(app)
    await client.post("/change")
    events.clear()
    store.hook = gate = Gate("load")
    request = asyncio.create_task(client.get("/"))
    await asyncio.wait_for(gate.reached.wait(), 10)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert events == []


async def test_requests_recover_without_a_restart(app, store):
    """The same cookie opens the same session as soon as the store works again."""
    client = browser(app)
    await client.post("/change")
    for hook in (hangs(*VERBS), failing(*VERBS, error=OSError()), hangs(*VERBS)):
        store.hook = hook
        for _ in range(3):
            assert is_unavailable(await client.get("/"))
            assert is_unavailable(await client.post("/change"))
        store.hook = pass_on
        assert (await client.get("/")).json() == {"new": False, "subject": None, "count": 1}


async def test_a_real_redis_that_died_is_used_again_after_its_restart(start_redis, clock, events):
    """It restarts empty: requests get 503 meanwhile, and a new session afterwards."""
    server = start_redis()
    store = RedisStore.from_url(server.url, clock=clock)
    client = browser(make_site(store, events, clock=clock))
    await client.post("/change")
    server.kill()
    assert is_unavailable(await client.get("/"))
    assert is_unavailable(await client.get("/ready"))
    server.restart()
    assert (await client.get("/ready")).status_code == 200
    assert (await client.get("/")).json() == {"new": True, "subject": None, "count": 0}
    await client.post("/change")
    await store.aclose()


async def test_a_call_to_a_real_redis_that_hangs_times_out(start_redis, clock, events):
    """Paused with its connections open, it still has the session when it resumes."""
    server = start_redis()
    stores = [RedisStore.from_url(server.url, clock=clock) for _ in range(2)]
    client = browser(make_site(stores[0], events, clock=clock))
    await client.post("/change")
    app = make_site(stores[1], events, clock=clock, store_timeout=SOON)
    impatient = browser(app, client.cookies[COOKIE])
    await stores[1].load("connects")
    server.pause()
    assert is_unavailable(await impatient.get("/"))
    assert is_unavailable(await impatient.post("/change"))
    server.resume()
    assert (await client.get("/")).json()["new"] is False
    for store in stores:
        await store.aclose()


async def test_what_needs_no_store_works(app, store):
    """This holds for routes without a session, FastAPI's own pages, and missing or bad cookies."""
    client = browser(app)
    await client.post("/change")
    store.hook = hangs(*VERBS)
    for path, status in (("/plain", 200), ("/docs", 200), ("/openapi.json", 200), ("/no", 404)):
        assert (await client.get(path)).status_code == status
    assert (await client.options("/plain")).status_code == 405
    assert (await browser(app).get("/")).json() == {"new": True, "subject": None, "count": 0}
    assert (await browser(app, "forged").get("/")).json() == {
        "new": True,
        "subject": None,
        "count": 0,
    }


async def test_a_failed_extension_does_not_fail_the_request(store, clock, events):
    """It is logged, whichever of the two timeouts is shorter."""
    for options in (
        {"store_timeout": SOON},
        {"commit_timeout": SOON, "store_timeout": timedelta(hours=1)},
    ):
        app = make_site(store, events, clock=clock, name=f"n{len(options)}", **options)
        client = browser(app)
        await client.post("/change")
        clock.advance(timedelta(minutes=30))
        events.clear()
        store.hook = hangs("save")
        assert (await client.get("/")).json() == {"new": False, "subject": None, "count": 1}
        assert [event.kind for event in events] == ["store_error"]
        store.hook = pass_on


@pytest.mark.parametrize("is_done", [False, True], ids=["refused", "reply lost"])
async def test_a_route_may_commit_and_go_on_after_an_extension_that_failed(store, clock, is_done):
    """Its next commit tries again, and what it changes meanwhile is stored once."""
    get_session = make_provider(store, clock=clock)
    app = make_app()

    async def fail(call: StoreCall) -> Any:
        if call.verb != "save":
            return await call.pass_on()
        if is_done:
            await call.pass_on()
        raise StoreUnavailable("told to fail")

    @app.post("/{change}")
    async def route(session: Annotated[Session[Data], Depends(get_session)], change: int) -> int:
        await session.commit()
        if change:
            store.hook = pass_on
        session.data.count += change
        return session.data.count

    client = browser(app)
    await client.post("/1")
    for change in (0, 1):
        clock.advance(timedelta(minutes=20))
        store.hook = fail
        response = await client.post(f"/{change}")
        assert (response.status_code, response.json()) == (200, 1 + change)
    assert (await client.post("/0")).json() == 2


@pytest.mark.parametrize("is_back", [False, True])
async def test_a_sign_out_that_failed_is_tried_again_at_the_end(store, clock, is_back):
    """If the route catches the error, the session ends all the same or the response is a 503."""
    get_session = make_provider(store, clock=clock)
    app = make_app()

    @app.post("/begin")
    async def begin(session: Annotated[Session[Data], Depends(get_session)]) -> None:
        session.data.count = 1

    @app.post("/sign-out")
    async def sign_out(session: Annotated[Session[Data], Depends(get_session)]) -> None:
        store.hook = failing("delete")
        with pytest.raises(StoreUnavailable):
            await session.destroy()
        if is_back:
            store.hook = pass_on

    client = browser(app)
    await client.post("/begin")
    reply = await client.post("/sign-out")
    store.hook = pass_on
    if is_back:
        assert set_cookie_kind(reply) == "removed"
        assert await session_records(get_session, store) == {}
    else:
        assert is_unavailable(reply)
        assert len(await session_records(get_session, store)) == 1


async def test_commit_timeout_covers_the_whole_commit(store, clock, events):
    """The response is a 503: whether the write was done is unknown."""
    app = make_site(
        store, events, clock=clock, commit_timeout=SOON, store_timeout=timedelta(hours=1)
    )
    client = browser(app)
    await client.post("/change")
    store.hook = hangs("save")
    assert is_unavailable(await client.post("/change"))
    store.hook = hangs("create")
    assert is_unavailable(await browser(app).post("/change"))
    store.hook = hangs("delete")
    assert is_unavailable(await client.post("/sign-out"))
    reason, (stored, new, *ended) = "the commit did not complete within 0.02 seconds", events[1:]
    assert {event.facts["reason"] for event in events[1:]} == {reason}
    assert (stored.key, new.key, {event.key for event in ended}) == (events[0].key, None, {None})


async def test_requests_that_time_out_leave_no_tasks_behind(app, store):
    """After fifty of them the same tasks run as before."""
    client = browser(app)
    await client.post("/change")
    before = asyncio.all_tasks()
    store.hook = hangs(*VERBS)
    answers = await asyncio.gather(*(client.post("/change") for _ in range(50)))
    assert all(map(is_unavailable, answers))
    assert asyncio.all_tasks() == before


async def test_a_failed_reload_is_unavailable(app, store):
    """``reload()`` does not report a session as ended unless it knows."""
    client = browser(app)
    await client.post("/change")

    async def fail() -> None:
        raise OSError

    store.hook = before("load", fail, nth=2)
    assert is_unavailable(await client.post("/reload"))


async def test_check_times_out(app, store):
    """A readiness probe always gets a response."""
    assert (await browser(app).get("/ready")).status_code == 200
    for hook in (hangs(*VERBS), failing(*VERBS, error=OSError())):
        store.hook = hook
        assert is_unavailable(await browser(app).get("/ready"))


# the log of an outage

LOGGER = "fastapi_async_sessions"


class Seconds:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seconds(store) -> Seconds:
    """The clock by which outages of the store are over."""
    seconds = Seconds()
    vars(store)["_outage"] = Outage(seconds)
    return seconds


async def test_an_outage_is_logged_when_it_begins_and_when_it_is_over(
    store, seconds, events, caplog
):
    """With the number of failed calls between; the application's hook is called for each."""
    client = browser(make_site(store, events))
    await client.post("/change")
    store.hook = failing(*VERBS, error=OSError("hunter2"))
    for _ in range(3):
        assert is_unavailable(await client.get("/"))
    store.hook = pass_on
    await client.get("/")
    seconds.now += 5
    for _ in range(3):
        await client.get("/")
    messages = [each.getMessage() for each in caplog.records if each.name == LOGGER]
    assert [message.partition(":")[0] for message in messages] == [
        "store_error",
        "the session store works again; failed calls",
    ]
    assert messages[1].endswith(": 3")
    assert [event.kind for event in events].count("store_error") == 3


async def test_a_store_that_fails_now_and_then_is_one_outage(store, seconds, events, caplog):
    """In a cluster of which one node is down, other keys work all the time."""
    client = browser(make_site(store, events))
    await client.post("/change")
    for _ in range(5):
        store.hook = failing("load")
        await client.get("/")
        store.hook = pass_on
        seconds.now += 4
        await client.get("/")
    assert len([each for each in caplog.records if each.name == LOGGER]) == 1


async def test_providers_of_one_store_log_its_outage_once(store, caplog):
    """It is one store in one process."""
    store.hook = failing(*VERBS)
    for name in ("web", "staff"):
        with pytest.raises(StoreUnavailable):
            await make_provider(store, name=name).check()
    assert len([each for each in caplog.records if each.name == LOGGER]) == 1


async def test_the_next_outage_is_logged_again(store, seconds, caplog):
    """Each has its two lines."""
    get_session = make_provider(store)
    for _ in range(2):
        store.hook = failing(*VERBS)
        with pytest.raises(StoreUnavailable):
            await get_session.check()
        store.hook = pass_on
        seconds.now += 5
        await get_session.check()
    assert len([each for each in caplog.records if each.name == LOGGER]) == 4


# opening, purging and closing a store


class FirstCalls:
    """A hook that applies others to the first calls of a verb, and signals each purge."""

    def __init__(self, **hooks: list[Hook]) -> None:
        self.hooks = hooks
        self.purged = asyncio.Semaphore(0)

    async def __call__(self, call: StoreCall) -> Any:
        if call.verb == "purge":
            self.purged.release()
        left = self.hooks.get(call.verb)
        hook = left.pop(0) if left else pass_on
        return await hook(call)

    async def purges(self, count: int) -> None:
        """Wait until that many have begun."""
        async with asyncio.timeout(WAIT_LIMIT):
            for _ in range(count):
                await self.purged.acquire()


async def test_an_open_store_is_purged_periodically(store):
    """Expired sessions are deleted without a request."""
    store.hook = hook = FirstCalls()
    await store.inner.create("k", Record(b"", new_version(), None, START))
    async with Upkeep(store, every=TINY).running():
        await hook.purges(3)
    assert store.calls[:4] == ["open", "purge", "purge", "purge"]
    assert store.calls[-1] == "aclose"
    assert store.inner._records == {}


@pytest.mark.parametrize("trouble", [unavailable, raises, hangs])
async def test_a_failed_purge_is_logged_and_the_next_one_runs(store, caplog, trouble):
    """Once for each outage; the log does not show the text of the driver's error."""
    store.hook = hook = FirstCalls(purge=[trouble("purge")] * 2)
    async with Upkeep(store, every=TINY).running():
        await hook.purges(4)
    assert caplog.text.count("could not be purged") == 1
    assert "hunter2" not in caplog.text


async def test_a_store_whose_methods_raise_before_they_return_an_awaitable_is_kept(caplog):
    """Plain functions that fail are logged as coroutines are, and upkeep goes on."""
    called: list[str] = []
    was_retried = asyncio.Event()

    def failing_as(verb: str) -> Any:
        def fail() -> Any:
            called.append(verb)
            if called.count("open") == 2:
                was_retried.set()
            raise DriverError

        return fail

    store = MemoryStore()
    store.open, store.aclose = failing_as("open"), failing_as("close")  # type: ignore[method-assign]
    async with Upkeep(store, every=timedelta(milliseconds=6)).running():
        await asyncio.wait_for(was_retried.wait(), WAIT_LIMIT)
    assert called[-1] == "close"
    assert caplog.text.count("could not be opened: DriverError") == 1


async def test_upkeep_leaves_no_task_behind(store):
    """This holds when it ends before the first purge and in the middle of one."""
    before = asyncio.all_tasks()
    async with Upkeep(store, every=timedelta(hours=1)).running():
        pass
    assert store.calls == ["open", "aclose"]
    store.hook = hook = FirstCalls(purge=[hangs("purge")])
    async with Upkeep(store, every=TINY, patience=timedelta(hours=1)).running():
        await hook.purges(1)
    assert asyncio.all_tasks() == before


async def test_upkeep_can_run_repeatedly(store):
    """Tests start an application more than once."""
    store.hook = hook = FirstCalls()
    upkeep = Upkeep(store, every=TINY)
    for _ in range(3):
        async with upkeep.running():
            await hook.purges(1)
    assert [what for what in store.calls if what != "purge"] == ["open", "aclose"] * 3


async def test_a_store_is_closed_when_the_application_fails(store):
    """The application's own error is raised."""
    with pytest.raises(DriverError):
        async with Upkeep(store).running():
            raise DriverError
    assert store.calls == ["open", "aclose"]


@pytest.mark.parametrize("trouble", [unavailable, raises, hangs])
async def test_a_store_that_cannot_be_opened_is_retried(store, caplog, trouble):
    """The application starts nevertheless; purges begin once the store is open."""
    store.hook = hook = FirstCalls(open=[trouble("open")] * 2)
    async with Upkeep(store, every=timedelta(milliseconds=6), patience=TINY).running():
        assert store.calls == ["open"]
        await hook.purges(1)
    assert store.calls[:4] == ["open", "open", "open", "purge"]
    assert caplog.text.count("could not be opened") == 1
    assert "hunter2" not in caplog.text


async def test_a_configuration_error_of_a_store_prevents_the_start(store):
    """Retrying would not help."""
    store.hook = failing("open", error=ConfigurationError("no such table"))
    with pytest.raises(ConfigurationError, match="no such table"):
        async with Upkeep(store).running():
            pass
    assert store.calls == ["open", "aclose"]


async def test_a_configuration_error_after_the_start_is_logged(store, caplog):
    """A database that started late may lack the table: requests report it, and upkeep continues."""
    mistake = ConfigurationError("no such table")
    store.hook = hook = FirstCalls(
        open=[failing("open", error=OSError()), failing("open", error=mistake)]
    )
    async with Upkeep(store, every=timedelta(milliseconds=6)).running():
        await hook.purges(1)
    assert caplog.text.count("could not be opened") == 2


@pytest.mark.parametrize("trouble", [unavailable, hangs])
async def test_a_store_that_cannot_be_closed_is_logged(store, caplog, trouble):
    """The application can still close its other resources."""
    store.hook = trouble("aclose")
    async with Upkeep(store, patience=TINY).running():
        pass
    assert "could not be closed" in caplog.text


# lifespan


def test_an_application_starts_without_its_store(clock, events, caplog):
    """Other routes work, and the readiness probe fails until the store is there."""
    store = SpyStore(MemoryStore(clock=clock))
    error = StoreUnavailable("connection refused")
    store.hook = failing("open", *VERBS, error=error)
    get_session = make_provider(store, clock=clock, store_timeout=SOON)

    app = make_app(lifespan=get_session.lifespan)

    @app.get("/plain")
    async def plain() -> str:
        return "works"

    @app.get("/ready")
    async def ready() -> None:
        await get_session.check()

    with TestClient(app, base_url="https://testserver") as client:
        assert client.get("/plain").status_code == 200
        assert client.get("/ready").status_code == 503
        store.hook = pass_on
        assert client.get("/ready").status_code == 200
    assert "could not be opened: connection refused" in caplog.text


async def test_providers_with_one_store_open_it_once(store):
    """The first opens it, the last closes it, and a single task purges it."""
    first, second = make_provider(store, name="a"), make_provider(store, name="b")
    before = asyncio.all_tasks()
    async with first.lifespan(FastAPI()):
        async with second.lifespan(FastAPI()):
            assert store.calls == ["open"]
            assert len(asyncio.all_tasks() - before) == 1
        assert store.calls == ["open"]
    assert store.calls == ["open", "aclose"]
    assert asyncio.all_tasks() == before


def test_the_lifespan_can_be_nested_in_the_application_s_own(store):
    """Both run in order, and the state that the outer one yields is kept."""
    get_session = make_provider(store)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, str]]:
        store.calls.append("mine begins")
        async with get_session.lifespan(app):
            yield {"mine": "kept"}
        store.calls.append("mine ends")

    app = make_app(lifespan=lifespan)

    @app.get("/")
    async def read(
        request: Request, session: Annotated[Session[Data], Depends(get_session)]
    ) -> str:
        session.data.count += 1
        return str(request.state.mine)

    with TestClient(app, base_url="https://testserver") as client:
        assert client.get("/").json() == "kept"
    assert store.calls == ["mine begins", "open", "create", "aclose", "mine ends"]


def test_the_lifespan_is_optional(store):
    """A store works without having been opened."""
    client = TestClient(make_site(store, []), base_url="https://testserver")
    client.post("/change")
    assert client.get("/").json() == {"new": False, "subject": None, "count": 1}
    assert store.calls == ["create", "load"]


def test_a_healthy_store_logs_nothing_above_debug(store, caplog):
    """The lifespan of an application with a working store is silent."""
    caplog.set_level(logging.INFO, "fastapi_async_sessions")
    get_session = make_provider(store)
    with TestClient(make_app(lifespan=get_session.lifespan)):
        pass
    assert [record for record in caplog.records if "session" in record.name] == []
