"""Requests that overlap: a client that needs no HTTP, and the stores to run it against."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
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


# the stage

_actor: ContextVar[str | None] = ContextVar("actor", default=None)
_PATIENCE = 25

Step = tuple[str, str]
"""What an actor will do next: a verb, and the key that it does it to."""


@dataclass
class Choice:
    """A moment at which one of several actors could go on."""

    waiting: dict[str, Step]
    asleep: set[str]
    tried: list[str]
    taken: str

    def take_next(self) -> bool:
        """Take one that was not taken yet; False: there is none."""
        self.tried.append(self.taken)
        left = [name for name in self.waiting if name not in {*self.tried, *self.asleep}]
        self.taken = left[0] if left else ""
        return bool(left)


class Pruned(Exception):
    """Every order that begins like this one ends like one that was played already."""


class Stage:
    """Runs actors one step at a time; a step ends at the next gate."""

    def __init__(self, clock: FrozenClock, plan: list[Choice], *, prunes: bool) -> None:
        self._clock = clock
        self._plan = plan
        self._prunes = prunes
        self._place = 0
        self._gates: dict[str, asyncio.Future[None]] = {}
        self._steps: dict[str, Step] = {}
        self._changes = 0
        self._calls = 0
        self._called = asyncio.Event()
        self._is_over = False
        self.log: list[str] = []

    async def gate(self, verb: str, key: str = "") -> None:
        """Wait until it is this actor's turn; who is no actor passes."""
        actor = _actor.get()
        if actor is None:
            return
        if self._is_over:
            raise asyncio.CancelledError
        while actor in self._gates:  # it does several things at once: each takes its turn
            actor += "'"
        turn = self._gates[actor] = asyncio.get_running_loop().create_future()
        self._steps[actor] = (verb, key)
        self._changes += 1
        await turn
        self.log.append(f"{actor}: {verb}")

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
        """Run all actors to their ends, in the order of the plan."""
        tasks = {name: asyncio.create_task(self._act(name, act)) for name, act in actors.items()}
        try:
            await self._settle(tasks)
            while not all(task.done() for task in tasks.values()):
                self._clock.advance(timedelta(seconds=1))
                self._gates.pop(self._choose()).set_result(None)
                await self._settle(tasks)
        finally:
            await self._clear(tasks)
        return {name: task.result() for name, task in tasks.items()}

    def _choose(self) -> str:
        assert self._gates, f"everybody waits for somebody: {self.log}"
        waiting = {name: self._steps[name] for name in sorted(self._gates)}
        if self._place == len(self._plan):
            self._plan.append(self._new_choice(waiting))
        choice = self._plan[self._place]
        assert choice.waiting.keys() == waiting.keys(), "the same orders lead to other places"
        self._place += 1
        return choice.taken

    def _new_choice(self, waiting: dict[str, Step]) -> Choice:
        asleep: set[str] = set()
        if self._prunes and self._plan:
            before = self._plan[-1]
            taken = before.waiting[before.taken]
            # tried before: going now instead of then makes no difference, if both can be swapped
            asleep = {
                name
                for name in {*before.asleep, *before.tried}
                if name in waiting and _commute(before.waiting[name], taken)
            }
        awake = [name for name in waiting if name not in asleep]
        if not awake:
            raise Pruned
        return Choice(waiting, asleep, [], awake[0])

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

    async def _clear(self, tasks: dict[str, "asyncio.Task[Any]"]) -> None:
        self._is_over = True
        for waiting in [*self._gates.values(), *tasks.values()]:
            waiting.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)


def _commute(one: Step, other: Step) -> bool:
    """Whether two steps give the same in either order."""
    verbs = {one[0], other[0]}
    if "time" in verbs:
        return False
    if "begins" in verbs:
        return len(verbs) > 1  # who came first counts for revocations
    if "find" in verbs:
        return not verbs & {"create", "save", "delete"}
    return one[1] != other[1] or verbs == {"load"}


class GatedStore(Store):
    """A store with a gate before each call, and with ``after`` one before its answer too."""

    def __init__(self, inner: Store, *, after: bool = True) -> None:
        self.inner = inner
        self.after = after
        self.stage: Stage | None = None
        self.keys: set[str] = set()

    async def create(self, key: str, record: Record) -> bool:
        self.keys.add(key)
        return await self._pass("create", key, lambda: self.inner.create(key, record))

    async def load(self, key: str) -> Record | None:
        return await self._pass("load", key, lambda: self.inner.load(key))

    async def save(self, key: str, record: Record, *, replaces: str) -> bool:
        save = lambda: self.inner.save(key, record, replaces=replaces)  # noqa: E731
        return await self._pass("save", key, save)

    async def delete(self, key: str) -> bool:
        return await self._pass("delete", key, lambda: self.inner.delete(key))

    async def find(self, owner: str, limit: int = 100) -> list[tuple[str, Record]]:
        return await self._pass("find", "", lambda: self.inner.find(owner, limit))

    async def delete_owned(self, owner: str, *, keep: str | None = None) -> int:
        call = partial(self.inner.delete_owned, owner, keep=keep)
        return await self._pass("delete_owned", "", call)

    async def _pass(self, verb: str, key: str, call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        stage = self.stage
        if stage is None or _actor.get() is None:
            return await call()
        await stage.gate(verb, key)
        answer = await stage.perform(call())
        if self.after:
            await stage.gate(f"{verb} gave {_short(answer)}")
        return answer

    async def live_keys(self, subject: str) -> set[str]:
        """The keys of all records of a subject that were ever made and are there."""
        found = {key: await self.inner.load(key) for key in self.keys}
        owner = f"session:{subject}"
        return {key for key, record in found.items() if record and record.owner == owner}


class GatedRedis(Redis):
    """A client with a gate before each command: a store's own steps are seen one by one."""

    stage: Stage | None = None

    async def execute_command(self, *words: Any, **options: Any) -> Any:
        call = super().execute_command(*words, **options)
        stage = self.stage
        if stage is None or _actor.get() is None:
            return await call
        try:
            await stage.gate(str(words[0]))
        except asyncio.CancelledError:
            call.close()
            raise
        return await stage.perform(call)


def _short(answer: Any) -> str:
    return type(answer).__name__ if isinstance(answer, Record | list) else str(answer)


Scenario = Callable[[Stage], Awaitable[None]]


async def every_interleaving(
    store: GatedStore,
    clock: FrozenClock,
    scenario: Scenario,
    *,
    prunes: bool = False,
    at_most: int = 20_000,
) -> int:
    """Play a scenario in every order of its gates, and say how many there were.

    With ``prunes`` only one of the orders is played that differ in steps which cannot meet: a
    load and a load, or calls of different keys ("sleep sets").
    """
    plan: list[Choice] = []
    start, played = clock.now, 0
    while played < at_most:
        clock.now = start
        store.keys.clear()
        stage = store.stage = Stage(clock, plan, prunes=prunes)
        try:
            await scenario(stage)
            played += 1
        except Pruned:
            pass
        except BaseException as error:
            error.add_note("\n".join(["the order was:", *stage.log]))
            raise
        finally:
            store.stage = None
        while plan and not plan[-1].take_next():
            plan.pop()
        if not plan:
            return played
    raise AssertionError(f"more than {at_most} interleavings")


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
