"""Requests that overlap: a client that needs no HTTP, and the stores to run it against."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from starlette.requests import HTTPConnection

from fastapi_async_sessions import (
    MemoryStore,
    Session,
    SessionError,
    SessionProvider,
    Store,
)
from fastapi_async_sessions._core import commit
from fastapi_async_sessions._web.jar import SCOPE_KEY, Jar
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.stores.sql import SQLStore
from fastapi_async_sessions.testing import FrozenClock

from .apps import SECRET
from .doubles import WAIT_LIMIT

STORES = ("memory", "redis", "sqlite")
NO_LIMIT = timedelta(hours=1)

Route = Callable[[Session[Any]], Awaitable[Any]]


async def do_nothing(session: Session[Any]) -> None:
    """A route that only reads."""


@dataclass
class Answer:
    """The outcome of a request.

    Attributes:
        value: What the route returned.
        error: The ``SessionError`` that was raised, if any.
        cookie: The value of the cookie that was set, ``""`` if it was deleted, else None.
    """

    value: Any = None
    error: BaseException | None = None
    cookie: str | None = None

    @property
    def is_ok(self) -> bool:
        return self.error is None


class Client:
    """A browser with the cookie of one provider, whose requests are calls of the provider."""

    def __init__(self, provider: SessionProvider[Any], cookie: str = "") -> None:
        self.provider = provider
        self.cookie = cookie

    async def request(self, route: Route = do_nothing) -> Answer:
        """Send a request: open the session, run the route, commit."""
        jar = Jar()
        cookie = f"{self.provider.cookie.name}={self.cookie}".encode()
        headers = [(b"cookie", cookie)] if self.cookie else []
        scope = {"type": "http", "method": "GET", "headers": headers, SCOPE_KEY: jar}
        answer = Answer()
        try:
            session = await self.provider(HTTPConnection(scope))
            answer.value = await _run(route, session, jar)
            await jar.close()
        except SessionError as error:
            answer.error = error
        answer.cookie = _cookie(jar)
        if answer.cookie is not None:
            self.cookie = answer.cookie
        return answer

    async def sign_in(self, subject: str = "ada") -> str:
        """Sign in, and return the session's key."""

        async def route(session: Session[Any]) -> str:
            session.renew(subject=subject)
            await session.commit()
            assert session.key is not None
            return session.key

        return (await self.request(route)).value

    async def is_live(self) -> bool:
        """Whether the cookie belongs to a live session."""

        async def route(session: Session[Any]) -> bool:
            return not session.is_new

        return (await self.request(route)).value

    async def data(self) -> Any:
        """The session's data, as the next request reads them."""

        async def route(session: Session[Any]) -> Any:
            return session.data

        return (await self.request(route)).value

    def copy(self) -> "Client":
        """Another tab of the same browser."""
        return Client(self.provider, self.cookie)


async def _run(route: Route, session: Session[Any], jar: Jar) -> Any:
    try:
        return await route(session)
    except BaseException:
        await jar.roll_back()
        raise


def _cookie(jar: Jar) -> str | None:
    set_cookies = [value for name, value in jar.add_headers([]) if name == b"set-cookie"]
    if not set_cookies:
        return None
    (set_cookie,) = set_cookies
    return set_cookie.decode().partition("=")[2].partition(";")[0]


async def wait_for_all(barrier: asyncio.Barrier) -> None:
    """Wait until as many tasks as the barrier has parties have come to it."""
    async with asyncio.timeout(WAIT_LIMIT):
        await barrier.wait()


# stores and providers


@asynccontextmanager
async def opened_store(
    kind: str, clock: Callable[[], Any], request: pytest.FixtureRequest
) -> AsyncIterator[Store]:
    """An open, empty store of one kind, whose server or file lasts as long as the test."""
    store: Store
    if kind == "memory":
        store = MemoryStore(clock=clock)
    elif kind == "redis":
        store = RedisStore.from_url(request.getfixturevalue("redis_url"), clock=clock)
    elif kind == "sqlite":
        path = request.getfixturevalue("tmp_path") / "sessions.db"
        store = SQLStore.from_url(
            f"sqlite+aiosqlite:///{path}?timeout=60", create_table=True, clock=clock
        )
    else:
        url = request.getfixturevalue("postgres_url")
        store = SQLStore.from_url(url, create_table=True, clock=clock)
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commits retry at once: the pauses are for writers in other processes."""

    def pauses() -> Any:
        while True:
            yield 0.0

    monkeypatch.setattr(commit, "_pauses", pauses)


def provider_without_timeouts(
    store: Store, clock: FrozenClock, model: type[Any], **options: Any
) -> Any:
    """A provider for requests that a test holds up for as long as it likes."""
    settings = {"store_timeout": NO_LIMIT, "commit_timeout": NO_LIMIT, "clock": clock, **options}
    return SessionProvider(model, store=store, secret_key=SECRET, **settings)
