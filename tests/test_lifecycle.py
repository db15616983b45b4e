"""What becomes of a session when its request ends, specified as a table.

``NEW`` and ``STORED`` list what a route may do with its session and, for each, the cookie that the
response sets, the record in the store and the store's calls. They apply to every kind of response
and to every way in which a route can end, with a store in memory and with a real Redis.
"""

import asyncio
import copy
import importlib.util
import json
import logging
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException
from fastapi.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    RedirectResponse,
    StreamingResponse,
)

from fastapi_async_sessions import (
    MemoryStore,
    Session,
    SessionClosed,
    SessionEvent,
    StoreUnavailable,
)
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.testing import FrozenClock

from .apps import (
    Data,
    Line,
    browser,
    call,
    cookie_value,
    make_app,
    make_provider,
    session_cookies,
    session_records,
    set_cookie_kind,
)
from .doubles import WAIT_LIMIT, Gate, SpyStore, StoreCall, failing, pass_on
from .sites import ScriptedSite

HAS_GENERATOR_ROUTES = importlib.util.find_spec("fastapi.sse") is not None

# what a route does with its session


async def unchanged(session: Session[Data]) -> None:
    assert session.data.count in (0, 1)


async def changed(session: Session[Data]) -> None:
    session.data.count += 1


async def changed_deep(session: Session[Data]) -> None:
    session.data.lines[0].tags.append("blue")


async def assigned(session: Session[Data]) -> None:
    session.data = Data(count=7)


async def assigned_equal(session: Session[Data]) -> None:
    session.data = session.data.model_copy(deep=True)


async def default_again(session: Session[Data]) -> None:
    session.data.count += 1
    session.data = Data()


async def renewed(session: Session[Data]) -> None:
    session.renew()


async def renewed_twice_and_changed(session: Session[Data]) -> None:
    session.renew()
    session.data.count += 1
    session.renew()


async def signed_in(session: Session[Data]) -> None:
    session.renew(subject="ada")


async def signed_in_and_changed(session: Session[Data]) -> None:
    session.data.count += 1
    session.renew(subject="ada")


async def destroyed(session: Session[Data]) -> None:
    await session.destroy()


async def destroyed_not_awaited(session: Session[Data]) -> None:
    session.destroy()


async def destroyed_then_changed(session: Session[Data]) -> None:
    await session.destroy()
    session.data.count = 5


async def destroyed_not_awaited_then_changed(session: Session[Data]) -> None:
    session.destroy()
    session.data.count = 5


async def renewed_then_destroyed(session: Session[Data]) -> None:
    session.renew(subject="ada")
    session.data.count = 5
    await session.destroy()


async def destroyed_then_signed_in(session: Session[Data]) -> None:
    await session.destroy()
    session.renew(subject="ada")


async def committed_then_changed(session: Session[Data]) -> None:
    session.data.count += 1
    await session.commit()
    session.data.count += 10


async def renewed_and_committed(session: Session[Data]) -> None:
    session.renew()
    await session.commit()


async def committed_twice(session: Session[Data]) -> None:
    session.data.count += 1
    await session.commit()
    await session.commit()


# what it results in


class Outcome(NamedTuple):
    """What ``Set-Cookie`` did, what the store has afterwards, and which calls it received."""

    cookie: str | None
    record: str | None
    calls: str


class Row(NamedTuple):
    """The outcome of an action if the route returns, and if it raises."""

    returned: Outcome
    raised: Outcome


Action = Callable[[Session[Data]], Awaitable[None]]

# a request without a cookie: nothing is loaded
NOTHING = Outcome(None, None, "")
NEW: dict[Action, Row] = {
    unchanged: Row(NOTHING, NOTHING),
    changed: Row(Outcome("sent", "1", "create"), NOTHING),
    assigned: Row(Outcome("sent", "7", "create"), NOTHING),
    default_again: Row(NOTHING, NOTHING),
    renewed: Row(NOTHING, NOTHING),
    signed_in: Row(Outcome("sent", "0 ada", "create load"), NOTHING),
    destroyed: Row(NOTHING, NOTHING),
    destroyed_then_changed: Row(Outcome("sent", "5", "create"), NOTHING),
    committed_then_changed: Row(
        Outcome("sent", "11", "create save"),
        Outcome("sent", "1", "create"),
    ),
    committed_twice: Row(Outcome("sent", "1", "create"), Outcome("sent", "1", "create")),
}

# a request with a stored session: count 1, and one line with the tag "red"
UNCHANGED = Outcome(None, "1 red", "load")
ENDED = Outcome("removed", None, "load delete create")
STORED: dict[Action, Row] = {
    unchanged: Row(UNCHANGED, UNCHANGED),
    changed: Row(Outcome(None, "2 red", "load save"), UNCHANGED),
    changed_deep: Row(Outcome(None, "1 red,blue", "load save"), UNCHANGED),
    assigned: Row(Outcome(None, "7", "load save"), UNCHANGED),
    assigned_equal: Row(UNCHANGED, UNCHANGED),
    default_again: Row(Outcome(None, "0", "load save"), UNCHANGED),
    renewed: Row(Outcome("sent", "1 red", "load save"), UNCHANGED),
    renewed_twice_and_changed: Row(Outcome("sent", "2 red", "load save"), UNCHANGED),
    signed_in: Row(Outcome("sent", "1 red ada", "load save load"), UNCHANGED),
    signed_in_and_changed: Row(Outcome("sent", "2 red ada", "load save load"), UNCHANGED),
    destroyed: Row(ENDED, ENDED),
    destroyed_not_awaited: Row(ENDED, ENDED),
    destroyed_then_changed: Row(Outcome("sent", "5", "load delete create create"), ENDED),
    destroyed_not_awaited_then_changed: Row(
        Outcome("sent", "5", "load delete create create"), ENDED
    ),
    renewed_then_destroyed: Row(ENDED, ENDED),
    destroyed_then_signed_in: Row(
        Outcome("sent", "0 ada", "load delete create create load"), ENDED
    ),
    committed_then_changed: Row(
        Outcome(None, "12 red", "load save save"),
        Outcome(None, "2 red", "load save"),
    ),
    renewed_and_committed: Row(
        Outcome("sent", "1 red", "load save"),
        Outcome("sent", "1 red", "load save"),
    ),
}

# kinds of response and of ending


def as_text(session: Session[Data]) -> str:
    tags = ",".join(tag for line in session.data.lines for tag in line.tags)
    return " ".join(filter(None, [str(session.data.count), tags, session.subject]))


async def chunks(session: Session[Data]) -> AsyncIterator[str]:
    for part in ("still ", "readable: ", str(session.data.count)):
        yield part


KINDS: dict[str, tuple[int, Callable[[Session[Data]], Any]]] = {
    "dict": (200, lambda session: {"count": session.data.count}),
    "model": (200, lambda session: session.data),
    "None with 204": (204, lambda session: None),
    "JSONResponse": (200, lambda session: JSONResponse({"count": session.data.count})),
    "RedirectResponse": (303, lambda session: RedirectResponse("/me", 303)),
    "HTMLResponse": (200, lambda session: HTMLResponse("<p>")),
    "FileResponse": (200, lambda session: FileResponse(Path(__file__))),
    "StreamingResponse": (200, lambda session: StreamingResponse(chunks(session))),
}
GENERATOR_KINDS = ("SSE generator", "JSONL generator")
INVALID = "422"
ENDINGS = {
    "returned": 0,
    "raised HTTPException": 418,
    "raised an unhandled error": 500,
    "raised an error with a handler": 409,
}


class HandledError(Exception):
    """An error that the application has a handler for."""


def end(how: str) -> None:
    if how == "raised HTTPException":
        raise HTTPException(418)
    if how == "raised an unhandled error":
        raise RuntimeError("unhandled")
    if how == "raised an error with a handler":
        raise HandledError


def add_route(app: FastAPI, get_session: Any, kind: str, action: Action, ending: str) -> int:
    """Add the route ``/act``, and return its status if it does not raise."""
    UserSession = Annotated[Session[Data], Depends(get_session)]

    async def acting(session: UserSession) -> Session[Data]:
        await action(session)
        end(ending)
        return session

    # the body of a generator runs after the commit, and after a 422 the route does not run
    Acted = Annotated[Session[Data], Depends(acting)]

    if kind == INVALID:

        @app.get("/act")
        async def invalid(session: Acted, missing: int) -> None:
            raise AssertionError("the route ran")

        return 422
    if kind in GENERATOR_KINDS:
        options: dict[str, Any] = {}
        if kind == "SSE generator":
            from fastapi.sse import EventSourceResponse

            options["response_class"] = EventSourceResponse

        @app.get("/act", **options)
        async def generate(session: Acted) -> AsyncIterator[dict[str, int]]:
            yield {"count": session.data.count}

        return 200
    status, response = KINDS[kind]

    @app.get("/act", status_code=status, response_model=None)
    async def act(session: UserSession) -> Any:
        await action(session)
        end(ending)
        return response(session)

    return status


def add_me(app: FastAPI, get_session: Any) -> None:
    """Add ``/me``, which returns the session as text, and ``/begin``, which begins one."""

    @app.get("/me")
    async def me(session: Annotated[Session[Data], Depends(get_session)]) -> str:
        return "new" if session.is_new else as_text(session)

    @app.get("/begin")
    async def begin(session: Annotated[Session[Data], Depends(get_session)]) -> None:
        session.data = Data(count=1, lines=[Line(name="x", tags=["red"])])


def make_lifecycle_app(get_session: Any) -> FastAPI:
    app = make_app()
    add_me(app, get_session)

    @app.exception_handler(HandledError)
    async def handle(request: Any, error: HandledError) -> JSONResponse:
        return JSONResponse({"handled": True}, 409)

    return app


async def seen_with(app: FastAPI, cookie: str | None) -> str:
    async with browser(app, cookie) as client:
        return str((await client.get("/me")).json())


def responses() -> list[Any]:
    """Every kind of response with every ending; with Redis each kind and each ending once."""
    without_generators = pytest.mark.skipif(
        not HAS_GENERATOR_ROUTES, reason="this FastAPI has no generator routes"
    )

    def marks(store: str, kind: str, ending: str) -> list[pytest.MarkDecorator]:
        is_slow = (kind != "model" and ending != "returned") or (
            store == "redis" and (kind, ending) != ("model", "returned")
        )
        return [
            *([without_generators] if kind in GENERATOR_KINDS else []),
            *([pytest.mark.slow] if is_slow else []),
        ]

    return [
        pytest.param(store, kind, ending, marks=marks(store, kind, ending))
        for store in ("memory", "redis")
        for kind in (*KINDS, *GENERATOR_KINDS, INVALID)
        for ending in ENDINGS
        if store == "memory" or kind == "model" or ending == "returned"
    ]


class Observed(NamedTuple):
    """What the client and the store see of a request and afterwards."""

    status: int
    outcome: Outcome
    headers: tuple[str | None, str | None]
    next: str
    old: str | None


@pytest.mark.parametrize(("store", "kind", "ending"), responses(), indirect=["store"])
async def test_the_table(store: SpyStore, clock: FrozenClock, kind: str, ending: str) -> None:
    """Each row: the store, the cookie, the cache headers, the next request and the old cookie."""
    get_session = make_provider(store, clock=clock)
    app = make_lifecycle_app(get_session)
    current: list[Action] = []

    async def act(session: Session[Data]) -> None:
        await current[-1](session)

    status = add_route(app, get_session, kind, act, ending)
    returned = ending == "returned" and kind != INVALID
    # an unhandled error is answered outside of the routes, without their headers
    is_bare = ending == "raised an unhandled error"
    expected: dict[str, Observed] = {}
    found: dict[str, Observed] = {}
    for begins_as, table in (("new", NEW), ("stored", STORED)):
        for action, row in table.items():
            name = f"{begins_as}: {action.__name__}"
            current.append(action)
            outcome = row.returned if returned else row.raised
            # a sign-in that was rolled back counts too
            is_sign_in = "signed_in" in action.__name__
            expected[name] = predict(
                outcome, begins_as == "stored", is_bare, ENDINGS[ending] or status, is_sign_in
            )
            found[name] = await observe(app, get_session, store, begins_as == "stored")
    assert found == expected


def predict(
    outcome: Outcome, begins_stored: bool, is_bare: bool, status: int, is_sign_in: bool
) -> Observed:
    """What follows from the outcome: the old cookie is valid unless the response sets another."""
    cookie = None if is_bare else outcome.cookie
    is_as_before = outcome.cookie is None
    seen = outcome.record or "new"
    return Observed(
        status=status,
        outcome=outcome._replace(cookie=cookie),
        headers=(None, None)
        if is_bare
        else ("Cookie", "no-store" if cookie or is_sign_in else "private"),
        next=seen if cookie or is_as_before else "new",
        old=None if not begins_stored else seen if is_as_before else "new",
    )


async def observe(app: FastAPI, get_session: Any, store: SpyStore, begins_stored: bool) -> Observed:
    """Request ``/act``, and observe the response, the store, and what the cookies open."""
    await store.inner.clear()
    store.keys.clear()
    async with browser(app) as client:
        old = cookie_value(await client.get("/begin")) if begins_stored else None
        store.calls.clear()
        response = await client.get("/act")
        calls = " ".join(store.calls)
        records = await session_records(get_session, store)
        stored = [await as_stored(get_session, key) for key in records]
        cache = response.headers.get("cache-control")
        return Observed(
            status=response.status_code,
            outcome=Outcome(set_cookie_kind(response), "+".join(stored) or None, calls),
            # SSE has a header of FastAPI's own
            headers=(response.headers.get("vary"), "private" if cache == "no-cache" else cache),
            next=(await client.get("/me")).json(),
            old=old and await seen_with(app, old),
        )


async def as_stored(get_session: Any, key: str) -> str:
    async with get_session.open(key) as session:
        return as_text(session)


# store failures


async def test_anonymous_reads_store_nothing(
    store: SpyStore, request: pytest.FixtureRequest
) -> None:
    """A hundred reads without a cookie cause no record, no cookie and no store call."""
    get_session = make_provider(store)
    app = make_lifecycle_app(get_session)
    async with browser(app) as client:
        for _ in range(100):
            response = await client.get("/me")
            assert (response.json(), set_cookie_kind(response)) == ("new", None)
    assert (store.calls, await store.records()) == ([], {})
    if isinstance(store.inner, RedisStore):
        assert request.getfixturevalue("redis_server").command("DBSIZE") == 0


FAILING_COMMITS: dict[Action, str] = {
    changed: "save",
    renewed: "save",
    signed_in: "save",
    destroyed: "delete",
    destroyed_not_awaited: "delete",
    destroyed_then_changed: "delete",
}


@pytest.mark.parametrize("kind", ["model", "RedirectResponse", "StreamingResponse"])
@pytest.mark.parametrize("action", FAILING_COMMITS)
async def test_a_failed_commit_is_a_503_and_changes_nothing(
    store: SpyStore, clock: FrozenClock, action: Action, kind: str
) -> None:
    """The response says when to retry and sets no cookie, and the old cookie stays valid."""
    get_session = make_provider(store, clock=clock)
    app = make_lifecycle_app(get_session)
    add_route(app, get_session, kind, action, "returned")
    async with browser(app) as client:
        before = cookie_value(await client.get("/begin"))
        store.hook = failing(FAILING_COMMITS[action])
        response = await client.get("/act")
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert (set_cookie_kind(response), response.headers["vary"]) == (None, "Cookie")
        store.hook = pass_on
        assert (await client.get("/me")).json() == "1 red"
    assert await seen_with(app, before) == "1 red"
    assert len(await store.records()) == 1


@pytest.mark.parametrize("action", [changed, signed_in])
async def test_a_session_that_could_not_be_created_sets_no_cookie(
    store: SpyStore, action: Action
) -> None:
    """A cookie is set only for a session that is stored."""
    get_session = make_provider(store)
    app = make_lifecycle_app(get_session)
    add_route(app, get_session, "model", action, "returned")
    store.hook = failing("create")
    async with browser(app) as client:
        response = await client.get("/act")
    assert (response.status_code, set_cookie_kind(response)) == (503, None)
    assert await store.records() == {}


async def test_a_failed_destroy_is_a_503_even_if_the_route_raised(
    store: SpyStore, clock: FrozenClock
) -> None:
    """A user whose sign-out failed must know: the 503 replaces the route's own error."""
    get_session = make_provider(store, clock=clock)
    app = make_lifecycle_app(get_session)
    add_route(app, get_session, "model", destroyed_not_awaited, "raised HTTPException")
    async with browser(app) as client:
        await client.get("/begin")
        store.hook = failing("delete")
        response = await client.get("/act")
        store.hook = pass_on
        assert (response.status_code, set_cookie_kind(response)) == (503, None)
        assert (await client.get("/me")).json() == "1 red"


async def test_a_failed_load_is_a_503_and_never_a_new_session(
    store: SpyStore, clock: FrozenClock
) -> None:
    """An outage signs no user out: no cookie is set, and afterwards the old one is valid."""
    get_session = make_provider(store, clock=clock)
    app = make_lifecycle_app(get_session)
    async with browser(app) as client:
        await client.get("/begin")
        store.hook = failing("load")
        for path in ("/me", "/begin"):
            response = await client.get(path)
            assert (response.status_code, response.headers["retry-after"]) == (503, "1")
            assert set_cookie_kind(response) is None
        store.hook = pass_on
        assert (await client.get("/me")).json() == "1 red"
    assert store.writes == ["create"]


async def test_routes_without_a_session_never_call_the_store() -> None:
    """They work while it is down, even with a session cookie; so do docs, 404 and 405."""
    store = SpyStore(MemoryStore())
    get_session = make_provider(store)
    app = make_lifecycle_app(get_session)

    @app.get("/plain")
    async def plain() -> str:
        return "plain"

    async with browser(app) as client:
        await client.get("/begin")
        store.calls.clear()
        store.hook = failing("create", "load", "save", "delete")
        statuses = [(await client.get(path)).status_code for path in ("/plain", "/docs", "/no")]
        statuses.append((await client.post("/plain")).status_code)
        assert statuses == [200, 200, 404, 405]
        plain_response = await client.get("/plain")
    assert {"vary", "cache-control", "set-cookie"}.isdisjoint(plain_response.headers)
    assert store.calls == []


async def test_requests_succeed_again_after_redis_was_restarted(
    start_redis: Callable[..., Any], clock: FrozenClock
) -> None:
    """They are a 503 meanwhile; the process need not be restarted, and the cookie stays valid."""
    server = start_redis("--appendonly", "yes", "--appendfsync", "always")
    store = RedisStore.from_url(server.url, clock=clock)
    get_session = make_provider(store, clock=clock)
    app = make_lifecycle_app(get_session)
    add_route(app, get_session, "model", changed, "returned")

    @app.get("/plain")
    async def plain() -> str:
        return "plain"

    async with browser(app) as client:
        await client.get("/begin")
        server.kill()
        for path in ("/me", "/act"):
            response = await client.get(path)
            assert (response.status_code, response.headers["retry-after"]) == (503, "1")
            assert set_cookie_kind(response) is None
        assert (await client.get("/plain")).json() == "plain"
        server.restart()
        assert (await client.get("/me")).json() == "1 red"
        assert (await client.get("/act")).status_code == 200
        assert (await client.get("/me")).json() == "2 red"
    await store.aclose()


async def test_a_redis_that_dies_while_the_route_runs_is_a_503(
    start_redis: Callable[..., Any], clock: FrozenClock
) -> None:
    """The load succeeded, the commit fails: no cookie is set, and the old one stays valid."""
    server = start_redis("--appendonly", "yes", "--appendfsync", "always")
    store = RedisStore.from_url(server.url, clock=clock)
    get_session = make_provider(store, clock=clock)
    app = make_lifecycle_app(get_session)

    @app.get("/act")
    async def act(session: Annotated[Session[Data], Depends(get_session)]) -> None:
        session.renew(subject="ada")
        server.kill()

    async with browser(app) as client:
        await client.get("/begin")
        response = await client.get("/act")
        assert (response.status_code, set_cookie_kind(response)) == (503, None)
        server.restart()
        assert (await client.get("/me")).json() == "1 red"
    await store.aclose()


async def test_a_redis_that_hangs_is_a_503_in_time(
    start_redis: Callable[..., Any], clock: FrozenClock
) -> None:
    """A store that never answers delays a request by ``store_timeout`` at most."""
    server = start_redis()
    store = RedisStore.from_url(server.url, clock=clock)
    patient = make_lifecycle_app(make_provider(SpyStore(store), clock=clock))
    soon = timedelta(seconds=0.5)
    app = make_lifecycle_app(make_provider(store, clock=clock, store_timeout=soon))
    async with browser(patient) as client:
        cookie = cookie_value(await client.get("/begin"))
        server.pause()
        async with browser(app, cookie) as impatient:
            response = await impatient.get("/me")
        server.resume()
        assert (response.status_code, set_cookie_kind(response)) == (503, None)
        assert (await client.get("/me")).json() == "1 red"
    await store.aclose()


async def test_an_application_starts_while_its_store_is_down(
    start_redis: Callable[..., Any],
) -> None:
    """The readiness check fails meanwhile, and requests with a session are a 503."""
    server = start_redis()
    store = RedisStore.from_url(server.url)
    get_session = make_provider(store)
    app = make_lifecycle_app(get_session)
    async with browser(app) as client:
        cookie = cookie_value(await client.get("/begin"))
    server.kill()
    async with get_session.lifespan(app), browser(app, cookie) as client:
        with pytest.raises(StoreUnavailable):
            await get_session.check()
        assert (await client.get("/me")).status_code == 503
        server.restart()
        await get_session.check()
        assert (await client.get("/me")).json() == "new"


async def test_an_error_of_a_custom_store_is_a_503_without_its_text(
    clock: FrozenClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A driver's message may contain a password: it reaches neither the client nor the log."""

    async def fail_to_save(call: StoreCall) -> Any:
        if call.verb == "save":
            raise ValueError(f"password=hunter2 {call.arguments['record'].body!r}")
        return await call.pass_on()

    store = SpyStore(MemoryStore(clock=clock), fail_to_save)
    get_session = make_provider(store, clock=clock)
    app = make_lifecycle_app(get_session)
    add_route(app, get_session, "model", changed, "returned")
    caplog.set_level(logging.DEBUG)
    async with browser(app) as client:
        await client.get("/begin")
        response = await client.get("/act")
        assert (response.status_code, set_cookie_kind(response)) == (503, None)
        assert "hunter2" not in response.text + caplog.text
        assert "the store raised ValueError" in caplog.text
        assert (await client.get("/me")).json() == "1 red"


async def test_a_commit_that_takes_too_long_is_a_503(
    clock: FrozenClock, events: list[SessionEvent]
) -> None:
    """It is abandoned after ``commit_timeout``, and an event is emitted."""

    get_session = make_provider(
        SpyStore(MemoryStore(clock=clock), Gate("save")),
        clock=clock,
        commit_timeout=timedelta(milliseconds=20),
        on_event=events.append,
    )
    app = make_lifecycle_app(get_session)
    add_route(app, get_session, "model", renewed, "returned")
    async with browser(app) as client:
        await client.get("/begin")
        response = await client.get("/act")
        assert (response.status_code, set_cookie_kind(response)) == (503, None)
        assert (await client.get("/me")).json() == "1 red"
    assert [event.kind for event in events] == ["created", "store_error"]


async def test_an_event_hook_that_fails_changes_nothing(
    clock: FrozenClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Errors of ``on_event`` are logged, and the request succeeds."""

    def hook(event: SessionEvent) -> None:
        raise RuntimeError("a broken hook")

    get_session = make_provider(clock=clock, on_event=hook)
    app = make_lifecycle_app(get_session)
    add_route(app, get_session, "model", signed_in, "returned")
    async with browser(app) as client:
        await client.get("/begin")
        assert (await client.get("/act")).status_code == 200
        assert (await client.get("/me")).json() == "1 red ada"
    assert "a broken hook" in caplog.text


async def test_a_response_that_fails_validation_rolls_back() -> None:
    """The route has returned, but FastAPI rejects the response: nothing is stored."""
    store = SpyStore(MemoryStore())
    get_session = make_provider(store)
    app = make_app()

    @app.get("/act")
    async def act(session: Annotated[Session[Data], Depends(get_session)]) -> Data:
        session.data.count = 5
        return {"count": "not a number"}  # type: ignore[return-value]

    async with browser(app) as client:
        response = await client.get("/act")
    assert (response.status_code, set_cookie_kind(response)) == (500, None)
    assert store.calls == []


# when the commit happens


@pytest.mark.parametrize("kind", ["model", "RedirectResponse", "FileResponse", "StreamingResponse"])
async def test_the_commit_is_complete_before_the_response_starts(kind: str) -> None:
    """So a client that follows a redirect finds what the first request has written."""
    store = SpyStore(MemoryStore())
    get_session = make_provider(store)
    app = make_lifecycle_app(get_session)
    add_route(app, get_session, kind, changed, "returned")
    writes_at_start: list[list[str]] = []

    async def watched_app(scope: Any, receive: Any, send: Any) -> None:
        async def watching_send(message: Any) -> None:
            if message["type"] == "http.response.start":
                writes_at_start.append(store.writes)
            await send(message)

        await app(scope, receive, watching_send)

    await call(watched_app, "/act")
    assert writes_at_start == [["create"]]


async def test_a_request_cancelled_before_its_commit_commits_nothing(
    clock: FrozenClock,
) -> None:
    """Only a ``destroy()`` that was awaited has happened."""
    store = SpyStore(MemoryStore(clock=clock))
    get_session = make_provider(store, clock=clock)
    app = make_lifecycle_app(get_session)
    reached = asyncio.Event()

    @app.get("/slow")
    async def slow(
        session: Annotated[Session[Data], Depends(get_session)], destroy: bool = False
    ) -> None:
        if destroy:
            await session.destroy()
        session.data.count = 99
        reached.set()
        await asyncio.Event().wait()

    async with browser(app) as client:
        await client.get("/begin")
        for query, then in (("", "1 red"), ("?destroy=1", "new")):
            reached.clear()
            task = asyncio.create_task(client.get("/slow" + query))
            await asyncio.wait_for(reached.wait(), WAIT_LIMIT)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await client.get("/me")).json() == then
    assert store.writes == ["create", "delete", "create"]


async def test_a_request_cancelled_during_its_commit_completes_it(clock: FrozenClock) -> None:
    """However often the task is cancelled; then the cancellation is raised."""
    gate = Gate("save")
    store = SpyStore(MemoryStore(clock=clock), gate)
    get_session = make_provider(store, clock=clock)
    app = make_lifecycle_app(get_session)
    add_route(app, get_session, "model", changed, "returned")
    async with browser(app) as client:
        await client.get("/begin")
        task = asyncio.create_task(client.get("/act"))
        await asyncio.wait_for(gate.reached.wait(), WAIT_LIMIT)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await client.get("/me")).json() == "2 red"


async def test_a_stream_that_fails_leaves_the_commit_in_place() -> None:
    """The commit comes before the first byte, and a later failure does not undo it."""
    get_session = make_provider()
    app = make_lifecycle_app(get_session)

    async def breaking() -> AsyncIterator[str]:
        yield "first"
        raise RuntimeError("the stream broke")

    @app.get("/act")
    async def act(session: Annotated[Session[Data], Depends(get_session)]) -> StreamingResponse:
        session.data.count = 3
        return StreamingResponse(breaking())

    async with browser(app) as client:
        assert set_cookie_kind(await client.get("/act")) == "sent"
        assert (await client.get("/me")).json() == "3"


# after the commit

AFTER: dict[str, Callable[[Session[Data]], Any]] = {
    "renew": lambda session: session.renew(),
    "destroy": lambda session: session.destroy(),
    "commit": lambda session: session.commit(),
    "reload": lambda session: session.reload(),
    "assign": lambda session: setattr(session, "data", Data()),
}


async def try_all(session: Session[Data]) -> list[str]:
    """Read the session's count and try all of ``AFTER``; return the count and what is refused."""
    refused = [str(session.data.count)]
    for name, attempt in AFTER.items():
        try:
            result = attempt(session)
            if result is not None:
                await result
        except SessionClosed:
            refused.append(name)
    return refused


async def test_a_background_task_can_only_read() -> None:
    """What would come too late raises an error and is not silently lost."""
    store = SpyStore(MemoryStore())
    get_session = make_provider(store)
    app = make_app()
    found: list[list[str]] = []

    async def task(session: Session[Data]) -> None:
        found.append(await try_all(session))

    @app.get("/act")
    async def act(
        session: Annotated[Session[Data], Depends(get_session)], tasks: BackgroundTasks
    ) -> None:
        session.data.count = 4
        tasks.add_task(task, session)

    async with browser(app) as client:
        assert set_cookie_kind(await client.get("/act")) == "sent"
    assert found == [["4", *AFTER]]
    assert store.calls == ["create"]


async def test_a_stream_can_only_read() -> None:
    """A ``StreamingResponse`` too is generated after the commit."""
    get_session = make_provider()
    app = make_app()

    async def stream(session: Session[Data]) -> AsyncIterator[str]:
        yield " ".join(await try_all(session))

    @app.get("/act")
    async def act(session: Annotated[Session[Data], Depends(get_session)]) -> StreamingResponse:
        session.data.count = 4
        return StreamingResponse(stream(session))

    async with browser(app) as client:
        assert (await client.get("/act")).text == " ".join(["4", *AFTER])


@pytest.mark.skipif(not HAS_GENERATOR_ROUTES, reason="this FastAPI has no generator routes")
@pytest.mark.parametrize("kind", GENERATOR_KINDS)
async def test_a_generator_route_can_only_read(kind: str) -> None:
    """FastAPI runs its body after the commit, never at the same time."""
    store = SpyStore(MemoryStore())
    get_session = make_provider(store)
    app = make_app()
    UserSession = Annotated[Session[Data], Depends(get_session)]

    async def begin(session: UserSession) -> None:
        session.data.count = 4

    options: dict[str, Any] = {}
    if kind == "SSE generator":
        from fastapi.sse import EventSourceResponse

        options["response_class"] = EventSourceResponse

    @app.get("/act", dependencies=[Depends(begin)], **options)
    async def act(session: UserSession) -> AsyncIterator[list[str]]:
        yield await try_all(session)

    async with browser(app) as client:
        response = await client.get("/act")
    assert json.loads(response.text.removeprefix("data: ")) == ["4", *AFTER]
    assert set_cookie_kind(response) == "sent"
    assert store.calls == ["create"]


@pytest.mark.parametrize("is_changed", [True, False])
async def test_a_change_after_the_commit_is_logged_as_an_error(
    is_changed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It cannot be stored, and would be lost unnoticed; mere reading logs nothing."""
    store = SpyStore(MemoryStore())
    get_session = make_provider(store)
    app = make_app()

    async def stream(session: Session[Data]) -> AsyncIterator[str]:
        if is_changed:
            session.data.lines.append(Line(name="too late"))
        yield str(session.data.count)

    @app.get("/act")
    async def act(session: Annotated[Session[Data], Depends(get_session)]) -> StreamingResponse:
        session.data.count = 4
        return StreamingResponse(stream(session))

    async with browser(app) as client:
        assert (await client.get("/act")).text == "4"
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == is_changed
    assert all("that change is lost" in record.getMessage() for record in errors)
    assert "too late" not in caplog.text
    assert store.calls == ["create"]


# what a session reveals


async def test_a_session_reveals_no_secret_and_cannot_be_copied(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not by ``repr``, pickle, ``deepcopy``, ``vars``, or as a response."""
    get_session = make_provider()
    app = make_lifecycle_app(get_session)
    shown: list[str] = []

    @app.get("/act", response_model=None)
    async def act(session: Annotated[Session[Data], Depends(get_session)]) -> Any:
        shown.extend([repr(session), str(session), f"{session}", repr(get_session)])
        for copier in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError):
                copier(session)
        with pytest.raises(TypeError):
            vars(session)
        return session

    async with browser(app) as client:
        cookie = cookie_value(await client.get("/begin"))
        response = await client.get("/act")
        (listed,) = session_cookies(response) or ["none"]
    assert (response.status_code, listed) == (500, "none")
    token, _, signature = cookie.partition(".")
    text = " ".join(shown) + response.text + caplog.text
    assert token not in text
    assert signature not in text


async def test_the_key_is_not_a_cookie(clock: FrozenClock) -> None:
    """``session.key`` may be shown in a list of devices: as a cookie it opens nothing."""
    get_session = make_provider(clock=clock)
    app = make_lifecycle_app(get_session)
    keys: list[str | None] = []

    @app.get("/key")
    async def key(session: Annotated[Session[Data], Depends(get_session)]) -> str | None:
        keys.append(session.key)
        session.data.count += 1
        await session.commit()
        return session.key

    async with browser(app) as client:
        first = (await client.get("/key")).json()
        assert (await client.get("/key")).json() == first
    assert keys == [None, first]
    assert await seen_with(app, first) == "new"


async def test_commit_keeps_the_data_object() -> None:
    """A reference into ``data`` from before a commit is still part of it afterwards."""
    get_session = make_provider()
    app = make_lifecycle_app(get_session)

    @app.get("/act")
    async def act(session: Annotated[Session[Data], Depends(get_session)]) -> bool:
        data, lines = session.data, session.data.lines
        lines.append(Line(name="first"))
        await session.commit()
        lines.append(Line(name="second", tags=["x"]))
        return data is session.data and lines is session.data.lines

    async with browser(app) as client:
        assert (await client.get("/act")).json() is True
        assert (await client.get("/me")).json() == "0 x"


async def test_reload_discards_uncommitted_changes(clock: FrozenClock) -> None:
    """``data`` is again what is stored; False means that the session has ended."""
    store = SpyStore(MemoryStore(clock=clock))
    get_session = make_provider(store, clock=clock)
    app = make_lifecycle_app(get_session)

    @app.get("/act")
    async def act(session: Annotated[Session[Data], Depends(get_session)]) -> list[Any]:
        session.data.count = 50
        found: list[Any] = [await session.reload(), session.data.count]
        assert session.key is not None
        await get_session.revoke(session.key)
        return [*found, await session.reload()]

    async with browser(app) as client:
        await client.get("/begin")
        assert (await client.get("/act")).json() == [True, 1, False]
        assert (await client.get("/me")).json() == "new"
    assert store.writes == ["create", "delete"]


@pytest.mark.parametrize(
    ("action", "result"), [(changed, None), (renewed, None), (signed_in, "1 red ada")]
)
async def test_a_session_that_was_ended_elsewhere_stays_ended(
    store: SpyStore, action: Action, result: str | None
) -> None:
    """A change is dropped, and no cookie is set; a sign-in begins a new session."""
    get_session = make_provider(store)
    app = make_lifecycle_app(get_session)

    @app.get("/act")
    async def act(session: Annotated[Session[Data], Depends(get_session)]) -> None:
        assert session.key is not None
        await get_session.revoke(session.key)
        await action(session)

    async with browser(app) as client:
        await client.get("/begin")
        response = await client.get("/act")
        assert (response.status_code, set_cookie_kind(response)) == (200, result and "sent")
        assert (await client.get("/me")).json() == (result or "new")


async def test_reloading_a_session_that_was_never_stored_begins_anew():
    """There is nothing to load: it returns False, drops the changes and makes no store call."""
    site = ScriptedSite(Data)

    async def route(session):
        session.data.count = 5
        return [await session.reload(), session.data.count, session.is_new]

    assert (await site.request(route)).json() == [False, 0, True]
    assert site.store.calls == []


async def test_a_session_says_when_it_was_created():
    """A new one shows when its request began, and a stored one always the same moment."""
    site = ScriptedSite(Data)
    began, shown = site.clock.now, []

    def route(session):
        session.data.count += 1
        shown.append(session.created_at)

    for _ in range(3):
        await site.request(route)
        site.clock.advance(timedelta(minutes=5))
    new, stored, later = shown
    # between its beginning and its need of a session a request takes some microseconds
    assert began - timedelta(seconds=1) < new <= stored == later <= began
