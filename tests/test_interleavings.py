"""Every order in which the store calls of two or three concurrent requests can fall."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from fastapi_async_sessions import Lifetime, MemoryStore, Session, SessionNotFound, SessionProvider
from fastapi_async_sessions.stores import _batcher
from fastapi_async_sessions.stores._scripts import ADD_TO_INDEX, CREATE, DELETE, SAVE
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.testing import FrozenClock

from .apps import has_ended
from .doubles import Hook, SpyStore, pass_on
from .races import (
    STORES,
    Answer,
    Client,
    do_nothing,
    no_pauses,
    opened_store,
    provider_without_timeouts,
)
from .scheduler import (
    PausingRedis,
    Scheduler,
    every_interleaving,
    pause,
    pause_around_calls,
    pause_before_calls,
)

IDLE = timedelta(hours=1)


class Data(BaseModel):
    a: int = 0
    b: int = 0
    c: int = 0
    shared: str = ""
    items: list[str] = []


class Harness:
    """A provider, its store, and the steps and checks that the scenarios have in common."""

    def __init__(self, store: SpyStore, clock: FrozenClock) -> None:
        self.store = store
        self.clock = clock
        self.dropped = 0
        self.provider: SessionProvider[Any] = provider_without_timeouts(
            store, clock, Data, lifetime=Lifetime(idle=IDLE), on_event=self._count
        )

    def _count(self, event: Any) -> None:
        self.dropped += event.kind in ("ended_elsewhere", "outdated_token")

    async def signed_in(self, subject: str = "ada") -> tuple[Client, str]:
        """Empty the store, and return a client with a new session and the session's key."""
        await self.store.inner.clear()
        self.store.keys.clear()
        self.dropped = 0
        client = Client(self.provider)
        return client, await client.sign_in(subject)

    async def run(self, scenario: Any, hook: Hook, *, prunes: bool) -> int:
        """Run a scenario in every order of its pauses, and return how many there were."""
        self.store.hook = hook

        async def run_once(scheduler: Scheduler) -> None:
            await scenario(self, scheduler)

        count = await every_interleaving(run_once, self.clock, prunes=prunes)
        logging.getLogger(__name__).info("%s: %d interleavings", scenario.__name__, count)
        return count

    async def data(self, key: str) -> Data:
        async with self.provider.open(key) as session:
            return session.data

    async def assert_ended(self, key: str, *cookies: str | None) -> None:
        """The record is gone, and none of the cookies opens a session."""
        assert has_ended(self.provider, key, await self.store.inner.load(key))
        with pytest.raises(SessionNotFound):
            await self.data(key)
        for cookie in filter(None, cookies):
            assert not await Client(self.provider, cookie).is_live()

    async def listed(self, subject: str = "ada") -> set[str]:
        """The keys that ``sessions()`` lists, which are those of the subject's live records."""
        listed = {session.key for session in await self.provider.sessions(subject)}
        records = await self.store.records()
        owner = self.provider.repository.seal.owner(subject)
        assert listed == {key for key, record in records.items() if record.owner == owner}
        assert listed == {key for key, _ in await self.store.inner.find(owner)}
        return listed

    async def the_live_cookie(self, *cookies: str | None) -> str:
        """The one of these cookies that opens a session; there must be exactly one."""
        given = [cookie for cookie in dict.fromkeys(cookies) if cookie]
        live = [cookie for cookie in given if await Client(self.provider, cookie).is_live()]
        assert len(live) == 1, f"{len(live)} of {len(given)} cookies open the session"
        return live[0]


@pytest.fixture(params=STORES)
async def harness(
    request: pytest.FixtureRequest, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Harness]:
    no_pauses(monkeypatch)
    async with opened_store(request.param, clock, request) as inner:
        yield Harness(SpyStore(inner), clock)


# what the requests do


def write(name: str, value: int = 1) -> Callable[[Session[Data]], Awaitable[None]]:
    """A route that changes a field of its own, and a scalar and a list that all routes change."""

    async def route(session: Session[Data]) -> None:
        setattr(session.data, name, value)
        session.data.shared = name
        session.data.items.append(name)

    return route


async def destroy(session: Session[Data]) -> None:
    await session.destroy()


async def renew(session: Session[Data]) -> None:
    session.renew()


async def sign_in(session: Session[Data]) -> None:
    session.renew(subject="ada")


def assert_no_error(answers: dict[str, Any]) -> None:
    for answer in answers.values():
        if isinstance(answer, Answer):
            assert answer.error is None, answer.error


# two requests at once


async def write_and_write(harness: Harness, scheduler: Scheduler) -> None:
    client, key = await harness.signed_in()
    one, other = client.copy(), client.copy()
    answers = await scheduler.run(
        a=lambda: one.request(write("a")), b=lambda: other.request(write("b"))
    )
    assert_no_error(answers)
    data = await harness.data(key)
    assert (data.a, data.b) == (1, 1)
    assert sorted(data.items) == ["a", "b"]
    # the scalar that both change has the value of the later write
    assert data.shared == data.items[-1]
    first_end, second_begin = scheduler.log.index("a: ends"), scheduler.log.index("b: begins")
    if first_end < second_begin:
        assert data.items == ["a", "b"]
    assert (answers["a"].cookie, answers["b"].cookie) == (None, None)


async def write_and_destroy(harness: Harness, scheduler: Scheduler) -> None:
    client, key = await harness.signed_in()
    one, other = client.copy(), client.copy()
    answers = await scheduler.run(
        write=lambda: one.request(write("a")), destroy=lambda: other.request(destroy)
    )
    # a late write begins no other session: its browser may have a newer cookie by now
    if "destroy: ends" in scheduler.log[: scheduler.log.index("write: begins")]:
        assert answers["write"].cookie is None
    assert_no_error(answers)
    await harness.assert_ended(key, client.cookie)
    assert await harness.listed() == set()


async def extension_and_destroy(harness: Harness, scheduler: Scheduler) -> None:
    client, key = await harness.signed_in()
    harness.clock.advance(IDLE / 5)
    one, other = client.copy(), client.copy()
    answers = await scheduler.run(
        read=lambda: one.request(do_nothing), destroy=lambda: other.request(destroy)
    )
    assert_no_error(answers)
    assert answers["read"].cookie is None
    await harness.assert_ended(key, client.cookie)
    assert await harness.listed() == set()


async def renew_and_renew(harness: Harness, scheduler: Scheduler) -> None:
    client, _ = await harness.signed_in()
    one, other = client.copy(), client.copy()
    answers = await scheduler.run(a=lambda: one.request(renew), b=lambda: other.request(renew))
    assert_no_error(answers)
    # a renewal that begins once the other is stored comes with a cookie that opens nothing
    cookies = [answer.cookie for answer in answers.values()]
    assert len(list(filter(None, cookies))) == 1
    live = await harness.the_live_cookie(client.cookie, *cookies)
    assert live in cookies
    assert len(await harness.listed()) == 1


async def renew_and_write(harness: Harness, scheduler: Scheduler) -> None:
    client, key = await harness.signed_in()
    one, other = client.copy(), client.copy()
    answers = await scheduler.run(
        renew=lambda: one.request(renew), write=lambda: other.request(write("a"))
    )
    dropped = harness.dropped
    assert_no_error(answers)
    live = await harness.the_live_cookie(client.cookie, answers["renew"].cookie)
    assert live == answers["renew"].cookie
    data = await harness.data(key)
    assert answers["write"].cookie is None
    # the change is stored, or the session was renewed before it and an event was emitted
    assert (data.a == 1) is not (dropped == 1)


async def sign_in_and_revoke_all(harness: Harness, scheduler: Scheduler) -> None:
    old, key = await harness.signed_in()
    new = Client(harness.provider)
    answers = await scheduler.run(
        revoke=lambda: harness.provider.revoke_all("ada"),
        sign_in=lambda: new.request(sign_in),
    )
    await harness.assert_ended(key, old.cookie)
    began, revoked = scheduler.log.index("sign_in: begins"), scheduler.log.index("revoke: begins")
    listed = await harness.listed()
    if began < revoked:
        assert listed == set()
    if answers["sign_in"].is_ok and "revoke: ends" in scheduler.log[:began]:
        assert len(listed) == 1
        assert await new.is_live()
    if listed == set() and new.cookie:
        assert not await new.is_live()


async def renew_and_revoke_all(harness: Harness, scheduler: Scheduler) -> None:
    client, key = await harness.signed_in()
    one = client.copy()
    await scheduler.run(
        renew=lambda: one.request(renew), revoke=lambda: harness.provider.revoke_all("ada")
    )
    await harness.assert_ended(key, client.cookie, one.cookie)
    assert await harness.listed() == set()


async def open_and_destroy(harness: Harness, scheduler: Scheduler) -> None:
    client, key = await harness.signed_in()
    one = client.copy()

    async def admin() -> None:
        try:
            async with harness.provider.open(key) as session:
                await write("a")(session)
        except SessionNotFound:
            assert "destroy: delete" in scheduler.log

    assert_no_error(await scheduler.run(admin=admin, destroy=lambda: one.request(destroy)))
    await harness.assert_ended(key, client.cookie)
    assert await harness.listed() == set()


async def open_and_write(harness: Harness, scheduler: Scheduler) -> None:
    client, key = await harness.signed_in()
    one = client.copy()

    async def admin() -> None:
        async with harness.provider.open(key) as session:
            await write("a")(session)

    assert_no_error(await scheduler.run(admin=admin, write=lambda: one.request(write("b"))))
    data = await harness.data(key)
    assert (data.a, data.b, sorted(data.items)) == (1, 1, ["a", "b"])


async def write_and_expiry(harness: Harness, scheduler: Scheduler) -> None:
    client, key = await harness.signed_in()
    one = client.copy()

    async def time_passes() -> None:
        for _ in range(2):
            await pause("time")
            harness.clock.advance(IDLE / 2)

    answers = await scheduler.run(clock=time_passes, write=lambda: one.request(write("a")))
    assert answers["write"].is_ok
    expired = [place for place, line in enumerate(scheduler.log) if line == "clock: time"][1]
    is_late = "write: save" not in scheduler.log or scheduler.log.index("write: save") > expired
    if is_late or await harness.store.inner.load(key) is None:
        await harness.assert_ended(key, client.cookie)
    else:
        assert (await harness.data(key)).a == 1
    assert (answers["write"].cookie is not None) is ("write: create" in scheduler.log)
    assert await harness.listed() <= {key}


async def commit_and_destroy_and_reload(harness: Harness, scheduler: Scheduler) -> None:
    client, key = await harness.signed_in()
    one, other = client.copy(), client.copy()

    async def commit_and_reload(session: Session[Data]) -> bool:
        session.data.a = 1
        await session.commit()
        return await session.reload()

    answers = await scheduler.run(
        reload=lambda: one.request(commit_and_reload), destroy=lambda: other.request(destroy)
    )
    assert_no_error(answers)
    await harness.assert_ended(key, client.cookie)
    if answers["reload"].value and answers["reload"].cookie is None:
        # True is right only while the delete has not begun
        load = max(n for n, line in enumerate(scheduler.log) if line == "reload: load")
        assert load < scheduler.log.index("destroy: delete")


TWO = [
    write_and_write,
    write_and_destroy,
    extension_and_destroy,
    renew_and_renew,
    renew_and_write,
    sign_in_and_revoke_all,
    renew_and_revoke_all,
    open_and_destroy,
    open_and_write,
    write_and_expiry,
    commit_and_destroy_and_reload,
]


@pytest.mark.parametrize("harness", ["memory"], indirect=True)
@pytest.mark.parametrize("scenario", TWO, ids=lambda scenario: scenario.__name__)
async def test_two_at_once_in_distinct_orders(harness: Harness, scenario: Any) -> None:
    """They pause before each store call; of orders that are equivalent, one is run."""
    assert await harness.run(scenario, pause_before_calls, prunes=True) > 3


@pytest.mark.slow
@pytest.mark.parametrize("scenario", TWO, ids=lambda scenario: scenario.__name__)
async def test_two_at_once(harness: Harness, scenario: Any) -> None:
    """They pause before each store call; in memory, before each result too."""
    is_in_memory = isinstance(harness.store.inner, MemoryStore)
    # a sign-in and a revocation have thousands of orders if they pause at results as well
    pauses_at_results = is_in_memory and scenario is not sign_in_and_revoke_all
    hook = pause_around_calls if pauses_at_results else pause_before_calls
    assert await harness.run(scenario, hook, prunes=False) > 9


# three requests at once


async def write_renew_destroy(harness: Harness, scheduler: Scheduler) -> None:
    client, key = await harness.signed_in()
    tabs = [client.copy() for _ in range(3)]
    answers = await scheduler.run(
        destroy=lambda: tabs[0].request(destroy),
        renew=lambda: tabs[1].request(renew),
        write=lambda: tabs[2].request(write("a")),
    )
    assert_no_error(answers)
    renewed = answers["renew"].cookie
    # a destroy that came with the token from before the renewal ended nothing
    if any(line.startswith("destroy: delete") for line in scheduler.log):
        await harness.assert_ended(key, client.cookie, renewed)
        assert await harness.listed() == set()
    else:
        assert await harness.the_live_cookie(client.cookie, renewed) == renewed
        assert await harness.listed() == {key}


async def three_writers(harness: Harness, scheduler: Scheduler) -> None:
    client, key = await harness.signed_in()
    tabs = [client.copy() for _ in range(3)]
    answers = await scheduler.run(
        a=lambda: tabs[0].request(write("a")),
        b=lambda: tabs[1].request(write("b")),
        c=lambda: tabs[2].request(write("c")),
    )
    assert_no_error(answers)
    data = await harness.data(key)
    assert (data.a, data.b, data.c, sorted(data.items)) == (1, 1, 1, ["a", "b", "c"])
    assert data.shared == data.items[-1]


async def two_sign_ins_and_revoke_all(harness: Harness, scheduler: Scheduler) -> None:
    anonymous = Client(harness.provider)
    old, key = await harness.signed_in()
    tabs = [anonymous.copy() for _ in range(2)]
    await scheduler.run(
        revoke=lambda: harness.provider.revoke_all("ada"),
        a=lambda: tabs[0].request(sign_in),
        b=lambda: tabs[1].request(sign_in),
    )
    await harness.assert_ended(key, old.cookie)
    listed = await harness.listed()
    revoked = scheduler.log.index("revoke: begins")
    for name, tab in zip("ab", tabs, strict=True):
        if scheduler.log.index(f"{name}: begins") < revoked:
            assert not await tab.is_live()
    assert len(listed) == sum([await tab.is_live() for tab in tabs])


@pytest.mark.slow
@pytest.mark.parametrize(
    "scenario",
    [write_renew_destroy, three_writers, two_sign_ins_and_revoke_all],
    ids=lambda scenario: scenario.__name__,
)
async def test_three_at_once(harness: Harness, scenario: Any) -> None:
    """They pause before each store call."""
    assert await harness.run(scenario, pause_before_calls, prunes=True) > 9


# inside the Redis store


async def sign_in_again_and_list(harness: Harness, scheduler: Scheduler) -> None:
    """The index still has the session's entry from its first sign-in, which a listing removes."""
    client, key = await harness.signed_in()

    async def sign_out(session: Session[Data]) -> None:
        session.renew(subject=None)

    await client.request(sign_out)
    await scheduler.run(
        list=lambda: harness.provider.sessions("ada"), sign_in=lambda: client.request(sign_in)
    )
    assert await harness.listed() == {key}


@pytest.mark.slow
@pytest.mark.parametrize(
    "scenario",
    [sign_in_again_and_list, sign_in_and_revoke_all, renew_and_revoke_all, write_and_destroy],
    ids=lambda scenario: scenario.__name__,
)
async def test_redis_commands(
    scenario: Any, clock: FrozenClock, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call of the Redis store is several commands, and requests pause before each of them."""
    no_pauses(monkeypatch)
    monkeypatch.setattr(_batcher, "_MAX_DELAY", 0)
    async with PausingRedis.from_url(redis_url) as client:
        harness = Harness(SpyStore(RedisStore(client, clock=clock)), clock)
        for script in (CREATE, SAVE, DELETE, ADD_TO_INDEX):
            await client.script_load(script.text)
        assert await harness.run(scenario, pass_on, prunes=False) > 9
