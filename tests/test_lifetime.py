"""How long sessions live: each record has its own times, and the library itself checks them."""

import asyncio
import gc
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pytest
from fastapi import Depends
from hypothesis import given, settings
from hypothesis import strategies as st

from fastapi_async_sessions import (
    ConfigurationError,
    CookieConfig,
    Lifetime,
    MemoryStore,
    Session,
    Store,
)
from fastapi_async_sessions._core.header import Header
from fastapi_async_sessions._core.state import SessionState
from fastapi_async_sessions.records import to_microseconds
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.testing import FrozenClock

from .apps import (
    Data,
    browser,
    cookie_value,
    make_app,
    make_provider,
    session_cookies,
    set_cookie_kind,
)
from .doubles import SpyStore, failing, pass_on

MICROSECOND = timedelta(microseconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
AROUND = (-MICROSECOND, timedelta(0), MICROSECOND)
START = datetime(2026, 3, 1, 9, tzinfo=UTC)


def never_expiring_store() -> MemoryStore:
    """A store that never removes or hides an expired record: time stands still for it."""
    return MemoryStore(clock=lambda: datetime(1970, 1, 1, tzinfo=UTC))


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock(START)


@pytest.fixture(params=["memory", "never expiring", "redis"])
async def store(request, clock) -> AsyncIterator[Store]:
    if request.param == "redis":
        redis = RedisStore.from_url(request.getfixturevalue("redis_url"), clock=clock)
        yield redis
        await redis.aclose()
    else:
        yield MemoryStore(clock=clock) if request.param == "memory" else never_expiring_store()


def make_site(clock: FrozenClock, store: Store | None = None, **options: Any) -> Any:
    """An application that reads, changes, renews, signs in and signs out."""
    get_session = make_provider(store or MemoryStore(clock=clock), clock=clock, **options)
    site_session = Annotated[Session[Data], Depends(get_session)]
    app = make_app()

    def seen(session: Session[Data]) -> dict[str, Any]:
        return {
            "new": session.is_new,
            "count": session.data.count,
            "subject": session.subject,
            "expires": session.expires_at.isoformat(),
        }

    @app.get("/")
    async def read(session: site_session) -> dict[str, Any]:
        return seen(session)

    @app.post("/change")
    async def change(session: site_session) -> dict[str, Any]:
        session.data.count += 1
        return seen(session)

    @app.post("/renew")
    async def renew(session: site_session) -> dict[str, Any]:
        session.renew()
        return seen(session)

    @app.post("/sign-in")
    async def sign_in(session: site_session) -> dict[str, Any]:
        session.renew(subject="42", **app.state.sign_in)
        return seen(session)

    @app.post("/sign-out")
    async def sign_out(session: site_session) -> dict[str, Any]:
        session.renew(subject=None)
        return seen(session)

    app.state.sign_in = {}
    app.state.session = Depends(get_session)
    return app


async def is_alive(client: Any) -> bool:
    return not (await client.get("/")).json()["new"]


# the two timeouts


@pytest.mark.parametrize("offset", AROUND, ids=str)
async def test_a_session_ends_after_the_idle_timeout(store, clock, offset):
    """It exists one microsecond before, but not at that moment or after it."""
    client = browser(make_site(clock, store, lifetime=Lifetime(idle=HOUR, absolute=DAY)))
    await client.post("/change")
    clock.advance(HOUR + offset)
    assert await is_alive(client) is (offset < timedelta(0))


@pytest.mark.parametrize("offset", AROUND, ids=str)
async def test_a_session_ends_after_the_absolute_timeout_whatever_its_user_does(
    store, clock, offset
):
    """Reads, changes and renewals do not extend it."""
    lifetime = Lifetime(idle=HOUR, absolute=4 * HOUR)
    client = browser(make_site(clock, store, lifetime=lifetime))
    end = clock() + 4 * HOUR
    await client.post("/change")
    for path in ("/change", "/renew", "/sign-out", "/change", "/renew"):
        clock.advance(45 * MINUTE)
        assert not (await client.post(path)).json()["new"]
    clock.now = end + offset
    assert await is_alive(client) is (offset < timedelta(0))


@pytest.mark.parametrize("lifetime", [Lifetime(HOUR, None), Lifetime(None, HOUR)], ids=str)
async def test_each_timeout_works_alone(store, clock, lifetime):
    """None disables one of them."""
    client = browser(make_site(clock, store, lifetime=lifetime))
    await client.post("/change")
    clock.advance(HOUR - MICROSECOND)
    assert await is_alive(client)
    clock.advance(HOUR - MICROSECOND)
    assert await is_alive(client) is (lifetime.absolute is None)


async def test_a_session_in_constant_use_ends_after_the_absolute_timeout(clock):
    """A session that is used every 20 hours ends after thirty days."""
    lifetime = Lifetime(idle=DAY, absolute=30 * DAY)
    client = browser(make_site(clock, lifetime=lifetime))
    await client.post("/change")
    requests = 0
    while await is_alive(client):
        clock.advance(20 * HOUR)
        requests += 1
    assert requests == 30 * DAY // (20 * HOUR)
    assert clock() == START + 30 * DAY


async def test_an_expired_record_that_the_store_still_returns_is_ignored(clock):
    """A change after the end begins another session under another key."""
    store = SpyStore(never_expiring_store())
    client = browser(make_site(clock, store, lifetime=Lifetime(HOUR, DAY)))
    await client.post("/change")
    (old,) = await store.records()
    clock.advance(2 * HOUR)
    changed = (await client.post("/change")).json()
    assert (changed["new"], changed["count"]) == (True, 1)
    assert len(await store.records()) == 2
    assert old in await store.records()


async def test_no_session_object_outlives_its_request(clock):
    """A process keeps no sessions in memory: after 60 requests there are no more than before."""

    kinds = (SessionState, Session)

    def alive() -> int:
        gc.collect()
        return sum(isinstance(each, kinds) for each in gc.get_objects())

    client = browser(make_site(clock))
    await client.post("/sign-in")
    before = alive()
    for _ in range(20):
        await client.get("/")
        await client.post("/change")
        await client.post("/renew")
    assert alive() <= before


# extension


async def test_a_session_is_extended_at_most_once_per_tenth_of_the_idle_timeout(clock):
    """Ninety reads within an hour and a half cause a write every six minutes."""
    store = SpyStore(MemoryStore(clock=clock))
    client = browser(make_site(clock, store, lifetime=Lifetime(HOUR, DAY)))
    await client.post("/change")
    store.calls.clear()
    for _ in range(90):
        clock.advance(MINUTE)
        assert await is_alive(client)
    assert store.calls.count("load") == 90
    assert store.writes == ["save"] * 15


@pytest.mark.parametrize("offset", AROUND, ids=str)
async def test_an_extension_is_due_after_a_tenth_of_the_idle_timeout(clock, offset):
    """Not one microsecond before; until then a read writes nothing."""
    store = SpyStore(MemoryStore(clock=clock))
    client = browser(make_site(clock, store, lifetime=Lifetime(HOUR, DAY)))
    await client.post("/change")
    store.calls.clear()
    clock.advance(6 * MINUTE + offset)
    assert await is_alive(client)
    assert store.calls == (["load"] if offset < timedelta(0) else ["load", "save"])


async def test_a_change_extends_in_the_same_write(clock):
    """A request that changes data when an extension is due writes once."""
    store = SpyStore(MemoryStore(clock=clock))
    client = browser(make_site(clock, store, lifetime=Lifetime(HOUR, DAY)))
    await client.post("/change")
    clock.advance(30 * MINUTE)
    store.calls.clear()
    await client.post("/change")
    assert store.calls == ["load", "save"]
    clock.advance(45 * MINUTE)
    assert await is_alive(client)


async def test_a_request_may_renew_the_session_that_it_has_extended(clock):
    """Its token is replaced all the same."""
    app = make_site(clock, lifetime=Lifetime(HOUR, DAY))

    @app.post("/commit-and-renew")
    async def commit_and_renew(session: Annotated[Session[Data], app.state.session]) -> None:
        await session.commit()
        session.renew()

    client = browser(app)
    before = cookie_value(await client.post("/change"))
    clock.advance(30 * MINUTE)
    after = cookie_value(await client.post("/commit-and-renew"))
    assert await is_alive(browser(app, after))
    assert not await is_alive(browser(app, before))


async def test_a_long_request_extends_the_session_that_it_has_changed(clock):
    """With the data that it has stored before."""
    app = make_site(clock, lifetime=Lifetime(HOUR, DAY))

    @app.post("/commit-and-stay")
    async def commit_and_stay(session: Annotated[Session[Data], app.state.session]) -> None:
        session.data.count += 1
        await session.commit()
        clock.advance(30 * MINUTE)

    client = browser(app)
    assert (await client.post("/commit-and-stay")).status_code == 200
    clock.advance(45 * MINUTE)
    assert (await client.get("/")).json()["count"] == 1


@pytest.mark.parametrize("signs_in", [False, True])
async def test_a_session_that_ends_while_its_route_runs_is_not_revived(store, clock, signs_in):
    """Its change is dropped with it; a sign-in begins a new session."""
    app = make_site(clock, store, lifetime=Lifetime(HOUR, DAY))

    @app.post("/slow")
    async def slow(session: Annotated[Session[Data], app.state.session]) -> None:
        session.data.count += 1
        clock.advance(timedelta(seconds=1))
        if signs_in:
            session.renew(subject="42")

    client = browser(app)
    await client.post("/change")
    clock.advance(HOUR - timedelta(seconds=1))
    response = await client.post("/slow")
    assert response.status_code == 200
    assert (set_cookie_kind(response) is not None) is signs_in
    assert await is_alive(client) is signs_in


async def test_a_change_before_an_extension_is_due_does_not_extend(clock):
    """A change follows the same rule as a read, and does not move the end."""
    client = browser(make_site(clock, lifetime=Lifetime(HOUR, DAY)))
    await client.post("/change")
    clock.advance(5 * MINUTE)
    await client.post("/change")
    clock.advance(55 * MINUTE)
    assert not await is_alive(client)


async def test_without_an_idle_timeout_nothing_is_extended(clock):
    """A read is one load, at any time of the day."""
    store = SpyStore(MemoryStore(clock=clock))
    client = browser(make_site(clock, store, lifetime=Lifetime(None, DAY)))
    await client.post("/change")
    store.calls.clear()
    for _ in range(23):
        clock.advance(HOUR)
        assert await is_alive(client)
    assert store.calls == ["load"] * 23


async def test_a_failed_extension_does_not_fail_the_request(clock):
    """The next request extends the session."""
    store = SpyStore(MemoryStore(clock=clock))
    client = browser(make_site(clock, store, lifetime=Lifetime(HOUR, DAY)))
    await client.post("/change")
    clock.advance(30 * MINUTE)
    store.hook = failing("save")
    response = await client.get("/")
    assert (response.status_code, response.json()["new"]) == (200, False)
    store.hook = pass_on
    clock.advance(29 * MINUTE)
    assert await is_alive(client)
    clock.advance(59 * MINUTE)
    assert await is_alive(client)


# what restarts the absolute timeout


@pytest.mark.parametrize("offset", AROUND, ids=str)
async def test_a_sign_in_restarts_both_timeouts(store, clock, offset):
    """After a sign-in in the seventh of eight hours the session lasts eight more."""
    lifetime = Lifetime(idle=None, absolute=8 * HOUR)
    client = browser(make_site(clock, store, lifetime=lifetime))
    await client.post("/sign-in")
    clock.advance(7 * HOUR)
    await client.post("/sign-in")
    clock.advance(8 * HOUR + offset)
    assert await is_alive(client) is (offset < timedelta(0))


async def test_signing_out_does_not_change_the_end_of_the_session(store, clock):
    """``renew(subject=None)`` keeps the data, and the end that the sign-in has set."""
    client = browser(make_site(clock, store, lifetime=Lifetime(idle=None, absolute=DAY)))
    await client.post("/change")
    clock.advance(20 * HOUR)
    await client.post("/sign-in")
    clock.advance(20 * HOUR)
    await client.post("/sign-out")
    assert (await client.get("/")).json() == {
        "new": False,
        "count": 1,
        "subject": None,
        "expires": (START + 44 * HOUR).isoformat(),
    }
    clock.now = START + 44 * HOUR
    assert not await is_alive(client)


async def test_expires_at_is_when_the_session_ends(clock):
    """A route sees when the session would end for the next requests."""
    client = browser(make_site(clock, lifetime=Lifetime(HOUR, DAY)))
    await client.post("/change")
    shown = datetime.fromisoformat((await client.get("/")).json()["expires"])
    assert shown == START + HOUR
    clock.now = shown - MICROSECOND
    shown = datetime.fromisoformat((await client.get("/")).json()["expires"])
    # the extension is written after the route has returned: the next request sees it
    assert shown == START + HOUR
    shown = datetime.fromisoformat((await client.get("/")).json()["expires"])
    assert shown == START + 2 * HOUR - MICROSECOND


# a changed configuration


async def test_a_shorter_lifetime_applies_to_existing_sessions(store, clock):
    """Both its timeouts do, even if the session began under a longer lifetime."""
    old = make_site(clock, SpyStore(store), lifetime=Lifetime(8 * HOUR, 30 * DAY))
    short = make_site(clock, SpyStore(store), lifetime=Lifetime(HOUR, 2 * HOUR))
    idler, worker = browser(old), browser(old)
    await idler.post("/change")
    await worker.post("/change")
    idler_now = browser(short)
    idler_now.cookies = idler.cookies
    worker_now = browser(short)
    worker_now.cookies = worker.cookies
    clock.advance(HOUR - MICROSECOND)
    assert await is_alive(worker_now)
    clock.advance(MICROSECOND)
    assert not await is_alive(idler_now)
    clock.advance(HOUR - 2 * MICROSECOND)
    assert await is_alive(worker_now)
    clock.advance(2 * MICROSECOND)
    assert not await is_alive(worker_now)
    # after a rollback to the old release the session exists again: nothing has deleted it
    assert await is_alive(idler)


async def test_a_longer_lifetime_applies_to_existing_sessions_only_in_its_idle_timeout(
    store, clock
):
    """An existing session keeps its absolute end, and its next extension uses the new timeout."""
    old = make_site(clock, SpyStore(store), lifetime=Lifetime(HOUR, 8 * HOUR))
    long = make_site(clock, SpyStore(store), lifetime=Lifetime(6 * HOUR, 30 * DAY))
    client = browser(old)
    await client.post("/change")
    now = browser(long)
    now.cookies = client.cookies
    clock.advance(HOUR - MICROSECOND)
    assert await is_alive(now)
    clock.advance(6 * HOUR - MICROSECOND)
    assert await is_alive(now)
    clock.now = START + 8 * HOUR - MICROSECOND
    assert await is_alive(now)
    clock.now = START + 8 * HOUR
    assert not await is_alive(now)


async def test_a_new_absolute_timeout_applies_to_existing_sessions(store, clock):
    """A session without an absolute end now has one."""
    endless = make_site(clock, SpyStore(store), lifetime=Lifetime(DAY, None))
    ending = make_site(clock, SpyStore(store), lifetime=Lifetime(DAY, 2 * DAY))
    client = browser(endless)
    await client.post("/change")
    for _ in range(5):
        clock.advance(DAY / 2)
        assert await is_alive(client)
    now = browser(ending)
    now.cookies = client.cookies
    assert not await is_alive(now)


# clocks that are set


async def test_a_session_lasts_longer_by_as_much_as_the_clock_is_set_back(clock):
    """A negative age is not an error, and the time of the last request does not move back."""
    client = browser(make_site(clock, lifetime=Lifetime(HOUR, DAY)))
    await client.post("/change")
    clock.advance(-HOUR)
    assert (await client.get("/")).json()["expires"] == (START + HOUR).isoformat()
    await client.post("/change")
    await client.post("/renew")
    assert (await client.get("/")).json()["expires"] == (START + HOUR).isoformat()
    clock.now = START + HOUR - MICROSECOND
    assert await is_alive(client)


async def test_a_clock_set_forward_and_back_again_ends_no_session(clock):
    """Meanwhile sessions look expired, but are not deleted, and then they end when they should."""
    client = browser(make_site(clock, lifetime=Lifetime(HOUR, DAY)))
    await client.post("/change")
    clock.advance(365 * DAY)
    assert not await is_alive(client)
    clock.advance(-365 * DAY)
    assert await is_alive(client)
    clock.advance(HOUR)
    assert not await is_alive(client)


async def test_a_session_last_used_in_the_future_still_ends_after_the_absolute_timeout(clock):
    """A clock that was wrong for a while does not make sessions endless."""
    client = browser(make_site(clock, lifetime=Lifetime(HOUR, DAY)))
    await client.post("/change")
    for _ in range(26):
        clock.advance(55 * MINUTE)
        await client.get("/")
    clock.now = START
    assert await is_alive(client)
    clock.now = START + DAY - MICROSECOND
    assert await is_alive(client)
    clock.now = START + DAY
    assert not await is_alive(client)


# a lifetime for one session: "remember me"

REMEMBERED = Lifetime(idle=30 * DAY, absolute=365 * DAY)


async def test_a_sign_in_can_set_a_longer_lifetime_than_the_providers(store, clock):
    """``renew(subject=..., lifetime=...)`` sets both timeouts of this session."""
    app = make_site(clock, store, lifetime=Lifetime(HOUR, DAY))
    app.state.sign_in = {"lifetime": REMEMBERED, "persistent": True}
    client = browser(app)
    await client.post("/sign-in")
    end = clock() + 365 * DAY
    while clock() < end - 29 * DAY:
        clock.advance(29 * DAY)
        assert await is_alive(client)
    clock.now = end
    assert not await is_alive(client)


async def test_the_lifetime_of_a_sign_in_applies_to_that_session_only(clock):
    """A sign-in without a lifetime uses the provider's."""
    app = make_site(clock, lifetime=Lifetime(HOUR, DAY))
    plain, remembered = browser(app), browser(app)
    await plain.post("/sign-in")
    app.state.sign_in = {"lifetime": REMEMBERED}
    await remembered.post("/sign-in")
    clock.advance(2 * HOUR)
    assert not await is_alive(plain)
    assert await is_alive(remembered)


async def test_a_sign_in_can_set_a_shorter_lifetime(clock):
    """A renewal without a lifetime keeps it."""
    app = make_site(clock, lifetime=Lifetime(HOUR, DAY))
    app.state.sign_in = {"lifetime": Lifetime(5 * MINUTE, HOUR)}
    client = browser(app)
    await client.post("/sign-in")
    await client.post("/renew")
    clock.advance(5 * MINUTE)
    assert not await is_alive(client)


async def test_the_next_sign_in_replaces_lifetime_and_persistence(clock):
    """A later sign-in without them uses the provider's."""
    app = make_site(clock, lifetime=Lifetime(HOUR, DAY))
    app.state.sign_in = {"lifetime": REMEMBERED, "persistent": True}
    client = browser(app)
    await client.post("/sign-in")
    app.state.sign_in = {}
    response = await client.post("/sign-in")
    assert "Max-Age" not in session_cookies(response)[0]
    clock.advance(HOUR)
    assert not await is_alive(client)


def max_age(response: Any) -> int | None:
    """The ``Max-Age`` of the one session cookie that a response sets."""
    (header,) = session_cookies(response)
    ages = [part.removeprefix(" Max-Age=") for part in header.split(";") if "Max-Age" in part]
    return int(ages[0]) if ages else None


async def test_the_browser_drops_the_cookie_when_it_closes_by_default(clock):
    """It has neither ``Max-Age`` nor ``Expires`` (NIST SP 800-63B-4, 5.1)."""
    client = browser(make_site(clock))
    (header,) = session_cookies(await client.post("/sign-in"))
    assert "Max-Age" not in header
    assert "Expires" not in header


async def test_a_persistent_cookie_lives_until_the_absolute_end(store, clock):
    """``Max-Age`` is the absolute timeout: the record alone has the idle timeout, and an extension
    does not send the cookie again."""
    spy = SpyStore(store)
    app = make_site(clock, spy, lifetime=Lifetime(HOUR, DAY))
    app.state.sign_in = {"lifetime": REMEMBERED, "persistent": True}
    client = browser(app)
    assert max_age(await client.post("/sign-in")) == 365 * DAY // timedelta(seconds=1)
    (record,) = (await spy.records()).values()
    assert record.expires_at == clock() + 30 * DAY
    clock.advance(3 * DAY)
    assert set_cookie_kind(await client.get("/")) is None
    (record,) = (await spy.records()).values()
    assert record.expires_at == clock() + 30 * DAY


async def test_a_persistent_cookie_is_sent_again_only_with_a_new_token(clock):
    """An extension moves no end that the cookie has."""
    app = make_site(clock, cookie=CookieConfig(persistent=True), lifetime=Lifetime(HOUR, DAY))
    client = browser(app)
    assert max_age(await client.post("/change")) == 86400
    clock.advance(30 * MINUTE)
    assert set_cookie_kind(await client.post("/change")) is None
    assert max_age(await client.post("/renew")) == 86400 - 1800


async def test_a_persistent_cookie_ends_with_its_session(clock):
    """Ten minutes before the absolute end ``Max-Age`` is 600."""
    app = make_site(clock, cookie=CookieConfig(persistent=True), lifetime=Lifetime(HOUR, 2 * HOUR))
    client = browser(app)
    await client.post("/change")
    clock.advance(59 * MINUTE)
    await client.get("/")
    clock.advance(51 * MINUTE)
    assert max_age(await client.post("/renew")) == 600


async def test_a_cookie_that_is_not_persistent_is_not_sent_again(clock):
    """It has no end of its own that an extension could change."""
    client = browser(make_site(clock, lifetime=Lifetime(HOUR, DAY)))
    await client.post("/change")
    clock.advance(30 * MINUTE)
    response = await client.get("/")
    assert set_cookie_kind(response) is None


@pytest.mark.parametrize(
    "lifetime", [Lifetime(None, 800 * DAY), Lifetime(800 * DAY, None)], ids=["absolute", "idle"]
)
async def test_a_persistent_cookie_lives_400_days_at_most(clock, lifetime):
    """That is the limit of browsers (RFC 6265bis, 5.5); the session itself lasts longer."""
    app = make_site(clock)
    app.state.sign_in = {"lifetime": lifetime, "persistent": True}
    client = browser(app)
    assert max_age(await client.post("/sign-in")) == 34_560_000
    clock.advance(500 * DAY)
    assert await is_alive(client)


async def test_a_sign_in_can_ask_for_a_cookie_that_is_not_persistent(clock):
    """``persistent=False``, for instance on a public computer."""
    app = make_site(clock, cookie=CookieConfig(persistent=True))
    app.state.sign_in = {"persistent": False}
    client = browser(app)
    assert max_age(await client.post("/sign-in")) is None
    assert max_age(await browser(app).post("/change")) is not None


def test_a_lifetime_longer_than_a_persistent_cookie_is_refused():
    """When the provider is built: 401 days are too long, 400 are not."""
    cookie = CookieConfig(persistent=True)
    make_provider(cookie=cookie, lifetime=Lifetime(DAY, 400 * DAY))
    with pytest.raises(ConfigurationError, match="400 days"):
        make_provider(cookie=cookie, lifetime=Lifetime(DAY, 401 * DAY))


# unusual durations


DURATIONS = (
    timedelta(seconds=1),
    timedelta(seconds=1.5),
    40 * DAY,
    timedelta(days=1, seconds=1),
    timedelta(microseconds=1),
    68 * 365 * DAY,
)


@pytest.mark.parametrize("duration", DURATIONS, ids=str)
@pytest.mark.parametrize("kind", ["idle", "absolute"])
async def test_any_duration_is_exact(store, clock, duration, kind):
    """To the microsecond; only ``Max-Age``, which says the absolute end, is rounded up to whole
    seconds."""
    lifetime = Lifetime(duration, None) if kind == "idle" else Lifetime(None, duration)
    app = make_site(clock, store)
    app.state.sign_in = {"lifetime": lifetime, "persistent": True}
    response = await browser(app).post("/sign-in")
    seconds = -(-duration // timedelta(seconds=1)) if kind == "absolute" else 34_560_000
    assert max_age(response) == min(seconds, 34_560_000)
    client = browser(app, cookie_value(response))
    # Redis goes by its own clock
    if duration > MINUTE or not isinstance(store, RedisStore):
        clock.advance(duration - MICROSECOND)
        assert await is_alive(client)
        clock.now = START + (duration if kind == "absolute" else 2 * duration)
    else:
        clock.advance(duration)
    assert not await is_alive(client)


# Lifetime itself


@pytest.mark.parametrize(
    ("idle", "absolute", "message"),
    [
        (None, None, "not both"),
        (timedelta(0), DAY, "positive"),
        (HOUR, timedelta(0), "positive"),
        (-HOUR, DAY, "positive"),
        (HOUR, -DAY, "positive"),
        (timedelta.max, None, "100 years"),
        (DAY, HOUR, "would never apply"),
        (3600, DAY, "timedelta"),
        (HOUR, 86400.0, "timedelta"),
    ],
    ids=str,
)
def test_an_invalid_lifetime_is_refused(idle, absolute, message):
    """At once, with a reason."""
    with pytest.raises(ConfigurationError, match=message):
        Lifetime(idle, absolute)


def test_both_timeouts_may_be_equal():
    """And as short as a microsecond or as long as a century."""
    for life in (MICROSECOND, timedelta(days=36525)):
        assert Lifetime(life, life).absolute == life


def test_the_default_is_nist_aal2():
    """One hour idle, 24 hours absolute."""
    assert Lifetime() == Lifetime(HOUR, DAY) == Lifetime.NIST_AAL2


@pytest.mark.parametrize(
    ("preset", "idle", "absolute"),
    [
        (Lifetime.NIST_AAL1, None, 30 * DAY),
        (Lifetime.NIST_AAL2, HOUR, 24 * HOUR),
        (Lifetime.NIST_AAL3, 15 * MINUTE, 12 * HOUR),
        (Lifetime.OWASP_HIGH, 5 * MINUTE, 4 * HOUR),
        (Lifetime.OWASP_LOW, 30 * MINUTE, 8 * HOUR),
    ],
    ids=["aal1", "aal2", "aal3", "owasp high", "owasp low"],
)
def test_the_presets_have_the_figures_of_the_standards(preset, idle, absolute):
    """NIST SP 800-63B-4, 2.1.3, 2.2.3, 2.3.3; OWASP: idle 2-5 and 15-30 minutes, 4-8 hours."""
    assert (preset.idle, preset.absolute) == (idle, absolute)


# properties

seconds = st.integers(1, 10**7).map(lambda count: timedelta(seconds=count))
moments = st.integers(0, 10**14).map(lambda count: to_microseconds(START) + count)


@st.composite
def lifetimes(draw: st.DrawFn) -> Lifetime:
    idle = draw(st.none() | seconds)
    absolute = draw(st.none() | seconds)
    if idle is None and absolute is None:
        idle = HOUR
    if idle is not None and absolute is not None:
        idle, absolute = sorted((idle, absolute))
    return Lifetime(idle, absolute)


@given(lifetimes(), moments, moments, st.none() | moments)
def test_a_session_never_outlives_any_of_its_limits(lifetime, began_at, seen_at, ends_at):
    """It ends at the earliest of the stored end, the configured end and the idle timeout."""
    new = Header.new(began_at, lifetime, persistent=False)
    configured_end = new.ends_at
    if ends_at is None:
        ends_at = configured_end
    limits = [ends_at, configured_end]
    if lifetime.idle is not None:
        limits.append(seen_at + lifetime.idle // MICROSECOND)
    expires_at = new._replace(seen_at=seen_at, ends_at=ends_at).expires_at(lifetime)
    assert expires_at in limits
    assert all(limit is None or expires_at <= limit for limit in limits)


@given(
    created=moments,
    authenticated=st.none() | moments,
    seen=moments,
    renewed=st.none() | moments,
    ends=st.none() | moments,
    lifetime=st.none() | lifetimes(),
    persistent=st.booleans(),
    subject=st.none() | st.text(st.characters(codec="utf-8"), min_size=1, max_size=255),
)
def test_a_record_keeps_its_times_exactly(
    created, authenticated, seen, renewed, ends, lifetime, persistent, subject
):
    """To the microsecond, with a lifetime of its own or without."""
    header = Header(
        *(b"h" * 32, created, authenticated, seen, renewed, ends, lifetime, persistent, subject)
    )
    assert Header.unpack(header.pack() + b"{}") == (header, b"{}")


PATHS = ("/", "/change", "/renew", "/sign-in")


class Model:
    """When a session is live, by the two rules alone."""

    def __init__(self, lifetime: Lifetime) -> None:
        self.lifetime = lifetime
        self.seen: datetime | None = None
        self.began: datetime | None = None

    def is_alive(self, now: datetime) -> bool:
        if self.seen is None or self.began is None:
            return False
        idle, absolute = self.lifetime.idle, self.lifetime.absolute
        return (idle is None or now < self.seen + idle) and (
            absolute is None or now < self.began + absolute
        )

    def request(self, path: str, now: datetime) -> None:
        if not self.is_alive(now):
            if path in ("/change", "/sign-in"):
                self.seen = self.began = now
            return
        assert self.seen is not None
        idle = self.lifetime.idle
        if path in ("/renew", "/sign-in") or (idle is not None and now - self.seen >= idle / 10):
            self.seen = max(now, self.seen)
        if path == "/sign-in":
            self.began = now


@pytest.mark.slow
@settings(max_examples=60)
@given(
    lifetimes(),
    st.lists(
        st.tuples(st.sampled_from(PATHS), st.floats(-0.3, 1.2), st.booleans()),
        min_size=4,
        max_size=16,
    ),
    st.booleans(),
)
def test_a_session_lasts_as_long_as_the_model_predicts(lifetime, requests, keeps_all):
    """At random times, also with clocks set back, and in both kinds of store."""

    async def live() -> None:
        clock = FrozenClock(START)
        store = never_expiring_store() if keeps_all else MemoryStore(clock=clock)
        app = make_site(clock, store, lifetime=lifetime)
        model = Model(lifetime)
        client = browser(app)
        for path, part, of_absolute in requests:
            unit = (lifetime.absolute if of_absolute else lifetime.idle) or HOUR
            clock.advance(unit * part)
            method = "GET" if path == "/" else "POST"
            answer = (await client.request(method, path)).json()
            assert answer["new"] is not model.is_alive(clock())
            model.request(path, clock())

    asyncio.run(live())
