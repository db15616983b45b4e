"""Where a session can be a dependency, and how it works with the rest of FastAPI."""

import importlib.util
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import timedelta
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Mount

from fastapi_async_sessions import (
    ConfigurationError,
    MemoryStore,
    Session,
    SessionConflict,
    SessionRoute,
    StoreUnavailable,
)
from fastapi_async_sessions.testing import FrozenClock

from .apps import (
    COOKIE,
    Data,
    browser,
    call,
    cookie_value,
    make_app,
    make_provider,
    session_cookies,
    session_records,
    set_cookie_kind,
)
from .doubles import SpyStore, before

HAS_GENERATOR_ROUTES = importlib.util.find_spec("fastapi.sse") is not None


@pytest.fixture
def store(clock: FrozenClock) -> SpyStore:
    return SpyStore(MemoryStore(clock=clock))


async def repeated(app: Any, path: str, count: int = 2) -> list[Any]:
    """The bodies of repeated requests by one browser."""
    async with browser(app) as client:
        return [(await client.get(path)).json() for _ in range(count)]


# places of a dependency


def plain_default(app: FastAPI, get_session: Any) -> None:
    @app.get("/count")
    async def count(session: Session[Data] = Depends(get_session)) -> int:
        session.data.count += 1
        return session.data.count


def annotated_alias(app: FastAPI, get_session: Any) -> None:
    UserSession = Annotated[Session[Data], Depends(get_session)]

    @app.get("/count")
    async def count(session: UserSession) -> int:
        session.data.count += 1
        return session.data.count


def sync_route(app: FastAPI, get_session: Any) -> None:
    @app.get("/count")
    def count(session: Session[Data] = Depends(get_session)) -> int:
        session.data.count += 1
        return session.data.count


def sub_dependency(app: FastAPI, get_session: Any) -> None:
    async def counted(session: Session[Data] = Depends(get_session)) -> int:
        session.data.count += 1
        return session.data.count

    @app.get("/count")
    async def count(counted: int = Depends(counted)) -> int:
        return counted


def generator_dependency(app: FastAPI, get_session: Any) -> None:
    async def counted(session: Session[Data] = Depends(get_session)) -> AsyncIterator[int]:
        session.data.count += 1
        yield session.data.count

    @app.get("/count")
    async def count(counted: int = Depends(counted)) -> int:
        return counted


def router_level(app: FastAPI, get_session: Any) -> None:
    async def counts(request: Request, session: Session[Data] = Depends(get_session)) -> None:
        session.data.count += 1
        request.state.count = session.data.count

    router = APIRouter(route_class=SessionRoute, dependencies=[Depends(counts)])

    @router.get("/count")
    async def count(request: Request) -> int:
        return request.state.count

    app.include_router(router)


def included_router(app: FastAPI, get_session: Any) -> None:
    router = APIRouter(route_class=SessionRoute)
    annotated_alias(router, get_session)
    app.include_router(router)


def dependency_of_an_inclusion(app: FastAPI, get_session: Any) -> None:
    async def counts(request: Request, session: Session[Data] = Depends(get_session)) -> None:
        session.data.count += 1
        request.state.count = session.data.count

    router = APIRouter(route_class=SessionRoute)

    @router.get("/count")
    async def count(request: Request) -> int:
        return request.state.count

    app.include_router(router, dependencies=[Depends(counts)])


def nested_routers(app: FastAPI, get_session: Any) -> None:
    inner = APIRouter(route_class=SessionRoute, prefix="/inner")
    annotated_alias(inner, get_session)
    outer = APIRouter(prefix="/outer")
    outer.include_router(inner)
    app.include_router(outer, prefix="/api")


def mounted_application(app: FastAPI, get_session: Any) -> None:
    inner = make_app()
    annotated_alias(inner, get_session)
    app.mount("/mounted", inner)


def not_cached(app: FastAPI, get_session: Any) -> None:
    async def counts(session: Session[Data] = Depends(get_session, use_cache=False)) -> None:
        session.data.count += 1

    @app.get("/count", dependencies=[Depends(counts)])
    async def count(session: Session[Data] = Depends(get_session, use_cache=False)) -> int:
        return session.data.count


def mixed_scopes(app: FastAPI, get_session: Any) -> None:
    async def counts(session: Session[Data] = Depends(get_session, scope="function")) -> None:
        session.data.count += 1

    @app.get("/count", dependencies=[Depends(counts, scope="function")])
    async def count(
        session: Session[Data] = Depends(get_session),
        again: Session[Data] = Depends(get_session, scope="request"),
    ) -> int:
        assert session is again
        return session.data.count


def everywhere_at_once(app: FastAPI, get_session: Any) -> None:
    async def counts(session: Session[Data] = Depends(get_session)) -> Session[Data]:
        session.data.count += 1
        return session

    router = APIRouter(route_class=SessionRoute, dependencies=[Depends(get_session)])

    @router.get("/count")
    def count(
        session: Session[Data] = Depends(get_session),
        counted: Session[Data] = Depends(counts),
        again: Session[Data] = Depends(get_session, use_cache=False),
    ) -> int:
        assert session is counted is again
        return session.data.count

    app.include_router(router)


PLACES: list[tuple[Callable[[FastAPI, Any], None], str]] = [
    (plain_default, "/count"),
    (annotated_alias, "/count"),
    (sync_route, "/count"),
    (sub_dependency, "/count"),
    (generator_dependency, "/count"),
    (router_level, "/count"),
    (included_router, "/count"),
    (dependency_of_an_inclusion, "/count"),
    (nested_routers, "/api/outer/inner/count"),
    (mounted_application, "/mounted/count"),
    (not_cached, "/count"),
    (mixed_scopes, "/count"),
    (everywhere_at_once, "/count"),
]


@pytest.mark.parametrize(("place", "path"), PLACES, ids=[place.__name__ for place, _ in PLACES])
async def test_a_session_works_wherever_a_dependency_does(
    store: SpyStore, get_session: Any, place: Callable[[FastAPI, Any], None], path: str
) -> None:
    """Each request has one session: one load, one write, one cookie, and no error at startup."""
    app = make_app()
    place(app, get_session)
    async with get_session.lifespan(app), browser(app) as client:
        first = await client.get(path)
        assert (first.json(), len(session_cookies(first))) == (1, 1)
        store.calls.clear()
        second = await client.get(path)
        assert (second.json(), session_cookies(second)) == (2, [])
        assert second.headers["vary"] == "Cookie"
        assert store.calls == ["load", "save"]


async def test_a_dependency_of_the_application_applies_to_its_routes(
    store: SpyStore, get_session: Any
) -> None:
    """``FastAPI(dependencies=[...])`` loads the session on every route."""

    async def counts(request: Request, session: Session[Data] = Depends(get_session)) -> None:
        session.data.count += 1
        request.state.count = session.data.count

    app = make_app(dependencies=[Depends(counts)])

    @app.get("/count")
    async def count(request: Request) -> int:
        return request.state.count

    assert await repeated(app, "/count") == [1, 2]
    assert store.calls == ["create", "load", "save"]


@pytest.mark.skipif(not HAS_GENERATOR_ROUTES, reason="this FastAPI has no generator routes")
async def test_a_generator_route_has_a_session(store: SpyStore, get_session: Any) -> None:
    """A change made by its dependencies is written before the first item is sent."""
    app = make_app()

    async def counts(session: Session[Data] = Depends(get_session)) -> None:
        session.data.count += 1

    @app.get("/count", dependencies=[Depends(counts)])
    def count(session: Session[Data] = Depends(get_session)) -> Any:
        yield session.data.count

    async with browser(app) as client:
        texts = [(await client.get("/count")).text.strip() for _ in range(2)]
    assert texts == ["1", "2"]
    assert store.calls == ["create", "load", "save"]


async def test_a_route_class_can_derive_from_session_route(
    store: SpyStore, get_session: Any
) -> None:
    """Its ``get_route_handler`` runs around the session, after the commit."""

    class Stamped(SessionRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handler = super().get_route_handler()

            async def stamped(request: Request) -> Response:
                response = await handler(request)
                response.headers["x-writes"] = str(len(store.writes))
                return response

            return stamped

    app = FastAPI()
    app.router.route_class = Stamped
    annotated_alias(app, get_session)
    async with browser(app) as client:
        response = await client.get("/count")
        assert (response.headers["x-writes"], set_cookie_kind(response)) == ("1", "sent")
        assert (await client.get("/count")).json() == 2


async def test_a_session_route_without_a_session_is_unchanged(
    store: SpyStore, get_session: Any
) -> None:
    """It adds no header and calls no store."""
    app = make_app()
    annotated_alias(app, get_session)

    @app.get("/plain")
    async def plain() -> str:
        return "plain"

    async with browser(app) as client:
        await client.get("/count")
        store.calls.clear()
        response = await client.get("/plain")
    assert {"vary", "set-cookie", "cache-control"}.isdisjoint(response.headers)
    assert store.calls == []


# two providers


class Preferences(BaseModel):
    theme: str = "light"


def make_app_with_two_providers(store: SpyStore) -> tuple[FastAPI, Any, Any]:
    get_session = make_provider(store)
    get_preferences = make_provider(store, Preferences, name="prefs")
    app = make_app()

    @app.get("/both")
    async def both(
        session: Annotated[Session[Data], Depends(get_session)],
        preferences: Annotated[Session[Preferences], Depends(get_preferences)],
    ) -> list[Any]:
        session.data.count += 1
        preferences.data.theme += "!"
        return [session.data.count, preferences.data.theme]

    @app.get("/end")
    async def end(session: Annotated[Session[Data], Depends(get_session)]) -> None:
        await session.destroy()

    return app, get_session, get_preferences


async def test_two_providers_have_two_cookies(store: SpyStore) -> None:
    """Each has its own model, cookie and record; ending one leaves the other."""
    app, *_ = make_app_with_two_providers(store)
    async with browser(app) as client:
        response = await client.get("/both")
        assert set_cookie_kind(response) == set_cookie_kind(response, "__Host-prefs") == "sent"
        assert response.headers["vary"] == "Cookie"
        assert response.headers.get_list("cache-control") == ["no-store"]
        assert (await client.get("/both")).json() == [2, "light!!"]
        response = await client.get("/end")
        assert set_cookie_kind(response) == "removed"
        assert set_cookie_kind(response, "__Host-prefs") is None
        assert (await client.get("/both")).json() == [1, "light!!!"]


async def test_a_failed_second_commit_keeps_the_cookie_of_the_first(store: SpyStore) -> None:
    """The error response has the cookie of the session that was stored, and no other."""
    app, *_ = make_app_with_two_providers(store)

    async def fail() -> None:
        raise StoreUnavailable("told to fail")

    store.hook = before("create", fail, nth=2)
    async with browser(app) as client:
        response = await client.get("/both")
        assert response.status_code == 503
        assert set_cookie_kind(response) == "sent"
        assert set_cookie_kind(response, "__Host-prefs") is None
        assert (await client.get("/both")).json() == [2, "light!"]


async def test_a_cookie_opens_only_a_session_of_its_own_provider(store: SpyStore) -> None:
    """Under the name of another provider it is a forgery, and nothing is loaded."""
    app, *_ = make_app_with_two_providers(store)
    async with browser(app) as client:
        response = await client.get("/both")
        swapped = (
            f"__Host-session={cookie_value(response, '__Host-prefs')}; "
            f"__Host-prefs={cookie_value(response)}"
        )
    store.calls.clear()
    _, _, body = await call(app, "/both", headers=[(b"cookie", swapped.encode())])
    assert body == b'[1,"light!"]'
    assert store.calls == ["create", "create"]


# the headers of a response


async def test_cookies_set_by_a_route_are_kept(get_session: Any) -> None:
    """The response may be injected or returned; only a session cookie that it holds is replaced."""
    app = make_app()
    UserSession = Annotated[Session[Data], Depends(get_session)]

    @app.get("/injected")
    async def injected(session: UserSession, response: Response) -> None:
        session.data.count += 1
        response.set_cookie("theme", "dark")
        response.set_cookie("lang", "de")

    @app.get("/returned")
    async def returned(session: UserSession) -> Response:
        session.renew()
        response = JSONResponse({})
        response.set_cookie("theme", "light")
        response.headers.append("set-cookie", f"{COOKIE}=stale; Path=/; Secure")
        return response

    async with browser(app) as client:
        response = await client.get("/injected")
        names = [header.partition("=")[0] for header in response.headers.get_list("set-cookie")]
        assert names == ["theme", "lang", COOKIE]
        response = await client.get("/returned")
        names = [header.partition("=")[0] for header in response.headers.get_list("set-cookie")]
        assert names == ["theme", COOKIE]
        assert cookie_value(response) != "stale"


async def test_a_shared_response_object_is_not_modified(get_session: Any) -> None:
    """A response that a module reuses does not leak the cookie of one browser to another."""
    app = make_app()
    shared = HTMLResponse("<p>")
    before = list(shared.raw_headers)

    @app.get("/")
    async def home(
        session: Annotated[Session[Data], Depends(get_session)], change: bool = False
    ) -> Response:
        session.data.count += change
        return shared

    async with browser(app) as first, browser(app) as second:
        assert set_cookie_kind(await first.get("/?change=1")) == "sent"
        assert set_cookie_kind(await second.get("/")) is None
    assert shared.raw_headers == before


@pytest.mark.parametrize(
    ("given", "merged"),
    [
        ([], "Cookie"),
        (["Accept"], "Accept, Cookie"),
        (["Accept, Origin"], "Accept, Origin, Cookie"),
        (["Accept", "Origin"], "Accept, Origin, Cookie"),
        (["cookie"], "cookie"),
        (["Accept, COOKIE"], "Accept, COOKIE"),
        (["*"], "*"),
        (["Accept, *"], "Accept, *"),
        ([""], "Cookie"),
    ],
)
async def test_vary_is_merged(get_session: Any, given: list[str], merged: str) -> None:
    """There is one ``Vary`` with the route's own values, and ``Cookie`` unless they cover it."""
    app = make_app()

    @app.get("/")
    async def home(
        response: Response, session: Annotated[Session[Data], Depends(get_session)]
    ) -> None:
        for value in given:
            response.headers.append("vary", value)

    async with browser(app) as client:
        response = await client.get("/")
    assert response.headers.get_list("vary") == [merged]


async def test_the_response_of_an_exception_handler_has_the_cookie_of_a_commit(
    store: SpyStore, get_session: Any
) -> None:
    """A committed sign-in or sign-out reaches the browser even if the route raised."""
    app = make_app()

    class TeapotError(Exception):
        pass

    @app.exception_handler(TeapotError)
    async def handle(request: Request, error: TeapotError) -> Response:
        return HTMLResponse("<p>", 418)

    @app.get("/in")
    async def sign_in(session: Annotated[Session[Data], Depends(get_session)]) -> None:
        session.renew(subject="ada")
        await session.commit()
        raise TeapotError

    @app.get("/out")
    async def sign_out(session: Annotated[Session[Data], Depends(get_session)]) -> None:
        await session.destroy()
        raise HTTPException(409)

    async with browser(app) as client:
        response = await client.get("/in")
        assert (response.status_code, set_cookie_kind(response)) == (418, "sent")
        response = await client.get("/out")
        assert (response.status_code, set_cookie_kind(response)) == (409, "removed")
        assert response.headers["cache-control"] == "no-store"
    assert await session_records(get_session, store) == {}


@pytest.mark.parametrize("error", [SessionConflict, StoreUnavailable])
async def test_errors_of_the_library_can_have_exception_handlers(
    get_session: Any, error: Any
) -> None:
    """They derive from ``HTTPException``, and a handler for their own class takes precedence."""
    app = make_app()

    @app.exception_handler(error)
    async def handle(request: Request, error: Exception) -> Response:
        return HTMLResponse(f"<p>{type(error).__name__}", 299)

    @app.get("/")
    async def home(session: Annotated[Session[Data], Depends(get_session)]) -> None:
        raise error("a reason")

    async with browser(app) as client:
        response = await client.get("/")
    assert (response.status_code, response.text) == (299, f"<p>{error.__name__}")


# middleware, other routes, OpenAPI


@pytest.mark.parametrize("kind", ["base", "gzip", "both"])
async def test_middleware_around_the_application_works(
    store: SpyStore, get_session: Any, kind: str
) -> None:
    """``BaseHTTPMiddleware`` runs the application in another task, and gzip rewrites headers."""
    app = make_app()
    annotated_alias(app, get_session)

    async def dispatch(request: Request, call_next: Any) -> Response:
        return await call_next(request)

    if kind in ("base", "both"):
        app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    if kind in ("gzip", "both"):
        app.add_middleware(GZipMiddleware, minimum_size=1)
    async with browser(app) as client:
        response = await client.get("/count")
        assert set_cookie_kind(response) == "sent"
        assert "Cookie" in response.headers["vary"]
        assert response.headers.get_list("cache-control") == ["no-store"]
        assert (await client.get("/count")).json() == 2
    assert store.calls == ["create", "load", "save"]


async def test_other_responses_are_unchanged(store: SpyStore, get_session: Any) -> None:
    """404, 405, OPTIONS and the documentation neither load a session nor vary by cookie."""
    app = make_app()
    annotated_alias(app, get_session)
    async with browser(app) as client:
        await client.get("/count")
        store.calls.clear()
        responses = [
            await client.get("/nothing"),
            await client.post("/count"),
            await client.options("/count"),
            await client.get("/docs"),
            await client.get("/openapi.json"),
        ]
    assert [response.status_code for response in responses] == [404, 405, 405, 200, 200]
    for response in responses:
        assert {"vary", "set-cookie", "cache-control"}.isdisjoint(response.headers)
    assert store.calls == []


async def test_head_sets_a_cookie_like_get(store: SpyStore, get_session: Any) -> None:
    """A route that also serves HEAD commits and sets its cookie."""
    app = make_app()

    @app.api_route("/", methods=["GET", "HEAD"])
    async def home(session: Annotated[Session[Data], Depends(get_session)]) -> int:
        session.data.count += 1
        return session.data.count

    async with browser(app) as client:
        response = await client.head("/")
        assert (set_cookie_kind(response), response.content) == ("sent", b"")
        assert (await client.get("/")).json() == 2


@pytest.mark.parametrize("root_path", ["", "/behind/a/proxy"])
async def test_the_path_of_the_cookie_is_the_configured_one(root_path: str) -> None:
    """Neither a proxy's ``root_path`` nor a mount changes it."""
    get_session = make_provider()
    app = make_app()
    mounted_application(app, get_session)
    path = f"{root_path}/mounted/count"
    status, headers, _ = await call(app, path, root_path=root_path)
    (cookie,) = [value for name, value in headers if name == b"set-cookie"]
    assert status == 200
    assert cookie.endswith(b"; Path=/; HttpOnly; Secure; SameSite=Lax")


# without a SessionRoute


def on_the_application(app: FastAPI, get_session: Any) -> None:
    app.router.route_class = APIRoute
    annotated_alias(app, get_session)


def on_an_included_router(app: FastAPI, get_session: Any) -> None:
    router = APIRouter()
    annotated_alias(router, get_session)
    app.include_router(router)


def on_a_nested_router(app: FastAPI, get_session: Any) -> None:
    inner, outer = APIRouter(), APIRouter(route_class=SessionRoute)
    annotated_alias(inner, get_session)
    outer.include_router(inner)
    app.include_router(outer)


def in_a_mounted_application(app: FastAPI, get_session: Any) -> None:
    inner = FastAPI()
    annotated_alias(inner, get_session)
    app.mount("/mounted", inner)


def in_a_routers_dependencies(app: FastAPI, get_session: Any) -> None:
    router = APIRouter(dependencies=[Depends(get_session.required)])

    @router.get("/count")
    async def count() -> None:
        pass

    app.include_router(router)


def in_an_inclusions_dependencies(app: FastAPI, get_session: Any) -> None:
    router = APIRouter()

    @router.get("/count")
    async def count() -> None:
        pass

    app.include_router(router, dependencies=[Depends(get_session)])


def in_a_sub_dependency(app: FastAPI, get_session: Any) -> None:
    async def one(session: Session[Data] = Depends(get_session)) -> None:
        pass

    async def two(one: None = Depends(one)) -> None:
        pass

    router = APIRouter()

    @router.get("/count", dependencies=[Depends(two)])
    async def count() -> None:
        pass

    app.include_router(router)


OUTSIDE = [
    on_the_application,
    on_an_included_router,
    on_a_nested_router,
    in_a_mounted_application,
    in_a_routers_dependencies,
    in_an_inclusions_dependencies,
    in_a_sub_dependency,
]


@pytest.mark.parametrize("place", OUTSIDE)
async def test_a_session_outside_of_a_session_route_is_an_error_at_startup(
    get_session: Any, place: Callable[[FastAPI, Any], None]
) -> None:
    """The lifespan's error names the route and the line to write, wherever the route is defined."""
    app = make_app()
    place(app, get_session)
    with pytest.raises(ConfigurationError, match=r"/count .*count.*route_class=SessionRoute"):
        async with get_session.lifespan(app):
            pass


@pytest.mark.parametrize("place", OUTSIDE)
async def test_a_session_outside_of_a_session_route_is_an_error_at_the_first_request(
    get_session: Any, store: SpyStore, place: Callable[[FastAPI, Any], None]
) -> None:
    """Without the lifespan the first request fails with the same message, and loads nothing."""
    app = make_app()
    place(app, get_session)
    with pytest.raises(ConfigurationError, match=r"/count .*count.*route_class=SessionRoute"):
        await call(app, "/mounted/count" if place is in_a_mounted_application else "/count")
    assert store.calls == []


async def test_the_startup_check_ignores_routes_without_a_session(get_session: Any) -> None:
    """Plain routers and mounts without routes are valid."""
    app = make_app()
    annotated_alias(app, get_session)
    plain = APIRouter()

    @plain.get("/plain")
    async def plain_route() -> None:
        pass

    app.include_router(plain)

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    app.router.routes.append(Mount("/static", asgi))
    async with get_session.lifespan(app):
        pass


# requirements


def make_guarded_app(get_session: Any) -> FastAPI:
    app = make_app()
    UserSession = Annotated[Session[Data], Depends(get_session)]

    @app.get("/begin")
    async def begin(session: UserSession) -> None:
        session.data.count += 1

    @app.get("/in")
    async def sign_in(session: UserSession) -> None:
        session.renew(subject="ada")

    @app.get("/required")
    async def required(
        session: Annotated[Session[Data], Depends(get_session.required)], same: UserSession
    ) -> bool:
        return session is same

    @app.get("/signed-in")
    async def signed_in(
        session: Annotated[Session[Data], Depends(get_session.signed_in())], same: UserSession
    ) -> bool:
        return session is same

    @app.get("/lately")
    async def lately(
        session: Annotated[
            Session[Data], Depends(get_session.signed_in(within=timedelta(minutes=5)))
        ],
    ) -> str | None:
        return session.subject

    return app


async def test_requirements_respond_401(
    store: SpyStore, get_session: Any, clock: FrozenClock
) -> None:
    """Without a session, without a sign-in, and after a sign-in that is too old."""
    app = make_guarded_app(get_session)
    paths = ("/required", "/signed-in", "/lately")

    async with browser(app) as client:

        async def statuses() -> list[int]:
            responses = [await client.get(path) for path in paths]
            assert all(set_cookie_kind(response) is None for response in responses)
            for response in responses:
                assert response.headers["vary"] == "Cookie"
                assert (response.status_code == 401) is ("www-authenticate" in response.headers)
            return [response.status_code for response in responses]

        assert await statuses() == [401, 401, 401]
        assert store.calls == []
        await client.get("/begin")
        assert await statuses() == [200, 401, 401]
        await client.get("/in")
        assert await statuses() == [200, 200, 200]
        clock.advance(timedelta(minutes=5))
        assert await statuses() == [200, 200, 200]
        clock.advance(timedelta(seconds=1))
        assert await statuses() == [200, 200, 401]
        assert (await client.get("/signed-in")).json() is True
        assert (await client.get("/required")).json() is True


async def test_a_session_created_by_the_request_does_not_satisfy_required(get_session: Any) -> None:
    """``required`` is about the cookie of the request: an earlier change makes no difference."""
    app = make_app()

    async def change(session: Session[Data] = Depends(get_session)) -> None:
        session.data.count += 1
        await session.commit()

    @app.get("/", dependencies=[Depends(change), Depends(get_session.required)])
    async def home() -> None:
        raise AssertionError("the route ran")

    async with browser(app) as client:
        assert (await client.get("/")).status_code == 401


def test_requirements_are_the_same_object_each_time(get_session: Any) -> None:
    """FastAPI therefore resolves each once, and an override applies to it."""
    within = timedelta(minutes=5)
    assert get_session.required is get_session.required
    assert get_session.signed_in() is get_session.signed_in()
    assert get_session.signed_in(within=within) is get_session.signed_in(timedelta(minutes=5))
    assert get_session.signed_in() is not get_session.signed_in(within=within)
    assert get_session.required is not get_session.signed_in()


async def test_overriding_the_provider_also_overrides_its_requirements() -> None:
    """One entry in ``app.dependency_overrides`` gives every route another session."""
    get_session = make_provider()
    get_other = make_provider(name="other")
    app = make_guarded_app(get_session)
    app.dependency_overrides[get_session] = get_other
    async with browser(app) as client:
        response = await client.get("/in")
        assert set_cookie_kind(response, "__Host-other") == "sent"
        assert set_cookie_kind(response) is None
        for path in ("/required", "/signed-in", "/lately"):
            assert (await client.get(path)).status_code == 200
