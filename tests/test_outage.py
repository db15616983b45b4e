"""A store that is away: what needs it says so in time, what doesn't works, and it comes back."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
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
from fastapi_async_sessions._core.upkeep import Upkeep
from fastapi_async_sessions.records import new_version
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.testing import FrozenClock

from .apps import Data, browser, make_app, make_provider, set_cookie_kind

START = datetime(2026, 3, 1, 9, tzinfo=UTC)
SOON = timedelta(milliseconds=20)
TINY = timedelta(milliseconds=1)
VERBS = ("create", "load", "save", "delete", "find")

Deed = Callable[[], Any]


async def never() -> None:
    """A server that accepted the connection and says nothing."""
    await asyncio.Event().wait()


def raising(error: BaseException) -> Deed:
    async def fail() -> None:
        raise error

    return fail


class FailingStore(Store):
    """Does, for each verb that has a trouble, what the trouble does."""

    def __init__(self, clock: FrozenClock) -> None:
        self.inner = MemoryStore(clock=clock)
        self.trouble: dict[str, Deed] = {}

    def fail(self, deed: Deed, *verbs: str) -> None:
        self.trouble = dict.fromkeys(verbs or VERBS, deed)

    async def create(self, key: str, record: Record) -> bool:
        await self._meet("create")
        return await self.inner.create(key, record)

    async def load(self, key: str) -> Record | None:
        await self._meet("load")
        return await self.inner.load(key)

    async def save(self, key: str, record: Record, *, replaces: str) -> bool:
        await self._meet("save")
        return await self.inner.save(key, record, replaces=replaces)

    async def delete(self, key: str) -> bool:
        await self._meet("delete")
        return await self.inner.delete(key)

    async def find(self, subject: str) -> list[tuple[str, Record]]:
        await self._meet("find")
        return await self.inner.find(subject)

    async def _meet(self, verb: str) -> None:
        if verb in self.trouble:
            await self.trouble[verb]()


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock(START)


@pytest.fixture
def store(clock) -> FailingStore:
    return FailingStore(clock)


@pytest.fixture
def events() -> list[SessionEvent]:
    return []


def make_site(store: Store, events: list[SessionEvent], **options: Any) -> FastAPI:
    get_session = make_provider(store, on_event=events.append, **options)
    app = make_app()
    site_session = Annotated[Session[Data], Depends(get_session)]

    @app.get("/")
    async def read(session: site_session) -> dict[str, Any]:
        return {"new": session.is_new, "count": session.data.count}

    @app.post("/change")
    async def change(session: site_session) -> None:
        session.data.count += 1

    @app.post("/sign-in")
    async def sign_in(session: site_session) -> None:
        session.renew(subject="42")

    @app.post("/destroy")
    async def destroy(session: site_session) -> None:
        await session.destroy()

    @app.post("/destroy-later")
    async def destroy_later(session: site_session) -> None:
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
    """503 with ``Retry-After``, without a cookie, and without the store's own words."""
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert set_cookie_kind(response) is None
    detail = "The session store is unavailable. Please try again."
    return bool(response.json() == {"detail": detail})


REQUESTS = [
    # the verb that fails, the request that needs it
    ("load", "GET", "/"),
    ("load", "POST", "/change"),
    ("save", "POST", "/change"),
    ("save", "POST", "/sign-in"),
    ("delete", "POST", "/destroy"),
    ("delete", "POST", "/destroy-later"),
]


class DriverError(Exception):
    """Somebody else's, with somebody else's text."""


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
async def test_a_store_that_hangs_is_given_up_in_time(app, store, events, verb, method, path):
    """503 within ``store_timeout``, and one event that says why."""
    client = browser(app)
    await client.post("/change")
    events.clear()
    store.fail(never, verb)
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert is_unavailable(await client.request(method, path))
    # a delete is tried once more when the request ends
    assert loop.time() - began < 1
    assert {(event.kind, event.facts["reason"]) for event in events} == {
        ("store_error", "no answer within 0.02 seconds")
    }


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(("verb", "method", "path"), REQUESTS)
async def test_whatever_a_driver_raises_is_unavailable(
    app, store, events, caplog, verb, method, path, error
):
    """503, and the driver's own text is shown to nobody."""
    client = browser(app)
    await client.post("/change")
    events.clear()
    store.fail(raising(error), verb)
    assert is_unavailable(await client.request(method, path))
    assert {event.kind for event in events} == {"store_error"}
    assert "hunter2" not in caplog.text


async def test_a_new_session_that_cannot_be_stored_is_unavailable(app, store):
    """No cookie of a session that is not there."""
    for deed in (never, raising(OSError())):
        store.fail(deed, "create")
        assert is_unavailable(await browser(app).post("/change"))
        assert is_unavailable(await browser(app).post("/sign-in"))


async def test_a_store_says_itself_when_to_come_back(app, store):
    """``StoreUnavailable(retry_after=...)`` of a store of your own goes out as it is."""
    client = browser(app)
    await client.post("/change")
    store.fail(raising(StoreUnavailable("maintenance", retry_after=30)), "load")
    response = await client.get("/")
    assert (response.status_code, response.headers["retry-after"]) == (503, "30")
    assert "maintenance" not in response.text


async def test_an_error_names_the_driver_s_and_not_its_text(store):
    """For the operator: what kind of error; nothing is chained to it."""
    get_session = make_provider(store)
    store.fail(raising(DriverError("hunter2")))
    with pytest.raises(StoreUnavailable) as raised:
        await get_session.sessions("42")
    assert raised.value.reason == "the store raised DriverError"
    assert raised.value.__cause__ is raised.value.__context__ is None


async def test_an_application_answers_in_its_own_way(app, store):
    """It registers a handler for the error."""

    @app.exception_handler(StoreUnavailable)
    async def sorry(request: Request, error: StoreUnavailable) -> JSONResponse:
        return JSONResponse({"sorry": error.retry_after}, 503)

    store.fail(never, "create")
    response = await browser(app).post("/change")
    assert (response.status_code, response.json()) == (503, {"sorry": 1})
    assert set_cookie_kind(response) is None


async def test_a_cancelled_request_is_no_outage(app, store, events):
    """Who cancels the task gets the cancellation, not a 503."""
    client = browser(app)
    await client.post("/change")
    events.clear()
    waiting = asyncio.Event()

    async def wait() -> None:
        waiting.set()
        await never()

    store.fail(wait, "load")
    request = asyncio.create_task(client.get("/"))
    await waiting.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert events == []


async def test_it_recovers_without_a_restart(app, store):
    """The same cookie opens the same session as soon as the store is back."""
    client = browser(app)
    await client.post("/change")
    for deed in (never, raising(OSError()), never):
        store.fail(deed)
        for _ in range(3):
            assert is_unavailable(await client.get("/"))
            assert is_unavailable(await client.post("/change"))
        store.trouble = {}
        assert (await client.get("/")).json() == {"new": False, "count": 1}


async def test_a_real_redis_that_died_is_back_without_a_restart(start_redis, clock, events):
    """Killed and started again, empty: 503 meanwhile, a new session afterwards."""
    server = start_redis()
    store = RedisStore.from_url(server.url, clock=clock)
    client = browser(make_site(store, events, clock=clock))
    await client.post("/change")
    server.kill()
    assert is_unavailable(await client.get("/"))
    assert is_unavailable(await client.get("/ready"))
    server.restart()
    assert (await client.get("/ready")).status_code == 200
    assert (await client.get("/")).json() == {"new": True, "count": 0}
    await client.post("/change")
    await store.aclose()


async def test_a_real_redis_that_hangs_is_given_up(start_redis, clock, events):
    """Paused, its connections open; resumed, the session is there."""
    server = start_redis()
    store = RedisStore.from_url(server.url, clock=clock)
    app = make_site(store, events, clock=clock, store_timeout=25 * SOON)
    client = browser(app)
    await client.post("/change")
    server.pause()
    assert is_unavailable(await client.get("/"))
    assert is_unavailable(await client.post("/change"))
    server.resume()
    assert (await client.get("/")).json()["new"] is False
    await store.aclose()


async def test_what_needs_no_store_works(app, store):
    """Routes without a session, pages of the framework, visitors without a cookie, bad cookies."""
    client = browser(app)
    await client.post("/change")
    store.fail(never)
    for path, status in (("/plain", 200), ("/docs", 200), ("/openapi.json", 200), ("/no", 404)):
        assert (await client.get(path)).status_code == status
    assert (await client.options("/plain")).status_code == 405
    assert (await browser(app).get("/")).json() == {"new": True, "count": 0}
    assert (await browser(app, "forged").get("/")).json() == {"new": True, "count": 0}


async def test_an_extension_that_hangs_fails_no_request(store, clock, events):
    """Whichever of the two timeouts is shorter."""
    for options in (
        {"store_timeout": SOON},
        {"commit_timeout": SOON, "store_timeout": timedelta(hours=1)},
    ):
        app = make_site(store, events, clock=clock, name=f"n{len(options)}", **options)
        client = browser(app)
        await client.post("/change")
        clock.advance(timedelta(minutes=30))
        events.clear()
        store.fail(never, "save")
        assert (await client.get("/")).json() == {"new": False, "count": 1}
        assert [event.kind for event in events] == ["store_error"]
        store.trouble = {}


async def test_a_commit_is_bounded_as_a_whole(store, clock, events):
    """``commit_timeout`` counts all its calls; the outcome of the write is unknown: 503."""
    app = make_site(
        store, events, clock=clock, commit_timeout=SOON, store_timeout=timedelta(hours=1)
    )
    client = browser(app)
    await client.post("/change")
    store.fail(never, "save")
    assert is_unavailable(await client.post("/change"))
    assert events[-1].facts == {"reason": "the commit did not complete within 0.02 seconds"}


async def test_requests_that_were_given_up_leave_nothing_behind(app, store):
    """No task of theirs goes on."""
    client = browser(app)
    await client.post("/change")
    before = asyncio.all_tasks()
    store.fail(never)
    answers = await asyncio.gather(*(client.post("/change") for _ in range(50)))
    assert all(map(is_unavailable, answers))
    assert asyncio.all_tasks() == before


async def test_a_failure_while_reloading_is_unavailable(app, store):
    """``reload()`` never says that the session has ended when it can't tell."""
    client = browser(app)
    await client.post("/change")
    loads = 0

    async def second() -> None:
        nonlocal loads
        loads += 1
        if loads == 2:
            raise OSError

    store.fail(second, "load")
    assert is_unavailable(await client.post("/reload"))


async def test_check_is_bounded_too(app, store):
    """A readiness probe gets its answer."""
    assert (await browser(app).get("/ready")).status_code == 200
    for deed in (never, raising(OSError())):
        store.fail(deed)
        assert is_unavailable(await browser(app).get("/ready"))


# the life of a store


class LivingStore(MemoryStore):
    """Notes what its upkeep does, and does what it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []
        self.deeds: dict[str, list[Deed]] = {}
        self.purged = asyncio.Semaphore(0)

    async def open(self) -> None:
        await self._note("open")

    async def aclose(self) -> None:
        await self._note("close")

    async def purge(self) -> int:
        await self._note("purge")
        return await super().purge()

    async def purges(self, count: int) -> None:
        """Wait until that many have begun."""
        async with asyncio.timeout(5):
            for _ in range(count):
                await self.purged.acquire()

    async def _note(self, what: str) -> None:
        self.log.append(what)
        if what == "purge":
            self.purged.release()
        deeds = self.deeds.get(what)
        if deeds:
            await deeds.pop(0)()


@pytest.fixture
def living() -> LivingStore:
    return LivingStore()


async def test_an_open_store_is_purged_now_and_then(living, clock):
    """Expired sessions go without anybody's doing."""
    living._clock = clock
    await living.create("k", Record(b"", new_version(), None, START))
    async with Upkeep(living, every=TINY).running():
        await living.purges(3)
    assert living.log[:4] == ["open", "purge", "purge", "purge"]
    assert living.log[-1] == "close"
    assert living._records == {}


@pytest.mark.parametrize(
    "deed", [raising(StoreUnavailable("away")), raising(DriverError("hunter2")), never]
)
async def test_a_purge_that_fails_is_not_the_last_one(living, caplog, deed):
    """Whatever it does: an error in the log, without the driver's text, and the next one runs."""
    living.deeds["purge"] = [deed, deed]
    async with Upkeep(living, every=TINY).running():
        await living.purges(4)
    assert caplog.text.count("could not be purged") == 2
    assert "hunter2" not in caplog.text


async def test_it_stops_cleanly(living):
    """Before the first purge, in the middle of one, and after many: nothing is left running."""
    before = asyncio.all_tasks()
    async with Upkeep(living, every=timedelta(hours=1)).running():
        pass
    assert living.log == ["open", "close"]
    living.deeds["purge"] = [never]
    async with Upkeep(living, every=TINY, patience=timedelta(hours=1)).running():
        await living.purges(1)
    assert asyncio.all_tasks() == before


async def test_it_may_start_again(living):
    """Tests open an application more than once."""
    upkeep = Upkeep(living, every=TINY)
    for _ in range(3):
        async with upkeep.running():
            await living.purges(1)
    assert [what for what in living.log if what != "purge"] == ["open", "close"] * 3


async def test_it_stops_when_the_application_fails(living):
    """The error comes out, the store is closed."""
    with pytest.raises(DriverError):
        async with Upkeep(living).running():
            raise DriverError
    assert living.log == ["open", "close"]


@pytest.mark.parametrize(
    "deed", [raising(StoreUnavailable("away")), raising(DriverError("hunter2")), never]
)
async def test_a_store_that_cannot_be_opened_is_tried_again(living, caplog, deed):
    """The application starts all the same; purges begin when it has worked."""
    living.deeds["open"] = [deed, deed]
    async with Upkeep(living, every=timedelta(milliseconds=6), patience=TINY).running():
        assert living.log == ["open"]
        await living.purges(1)
    assert living.log[:4] == ["open", "open", "open", "purge"]
    assert caplog.text.count("could not be opened") == 2
    assert "hunter2" not in caplog.text


async def test_a_mistake_in_the_program_ends_it_at_its_start(living):
    """A store that says ``ConfigurationError`` will not get better."""
    living.deeds["open"] = [raising(ConfigurationError("no such table"))]
    with pytest.raises(ConfigurationError, match="no such table"):
        async with Upkeep(living).running():
            pass
    assert living.log == ["open", "close"]


async def test_a_mistake_that_shows_later_ends_nothing(living, caplog):
    """The database came up, and its table was not there: requests say so, purges go on."""
    living.deeds["open"] = [raising(OSError()), raising(ConfigurationError("no such table"))]
    async with Upkeep(living, every=timedelta(milliseconds=6)).running():
        await living.purges(1)
    assert caplog.text.count("could not be opened") == 2


@pytest.mark.parametrize("deed", [raising(StoreUnavailable("away")), never])
async def test_a_store_that_cannot_be_closed_stops_nobody(living, caplog, deed):
    """A line in the log; what else the application closes is closed."""
    living.deeds["close"] = [deed]
    async with Upkeep(living, patience=TINY).running():
        pass
    assert "could not be closed" in caplog.text


# lifespan


def test_an_application_starts_without_its_store(clock, events, caplog):
    """A dead Redis: the other routes work, readiness says no, and then yes."""
    store = FailingStore(clock)
    store.fail(raising(OSError()))
    get_session = make_provider(store, clock=clock, store_timeout=SOON)

    async def dead() -> None:
        raise StoreUnavailable("connection refused")

    store.open = dead
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
        store.trouble = {}
        assert client.get("/ready").status_code == 200
    assert "could not be opened: connection refused" in caplog.text


async def test_several_providers_open_one_store_once():
    """The first one opens it, the last one closes it, one task purges."""
    living = LivingStore()
    first, second = make_provider(living, name="a"), make_provider(living, name="b")
    before = asyncio.all_tasks()
    async with first.lifespan(FastAPI()):
        async with second.lifespan(FastAPI()):
            assert living.log == ["open"]
            assert len(asyncio.all_tasks() - before) == 1
        assert living.log == ["open"]
    assert living.log == ["open", "close"]
    assert asyncio.all_tasks() == before


def test_a_lifespan_composes_with_the_application_s_own():
    """Inside one's own: both run, in order, and what it yields is kept."""
    living = LivingStore()
    get_session = make_provider(living)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, str]]:
        living.log.append("mine begins")
        async with get_session.lifespan(app):
            yield {"mine": "kept"}
        living.log.append("mine ends")

    app = make_app(lifespan=lifespan)

    @app.get("/")
    async def read(
        request: Request, session: Annotated[Session[Data], Depends(get_session)]
    ) -> str:
        session.data.count += 1
        return str(request.state.mine)

    with TestClient(app, base_url="https://testserver") as client:
        assert client.get("/").json() == "kept"
    assert living.log == ["mine begins", "open", "close", "mine ends"]


def test_an_application_without_a_lifespan_works():
    """Opening is a convenience: stores work without it."""
    living = LivingStore()
    client = TestClient(make_site(living, []), base_url="https://testserver")
    client.post("/change")
    assert client.get("/").json() == {"new": False, "count": 1}
    assert living.log == []


def test_logging_of_a_healthy_life_is_quiet(caplog):
    """Nothing above DEBUG."""
    caplog.set_level(logging.INFO, "fastapi_async_sessions")
    get_session = make_provider(LivingStore())
    with TestClient(make_app(lifespan=get_session.lifespan)):
        pass
    assert [record for record in caplog.records if "session" in record.name] == []
