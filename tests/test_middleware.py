"""Sessions outside of ``SessionRoute``: ``SessionRouteMiddleware`` and ``SessionRoute.convert``."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException, WebSocket
from fastapi.routing import APIRoute
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from fastapi_async_sessions import (
    ConfigurationError,
    CookieConfig,
    MemoryStore,
    Session,
    SessionClosed,
    SessionRoute,
    SessionRouteMiddleware,
    StoreUnavailable,
)
from fastapi_async_sessions.testing import FrozenClock

from .apps import (
    SECRET,
    Data,
    browser,
    call,
    make_app,
    make_provider,
    session_cookies,
    set_cookie_kind,
)
from .doubles import SpyStore, before

HAS_FRONTENDS = hasattr(FastAPI, "frontend")


@pytest.fixture
def store(clock: FrozenClock) -> SpyStore:
    return SpyStore(MemoryStore(clock=clock))


async def refuse() -> None:
    raise StoreUnavailable("told to fail")


# where a session works


def counting(get_session: Any) -> Any:
    """An endpoint of Starlette that counts its visits, and raises 409 for ``?refuse=1``."""

    async def endpoint(request: Request) -> Response:
        session = await get_session(request)
        session.data.count += 1
        if "refuse" in request.query_params:
            raise HTTPException(409)
        return JSONResponse(session.data.count)

    return endpoint


def add_route(router: Any, get_session: Any) -> Any:
    @router.get("/count")
    async def count(
        session: Annotated[Session[Data], Depends(get_session)], refuse: bool = False
    ) -> int:
        session.data.count += 1
        if refuse:
            raise HTTPException(409)
        return session.data.count

    return router


def session_route(get_session: Any) -> Any:
    return add_route(make_app(), get_session)


def plain_route_inside(get_session: Any) -> Any:
    app = add_route(FastAPI(), get_session)
    app.add_middleware(SessionRouteMiddleware)
    return app


def plain_router_inside(get_session: Any) -> Any:
    app = make_app()
    app.include_router(add_route(APIRouter(), get_session))
    app.add_middleware(SessionRouteMiddleware)
    return app


def session_route_inside(get_session: Any) -> Any:
    app = add_route(make_app(), get_session)
    app.add_middleware(SessionRouteMiddleware)
    app.add_middleware(SessionRouteMiddleware)
    return SessionRouteMiddleware(app)


def converted_router(get_session: Any) -> Any:
    app = FastAPI()
    app.include_router(SessionRoute.convert(add_route(APIRouter(), get_session)))
    return app


def converted_application(get_session: Any) -> Any:
    app = add_route(FastAPI(), get_session)
    SessionRoute.convert(app.router)
    return app


def mounted_application(get_session: Any) -> Any:
    app = FastAPI()
    app.mount("/", SessionRouteMiddleware(add_route(FastAPI(), get_session)))
    return app


def whole_application(get_session: Any) -> Any:
    return SessionRouteMiddleware(add_route(FastAPI(), get_session))


def middleware_of_a_mount(get_session: Any) -> Any:
    inner = add_route(FastAPI(), get_session)
    mount = Mount("/", inner, middleware=[Middleware(SessionRouteMiddleware)])
    return FastAPI(routes=[mount])


FASTAPI = [
    session_route,
    plain_route_inside,
    plain_router_inside,
    session_route_inside,
    converted_router,
    converted_application,
    mounted_application,
    whole_application,
    middleware_of_a_mount,
]


def starlette_route(get_session: Any) -> Any:
    app = make_app()
    inner = Starlette(routes=[Route("/count", counting(get_session))])
    app.mount("/", SessionRouteMiddleware(inner))
    return app


def starlette_route_of_an_application_inside(get_session: Any) -> Any:
    app = make_app()
    app.mount("/", Starlette(routes=[Route("/count", counting(get_session))]))
    app.add_middleware(SessionRouteMiddleware)
    return app


def middleware_in_a_packages_own_list(get_session: Any) -> Any:
    inner = Starlette(
        routes=[Route("/count", counting(get_session))],
        middleware=[Middleware(SessionRouteMiddleware)],
    )
    app = make_app()
    app.mount("/", inner)
    return app


def error_page(get_session: Any) -> Any:
    app = make_app()
    endpoint = counting(get_session)

    @app.exception_handler(404)
    async def not_found(request: Request, error: Exception) -> Response:
        try:
            return await endpoint(request)
        except HTTPException:
            return PlainTextResponse("", 409)

    app.add_middleware(SessionRouteMiddleware)
    return app


def http_middleware(get_session: Any) -> Any:
    app = make_app()

    @app.middleware("http")
    async def count(request: Request, call_next: Any) -> Response:
        session = await get_session(request)
        session.data.count += 1
        response = await call_next(request)
        if "refuse" in request.query_params:
            response.status_code = 409
        return response

    async def endpoint(request: Request) -> Response:
        return JSONResponse((await get_session(request)).data.count)

    app.mount("/", Starlette(routes=[Route("/count", endpoint)]))
    app.add_middleware(SessionRouteMiddleware)
    return app


STARLETTE = [
    starlette_route,
    starlette_route_of_an_application_inside,
    middleware_in_a_packages_own_list,
    error_page,
    http_middleware,
]
Place = Callable[[Any], Any]


@pytest.mark.parametrize("place", [*FASTAPI, *STARLETTE])
async def test_a_session_works_everywhere_inside(
    store: SpyStore, get_session: Any, place: Place
) -> None:
    """Each request has one session: one load, one write, one cookie."""
    async with browser(place(get_session)) as client:
        first = await client.get("/count")
        assert (first.json(), set_cookie_kind(first)) == (1, "sent")
        store.calls.clear()
        second = await client.get("/count")
        assert (second.json(), session_cookies(second)) == (2, [])
        assert second.headers.get_list("vary") == ["Cookie"]
        assert store.calls == ["load", "save"]


@pytest.mark.parametrize("place", FASTAPI)
async def test_a_fastapi_route_that_raises_is_rolled_back(get_session: Any, place: Place) -> None:
    """It is the same in a ``SessionRoute``, a converted route, and a plain one inside the
    middleware."""
    async with browser(place(get_session)) as client:
        await client.get("/count")
        assert (await client.get("/count?refuse=1")).status_code == 409
        assert (await client.get("/count")).json() == 2


@pytest.mark.parametrize("place", STARLETTE)
async def test_a_409_from_elsewhere_commits(get_session: Any, place: Place) -> None:
    """An exception that the application inside has handled is a response like any other."""
    async with browser(place(get_session)) as client:
        await client.get("/count")
        assert (await client.get("/count?refuse=1")).status_code == 409
        assert (await client.get("/count")).json() == 3


@pytest.mark.skipif(not HAS_FRONTENDS, reason="this FastAPI has no frontends")
async def test_a_frontend_inside_has_a_session(
    store: SpyStore, get_session: Any, tmp_path: Path
) -> None:
    """A dependency of ``app.frontend()`` counts its visits; a missing file rolls back."""
    (tmp_path / "index.html").write_text("<p>")

    async def counts(session: Annotated[Session[Data], Depends(get_session)]) -> None:
        session.data.count += 1

    app = add_route(make_app(), get_session)
    router = APIRouter(dependencies=[Depends(counts)])
    router.frontend("/front", directory=tmp_path, fallback=None)
    app.include_router(router)
    with pytest.raises(ConfigurationError, match=r"/front.*SessionRouteMiddleware"):
        async with get_session.lifespan(app):
            pass
    app.add_middleware(SessionRouteMiddleware)
    async with get_session.lifespan(app), browser(app) as client:
        response = await client.get("/front/index.html")
        assert (response.text, set_cookie_kind(response)) == ("<p>", "sent")
        assert (await client.get("/front/missing")).status_code == 404
        assert (await client.get("/count")).json() == 2


# the middleware


def make_starlette(endpoint: Any, **options: Any) -> Any:
    """A Starlette application inside the middleware, with one page."""
    return SessionRouteMiddleware(Starlette(routes=[Route("/", endpoint)], **options))


async def test_the_session_is_the_same_one_everywhere(get_session: Any, store: SpyStore) -> None:
    """HTTP middleware, a ``SessionRoute`` and a middleware in between share it; after
    ``call_next`` it can be read and no longer changed."""
    app = make_app()
    sessions: list[Session[Data]] = []

    @app.get("/")
    async def home(session: Annotated[Session[Data], Depends(get_session)]) -> None:
        sessions.append(session)
        session.data.count += 1

    app.add_middleware(SessionRouteMiddleware)

    @app.middleware("http")
    async def around(request: Request, call_next: Any) -> Response:
        session = await get_session(request)
        sessions.append(session)
        response = await call_next(request)
        assert (await get_session(request)).data.count == 1
        with pytest.raises(SessionClosed):
            session.renew()
        return response

    app.add_middleware(SessionRouteMiddleware)
    async with browser(app) as client:
        response = await client.get("/")
    assert (response.status_code, set_cookie_kind(response)) == (200, "sent")
    assert sessions[0] is sessions[1]
    assert store.calls == ["create"]


@pytest.mark.parametrize("fails", ["status", "exception"])
async def test_a_server_error_rolls_back(store: SpyStore, get_session: Any, fails: str) -> None:
    """Be it a response of 500 or above, or an exception that nothing inside has handled."""

    async def endpoint(request: Request) -> Response:
        session = await get_session(request)
        session.data.count += 1
        if fails == "exception":
            raise RuntimeError
        return PlainTextResponse("", 500)

    async with browser(make_starlette(endpoint)) as client:
        response = await client.get("/")
    assert (response.status_code, session_cookies(response), store.calls) == (500, [], [])


async def test_an_application_that_raises_outside_of_starlette_rolls_back(
    store: SpyStore, get_session: Any
) -> None:
    """The exception reaches the server, and a destroyed session is deleted all the same."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        session = await get_session(Request(scope))
        if scope["path"] == "/count":
            session.data.count += 1
            await PlainTextResponse(str(session.data.count))(scope, receive, send)
            return
        session.destroy()
        raise RuntimeError

    async with browser(SessionRouteMiddleware(app)) as client:
        assert [(await client.get("/count")).text for _ in range(2)] == ["1", "2"]
        assert (await client.get("/")).status_code == 500
        assert (await client.get("/count")).text == "1"


async def test_a_response_without_headers_gets_those_of_its_session(get_session: Any) -> None:
    """ASGI lets an application leave them out."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        (await get_session(Request(scope))).data.count += 1
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    _, headers, _ = await call(SessionRouteMiddleware(app))
    assert {name for name, _ in headers} == {b"vary", b"set-cookie", b"cache-control"}


async def test_an_application_without_a_response_commits_nothing(
    store: SpyStore, get_session: Any
) -> None:
    """It may return because its client has gone."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        (await get_session(Request(scope))).data.count += 1

    with pytest.raises(RuntimeError, match="StopIteration"):  # there is nothing to return
        await call(SessionRouteMiddleware(app))
    assert store.calls == []


@pytest.mark.parametrize("body", ["text", "stream"])
async def test_a_failed_commit_is_the_response(
    store: SpyStore, get_session: Any, body: str
) -> None:
    """A 503 replaces the page, even if it is an endless stream, and no background task runs."""
    tasks: list[str] = []

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"data"
            await asyncio.sleep(0)

    async def endpoint(request: Request) -> Response:
        (await get_session(request)).data.count += 1
        task = BackgroundTask(tasks.append, "ran")
        if body == "text":
            return PlainTextResponse("welcome", background=task)
        return StreamingResponse(endless(), background=task)

    store.hook = before("create", refuse)
    async with browser(make_starlette(endpoint)) as client:
        response = await client.get("/")
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert "welcome" not in response.text
    assert (session_cookies(response), tasks) == ([], [])


async def test_a_failed_commit_has_the_exception_handler_of_the_application(
    store: SpyStore, get_session: Any
) -> None:
    """It is the same one that answers in a route."""

    async def endpoint(request: Request) -> Response:
        (await get_session(request)).data.count += 1
        return PlainTextResponse("welcome")

    async def unavailable(request: Request, error: Exception) -> Response:
        return PlainTextResponse("please wait", 503)

    app = make_starlette(endpoint, exception_handlers={StoreUnavailable: unavailable})
    store.hook = before("create", refuse)
    async with browser(app) as client:
        response = await client.get("/")
    assert (response.status_code, response.text) == (503, "please wait")


async def test_a_failed_commit_without_an_application_of_starlette_is_json(
    store: SpyStore, get_session: Any
) -> None:
    """Inside is any ASGI application, which knows no exception handlers."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        (await get_session(Request(scope))).data.count += 1
        await PlainTextResponse("welcome")(scope, receive, send)

    store.hook = before("create", refuse)
    async with browser(SessionRouteMiddleware(app)) as client:
        response = await client.get("/")
    assert (response.status_code, list(response.json())) == (503, ["detail"])


async def test_streams_and_background_tasks_can_only_read(
    get_session: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The commit comes before the first byte; a change that is made later is logged as an error."""
    seen: list[int] = []

    async def endpoint(request: Request) -> Response:
        session = await get_session(request)
        session.data.count += 1

        async def body() -> AsyncIterator[str]:
            yield str(session.data.count)

        def late() -> None:
            seen.append(session.data.count)
            session.data.count = 9

        return StreamingResponse(body(), background=BackgroundTask(late))

    async with browser(make_starlette(endpoint)) as client:
        assert [(await client.get("/")).text for _ in range(2)] == ["1", "2"]
    assert seen == [1, 2]
    assert "that change is lost" in caplog.text


async def test_an_application_that_ignores_errors_of_send_sends_nothing_more(
    store: SpyStore, get_session: Any
) -> None:
    """The response of a failed commit is the only one."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        (await get_session(Request(scope))).data.count += 1
        for _ in range(2):
            with contextlib.suppress(Exception):
                await PlainTextResponse("welcome")(scope, receive, send)

    store.hook = before("create", refuse)
    async with browser(SessionRouteMiddleware(app)) as client:
        response = await client.get("/")
    assert response.status_code == 503
    assert "welcome" not in response.text


async def test_a_session_that_is_first_used_after_a_session_route_can_only_be_read(
    get_session: Any,
) -> None:
    """The route used none, and its response is on the way."""
    app = make_app()
    errors: list[Exception] = []

    async def later(request: Request) -> None:
        session = await get_session(request)
        try:
            session.renew()
        except SessionClosed as error:
            errors.append(error)

    @app.get("/")
    async def home(request: Request, tasks: BackgroundTasks) -> None:
        tasks.add_task(later, request)

    await call(app)
    assert len(errors) == 1


async def test_what_uses_no_session_is_unchanged(store: SpyStore, get_session: Any) -> None:
    """No header is added and no store is called, for a page and for the lifespan."""

    async def endpoint(request: Request) -> Response:
        return PlainTextResponse("")

    async with browser(make_starlette(endpoint)) as client:
        response = await client.get("/")
    assert {"vary", "set-cookie", "cache-control"}.isdisjoint(response.headers)
    with TestClient(make_starlette(endpoint)):
        pass
    assert store.calls == []


@pytest.mark.parametrize("place", [session_route, plain_route_inside, starlette_route])
async def test_a_scope_without_server_and_scheme(get_session: Any, place: Place) -> None:
    """Both keys are optional in ASGI."""
    app = place(get_session)

    async def served(scope: Any, receive: Any, send: Any) -> None:
        scope = {key: value for key, value in scope.items() if key not in ("server", "scheme")}
        await app(scope, receive, send)

    status, headers, body = await call(served, "/count")
    assert (status, body) == (200, b"1")
    assert [name for name, _ in headers].count(b"set-cookie") == 1


# websockets


def make_socket(get_session: Any, handler: Any) -> TestClient:
    """A client with a session whose count is 1, of an application with a Starlette websocket."""

    async def endpoint(websocket: WebSocket) -> None:
        await handler(websocket, await get_session(websocket))

    app = add_route(FastAPI(), get_session)
    app.router.routes.append(WebSocketRoute("/ws", endpoint))
    app.add_middleware(SessionRouteMiddleware)
    client = TestClient(app, base_url="https://testserver")
    client.get("/count")
    return client


def count_after(client: TestClient) -> int:
    """What the next visit counts; it was 1 before the websocket."""
    count: int = client.get("/count").json()
    return count


@pytest.mark.parametrize("ending", ["close", "disconnect", "error"])
def test_a_websocket_of_starlette_commits_when_it_ends(get_session: Any, ending: str) -> None:
    """After an error it is rolled back; a client that disconnects is not an error."""

    async def handler(websocket: WebSocket, session: Session[Data]) -> None:
        await websocket.accept()
        session.data.count += 10
        await websocket.receive_text()
        if ending == "error":
            raise RuntimeError
        await websocket.close()

    client = make_socket(get_session, handler)
    try:
        with client.websocket_connect("wss://testserver/ws") as websocket:
            if ending != "disconnect":
                websocket.send_text("")
                websocket.receive()
    except (RuntimeError, WebSocketDisconnect):
        pass
    assert count_after(client) == (2 if ending == "error" else 12)


def test_a_websocket_whose_commit_fails_closes_with_1011(
    store: SpyStore, get_session: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The client learns that its change was not stored."""

    async def handler(websocket: WebSocket, session: Session[Data]) -> None:
        await websocket.accept()
        session.data.count += 10
        store.hook = before("save", refuse)

    client = make_socket(get_session, handler)
    with client.websocket_connect("wss://testserver/ws") as websocket:
        assert websocket.receive() == {"type": "websocket.close", "code": 1011, "reason": ""}
    assert "could not be committed" in caplog.text


@pytest.mark.parametrize("ending", ["closed", "disconnected"])
async def test_a_websocket_that_has_ended_is_not_closed_again(
    store: SpyStore, get_session: Any, caplog: pytest.LogCaptureFixture, ending: str
) -> None:
    """The failed commit is logged, because nobody can be told."""
    async with browser(add_route(make_app(), get_session)) as client:
        await client.get("/count")
        cookie = client.cookies["__Host-session"]
    sent: list[Any] = []
    received = iter([{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1001}])

    async def receive() -> Any:
        return next(received)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        session = await get_session(WebSocket(scope, receive, send))
        session.data.count += 10
        await receive()
        await send({"type": "websocket.accept"})
        if ending == "closed":
            await send({"type": "websocket.close", "code": 1000})
        else:
            await receive()

    store.hook = before("save", refuse)
    headers = [(b"cookie", f"__Host-session={cookie}".encode())]
    scope = {"type": "websocket", "path": "/ws", "headers": headers, "query_string": b""}
    await SessionRouteMiddleware(app)(scope, receive, send)
    assert sent == ["websocket.accept", "websocket.close"][: 1 + (ending == "closed")]
    assert "could not be committed" in caplog.text


def test_a_websocket_that_was_denied_commits(get_session: Any) -> None:
    """It ends without an exception, so what it changed counts."""

    async def handler(websocket: WebSocket, session: Session[Data]) -> None:
        session.data.count += 10
        await websocket.close()

    client = make_socket(get_session, handler)
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("wss://testserver/ws"):
        pass
    assert count_after(client) == 12


def test_a_websocket_route_of_fastapi_inside_is_closed_once(
    store: SpyStore, get_session: Any
) -> None:
    """Its own exit stack commits, and the middleware leaves it at that."""
    app = add_route(FastAPI(), get_session)

    @app.websocket("/ws")
    async def socket(
        websocket: WebSocket, session: Annotated[Session[Data], Depends(get_session)]
    ) -> None:
        await websocket.accept()
        session.data.count += 10
        await websocket.close()

    app.add_middleware(SessionRouteMiddleware)
    client = TestClient(app, base_url="https://testserver")
    client.get("/count")
    store.calls.clear()
    with client.websocket_connect("wss://testserver/ws") as websocket:
        websocket.receive()
    assert store.calls == ["load", "save"]
    assert count_after(client) == 12


# conversion


def test_a_router_is_converted_in_place_and_once(get_session: Any) -> None:
    """Its routes, those that are added later, and those of the routers in it."""
    inner, outer = APIRouter(), APIRouter()
    add_route(inner, get_session)
    outer.include_router(inner, prefix="/inner")
    assert SessionRoute.convert(outer) is outer
    SessionRoute.convert(outer)
    add_route(outer, get_session)
    app = FastAPI()
    app.include_router(outer)
    classes = [
        type(getattr(route, "original_route", route))
        for route in outer.routes
        if isinstance(route, APIRoute)
    ]
    assert set(classes) == {SessionRoute}


async def test_nested_and_later_routes_of_a_converted_router_have_sessions(
    get_session: Any,
) -> None:
    """The startup check agrees."""
    inner, outer = APIRouter(), APIRouter()
    add_route(inner, get_session)
    outer.include_router(inner, prefix="/inner")
    SessionRoute.convert(outer)
    add_route(outer, get_session)
    app = FastAPI()
    app.include_router(outer)
    async with get_session.lifespan(app), browser(app) as client:
        assert [(await client.get(path)).json() for path in ("/count", "/inner/count")] == [1, 2]


@pytest.mark.parametrize("is_included", [True, False])
async def test_a_route_class_of_the_routers_own_runs_around_the_session(
    get_session: Any, is_included: bool
) -> None:
    """What it adds to the response is kept."""

    class Stamped(APIRoute):
        def get_route_handler(self) -> Any:
            handler = super().get_route_handler()

            async def stamped(request: Request) -> Response:
                response = await handler(request)
                response.headers["x-stamped"] = "yes"
                return response

            return stamped

    router = add_route(APIRouter(route_class=Stamped), get_session)
    app = FastAPI()
    if is_included:
        app.include_router(SessionRoute.convert(router))
    else:
        app.router.route_class = Stamped
        add_route(app, get_session)
        SessionRoute.convert(app.router)
    async with browser(app) as client:
        response = await client.get("/count")
        assert (response.headers["x-stamped"], set_cookie_kind(response)) == ("yes", "sent")
        assert (await client.get("/count")).json() == 2


async def test_a_route_class_that_answers_exceptions_does_not_commit_them(
    get_session: Any,
) -> None:
    """The session is rolled back before it sees the exception, as in a class derived from
    ``SessionRoute``."""

    class Answering(APIRoute):
        def get_route_handler(self) -> Any:
            handler = super().get_route_handler()

            async def answering(request: Request) -> Response:
                try:
                    return await handler(request)
                except HTTPException:
                    return PlainTextResponse("answered")

            return answering

    app = FastAPI()
    router = add_route(APIRouter(route_class=Answering), get_session)
    app.include_router(SessionRoute.convert(router))
    async with browser(app) as client:
        await client.get("/count")
        assert (await client.get("/count?refuse=1")).text == "answered"
        assert (await client.get("/count")).json() == 2


def test_a_route_class_that_cannot_be_combined_is_refused(get_session: Any) -> None:
    """The error names it, and what to use instead."""

    class Meta(type):
        def mro(cls) -> Any:
            if cls.__name__ == "Closed" and len(cls.__bases__) > 1:
                raise TypeError("it is closed")
            return super().mro()

    class Closed(APIRoute, metaclass=Meta):
        pass

    with pytest.raises(
        ConfigurationError, match=r"cannot combine .*Closed.*SessionRouteMiddleware"
    ):
        SessionRoute.convert(APIRouter(route_class=Closed))


def test_an_application_is_not_a_router() -> None:
    """The error has the line to write."""
    with pytest.raises(ConfigurationError, match=r"SessionRoute.convert\(app.router\)"):
        SessionRoute.convert(FastAPI())  # type: ignore[type-var]


# the startup check and the messages


async def test_the_startup_check_names_each_route_that_can_have_no_session(
    get_session: Any,
) -> None:
    """Those of routers and mounted applications too, in one message."""
    app = make_app()
    app.include_router(add_route(APIRouter(), get_session), prefix="/router")
    app.mount("/mounted", add_route(FastAPI(), get_session))
    with pytest.raises(
        ConfigurationError,
        match=r"the routes /router/count \(.*count\), /mounted/count \(.*count\) use a session",
    ):
        async with get_session.lifespan(app):
            pass


@pytest.mark.parametrize("place", [*FASTAPI, *STARLETTE])
async def test_the_startup_check_accepts_what_has_a_session(get_session: Any, place: Place) -> None:
    """Whether the middleware is around the application, in it, or around a mount."""
    app = place(get_session)
    inner = app
    while not isinstance(inner, FastAPI):
        inner = inner.app
    inner.router.lifespan_context = get_session.lifespan
    with TestClient(app, base_url="https://testserver"):
        pass


@pytest.mark.parametrize("is_mounted", [False, True])
async def test_a_session_middleware_of_starlette_with_the_same_cookie(is_mounted: bool) -> None:
    """The application does not start; the error has the line to write."""
    get_session = make_provider(name="shop", cookie=CookieConfig(secure=False))
    other = [Middleware(SessionMiddleware, secret_key=SECRET, session_cookie="shop")]
    app = make_app(middleware=[] if is_mounted else other)
    if is_mounted:
        app.mount("/admin", Starlette(middleware=other))
    with pytest.raises(
        ConfigurationError, match=r'uses the cookie shop .*session_cookie="starlette"'
    ):
        async with get_session.lifespan(app):
            pass


async def test_an_error_page_without_the_middleware(get_session: Any) -> None:
    """The error names the request, for there is no route, and the line to write."""
    app = make_app()

    @app.exception_handler(404)
    async def not_found(request: Request, error: Exception) -> Response:
        await get_session(request)
        return PlainTextResponse("", 404)

    with pytest.raises(
        ConfigurationError,
        match=r"GET /nothing uses a session outside .*write app\.add_middleware\(SessionRouteM",
    ):
        await call(app, "/nothing")


@pytest.mark.parametrize("is_inside", [False, True])
async def test_the_error_page_of_a_method_that_is_not_allowed(
    get_session: Any, is_inside: bool
) -> None:
    """It is not sent by the route, which could not add ``Vary``: it needs the middleware."""
    app = add_route(make_app(), get_session)

    @app.exception_handler(405)
    async def not_allowed(request: Request, error: Exception) -> Response:
        return PlainTextResponse(str((await get_session(request)).data.count), 405)

    if not is_inside:
        with pytest.raises(ConfigurationError, match="SessionRouteMiddleware"):
            await call(app, "/count", method="POST")
        return
    app.add_middleware(SessionRouteMiddleware)
    async with browser(app) as client:
        response = await client.post("/count")
    assert (response.status_code, response.headers["vary"]) == (405, "Cookie")


async def test_a_mounted_application_without_the_middleware(get_session: Any) -> None:
    """The route is one of Starlette, which cannot become a ``SessionRoute``."""
    app = make_app()
    app.mount("/admin", Starlette(routes=[Route("/users", counting(get_session))]))
    with pytest.raises(
        ConfigurationError,
        match=r'GET /admin/users uses .*app\.mount\("/admin", SessionRouteMiddleware\(admin\)\)',
    ):
        await call(app, "/admin/users")


async def test_a_route_class_whose_handle_does_not_call_super(get_session: Any) -> None:
    """It has no place for a session; the error says what would have."""

    class Own(SessionRoute):
        async def handle(self, scope: Any, receive: Any, send: Any) -> None:
            await self.app(scope, receive, send)

    app = FastAPI()
    app.router.route_class = Own
    add_route(app, get_session)
    with pytest.raises(ConfigurationError, match="SessionRouteMiddleware"):
        await call(app, "/count")
