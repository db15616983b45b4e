"""A session on a websocket: loaded at the handshake, committed when the handler ends."""

import logging
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, WebSocket, WebSocketDisconnect
from starlette.testclient import TestClient, WebSocketDenialResponse

from fastapi_async_sessions import ConfigurationError, MemoryStore, Session, SessionClosed
from fastapi_async_sessions.testing import FrozenClock

from .apps import Data, make_app, make_provider
from .doubles import SpyStore, failing, pass_on

WS = "wss://testserver"
Handler = Callable[[WebSocket, Session[Data]], Any]


@pytest.fixture
def store(clock: FrozenClock) -> SpyStore:
    return SpyStore(MemoryStore(clock=clock))


def make_socket_app(get_session: Any, handler: Handler | None = None) -> FastAPI:
    app = make_app()
    UserSession = Annotated[Session[Data], Depends(get_session)]

    @app.get("/begin")
    async def begin(session: UserSession) -> None:
        session.data.count = 1

    @app.get("/count")
    async def count(session: UserSession) -> int:
        return session.data.count

    @app.get("/out")
    async def sign_out(session: UserSession) -> None:
        await session.destroy()

    @app.websocket("/ws")
    async def socket(websocket: WebSocket, session: UserSession) -> None:
        assert handler is not None
        await handler(websocket, session)

    return app


def closing_like_a_server(app: FastAPI) -> Any:
    """Wrap an application to do what servers do: close a socket that its handler has left open."""

    async def served(scope: Any, receive: Any, send: Any) -> None:
        ends: list[str] = []

        async def watched(message: Any) -> None:
            if message["type"] in ("websocket.close", "websocket.http.response.start"):
                ends.append(message["type"])
            await send(message)

        await app(scope, receive, watched)
        if scope["type"] == "websocket" and not ends:
            await send({"type": "websocket.close", "code": 1000})

    return served


def browser(app: FastAPI, begin: str | None = "/begin") -> TestClient:
    """A client with a session whose count is 1, or without a session if ``begin`` is None."""
    client = TestClient(closing_like_a_server(app), base_url="https://testserver")
    if begin is not None:
        client.get(begin)
    return client


def closing_code(client: TestClient) -> int:
    """The code with which the server closes the socket."""
    with (
        client.websocket_connect(f"{WS}/ws") as websocket,
        pytest.raises(WebSocketDisconnect) as closed,
    ):
        websocket.receive_json()
    return closed.value.code


def denial(client: TestClient, path: str, **options: Any) -> WebSocketDenialResponse:
    """The response to a rejected handshake."""
    with pytest.raises(WebSocketDenialResponse) as denied:  # noqa: SIM117  # which one raises
        with client.websocket_connect(WS + path, **options):
            pass
    return denied.value


def test_a_change_is_committed_when_the_handler_ends(store: SpyStore, get_session: Any) -> None:
    """There is one load at the handshake and one write at the end, and the next request sees it."""

    async def handler(websocket: WebSocket, session: Session[Data]) -> None:
        await websocket.accept()
        session.data.count += 1
        await websocket.send_json(session.data.count)

    client = browser(make_socket_app(get_session, handler))
    store.calls.clear()
    with client.websocket_connect(f"{WS}/ws") as websocket:
        assert websocket.receive_json() == 2
    assert store.calls == ["load", "save"]
    assert client.get("/count").json() == 2


async def test_a_disconnect_commits(store: SpyStore, get_session: Any) -> None:
    """``WebSocketDisconnect`` leaves the handler, commits, and is raised to the server."""

    async def handler(websocket: WebSocket, session: Session[Data]) -> None:
        await websocket.accept()
        while True:
            session.data.count += await websocket.receive_json()

    app = make_socket_app(get_session, handler)
    client = browser(app)
    messages: list[dict[str, Any]] = [
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": "10"},
        {"type": "websocket.receive", "text": "20"},
        {"type": "websocket.disconnect", "code": 1001},
    ]
    sent: list[str] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    ((name, value),) = client.cookies.items()
    scope = {
        "type": "websocket",
        "path": "/ws",
        "query_string": b"",
        "headers": [(b"host", b"testserver"), (b"cookie", f"{name}={value}".encode())],
        "subprotocols": [],
    }
    with pytest.raises(WebSocketDisconnect):
        await app(scope, receive, send)
    assert sent == ["websocket.accept"]
    assert client.get("/count").json() == 31


@pytest.mark.parametrize("error", [RuntimeError("broken"), HTTPException(418)])
def test_an_error_rolls_back(store: SpyStore, get_session: Any, error: Exception) -> None:
    """Earlier commits are kept, and later changes are lost."""

    async def handler(websocket: WebSocket, session: Session[Data]) -> None:
        session.data.count = 5
        await session.commit()
        session.data.count = 6
        raise error

    client = browser(make_socket_app(get_session, handler))
    with (
        pytest.raises((type(error), WebSocketDenialResponse)),
        client.websocket_connect(f"{WS}/ws"),
    ):
        pass
    assert client.get("/count").json() == 5


def test_commit_writes_while_the_socket_is_open(store: SpyStore, get_session: Any) -> None:
    """Another request of the same browser sees the change before the socket closes."""

    async def handler(websocket: WebSocket, session: Session[Data]) -> None:
        await websocket.accept()
        for _ in range(2):
            session.data.count += await websocket.receive_json()
            await session.commit()
            await websocket.send_json(session.data.count)

    client = browser(make_socket_app(get_session, handler))
    store.calls.clear()
    with client.websocket_connect(f"{WS}/ws") as websocket:
        for step, total in ((1, 2), (0, 2)):
            websocket.send_json(step)
            assert websocket.receive_json() == total
            assert client.get("/count").json() == total
    assert store.writes == ["save"]


def test_a_socket_has_one_session(store: SpyStore, get_session: Any) -> None:
    """This holds in sub-dependencies, without the cache, and with another scope."""

    async def counts(session: Session[Data] = Depends(get_session, use_cache=False)) -> Any:
        session.data.count += 1
        return session

    app = make_socket_app(get_session)

    @app.websocket("/one")
    async def one(
        websocket: WebSocket,
        counted: Annotated[Session[Data], Depends(counts)],
        session: Annotated[Session[Data], Depends(get_session, scope="function")],
    ) -> None:
        await websocket.accept()
        await websocket.send_json(session is counted)

    client = browser(app)
    store.calls.clear()
    with client.websocket_connect(f"{WS}/one") as websocket:
        assert websocket.receive_json() is True
    assert store.calls == ["load", "save"]
    assert client.get("/count").json() == 2


def test_a_socket_without_a_cookie_has_a_new_session(store: SpyStore, get_session: Any) -> None:
    """Nothing is loaded, and nothing is stored unless it changes."""

    async def handler(websocket: WebSocket, session: Session[Data]) -> None:
        await websocket.accept()
        await websocket.send_json([session.is_new, session.data.count])

    client = browser(make_socket_app(get_session, handler), begin=None)
    with client.websocket_connect(f"{WS}/ws") as websocket:
        assert websocket.receive_json() == [True, 0]
    assert store.calls == []


def test_what_needs_a_cookie_raises(store: SpyStore, get_session: Any) -> None:
    """``renew()`` raises at once, and a new session when it would be stored."""
    messages: list[str] = []

    async def handler(websocket: WebSocket, session: Session[Data]) -> None:
        await websocket.accept()
        with pytest.raises(SessionClosed, match="HTTP") as renewing:
            session.renew(subject="ada")
        await session.destroy()
        session.data.count = 7
        with pytest.raises(SessionClosed, match="HTTP") as creating:
            await session.commit()
        messages.extend([str(renewing.value), str(creating.value)])
        session.data.count = 0

    client = browser(make_socket_app(get_session, handler))
    with client.websocket_connect(f"{WS}/ws"):
        pass
    assert len(messages) == 2
    assert store.writes == ["create", "delete", "create"]


def test_a_new_session_that_was_changed_closes_with_1011(
    store: SpyStore, get_session: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The change cannot be stored, and the log says why."""

    async def handler(websocket: WebSocket, session: Session[Data]) -> None:
        await websocket.accept()
        session.data.count = 7

    client = browser(make_socket_app(get_session, handler), begin=None)
    assert closing_code(client) == 1011
    assert "a new session needs a cookie" in caplog.text
    assert store.calls == []


def test_a_commit_that_fails_after_accept_closes_with_1011(
    store: SpyStore, get_session: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The client gets the code of an internal error, and the log has the error."""

    async def handler(websocket: WebSocket, session: Session[Data]) -> None:
        await websocket.accept()
        session.data.count = 2
        store.hook = failing("save")

    client = browser(make_socket_app(get_session, handler))
    assert closing_code(client) == 1011
    assert [record for record in caplog.records if record.levelno == logging.ERROR]
    store.hook = pass_on
    assert client.get("/count").json() == 1


def test_a_commit_that_fails_after_the_close_is_logged(
    store: SpyStore, get_session: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The socket keeps the handler's own close code."""

    async def handler(websocket: WebSocket, session: Session[Data]) -> None:
        await websocket.accept()
        session.data.count = 2
        store.hook = failing("save")
        await websocket.close(4000)

    client = browser(make_socket_app(get_session, handler))
    assert closing_code(client) == 4000
    assert "could not be committed" in caplog.text


def test_a_commit_that_fails_before_accept_denies_the_handshake(
    store: SpyStore, get_session: Any
) -> None:
    """The response to the handshake has the status of the error."""

    async def handler(websocket: WebSocket, session: Session[Data]) -> None:
        session.data.count = 2
        store.hook = failing("save")

    client = browser(make_socket_app(get_session, handler))
    assert denial(client, "/ws").status_code == 503


def test_an_unavailable_store_denies_the_handshake(store: SpyStore, get_session: Any) -> None:
    """It is never replaced by a new session."""

    async def handler(websocket: WebSocket, session: Session[Data]) -> None:
        raise AssertionError("the handler ran")

    client = browser(make_socket_app(get_session, handler))
    store.hook = failing("load")
    denied = denial(client, "/ws")
    assert (denied.status_code, denied.headers["retry-after"]) == (503, "1")


ORIGINS: list[tuple[dict[str, str], bool]] = [
    ({}, True),
    ({"origin": "https://testserver"}, True),
    ({"sec-fetch-site": "same-origin"}, True),
    ({"sec-fetch-site": "none"}, True),
    ({"origin": "https://trusted.example", "sec-fetch-site": "cross-site"}, True),
    ({"origin": "https://evil.example"}, False),
    ({"origin": "https://testserver.evil.example"}, False),
    ({"origin": "https://testserver:444"}, False),
    ({"origin": "null"}, False),
    ({"sec-fetch-site": "cross-site"}, False),
    ({"sec-fetch-site": "same-site"}, False),
    ({"origin": "https://testserver", "sec-fetch-site": "cross-site"}, False),
    ({"origin": "https://evil.example", "x-forwarded-host": "evil.example"}, False),
]


@pytest.mark.parametrize(("headers", "passes"), ORIGINS)
def test_a_cross_origin_handshake_is_rejected(
    store: SpyStore, headers: dict[str, str], passes: bool
) -> None:
    """Nothing is loaded: any page can open a socket with the browser's cookies."""
    get_session = make_provider(store, trusted_origins=["https://trusted.example"])

    async def handler(websocket: WebSocket, session: Session[Data]) -> None:
        await websocket.accept()
        await websocket.send_json(session.data.count)

    client = browser(make_socket_app(get_session, handler))
    store.calls.clear()
    if passes:
        with client.websocket_connect(f"{WS}/ws", headers=headers) as websocket:
            assert websocket.receive_json() == 1
        assert store.calls == ["load"]
        return
    assert denial(client, "/ws", headers=headers).status_code == 403
    assert store.calls == []


def test_required_denies_a_socket_without_a_session(store: SpyStore, get_session: Any) -> None:
    """The response to the handshake is a 401, or it is accepted with a session."""
    app = make_socket_app(get_session)

    @app.websocket("/required")
    async def required(
        websocket: WebSocket, session: Annotated[Session[Data], Depends(get_session.required)]
    ) -> None:
        await websocket.accept()

    anonymous = browser(app, begin=None)
    assert denial(anonymous, "/required").status_code == 401
    with browser(app).websocket_connect(f"{WS}/required"):
        pass


def test_reload_says_whether_the_session_is_still_live(get_session: Any) -> None:
    """A long-lived socket notices a change or a sign-out by calling it."""

    async def handler(websocket: WebSocket, session: Session[Data]) -> None:
        await websocket.accept()
        for _ in range(2):
            await websocket.receive_json()
            await websocket.send_json([await session.reload(), session.data.count])

    client = browser(make_socket_app(get_session, handler))
    with client.websocket_connect(f"{WS}/ws") as websocket:
        websocket.send_json(0)
        assert websocket.receive_json() == [True, 1]
        client.get("/begin")
        client.get("/out")
        websocket.send_json(0)
        assert websocket.receive_json()[0] is False


def test_a_change_on_a_socket_does_not_revive_a_session(store: SpyStore, get_session: Any) -> None:
    """After a sign-out elsewhere the change is dropped, and the socket closes normally."""

    async def handler(websocket: WebSocket, session: Session[Data]) -> None:
        await websocket.accept()
        await websocket.receive_json()
        session.data.count = 9

    client = browser(make_socket_app(get_session, handler))
    with client.websocket_connect(f"{WS}/ws") as websocket:
        client.get("/out")
        websocket.send_json(0)
    assert client.get("/count").json() == 0
    assert store.writes == ["create", "delete", "create", "save"]


def test_a_socket_needs_no_session_route(get_session: Any) -> None:
    """Websocket routes have no route class: a plain router works."""
    app = FastAPI()

    @app.websocket("/plain")
    async def plain(
        websocket: WebSocket, session: Annotated[Session[Data], Depends(get_session)]
    ) -> None:
        await websocket.accept()
        await websocket.send_json(session.is_new)

    with TestClient(app).websocket_connect(f"{WS}/plain") as websocket:
        assert websocket.receive_json() is True


def test_a_fastapi_without_an_exit_stack_for_websockets_is_an_error(
    store: SpyStore, get_session: Any
) -> None:
    """Nothing would commit; the error says what does."""

    app = make_app()

    @app.websocket("/ws")
    async def socket(websocket: WebSocket) -> None:
        del websocket.scope["fastapi_function_astack"]
        await get_session(websocket)

    with (
        pytest.raises(ConfigurationError, match=r"use get_session.open\(key\), which commits by"),
        browser(app, begin=None).websocket_connect(f"{WS}/ws"),
    ):
        pass
    assert store.calls == []
