"""What the tests share: a model, a provider, an application, a browser."""

import asyncio
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import httpx
from fastapi import FastAPI
from pydantic import BaseModel

from fastapi_async_sessions import MemoryStore, Record, SessionProvider, SessionRoute, Store
from fastapi_async_sessions._core.header import Header
from fastapi_async_sessions.records import new_version

from .doubles import SpyStore

SECRET = "a-secret-of-the-tests-0123456789-abcdefghij"
OLDER_SECRET = "an-older-one-of-the-tests-9876543210-zyxwvu"
COOKIE = "__Host-session"
ORIGIN = "https://testserver"
# no call of a store takes so long on the busiest machine
PATIENT: dict[str, Any] = dict.fromkeys(("store_timeout", "commit_timeout"), timedelta(minutes=1))
GENERAL = "The session could not be used. Please contact the operators of this site."


class Line(BaseModel):
    name: str = ""
    tags: list[str] = []


class Data(BaseModel):
    count: int = 0
    lines: list[Line] = []


def make_provider(store: Store | None = None, model: Any = Data, **options: Any) -> Any:
    """A patient provider with defaults for everything that a test does not set."""
    defaults = {"store": store or MemoryStore(), "secret_key": SECRET, **PATIENT}
    return SessionProvider(model, **{**defaults, **options})


def with_json(get_session: Any, key: str, record: Record, raw: bytes) -> Record:
    """The record with other data, sealed as the provider would seal it."""
    seal = get_session.repository.seal
    content = seal.open(key, record.owner, record.body)
    header, _ = Header.unpack(content)
    body = seal.close(key, record.owner, header.pack() + raw)
    return Record(body, new_version(), record.owner, record.expires_at)


def json_of(get_session: Any, key: str, record: Record) -> bytes:
    """The data of a record as it is stored."""
    _, raw = Header.unpack(get_session.repository.seal.open(key, record.owner, record.body))
    return raw


def has_ended(get_session: Any, key: str, record: Record | None) -> bool:
    """Whether a store keeps nothing of a session, or for a few minutes only that it was ended."""
    if record is None:
        return True
    return record.owner is None and get_session.repository.seal.open(key, None, record.body) == b""


async def session_records(get_session: Any, store: SpyStore) -> dict[str, Record]:
    """The records under all keys that a store was asked for, without those of ended sessions."""
    records = await store.records()
    return {
        key: record for key, record in records.items() if not has_ended(get_session, key, record)
    }


def make_app(**options: Any) -> FastAPI:
    """An application whose own routes are ``SessionRoute``s."""
    app = FastAPI(**options)
    app.router.route_class = SessionRoute
    return app


def browser(app: Any, cookie: str | None = None) -> httpx.AsyncClient:
    """A client with a cookie jar, in the test's event loop; an unhandled error is a 500."""
    client = httpx.AsyncClient(
        transport=httpx.ASGITransport(app, raise_app_exceptions=False),
        base_url=ORIGIN,
        trust_env=False,
    )
    if cookie is not None:
        # the domain that the jar gives this host: the application's cookie then replaces this one
        client.cookies.set(COOKIE, cookie, domain="testserver.local", path="/")
    return client


def session_cookies(response: httpx.Response, name: str = COOKIE) -> list[str]:
    """The ``Set-Cookie`` headers for a cookie of this name."""
    headers = response.headers.get_list("set-cookie")
    return [header for header in headers if header.partition("=")[0] == name]


def cookie_value(response: httpx.Response, name: str = COOKIE) -> str:
    """The value of the one cookie of this name that a response sets."""
    (header,) = session_cookies(response, name)
    return header.partition(";")[0].partition("=")[2]


def set_cookie_kind(response: httpx.Response, name: str = COOKIE) -> str | None:
    """``"sent"``, ``"removed"`` or None; fails if a response sets the cookie twice."""
    headers = session_cookies(response, name)
    assert len(headers) <= 1, headers
    if not headers:
        return None
    return "removed" if "; Max-Age=0;" in headers[0] else "sent"


async def call(
    app: Any,
    path: str = "/",
    *,
    headers: Iterable[tuple[bytes, bytes]] = (),
    method: str = "GET",
    **scope: Any,
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Send a request with exactly these header bytes; an unhandled error is raised here."""
    sent: list[Any] = []
    messages = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> Any:
        for message in messages:
            return message
        # the client stays connected: this ends when the task is cancelled
        return await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    request: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "https",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"testserver"), *headers],
        "client": ("127.0.0.1", 1),
        "server": ("testserver", 443),
        "state": {},
    }
    await app({**request, **scope}, receive, send)
    start = next(message for message in sent if message["type"] == "http.response.start")
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return start["status"], list(start["headers"]), body


async def connect(
    app: Any, path: str, *, headers: Iterable[tuple[bytes, bytes]] = ()
) -> list[dict[str, Any]]:
    """Open a websocket in the test's event loop, and return what the application sends.

    The client disconnects as soon as the handler waits for a message.
    """
    sent: list[dict[str, Any]] = []
    messages: list[dict[str, Any]] = [{"type": "websocket.connect"}]

    async def receive() -> dict[str, Any]:
        return messages.pop() if messages else {"type": "websocket.disconnect", "code": 1000}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "wss",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"testserver"), *headers],
        "client": ("127.0.0.1", 1),
        "server": ("testserver", 443),
        "subprotocols": [],
        "state": {},
        "extensions": {"websocket.http.response": {}},
    }
    await app(scope, receive, send)
    return sent
