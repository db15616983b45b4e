"""Random sequences of everything that can happen to sessions, compared with a simple model."""

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
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.stores.sql import SQLStore
from fastapi_async_sessions.testing import FrozenClock

from .apps import PATIENT, has_ended
from .doubles import VERBS, SpyStore, failing, pass_on
from .races import Answer, Client, do_nothing

IDLE, ABSOLUTE = timedelta(minutes=30), timedelta(hours=2)
LIFETIME = Lifetime(idle=IDLE, absolute=ABSOLUTE)
GRACE = timedelta(minutes=5)
SUBJECTS = st.sampled_from(["ada", "grace"])
EXAMPLES = {
    "memory": (100, 50),
    "redis": (40, 30),
    "sqlite": (20, 30),
    "memory, in brief": (8, 30),
}
"""For each kind of store the number of sequences and the steps in each."""


class Data(BaseModel):
    number: int = 0
    items: list[str] = []


@dataclass
class Expected:
    """What the model knows of a session; ``token`` counts its renewals.

    ``sealed_with`` is the secret of its last write, ``owned_with`` that of its last sign-in. For a
    few minutes after ``renewed_at`` or ``destroyed_at`` an old token begins no other session.
    """

    key: str
    sealed_with: str
    began_at: datetime
    seen_at: datetime
    token: int = 0
    subject: str | None = None
    number: int = 0
    items: list[str] = field(default_factory=list)
    has_ended: bool = False
    owned_with: str | None = None
    renewed_at: datetime | None = None
    destroyed_at: datetime | None = None

    def is_live(self, now: datetime) -> bool:
        return not self.has_ended and now < min(self.seen_at + IDLE, self.began_at + ABSOLUTE)

    def destroy(self, now: datetime) -> None:
        self.has_ended, self.destroyed_at = True, now


@dataclass
class Browser:
    """A real client, and what the model knows of its cookie: session, token and signing secret."""

    client: Client
    session: Expected | None = None
    token: int = 0
    secret: str = ""


class SessionMachine(RuleBasedStateMachine):
    """Each rule does the same to the library and to the model, and compares the two."""

    open_store: Callable[[FrozenClock], Coroutine[Any, Any, Store]]
    browsers = Bundle("browsers")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = FrozenClock()
        self.secrets = ["secret-number-0-of-the-model-abcdefgh"]
        self.sessions: list[Expected] = []
        self.store: SpyStore | None = None

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
        """Start a process: a new store object and a new provider over the existing data."""
        self.store = SpyStore(self.run(type(self).open_store(self.clock)))
        self.provider: SessionProvider[Any] = SessionProvider(
            Data,
            store=self.store,
            secret_key=self.secrets,
            lifetime=LIFETIME,
            clock=self.clock,
            **PATIENT,
        )

    # rules

    @rule(target=browsers)
    def new_browser(self) -> Browser:
        return Browser(Client(self.provider))

    @rule(target=browsers, browser=browsers)
    def another_tab(self, browser: Browser) -> Browser:
        return replace(browser, client=browser.client.copy())

    @rule(browser=browsers)
    def read(self, browser: Browser) -> None:
        expected = self.opened_by(browser)
        is_due = expected is not None and self.clock() - expected.seen_at >= IDLE / 10
        self.request(browser, do_nothing, writes=expected if is_due else None)
        self.extend(expected)

    @rule(browser=browsers, number=st.integers(1, 99))
    def change(self, browser: Browser, number: int) -> None:
        async def route(session: Session[Data]) -> None:
            session.data.number = number
            session.data.items.append(str(number))

        expected = self.opened_by(browser)
        if expected is None and self.is_detached(browser):
            self.request(browser, route)
            return
        self.request(browser, route, sends=expected is None, writes=expected)
        expected = expected or self.new_session(browser)
        expected.number = number
        expected.items.append(str(number))
        self.extend(expected)

    @rule(browser=browsers, subject=SUBJECTS)
    def sign_in(self, browser: Browser, subject: str) -> None:
        async def route(session: Session[Data]) -> None:
            session.renew(subject=subject)

        # a sign-in at the very moment of a revocation is refused
        self.clock.advance(timedelta(seconds=1))
        expected = self.opened_by(browser)
        self.request(browser, route, sends=True)
        if expected is not None and expected.subject not in (None, subject):
            expected.destroy(self.clock())  # what this user left is not for the next one
            expected = None
        expected = expected or self.new_session(browser)
        expected.subject, expected.owned_with = subject, self.secrets[0]
        expected.began_at = self.clock()
        self.give_new_token(browser, expected)

    @rule(browser=browsers)
    def renew(self, browser: Browser) -> None:
        async def route(session: Session[Data]) -> None:
            session.renew()

        expected = self.opened_by(browser)
        self.request(browser, route, sends=expected is not None)
        if expected is not None:
            self.give_new_token(browser, expected)

    @rule(browser=browsers)
    def sign_out(self, browser: Browser) -> None:
        async def route(session: Session[Data]) -> None:
            await session.destroy()

        expected = self.ended_by(browser)
        self.request(browser, route, sends=bool(browser.client.cookie))
        if expected is not None:
            expected.destroy(self.clock())
        browser.session = None

    @rule(browser=browsers, other=browsers, is_renewal=st.booleans())
    def two_at_once(self, browser: Browser, other: Browser, is_renewal: bool) -> None:
        """The other browser's request runs while the first one's route does."""

        async def inner(session: Session[Data]) -> None:
            session.data.items.append("inner")

        async def outer(session: Session[Data]) -> None:
            session.data.items.append("outer")
            if is_renewal:
                session.renew()
            self.check(other, await other.client.request(inner), sends=False, writes=True)

        expected, inner_expected = self.opened_by(browser), self.opened_by(other)
        if other is browser or expected is None or inner_expected is None:
            return
        other.client.provider = self.provider
        inner_expected.sealed_with = self.secrets[0]
        self.request(browser, outer, sends=is_renewal, writes=expected)
        inner_expected.items.append("inner")
        self.extend(inner_expected)
        expected.items.append("outer")
        self.extend(expected)
        if is_renewal:
            self.give_new_token(browser, expected)

    @rule(browser=browsers, other=browsers)
    def sign_out_while_another_tab_writes(self, browser: Browser, other: Browser) -> None:
        async def leave(session: Session[Data]) -> None:
            await session.destroy()

        async def write(session: Session[Data]) -> None:
            session.data.items.append("too late")
            self.check(other, await other.client.request(leave), sends=True)

        expected, same = self.opened_by(browser), self.opened_by(other)
        if other is browser or expected is None or same is not expected:
            return
        other.client.provider = self.provider
        self.request(browser, write)
        expected.destroy(self.clock())
        other.session = None

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        expected = data.draw(st.sampled_from(self.sessions))
        assert self.run(self.provider.revoke(expected.key)) is self.is_live(expected)
        expected.has_ended = expected.has_ended or self.is_live(expected)

    @rule(subject=SUBJECTS)
    def revoke_all(self, subject: str) -> None:
        live = [expected for expected in self.live() if expected.subject == subject]
        assert self.run(self.provider.revoke_all(subject)) == len(live)
        for expected in live:
            expected.has_ended = True

    @rule(browser=browsers)
    def change_the_password(self, browser: Browser) -> None:
        """All other sessions of the subject end, and this one is renewed."""

        async def route(session: Session[Data]) -> None:
            session.renew()
            counts.append(await self.provider.revoke_all(str(session.subject), keep=session))

        counts: list[int] = []
        expected = self.opened_by(browser)
        if expected is None or expected.subject is None:
            return
        others = [x for x in self.live() if x.subject == expected.subject and x is not expected]
        self.request(browser, route, sends=True)
        assert counts == [len(others)]
        for other in others:
            other.has_ended = True
        self.give_new_token(browser, expected)

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def change_from_outside(self, data: st.DataObject) -> None:
        async def work() -> None:
            async with self.provider.open(expected.key) as session:
                session.data.items.append("admin")

        expected = data.draw(st.sampled_from(self.sessions))
        if self.is_live(expected):
            self.run(work())
            expected.items.append("admin")  # this does not restart the idle timeout
            expected.sealed_with = self.secrets[0]
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
        """A new secret signs; one older secret is kept, and cookies of the others are invalid."""
        number = int(self.secrets[0].split("-")[2]) + 1
        self.secrets = [f"secret-number-{number}-of-the-model-abcdefgh", *self.secrets][:2]
        self.restart()

    @rule()
    def restart(self) -> None:
        """A new process."""
        assert self.store is not None
        self.run(self.store.inner.aclose())
        self.start()

    @rule(browser=browsers, subject=SUBJECTS, is_sign_in=st.booleans())
    def fail_while_the_store_is_down(
        self, browser: Browser, subject: str, is_sign_in: bool
    ) -> None:
        """A 503 that changes neither the session nor the cookie."""

        async def route(session: Session[Data]) -> None:
            session.data.number = -1
            if is_sign_in:
                session.renew(subject=subject)
            assert self.store is not None
            self.store.hook = failing(*VERBS)

        assert self.store is not None
        if not is_sign_in and self.is_detached(browser) and self.opened_by(browser) is None:
            return  # it would store nothing anyway
        browser.client.provider = self.provider
        answer = self.run(browser.client.request(route))
        self.store.hook = pass_on
        assert isinstance(answer.error, StoreUnavailable)
        assert answer.cookie is None

    # invariants

    @invariant()
    def sessions_are_listed_by_subject(self) -> None:
        if self.store is None:
            return
        for subject in ("ada", "grace"):
            listed = {session.key for session in self.run(self.provider.sessions(subject))}
            assert listed == {
                expected.key for expected in self.live() if expected.subject == subject
            }

    @invariant()
    def records_are_as_the_model_predicts(self) -> None:
        if self.store is None:
            return
        for expected in self.sessions[-8:]:
            record = self.run(self.store.inner.load(expected.key))
            if self.is_readable(expected):
                is_gone = has_ended(self.provider, expected.key, record)
                assert is_gone is not expected.is_live(self.clock())
            if self.is_live(expected):
                session = self.run(self.look(expected.key))
                assert (session.data.number, session.data.items) == (
                    expected.number,
                    expected.items,
                )
                assert session.subject == expected.subject
                assert session.expires_at == min(
                    expected.seen_at + IDLE, expected.began_at + ABSOLUTE
                )

    # helpers

    async def look(self, key: str) -> Session[Data]:
        """Read a session without extending it."""
        try:
            async with self.provider.open(key) as session:
                raise LookupError
        except LookupError:
            return session

    def live(self) -> list[Expected]:
        return [expected for expected in self.sessions if self.is_live(expected)]

    def is_readable(self, expected: Expected) -> bool:
        """Whether its record was sealed, and its user signed in, with a secret that is kept."""
        return {expected.sealed_with, expected.owned_with} <= {None, *self.secrets}

    def is_live(self, expected: Expected) -> bool:
        return self.is_readable(expected) and expected.is_live(self.clock())

    def extend(self, expected: Expected | None) -> None:
        now = self.clock()
        if expected is not None and now - expected.seen_at >= IDLE / 10:
            expected.seen_at = now

    def opened_by(self, browser: Browser) -> Expected | None:
        """The session that the browser's cookie opens."""
        expected = browser.session
        if (
            expected is None
            or expected.token != browser.token
            or browser.secret not in self.secrets
        ):
            return None
        return expected if self.is_live(expected) else None

    def ended_by(self, browser: Browser) -> Expected | None:
        """The session that a sign-out with this cookie ends: with an outdated token too."""
        expected = browser.session
        if expected is None or browser.secret not in self.secrets:
            return None
        if expected.token == browser.token:
            return self.opened_by(browser)
        return expected if self.has_record(expected) else None

    def has_record(self, expected: Expected) -> bool:
        return expected.sealed_with in self.secrets and expected.is_live(self.clock())

    def is_detached(self, browser: Browser) -> bool:
        """Whether the browser may hold a better cookie than the one that this request has."""
        expected, since = browser.session, self.clock() - GRACE
        if expected is None or browser.secret not in self.secrets:
            return False
        if expected.has_ended:
            return expected.destroyed_at is not None and expected.destroyed_at > since
        if expected.token == browser.token or not self.has_record(expected):
            return False
        return expected.renewed_at is not None and expected.renewed_at >= since

    def give_new_token(self, browser: Browser, expected: Expected) -> None:
        expected.token += 1
        expected.seen_at = expected.renewed_at = self.clock()
        expected.sealed_with = self.secrets[0]
        self.give_cookie(browser, expected)

    def give_cookie(self, browser: Browser, expected: Expected) -> None:
        browser.session, browser.token, browser.secret = expected, expected.token, self.secrets[0]

    def request(
        self,
        browser: Browser,
        route: Any,
        *,
        sends: bool = False,
        writes: Expected | None = None,
    ) -> Any:
        """Send a request that succeeds; ``sends``: it must set or delete the cookie; ``writes``:
        the session that it saves."""
        browser.client.provider = self.provider
        answer = self.run(browser.client.request(route))
        self.check(browser, answer, sends=sends, writes=writes is not None)
        if writes is not None:
            writes.sealed_with = self.secrets[0]
        return answer.value

    def check(self, browser: Browser, answer: Answer, *, sends: bool, writes: bool = False) -> None:
        assert answer.error is None
        # a cookie that an older secret signed is signed again by a write
        is_stale = writes and browser.secret != self.secrets[0]
        assert (answer.cookie is not None) is (sends or is_stale)
        if writes:
            browser.secret = self.secrets[0]

    def new_session(self, browser: Browser) -> Expected:
        """The session that the browser's last request began."""

        async def route(session: Session[Data]) -> str | None:
            assert not session.is_new
            return session.key

        now = self.clock()
        browser.session, browser.secret = None, self.secrets[0]
        expected = Expected(self.request(browser, route), self.secrets[0], now, now)
        self.sessions.append(expected)
        self.give_cookie(browser, expected)
        return expected


@contextmanager
def bounded(kind: str) -> Iterator[settings]:
    examples, steps = EXAMPLES[kind]
    yield settings(
        max_examples=examples,
        stateful_step_count=steps,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # shrinking a failure takes minutes
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=() if kind == "memory, in brief" else pytest.mark.slow)
        for kind in EXAMPLES
    ],
)
def test_sessions_behave_as_the_model_predicts(kind: str, request: pytest.FixtureRequest) -> None:
    """The sequences are the same in each run of the suite."""
    memory: dict[FrozenClock, MemoryStore] = {}

    async def open_store(clock: FrozenClock) -> Store:
        store: Store
        if kind.startswith("memory"):
            # the data outlive a restart, as they do in the other stores
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

    class Machine(SessionMachine):
        pass

    Machine.open_store = staticmethod(open_store)
    with bounded(kind) as profile:
        run_state_machine_as_test(Machine, settings=profile)
