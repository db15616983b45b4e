"""How long sessions live: the times are the record's own, and the library checks them itself."""

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
    Record,
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


class Hoard(Store):
    """Keeps and serves every record for ever, as a store with a broken expiry would."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}

    async def create(self, key: str, record: Record) -> bool:
        return self.records.setdefault(key, record) is record

    async def load(self, key: str) -> Record | None:
        return self.records.get(key)

    async def save(self, key: str, record: Record, *, replaces: str) -> bool:
        if key not in self.records or self.records[key].version != replaces:
            return False
        self.records[key] = record
        return True

    async def delete(self, key: str) -> bool:
        return self.records.pop(key, None) is not None


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock(START)


@pytest.fixture(params=["memory", "hoard", "redis"])
async def store(request, clock) -> AsyncIterator[Store]:
    if request.param == "redis":
        redis = RedisStore.from_url(request.getfixturevalue("redis_url"), clock=clock)
        yield redis
        await redis.aclose()
    else:
        yield MemoryStore(clock=clock) if request.param == "memory" else Hoard()


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
    return app


async def is_alive(client: Any) -> bool:
    return not (await client.get("/")).json()["new"]


# the two timeouts


@pytest.mark.parametrize("offset", AROUND, ids=str)
async def test_a_session_ends_after_the_idle_time(store, clock, offset):
    """It is there one microsecond before, not at that moment, and not after it."""
    client = browser(make_site(clock, store, lifetime=Lifetime(idle=HOUR, absolute=DAY)))
    await client.post("/change")
    clock.advance(HOUR + offset)
    assert await is_alive(client) is (offset < timedelta(0))


@pytest.mark.parametrize("offset", AROUND, ids=str)
async def test_a_session_ends_at_its_absolute_end_whatever_its_user_does(store, clock, offset):
    """Reads, changes and renewals all the way do not move it."""
    lifetime = Lifetime(idle=HOUR, absolute=4 * HOUR)
    client = browser(make_site(clock, store, lifetime=lifetime))
    end = clock() + 4 * HOUR
    await client.post("/change")
    for wish in ("/change", "/renew", "/sign-out", "/change", "/renew"):
        clock.advance(45 * MINUTE)
        assert not (await client.post(wish)).json()["new"]
    clock.now = end + offset
    assert await is_alive(client) is (offset < timedelta(0))


@pytest.mark.parametrize("lifetime", [Lifetime(HOUR, None), Lifetime(None, HOUR)], ids=str)
async def test_each_timeout_works_alone(store, clock, lifetime):
    """One of them may be switched off."""
    client = browser(make_site(clock, store, lifetime=lifetime))
    await client.post("/change")
    clock.advance(HOUR - MICROSECOND)
    assert await is_alive(client)
    clock.advance(HOUR - MICROSECOND)
    assert await is_alive(client) is (lifetime.absolute is None)


async def test_days_of_touching_end_at_the_absolute_end(clock):
    """A visitor who comes every 50 minutes for a month is signed out on the thirtieth day."""
    lifetime = Lifetime(idle=HOUR, absolute=30 * DAY)
    client = browser(make_site(clock, lifetime=lifetime))
    await client.post("/change")
    touches = 0
    while await is_alive(client):
        clock.advance(50 * MINUTE)
        touches += 1
    assert touches == 30 * DAY // (50 * MINUTE)
    assert clock() == START + 30 * DAY


async def test_a_record_that_the_store_serves_too_long_is_deleted_by_nobody_and_revives_nothing(
    clock,
):
    """A write after the end makes another session under another key."""
    store = Hoard()
    client = browser(make_site(clock, store, lifetime=Lifetime(HOUR, DAY)))
    await client.post("/change")
    (old,) = store.records
    clock.advance(2 * HOUR)
    changed = (await client.post("/change")).json()
    assert (changed["new"], changed["count"]) == (True, 1)
    assert len(store.records) == 2
    assert old in store.records


async def test_nothing_of_a_request_outlives_it(clock):
    """Sessions are not shared within a process: after 900 requests none is left."""

    def alive() -> int:
        gc.collect()
        return sum(isinstance(each, SessionState | Session) for each in gc.get_objects())

    client = browser(make_site(clock))
    await client.post("/sign-in")
    before = alive()
    for _ in range(300):
        await client.get("/")
        await client.post("/change")
        await client.post("/renew")
    assert alive() <= before


# extension


async def test_a_session_is_extended_at_most_once_each_tenth_of_the_idle_time(clock):
    """Ninety reads within an hour and a half: one write each six minutes."""
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
async def test_an_extension_is_due_at_a_tenth_of_the_idle_time(clock, offset):
    """Not one microsecond before; a read before it stores nothing at all."""
    store = SpyStore(MemoryStore(clock=clock))
    client = browser(make_site(clock, store, lifetime=Lifetime(HOUR, DAY)))
    await client.post("/change")
    store.calls.clear()
    clock.advance(6 * MINUTE + offset)
    assert await is_alive(client)
    assert store.calls == (["load"] if offset < timedelta(0) else ["load", "save"])


async def test_an_extension_travels_with_a_change(clock):
    """A request that changes data when an extension is due writes once, and is extended."""
    store = SpyStore(MemoryStore(clock=clock))
    client = browser(make_site(clock, store, lifetime=Lifetime(HOUR, DAY)))
    await client.post("/change")
    clock.advance(30 * MINUTE)
    store.calls.clear()
    await client.post("/change")
    assert store.calls == ["load", "save"]
    clock.advance(45 * MINUTE)
    assert await is_alive(client)


async def test_a_change_before_an_extension_is_due_does_not_extend(clock):
    """The stamp is throttled for writers too: the session ends when its last stamp says."""
    client = browser(make_site(clock, lifetime=Lifetime(HOUR, DAY)))
    await client.post("/change")
    clock.advance(5 * MINUTE)
    await client.post("/change")
    clock.advance(55 * MINUTE)
    assert not await is_alive(client)


async def test_without_an_idle_time_nothing_is_extended(clock):
    """A read is one load, all day."""
    store = SpyStore(MemoryStore(clock=clock))
    client = browser(make_site(clock, store, lifetime=Lifetime(None, DAY)))
    await client.post("/change")
    store.calls.clear()
    for _ in range(23):
        clock.advance(HOUR)
        assert await is_alive(client)
    assert store.calls == ["load"] * 23


async def test_an_extension_that_fails_fails_no_request(clock):
    """The session ends a little sooner; the next request extends it."""
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


# what moves the absolute end


@pytest.mark.parametrize("offset", AROUND, ids=str)
async def test_a_sign_in_begins_both_times_again(store, clock, offset):
    """A user who signs in again after seven of eight hours has eight more."""
    lifetime = Lifetime(idle=None, absolute=8 * HOUR)
    client = browser(make_site(clock, store, lifetime=lifetime))
    await client.post("/sign-in")
    clock.advance(7 * HOUR)
    await client.post("/sign-in")
    clock.advance(8 * HOUR + offset)
    assert await is_alive(client) is (offset < timedelta(0))


async def test_signing_out_keeps_the_end_that_signing_in_promised(store, clock):
    """``renew(subject=None)`` keeps the data: the session lives on to the end that it had."""
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
    """What a route is shown is what the next requests meet."""
    client = browser(make_site(clock, lifetime=Lifetime(HOUR, DAY)))
    await client.post("/change")
    shown = datetime.fromisoformat((await client.get("/")).json()["expires"])
    assert shown == START + HOUR
    clock.now = shown - MICROSECOND
    shown = datetime.fromisoformat((await client.get("/")).json()["expires"])
    # the extension is written after the route has looked: the next request sees it
    assert shown == START + HOUR
    shown = datetime.fromisoformat((await client.get("/")).json()["expires"])
    assert shown == START + 2 * HOUR - MICROSECOND


# a configuration that changes


async def test_a_shortened_configuration_reaches_old_sessions(store, clock):
    """Idle and absolute both; what was promised under the old one does not count."""
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
    # the old release is rolled back to: its sessions were ended by nobody
    assert await is_alive(idler)


async def test_a_lengthened_configuration_shortens_nothing_and_prolongs_no_promise(store, clock):
    """An old session keeps its absolute end, and its next extension is a long one."""
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


async def test_switching_the_absolute_time_on_reaches_old_sessions(store, clock):
    """A session that was promised no end has one from now on."""
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


# clocks that step


async def test_a_clock_that_steps_back_lets_a_session_live_that_much_longer_and_no_more(clock):
    """No crash on a negative age, and the last stamp does not move back."""
    client = browser(make_site(clock, lifetime=Lifetime(HOUR, DAY)))
    await client.post("/change")
    clock.advance(-HOUR)
    assert (await client.get("/")).json()["expires"] == (START + HOUR).isoformat()
    await client.post("/change")
    await client.post("/renew")
    assert (await client.get("/")).json()["expires"] == (START + HOUR).isoformat()
    clock.now = START + HOUR - MICROSECOND
    assert await is_alive(client)


async def test_a_clock_that_jumped_forward_and_back_ends_nothing_for_good(clock):
    """Sessions look expired meanwhile; nobody deletes them, and they end when they should."""
    client = browser(make_site(clock, lifetime=Lifetime(HOUR, DAY)))
    await client.post("/change")
    clock.advance(365 * DAY)
    assert not await is_alive(client)
    clock.advance(-365 * DAY)
    assert await is_alive(client)
    clock.advance(HOUR)
    assert not await is_alive(client)


async def test_a_session_stamped_in_the_future_still_ends_at_its_absolute_end(clock):
    """A clock that was wrong for a while gives no endless session."""
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


# a sign-in's own lifetime: "remember me"

REMEMBERED = Lifetime(idle=30 * DAY, absolute=365 * DAY)


async def test_remember_me_outlives_the_provider_s_lifetime(store, clock):
    """``renew(subject=..., lifetime=...)`` is that session's own, for idle and absolute."""
    app = make_site(clock, store, lifetime=Lifetime(HOUR, DAY))
    app.state.sign_in = {"lifetime": REMEMBERED, "persistent": True}
    client = browser(app)
    await client.post("/sign-in")
    end = clock() + 365 * DAY
    while clock() < end - 29 * DAY:
        clock.advance(29 * DAY)
        assert await is_alive(client)
    # the browser's jar keeps real time: give the cookie by hand
    clock.now = end
    assert not await is_alive(client)


async def test_remember_me_is_the_one_session_s_alone(clock):
    """Who signs in without it has the provider's lifetime."""
    app = make_site(clock, lifetime=Lifetime(HOUR, DAY))
    plain, remembered = browser(app), browser(app)
    await plain.post("/sign-in")
    app.state.sign_in = {"lifetime": REMEMBERED}
    await remembered.post("/sign-in")
    clock.advance(2 * HOUR)
    assert not await is_alive(plain)
    assert await is_alive(remembered)


async def test_a_lifetime_of_its_own_may_be_shorter(clock):
    """And a plain renewal keeps it."""
    app = make_site(clock, lifetime=Lifetime(HOUR, DAY))
    app.state.sign_in = {"lifetime": Lifetime(5 * MINUTE, HOUR)}
    client = browser(app)
    await client.post("/sign-in")
    await client.post("/renew")
    clock.advance(5 * MINUTE)
    assert not await is_alive(client)


async def test_the_next_sign_in_decides_anew(clock):
    """A later sign-in without a lifetime and persistence has the provider's."""
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


async def test_a_cookie_is_gone_with_the_browser_by_default(clock):
    """Neither ``Max-Age`` nor ``Expires`` (NIST SP 800-63B-4, 5.1)."""
    client = browser(make_site(clock))
    (header,) = session_cookies(await client.post("/sign-in"))
    assert "Max-Age" not in header
    assert "Expires" not in header


async def test_a_persistent_cookie_lives_as_long_as_its_session(store, clock):
    """``Max-Age``, what a route is shown and what is stored say the same."""
    spy = SpyStore(store)
    app = make_site(clock, spy, lifetime=Lifetime(HOUR, DAY))
    app.state.sign_in = {"lifetime": REMEMBERED, "persistent": True}
    client = browser(app)
    assert max_age(await client.post("/sign-in")) == 30 * DAY // timedelta(seconds=1)
    (record,) = (await spy.records()).values()
    assert record.expires_at == clock() + 30 * DAY
    clock.advance(3 * DAY - MICROSECOND)
    assert set_cookie_kind(await client.get("/")) is None
    clock.advance(MICROSECOND)
    assert max_age(await client.get("/")) == 30 * DAY // timedelta(seconds=1)
    (record,) = (await spy.records()).values()
    assert record.expires_at == clock() + 30 * DAY


async def test_a_persistent_cookie_is_sent_again_with_a_change_that_extends(clock):
    """An extension that travels with a change moves the cookie's end too."""
    app = make_site(clock, cookie=CookieConfig(persistent=True), lifetime=Lifetime(HOUR, DAY))
    client = browser(app)
    assert max_age(await client.post("/change")) == 3600
    clock.advance(MINUTE)
    assert set_cookie_kind(await client.post("/change")) is None
    clock.advance(6 * MINUTE)
    assert max_age(await client.post("/change")) == 3600


async def test_a_persistent_cookie_ends_with_the_absolute_end(clock):
    """Ten minutes before it ``Max-Age`` is 600."""
    app = make_site(clock, cookie=CookieConfig(persistent=True), lifetime=Lifetime(HOUR, 2 * HOUR))
    client = browser(app)
    await client.post("/change")
    clock.advance(59 * MINUTE)
    await client.get("/")
    clock.advance(51 * MINUTE)
    assert max_age(await client.get("/")) == 600


async def test_a_cookie_that_is_not_extended_persistently_is_not_sent_again(clock):
    """A session cookie needs no other end when the record has one."""
    client = browser(make_site(clock, lifetime=Lifetime(HOUR, DAY)))
    await client.post("/change")
    clock.advance(30 * MINUTE)
    response = await client.get("/")
    assert set_cookie_kind(response) is None


@pytest.mark.parametrize(
    "lifetime", [Lifetime(None, 800 * DAY), Lifetime(800 * DAY, None)], ids=["absolute", "idle"]
)
async def test_a_persistent_cookie_lives_400_days_at_most(clock, lifetime):
    """Browsers cap it there (RFC 6265bis, 5.5); the session itself lives on."""
    app = make_site(clock)
    app.state.sign_in = {"lifetime": lifetime, "persistent": True}
    client = browser(app)
    assert max_age(await client.post("/sign-in")) == 34_560_000
    clock.advance(500 * DAY)
    assert await is_alive(client)


async def test_a_sign_in_may_refuse_the_provider_s_persistent_cookie(clock):
    """A public computer: ``persistent=False``."""
    app = make_site(clock, cookie=CookieConfig(persistent=True))
    app.state.sign_in = {"persistent": False}
    client = browser(app)
    assert max_age(await client.post("/sign-in")) is None
    assert max_age(await browser(app).post("/change")) is not None


def test_a_provider_s_persistent_cookie_fits_its_lifetime():
    """401 days is refused when the provider is built, 400 is not."""
    cookie = CookieConfig(persistent=True)
    make_provider(cookie=cookie, lifetime=Lifetime(DAY, 400 * DAY))
    with pytest.raises(ConfigurationError, match="400 days"):
        make_provider(cookie=cookie, lifetime=Lifetime(DAY, 401 * DAY))


# odd times


ODD = (
    timedelta(seconds=1),
    timedelta(seconds=1.5),
    40 * DAY,
    timedelta(days=1, seconds=1),
    timedelta(microseconds=1),
    68 * 365 * DAY,
)


@pytest.mark.parametrize("life", ODD, ids=str)
@pytest.mark.parametrize("kind", ["idle", "absolute"])
async def test_odd_times_are_exact(store, clock, life, kind):
    """Days, seconds and fractions all count; a ``Max-Age`` is rounded up to whole seconds."""
    lifetime = Lifetime(life, None) if kind == "idle" else Lifetime(None, life)
    app = make_site(clock, store)
    app.state.sign_in = {"lifetime": lifetime, "persistent": True}
    response = await browser(app).post("/sign-in")
    assert max_age(response) == min(-(-life // timedelta(seconds=1)), 34_560_000)
    client = browser(app, cookie_value(response))
    # Redis keeps real time
    if life > MINUTE or not isinstance(store, RedisStore):
        clock.advance(life - MICROSECOND)
        assert await is_alive(client)
        clock.now = START + (life if kind == "absolute" else 2 * life)
    else:
        clock.advance(life)
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
def test_a_lifetime_that_makes_no_sense_is_refused(idle, absolute, message):
    """When it is written, with a reason."""
    with pytest.raises(ConfigurationError, match=message):
        Lifetime(idle, absolute)


def test_idle_may_equal_absolute():
    """And both may be as short as a microsecond and as long as a century."""
    for life in (MICROSECOND, timedelta(days=36525)):
        assert Lifetime(life, life).absolute == life


def test_the_default_is_nist_aal2():
    """One hour idle, 24 hours in all."""
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
def test_the_presets_are_the_standards_figures(preset, idle, absolute):
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
    """The promised end, the configured end and the idle time: the first one that comes."""
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


WISHES = ("/", "/change", "/renew", "/sign-in")


class Model:
    """A session's times as the design tells them, in the fewest words."""

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

    def visit(self, wish: str, now: datetime) -> None:
        if not self.is_alive(now):
            if wish in ("/change", "/sign-in"):
                self.seen = self.began = now
            return
        assert self.seen is not None
        idle = self.lifetime.idle
        if wish in ("/renew", "/sign-in") or (idle is not None and now - self.seen >= idle / 10):
            self.seen = max(now, self.seen)
        if wish == "/sign-in":
            self.began = now


@settings(max_examples=60, deadline=None)
@given(
    lifetimes(),
    st.lists(
        st.tuples(st.sampled_from(WISHES), st.floats(-0.3, 1.2), st.booleans()),
        min_size=4,
        max_size=16,
    ),
    st.booleans(),
)
def test_a_session_lives_as_its_model_does(lifetime, visits, keeps_all):
    """Any visits at any times, clock steps too, on a store that forgets and one that doesn't."""

    async def live() -> None:
        clock = FrozenClock(START)
        store = Hoard() if keeps_all else MemoryStore(clock=clock)
        app = make_site(clock, store, lifetime=lifetime)
        model = Model(lifetime)
        client = browser(app)
        for wish, part, of_absolute in visits:
            unit = (lifetime.absolute if of_absolute else lifetime.idle) or HOUR
            clock.advance(unit * part)
            method = "GET" if wish == "/" else "POST"
            answer = (await client.request(method, wish)).json()
            assert answer["new"] is not model.is_alive(clock())
            model.visit(wish, clock())

    asyncio.run(live())
