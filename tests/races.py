"""Concurrent requests without chance: who goes next is a choice, and every choice is made once.

A ``Client`` is a browser with one cookie that calls a provider without HTTP. A ``Stage`` holds
requests at gates, before and after each call of their store, and lets one of them pass at a time.
``every_interleaving`` runs a scenario again and again until each order of the gates was played.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from starlette.requests import HTTPConnection

from fastapi_async_sessions import MemoryStore, Session, SessionError, SessionProvider, Store, visit
from fastapi_async_sessions.jar import SCOPE_KEY, Jar
from fastapi_async_sessions.records import Record
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.stores.sql import SQLStore
from fastapi_async_sessions.testing import FrozenClock

SECRET = "a-secret-of-the-races-0123456789-abcdefghij"
STORES = ("memory", "redis", "sqlite")
FOREVER = timedelta(hours=1)

Route = Callable[[Session[Any]], Awaitable[Any]]


async def do_nothing(session: Session[Any]) -> None:
    """A route that only reads."""


@dataclass
class Answer:
    """What came back: ``cookie`` is the new value, ``""`` where it is removed, else None."""

    value: Any = None
    error: BaseException | None = None
    cookie: str | None = None

    @property
    def is_ok(self) -> bool:
        return self.error is None


class Client:
    """A browser of one provider."""

    def __init__(self, provider: SessionProvider[Any], cookie: str = "") -> None:
        self.provider = provider
        self.cookie = cookie

    async def request(self, route: Route = do_nothing) -> Answer:
        """One request: the session, the route, the commit. A ``SessionError`` is an answer."""
        jar = Jar()
        cookie = f"{self.provider.model.name}={self.cookie}".encode()
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
        """A session of its own, signed in; gives the key."""

        async def route(session: Session[Any]) -> str:
            session.renew(subject=subject)
            await session.commit()
            assert session.key is not None
            return session.key

        return (await self.request(route)).value

    async def is_live(self) -> bool:
        """Whether the cookie opens a session."""

        async def route(session: Session[Any]) -> bool:
            return not session.is_new

        return (await self.request(route)).value

    async def data(self) -> Any:
        """What the next request reads."""

        async def route(session: Session[Any]) -> Any:
            return session.data

        return (await self.request(route)).value

    def copy(self) -> "Client":
        """Another tab."""
        return Client(self.provider, self.cookie)


async def _run(route: Route, session: Session[Any], jar: Jar) -> Any:
    try:
        return await route(session)
    except BaseException:
        await jar.roll_back()
        raise


def _cookie(jar: Jar) -> str | None:
    set_cookies = [value for name, value in jar.lay_on([]) if name == b"set-cookie"]
    if not set_cookies:
        return None
    (set_cookie,) = set_cookies
    return set_cookie.decode().partition("=")[2].partition(";")[0]


# the stage

_actor: ContextVar[str | None] = ContextVar("actor", default=None)
_PATIENCE = 25


class Stage:
    """Runs actors one step at a time; a step ends at the next gate."""

    def __init__(self, clock: FrozenClock, schedule: Sequence[int]) -> None:
        self._clock = clock
        self._schedule = schedule
        self._gates: dict[str, asyncio.Future[None]] = {}
        self._changes = 0
        self._calls = 0
        self._called = asyncio.Event()
        self.choices: list[tuple[int, int]] = []
        self.log: list[str] = []

    async def gate(self, what: str) -> None:
        """Wait until it is this actor's turn; who is no actor passes."""
        actor = _actor.get()
        if actor is None:
            return
        turn = self._gates[actor] = asyncio.get_running_loop().create_future()
        self._changes += 1
        await turn
        self.log.append(f"{actor}: {what}")

    async def perform(self, call: Coroutine[Any, Any, Any]) -> Any:
        """Do store work of an actor, while nobody else moves."""
        self._calls += 1
        try:
            return await call
        finally:
            self._calls -= 1
            self._changes += 1
            self._called.set()

    async def run(self, **actors: Callable[[], Awaitable[Any]]) -> dict[str, Any]:
        """Run all actors to their ends, in the order of the schedule."""
        tasks = {name: asyncio.create_task(self._act(name, act)) for name, act in actors.items()}
        try:
            await self._settle(tasks)
            while not all(task.done() for task in tasks.values()):
                self._clock.advance(timedelta(seconds=1))
                self._gates.pop(self._choose()).set_result(None)
                await self._settle(tasks)
        finally:
            for task in tasks.values():
                task.cancel()
        return {name: task.result() for name, task in tasks.items()}

    def _choose(self) -> str:
        waiting = sorted(self._gates)
        assert waiting, f"everybody waits for somebody: {self.log}"
        place = len(self.choices)
        choice = self._schedule[place] if place < len(self._schedule) else 0
        self.choices.append((choice, len(waiting)))
        return waiting[choice]

    async def _act(self, name: str, act: Callable[[], Awaitable[Any]]) -> Any:
        _actor.set(name)
        await self.gate("begins")
        try:
            return await act()
        finally:
            self._changes += 1
            self.log.append(f"{name}: ends")

    async def _settle(self, tasks: dict[str, "asyncio.Task[Any]"]) -> None:
        """Wait until each actor has ended, stands at a gate, or waits for another actor."""
        idle = 0
        while idle < _PATIENCE:
            if all(task.done() or name in self._gates for name, task in tasks.items()):
                return
            changes = self._changes
            if self._calls:
                self._called.clear()
                await self._called.wait()
            await asyncio.sleep(0)
            idle = idle + 1 if changes == self._changes else 0


class GatedStore(Store):
    """A store with a gate before each call, and with ``after`` one before its answer too."""

    def __init__(self, inner: Store, *, after: bool = True) -> None:
        self.inner = inner
        self.after = after
        self.stage: Stage | None = None
        self.keys: set[str] = set()

    async def create(self, key: str, record: Record) -> bool:
        self.keys.add(key)
        return await self._pass("create", lambda: self.inner.create(key, record))

    async def load(self, key: str) -> Record | None:
        return await self._pass("load", lambda: self.inner.load(key))

    async def save(self, key: str, record: Record, *, replaces: str) -> bool:
        return await self._pass("save", lambda: self.inner.save(key, record, replaces=replaces))

    async def delete(self, key: str) -> bool:
        return await self._pass("delete", lambda: self.inner.delete(key))

    async def find(self, subject: str) -> list[tuple[str, Record]]:
        return await self._pass("find", lambda: self.inner.find(subject))

    async def _pass(self, what: str, call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        stage = self.stage
        if stage is None or _actor.get() is None:
            return await call()
        await stage.gate(what)
        answer = await stage.perform(call())
        if self.after:
            await stage.gate(f"{what} gave {_short(answer)}")
        return answer

    async def live_keys(self, subject: str | None = None) -> set[str]:
        """The keys of all records there are; with a subject, only its own."""
        found = {key: await self.inner.load(key) for key in self.keys}
        return {
            key
            for key, record in found.items()
            if record is not None and subject in (None, (record.subject or "").partition(":")[2])
        }


def _short(answer: Any) -> str:
    return type(answer).__name__ if isinstance(answer, Record) else str(answer)[:40]


Scenario = Callable[[Stage], Awaitable[None]]


async def every_interleaving(
    store: GatedStore, clock: FrozenClock, scenario: Scenario, *, at_most: int = 20_000
) -> int:
    """Play a scenario in every order of its gates, and say how many there are."""
    schedule: list[int] = []
    start = clock.now
    for number in range(1, at_most + 1):
        clock.now = start
        store.keys.clear()
        stage = store.stage = Stage(clock, schedule)
        try:
            await scenario(stage)
        except BaseException as error:
            error.add_note("\n".join(["the order was:", *stage.log]))
            raise
        finally:
            store.stage = None
        following = _following(stage.choices)
        if following is None:
            return number
        schedule = following
    raise AssertionError(f"more than {at_most} interleavings")


def _following(choices: list[tuple[int, int]]) -> list[int] | None:
    while choices:
        choice, options = choices.pop()
        if choice + 1 < options:
            return [*(made for made, _ in choices), choice + 1]
    return None


# stores and providers


@asynccontextmanager
async def opened_store(
    kind: str, clock: Callable[[], Any], request: pytest.FixtureRequest
) -> AsyncIterator[Store]:
    """An empty store of one kind; its server or file goes with the test."""
    store: Store
    if kind == "memory":
        store = MemoryStore(clock=clock)
    elif kind == "redis":
        store = RedisStore.from_url(request.getfixturevalue("redis_url"), clock=clock)
    elif kind == "sqlite":
        path = request.getfixturevalue("tmp_path") / "sessions.db"
        store = SQLStore.from_url(f"sqlite+aiosqlite:///{path}", create_table=True, clock=clock)
    else:
        url = request.getfixturevalue("postgres_url")
        store = SQLStore.from_url(url, create_table=True, clock=clock)
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once: what a pause is for, another process, is not there."""

    def pauses() -> Any:
        while True:
            yield 0.0

    monkeypatch.setattr(visit, "_pauses", pauses)


def make_provider(store: Store, clock: FrozenClock, model: type[Any], **options: Any) -> Any:
    """A provider that waits for ever: a request may stand at a gate as long as it takes."""
    settings = {"store_timeout": FOREVER, "commit_timeout": FOREVER, "clock": clock, **options}
    return SessionProvider(model, store=store, secret_key=SECRET, **settings)
