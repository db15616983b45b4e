"""The whole life of sessions, at random, beside a model that a page of dictionaries makes."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pydantic import BaseModel

from fastapi_async_sessions import (
    Lifetime,
    MemoryStore,
    Session,
    SessionNotFound,
    SessionProvider,
    Store,
    StoreUnavailable,
)
from fastapi_async_sessions.records import Record
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.stores.sql import SQLStore
from fastapi_async_sessions.testing import FrozenClock
from tests.races import Answer, Client, do_nothing

IDLE, ABSOLUTE = timedelta(minutes=30), timedelta(hours=2)
LIFETIME = Lifetime(idle=IDLE, absolute=ABSOLUTE)
SUBJECTS = st.sampled_from(["ada", "grace"])
STEPS = {"memory": (100, 50), "redis": (40, 30), "sqlite": (20, 30)}


class Data(BaseModel):
    number: int = 0
    items: list[str] = []


@dataclass
class Life:
    """A session as the model knows it: ``token`` counts its renewals."""

    key: str
    began: datetime
    seen: datetime
    token: int = 0
    subject: str | None = None
    number: int = 0
    items: list[str] = field(default_factory=list)
    is_over: bool = False

    def is_live(self, now: datetime) -> bool:
        return not self.is_over and now < min(self.seen + IDLE, self.began + ABSOLUTE)


@dataclass
class Browser:
    """A real client, and which token of which life it holds, signed with which secret."""

    client: Client
    life: Life | None = None
    token: int = 0
    secret: str = ""


class FailingStore(Store):
    """Raises before it does anything while it is down."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.is_down = False

    async def create(self, key: str, record: Record) -> bool:
        return await self._ask(self.inner.create, key, record)

    async def load(self, key: str) -> Record | None:
        return await self._ask(self.inner.load, key)

    async def save(self, key: str, record: Record, *, replaces: str) -> bool:
        return await self._ask(self.inner.save, key, record, replaces=replaces)

    async def delete(self, key: str) -> bool:
        return await self._ask(self.inner.delete, key)

    async def find(self, subject: str) -> list[tuple[str, Record]]:
        return await self._ask(self.inner.find, subject)

    async def _ask(self, call: Any, *arguments: Any, **options: Any) -> Any:
        if self.is_down:
            raise StoreUnavailable("told to fail")
        return await call(*arguments, **options)


class LifeOfSessions(RuleBasedStateMachine):
    """Each rule does a thing to the library and to the model, and compares what both say."""

    open_store: Callable[[FrozenClock], Coroutine[Any, Any, Store]]
    browsers = Bundle("browsers")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = FrozenClock()
        self.secrets = ["secret-number-0-of-the-life-model-abcdefgh"]
        self.lives: list[Life] = []
        self.store: FailingStore | None = None

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        if self.store is not None:
            self.run(self.store.inner.aclose())
        self.loop.close()

    @initialize()
    def begin(self) -> None:
        self.start()
        assert self.store is not None
        self.run(self.store.inner.clear())

    def start(self) -> None:
        """A process with a store object and a provider of its own, on the data there is."""
        self.store = FailingStore(self.run(type(self).open_store(self.clock)))
        self.provider: SessionProvider[Any] = SessionProvider(
            Data, store=self.store, secret_key=self.secrets, lifetime=LIFETIME, clock=self.clock
        )

    # what happens

    @rule(target=browsers)
    def new_browser(self) -> Browser:
        return Browser(Client(self.provider))

    @rule(target=browsers, browser=browsers)
    def another_tab(self, browser: Browser) -> Browser:
        return replace(browser, client=browser.client.copy())

    @rule(browser=browsers)
    def read(self, browser: Browser) -> None:
        life = self.session(browser)
        self.request(browser, do_nothing)
        self.extend(life)

    @rule(browser=browsers, number=st.integers(1, 99))
    def change(self, browser: Browser, number: int) -> None:
        async def route(session: Session[Data]) -> None:
            session.data.number = number
            session.data.items.append(str(number))

        life = self.session(browser)
        self.request(browser, route, sends=life is None)
        life = life or self.new_life(browser)
        life.number = number
        life.items.append(str(number))
        self.extend(life)

    @rule(browser=browsers, subject=SUBJECTS)
    def sign_in(self, browser: Browser, subject: str) -> None:
        async def route(session: Session[Data]) -> None:
            session.renew(subject=subject)

        # a sign-in at the very moment of a revocation is refused: time goes on
        self.clock.advance(timedelta(seconds=1))
        life = self.session(browser)
        self.request(browser, route, sends=True)
        life = life or self.new_life(browser)
        life.subject = subject
        life.began = life.seen = self.clock()
        life.token += 1
        self.hold(browser, life)

    @rule(browser=browsers)
    def renew(self, browser: Browser) -> None:
        async def route(session: Session[Data]) -> None:
            session.renew()

        life = self.session(browser)
        self.request(browser, route, sends=life is not None)
        if life is not None:
            life.token += 1
            life.seen = self.clock()
            self.hold(browser, life)

    @rule(browser=browsers)
    def sign_out(self, browser: Browser) -> None:
        async def route(session: Session[Data]) -> None:
            await session.destroy()

        life = self.session(browser)
        self.request(browser, route, sends=life is not None)
        if life is not None:
            life.is_over = True
            browser.life = None

    @rule(browser=browsers, other=browsers, is_renewal=st.booleans())
    def two_at_once(self, browser: Browser, other: Browser, is_renewal: bool) -> None:
        """The other one's request runs while the first one's route does."""

        async def inner(session: Session[Data]) -> None:
            session.data.items.append("inner")

        async def outer(session: Session[Data]) -> None:
            session.data.items.append("outer")
            if is_renewal:
                session.renew()
            self.check(other, await other.client.request(inner), sends=False)

        life, inner_life = self.session(browser), self.session(other)
        if other is browser or life is None or inner_life is None:
            return
        other.client.provider = self.provider
        self.request(browser, outer, sends=is_renewal)
        inner_life.items.append("inner")
        self.extend(inner_life)
        life.items.append("outer")
        self.extend(life)
        if is_renewal:
            life.token += 1
            life.seen = self.clock()
            self.hold(browser, life)

    @rule(browser=browsers, other=browsers)
    def sign_out_while_another_tab_writes(self, browser: Browser, other: Browser) -> None:
        async def leave(session: Session[Data]) -> None:
            await session.destroy()

        async def write(session: Session[Data]) -> None:
            session.data.items.append("too late")
            self.check(other, await other.client.request(leave), sends=True)

        life, same = self.session(browser), self.session(other)
        if other is browser or life is None or same is not life:
            return
        other.client.provider = self.provider
        is_stale, browser.secret = browser.secret, self.secrets[0]
        self.request(browser, write)
        browser.secret = is_stale
        life.is_over = True
        other.life = None

    @precondition(lambda self: self.lives)
    @rule(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        life = data.draw(st.sampled_from(self.lives))
        assert self.run(self.provider.revoke(life.key)) is life.is_live(self.clock())
        life.is_over = True

    @rule(subject=SUBJECTS)
    def revoke_all(self, subject: str) -> None:
        live = [life for life in self.live() if life.subject == subject]
        assert self.run(self.provider.revoke_all(subject)) == len(live)
        for life in live:
            life.is_over = True

    @rule(browser=browsers)
    def change_the_password(self, browser: Browser) -> None:
        """All other sessions of the subject end, this one is renewed."""

        async def route(session: Session[Data]) -> None:
            session.renew()
            counts.append(await self.provider.revoke_all(str(session.subject), keep=session))

        counts: list[int] = []
        life = self.session(browser)
        if life is None or life.subject is None:
            return
        others = [x for x in self.live() if x.subject == life.subject and x is not life]
        self.request(browser, route, sends=True)
        assert counts == [len(others)]
        for other in others:
            other.is_over = True
        life.token += 1
        life.seen = self.clock()
        self.hold(browser, life)

    @precondition(lambda self: self.lives)
    @rule(data=st.data())
    def change_from_outside(self, data: st.DataObject) -> None:
        async def work() -> None:
            async with self.provider.open(life.key) as session:
                session.data.items.append("admin")

        life = data.draw(st.sampled_from(self.lives))
        if life.is_live(self.clock()):
            self.run(work())
            life.items.append("admin")  # and its idle time runs on
        else:
            with pytest.raises(SessionNotFound):
                self.run(work())

    @rule(minutes=st.sampled_from([1, 2, 4, 10, 29, 30, 61]))
    def time_passes(self, minutes: int) -> None:
        self.clock.advance(timedelta(minutes=minutes))

    @rule()
    def purge(self) -> None:
        assert self.store is not None
        self.run(self.store.inner.purge())

    @rule()
    def rotate_the_key(self) -> None:
        """A new secret in front; five at most, and a cookie of one that is gone is dead."""
        number = int(self.secrets[0].split("-")[2]) + 1
        self.secrets = [f"secret-number-{number}-of-the-life-model-abcdefgh", *self.secrets][:2]
        self.restart()

    @rule()
    def restart(self) -> None:
        """A new process. In memory everything is forgotten, but what the test hands on."""
        assert self.store is not None
        self.run(self.store.inner.aclose())
        self.start()

    @rule(browser=browsers, subject=SUBJECTS, is_sign_in=st.booleans())
    def the_store_is_down(self, browser: Browser, subject: str, is_sign_in: bool) -> None:
        """A 503 that changes nothing: neither the session nor the cookie."""

        async def route(session: Session[Data]) -> None:
            session.data.number = -1
            if is_sign_in:
                session.renew(subject=subject)
            assert self.store is not None
            self.store.is_down = True

        assert self.store is not None
        browser.client.provider = self.provider
        answer = self.run(browser.client.request(route))
        self.store.is_down = False
        assert isinstance(answer.error, StoreUnavailable)
        assert answer.cookie is None

    # what always holds

    @invariant()
    def the_lists_are_true(self) -> None:
        if self.store is None:
            return
        for subject in ("ada", "grace"):
            listed = {session.key for session in self.run(self.provider.sessions(subject))}
            assert listed == {life.key for life in self.live() if life.subject == subject}

    @invariant()
    def every_session_is_as_the_model_says(self) -> None:
        if self.store is None:
            return
        for life in self.lives[-8:]:
            record = self.run(self.store.inner.load(life.key))
            assert (record is not None) is life.is_live(self.clock())
            if record is not None:
                session = self.run(self.look(life.key))
                assert (session.data.number, session.data.items) == (life.number, life.items)
                assert session.subject == life.subject
                assert session.expires_at == min(life.seen + IDLE, life.began + ABSOLUTE)

    # help

    async def look(self, key: str) -> Session[Data]:
        """Read without the extension that a visit makes."""
        try:
            async with self.provider.open(key) as session:
                raise LookupError
        except LookupError:
            return session

    def live(self) -> list[Life]:
        return [life for life in self.lives if life.is_live(self.clock())]

    def extend(self, life: Life | None) -> None:
        now = self.clock()
        if life is not None and now - life.seen >= IDLE / 10:
            life.seen = now

    def session(self, browser: Browser) -> Life | None:
        """What the browser's cookie opens."""
        life = browser.life
        if life is None or life.token != browser.token or browser.secret not in self.secrets:
            return None
        return life if life.is_live(self.clock()) else None

    def hold(self, browser: Browser, life: Life) -> None:
        browser.life, browser.token, browser.secret = life, life.token, self.secrets[0]

    def request(self, browser: Browser, route: Any, *, sends: bool = False) -> Any:
        """Do a request that succeeds; ``sends`` says whether it must set or remove the cookie."""
        browser.client.provider = self.provider
        is_live = self.session(browser) is not None
        answer = self.run(browser.client.request(route))
        self.check(browser, answer, sends=sends, is_live=is_live)
        return answer.value

    def check(self, browser: Browser, answer: Answer, *, sends: bool, is_live: bool = True) -> None:
        assert answer.error is None
        # a cookie that is signed under an older key is signed again
        is_stale = is_live and browser.secret != self.secrets[0]
        assert (answer.cookie is not None) is (sends or is_stale)
        if is_live:
            browser.secret = self.secrets[0]

    def new_life(self, browser: Browser) -> Life:
        """What a request began whose client had no live session."""

        async def route(session: Session[Data]) -> str | None:
            assert not session.is_new
            return session.key

        now = self.clock()
        browser.life, browser.secret = None, self.secrets[0]
        life = Life(self.request(browser, route), now, now)
        self.lives.append(life)
        self.hold(browser, life)
        return life


@contextmanager
def bounded(kind: str) -> Iterator[settings]:
    examples, steps = STEPS[kind]
    yield settings(
        max_examples=examples,
        stateful_step_count=steps,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # a shorter story is not worth the minutes
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.parametrize("kind", STEPS)
def test_every_life_goes_as_the_model_says(kind: str, request: pytest.FixtureRequest) -> None:
    """The same lives in each run of the suite, and in each store."""
    memory: dict[FrozenClock, MemoryStore] = {}

    async def open_store(clock: FrozenClock) -> Store:
        store: Store
        if kind == "memory":
            # a restart that keeps the data, as the other stores do
            store = memory.setdefault(clock, MemoryStore(clock=clock))
        elif kind == "redis":
            store = RedisStore.from_url(url, clock=clock)
        else:
            store = SQLStore.from_url(url, create_table=True, clock=clock)
        await store.open()
        return store

    url = ""
    if kind == "redis":
        url = request.getfixturevalue("redis_url")
    elif kind == "sqlite":
        url = f"sqlite+aiosqlite:///{request.getfixturevalue('tmp_path')}/sessions.db"

    class Machine(LifeOfSessions):
        pass

    Machine.open_store = staticmethod(open_store)
    with bounded(kind) as profile:
        run_state_machine_as_test(Machine, settings=profile)
