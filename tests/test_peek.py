"""``get_session.peek(connection)``: the stored session that any connection brings, to read."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from fastapi_async_sessions import (
    MemoryStore,
    Session,
    SessionEvent,
    SessionRouteMiddleware,
    StoredSession,
    StoreUnavailable,
)
from fastapi_async_sessions.testing import FrozenClock, session_cookies

from .apps import Data, browser, make_app, make_provider, set_cookie_kind
from .doubles import SpyStore, before


@pytest.fixture
def store(clock: FrozenClock) -> SpyStore:
    return SpyStore(MemoryStore(clock=clock))


async def scope_of(get_session: Any, **options: Any) -> dict[str, Any]:
    """A request with the cookie of a stored session of Ada's, whose count is 3."""
    cookies = await session_cookies(get_session, Data(count=3), subject="ada")
    cookie = "; ".join(f"{name}={value}" for name, value in cookies.items())
    get_session.repository.settings.store.calls.clear()
    request = {"type": "http", "method": "GET", "path": "/", "headers": []}
    headers = [*options.pop("headers", []), (b"cookie", cookie.encode())]
    return {**request, **options, "headers": headers}


def seen(stored: StoredSession[Data] | None) -> Any:
    return stored and (stored.subject, stored.data.count)


@pytest.mark.parametrize("kind", ["scope", "connection", "request", "websocket"])
async def test_any_connection_can_be_peeked_at(
    store: SpyStore, get_session: Any, kind: str
) -> None:
    """It costs one load, and nothing is written even where an extension is due."""
    scope = await scope_of(get_session)
    if kind == "websocket":
        del scope["method"]
        scope["type"] = "websocket"
    kinds: dict[str, Any] = {
        "scope": lambda: scope,
        "connection": lambda: HTTPConnection(scope),
        "request": lambda: Request(scope),
        "websocket": lambda: WebSocket(scope, None, None),
    }
    get_session.repository.settings.clock.advance(timedelta(minutes=30))
    assert seen(await get_session.peek(kinds[kind]())) == ("ada", 3)
    assert store.calls == ["load"]


async def test_what_a_peek_says(get_session: Any, clock: FrozenClock) -> None:
    """It is the same as in a list of devices."""
    scope = await scope_of(get_session)
    assert await get_session.sessions("ada") == [await get_session.peek(scope)]


@pytest.mark.parametrize("cookie", ["", "__Host-session=forged", "theme=dark"])
async def test_without_a_session_there_is_none(
    store: SpyStore, get_session: Any, cookie: str
) -> None:
    """No store is called."""
    scope = {"type": "http", "method": "GET", "headers": [(b"cookie", cookie.encode())]}
    assert await get_session.peek(scope) is None
    assert store.calls == []


async def test_a_session_that_has_ended_is_none(get_session: Any, clock: FrozenClock) -> None:
    """Expired, or revoked."""
    scope = await scope_of(get_session)
    stored = await get_session.peek(scope)
    clock.advance(timedelta(hours=2))
    assert await get_session.peek(scope) is None
    clock.advance(timedelta(hours=-2))
    assert await get_session.peek(scope) == stored
    await get_session.revoke(stored.key)
    assert await get_session.peek(scope) is None


async def test_an_outdated_token_is_none(get_session: Any) -> None:
    """After a renewal the old cookie opens nothing."""
    app = make_app()

    @app.get("/renew")
    async def renew(session: Annotated[Session[Data], Depends(get_session)]) -> None:
        session.renew()

    scope = await scope_of(get_session)
    async with browser(app) as client:
        await client.get("/renew", headers={"cookie": dict(scope["headers"])[b"cookie"].decode()})
    assert await get_session.peek(scope) is None


async def test_the_origin_check_holds(store: SpyStore) -> None:
    """A handshake from another origin brings no session, and an event says so."""
    events: list[SessionEvent] = []
    get_session = make_provider(store, on_event=events.append)
    foreign = [(b"origin", b"https://evil.example"), (b"host", b"testserver")]
    for changed in ({"type": "websocket"}, {"method": "POST"}):
        scope = await scope_of(get_session, headers=foreign, **changed)
        if scope["type"] == "websocket":
            del scope["method"]
        assert await get_session.peek(scope) is None
        assert store.calls == []
    kinds = [event.kind for event in events]
    assert kinds.count("origin_rejected") == 2
    assert await get_session.peek(await scope_of(get_session, headers=foreign)) is not None


async def test_an_unavailable_store_raises(store: SpyStore, get_session: Any) -> None:
    """It is not the same as a visitor without a session."""

    async def fail() -> None:
        raise StoreUnavailable("told to fail")

    scope = await scope_of(get_session)
    store.hook = before("load", fail)
    with pytest.raises(StoreUnavailable):
        await get_session.peek(scope)


async def test_a_request_with_its_session_is_not_loaded_again(
    store: SpyStore, get_session: Any
) -> None:
    """The state of that one is returned: after a sign-in and a commit it is the user's."""
    app = make_app()

    @app.get("/")
    async def home(
        request: Request, session: Annotated[Session[Data], Depends(get_session)]
    ) -> list[Any]:
        begun = seen(await get_session.peek(request))
        session.data.count = 7
        session.renew(subject="ada")
        await session.commit()
        return [begun, seen(await get_session.peek(request))]

    async with browser(app) as client:
        assert (await client.get("/")).json() == [None, ["ada", 7]]
    assert store.calls.count("load") == 1  # of the sign-in


async def test_a_request_is_peeked_at_once(store: SpyStore, get_session: Any) -> None:
    """Its response has the same headers as if the route had used the session."""
    app = make_app()

    @app.get("/in")
    async def sign_in(session: Annotated[Session[Data], Depends(get_session)]) -> None:
        session.renew(subject="ada")

    @app.get("/")
    async def home(request: Request) -> str | None:
        await get_session.peek(request)
        stored = await get_session.peek(request)
        return stored and stored.subject

    async with browser(app) as client:
        response = await client.get("/")
        assert (response.json(), response.headers["vary"]) == (None, "Cookie")
        assert response.headers["cache-control"] == "private"
        await client.get("/in")
        store.calls.clear()
        response = await client.get("/")
        assert (response.json(), set_cookie_kind(response)) == ("ada", None)
        assert response.headers["cache-control"] == "no-store"
        assert store.calls == ["load"]


def test_a_websocket_can_peek_again_to_see_whether_the_session_lives(get_session: Any) -> None:
    """Also inside ``SessionRouteMiddleware``: a handshake is answered long before its end."""
    app = make_app()

    @app.post("/in")
    async def sign_in(session: Annotated[Session[Data], Depends(get_session)]) -> None:
        session.renew(subject="ada")

    @app.websocket("/ws")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        stored = await get_session.peek(websocket)
        assert stored is not None
        await get_session.revoke(stored.key)
        await websocket.send_json(await get_session.peek(websocket))

    client = TestClient(SessionRouteMiddleware(app), base_url="https://testserver")
    client.post("/in")
    with client.websocket_connect("wss://testserver/ws") as websocket:
        assert websocket.receive_json() is None


async def test_a_stream_can_peek_again_to_see_whether_the_session_lives(get_session: Any) -> None:
    """Its response has begun, so that the cookie and the headers for caches are settled."""
    app = make_app()

    @app.post("/in")
    async def sign_in(session: Annotated[Session[Data], Depends(get_session)]) -> None:
        session.renew(subject="ada")

    @app.get("/")
    async def stream(request: Request) -> StreamingResponse:
        stored = await get_session.peek(request)

        async def lives() -> AsyncIterator[str]:
            await get_session.revoke(stored.key)
            yield str(await get_session.peek(request))

        return StreamingResponse(lives())

    async with browser(app) as client:
        await client.post("/in")
        assert (await client.get("/")).text == "None"


async def test_http_middleware_can_peek(get_session: Any) -> None:
    """Inside ``SessionRouteMiddleware`` the response has the headers for caches."""
    app = make_app()

    @app.middleware("http")
    async def greet(request: Request, call_next: Any) -> Response:
        stored = await get_session.peek(request)
        return PlainTextResponse(f"Hello {stored and stored.subject}")

    app.add_middleware(SessionRouteMiddleware)
    async with browser(app) as client:
        response = await client.get("/nothing")
    assert (response.text, response.headers["vary"]) == ("Hello None", "Cookie")


def test_a_websocket_of_starlette_can_peek(get_session: Any) -> None:
    """It needs no middleware, for nothing is written."""
    app = FastAPI()

    async def socket(websocket: WebSocket) -> None:
        stored = await get_session.peek(websocket)
        await websocket.accept()
        await websocket.send_json(seen(stored))
        await websocket.close()

    app.router.routes.append(WebSocketRoute("/ws", socket))
    client = TestClient(app, base_url="https://testserver")
    with client.websocket_connect("wss://testserver/ws") as websocket:
        assert websocket.receive_json() is None
