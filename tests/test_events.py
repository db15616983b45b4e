"""Events: each is emitted once, to the application's hook and to the log."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, get_args

import pytest
from fastapi import Depends, FastAPI

from fastapi_async_sessions import (
    ConfigurationError,
    MemoryStore,
    Record,
    Session,
    SessionEvent,
    StoreUnavailable,
)
from fastapi_async_sessions.events import EventKind
from fastapi_async_sessions.records import new_version
from fastapi_async_sessions.testing import FrozenClock

from .apps import COOKIE, Data, browser, cookie_value, make_app, make_provider, with_json
from .doubles import SpyStore, failing

START = datetime(2026, 3, 1, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)
LOGGER = "fastapi_async_sessions"


class Site:
    """An application that emits each kind of event, a browser on it, and the events so far."""

    def __init__(self) -> None:
        self.events: list[SessionEvent] = []
        self.clock = FrozenClock(START)
        # a store whose clock is behind returns expired records
        self.store = SpyStore(MemoryStore(clock=lambda: START))
        self.get_session = make_provider(
            self.store, name="web", clock=self.clock, on_event=self.events.append
        )
        self.app = self.make_site()
        self.client = browser(self.app)

    def make_site(self) -> FastAPI:
        app = make_app()
        own_session = Annotated[Session[Data], Depends(self.get_session)]

        @app.get("/")
        async def read(session: own_session) -> int:
            return session.data.count

        @app.post("/change")
        async def change(session: own_session) -> None:
            session.data.count += 1

        @app.post("/renew")
        async def renew(session: own_session) -> None:
            session.renew(subject="42")

        @app.post("/sign-out")
        async def sign_out(session: own_session) -> None:
            session.renew(subject=None)

        @app.post("/refused/{number}")
        async def refused(number: int, session: own_session) -> None:
            session.data.count = "many"

        @app.post("/destroy")
        async def destroy(session: own_session) -> None:
            await session.destroy()

        @app.post("/overtaken")
        async def overtaken(session: own_session) -> None:
            async with self.get_session.open(session.key) as other:
                other.data.count = 5
            session.data.count = 6

        @app.post("/ended")
        async def ended(session: own_session) -> None:
            await self.store.inner.delete(session.key)
            session.data.count = 6

        return app

    async def stored_key(self, path: str = "/change") -> str:
        """Store a session, forget the events so far, and return its key."""
        await self.client.post(path)
        key = next(iter(await self.store.records()))
        self.events.clear()
        return key

    def owner(self) -> str:
        """How a store and an event name the user who signs in."""
        owner: str = self.get_session.repository.seal.owner("42")
        return owner

    def cookie(self) -> str:
        return str(self.client.cookies["__Host-web"])

    async def overwrite(self, key: str, body: bytes) -> None:
        record = await self.store.inner.load(key)
        assert record is not None
        other = Record(body, new_version(), None, record.expires_at)
        assert await self.store.inner.save(key, other, replaces=record.version)


@pytest.fixture
def site() -> Site:
    return Site()


Cause = Callable[[Site], Awaitable[str | None]]


async def created(site: Site) -> str:
    await site.client.post("/change")
    (key,) = await site.store.records()
    return key


async def renewed(site: Site) -> str:
    key = await site.stored_key()
    await site.client.post("/renew")
    return key


async def extended(site: Site) -> str:
    key = await site.stored_key()
    site.clock.advance(HOUR / 2)
    await site.client.get("/")
    return key


async def destroyed(site: Site) -> str:
    key = await site.stored_key()
    await site.client.post("/destroy")
    return key


async def revoked(site: Site) -> str:
    key = await site.stored_key()
    await site.get_session.revoke(key)
    return key


async def signed_in(site: Site) -> str:
    key = await site.stored_key()
    await site.client.post("/renew")
    return key


async def signed_out(site: Site) -> str:
    key = await site.stored_key("/renew")
    await site.client.post("/sign-out")
    return key


async def missing(site: Site) -> str:
    key = await site.stored_key()
    site.clock.advance(HOUR)
    await site.client.get("/")
    return key


async def outdated_token(site: Site) -> str:
    key = await site.stored_key()
    outdated = site.cookie()
    await site.client.post("/renew")
    await browser(site.app).get("/", headers={"cookie": f"__Host-web={outdated}"})
    return key


async def cookie_withheld(site: Site) -> None:
    await site.stored_key()
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}
    await browser(site.app).get("/", headers=headers)


async def conflict(site: Site) -> str:
    key = await site.stored_key()
    await site.client.post("/overtaken")
    return key


async def ended_elsewhere(site: Site) -> str:
    key = await site.stored_key()
    await site.client.post("/ended")
    return key


async def unreadable(site: Site) -> str:
    key = await site.stored_key()
    record = await site.store.inner.load(key)
    other = with_json(site.get_session, key, record, b'{"count": "many"}')
    assert await site.store.inner.save(key, other, replaces=record.version)
    await site.client.get("/")
    return key


async def bad_signature(site: Site) -> None:
    await site.client.get("/", headers={"cookie": "__Host-web=forged"})


async def ambiguous_cookie(site: Site) -> None:
    first = cookie_value(await browser(site.app).post("/change"), "__Host-web")
    second = cookie_value(await browser(site.app).post("/change"), "__Host-web")
    site.events.clear()
    header = f"__Host-web={first}; __Host-web={second}"
    await site.client.get("/", headers={"cookie": header})


async def corrupt(site: Site) -> str:
    key = await site.stored_key()
    await site.overwrite(key, b"garbage")
    await site.client.get("/")
    return key


async def refused(site: Site) -> str:
    key = await site.stored_key()
    await site.client.post("/refused/7")
    return key


async def store_error(site: Site) -> str:
    key = await site.stored_key()
    site.store.hook = failing("load")
    await site.client.get("/")
    return key


async def origin_rejected(site: Site) -> None:
    await site.client.post("/change", headers={"origin": "https://evil.example"})


OWNER = Site().owner()
CAUSES: list[tuple[Cause, dict[str, str]]] = [
    (created, {}),
    (renewed, {}),
    (extended, {}),
    (destroyed, {}),
    (signed_in, {"owner": OWNER}),
    (signed_out, {"owner": OWNER}),
    (revoked, {"reason": "revoked"}),
    (missing, {}),
    (outdated_token, {}),
    (cookie_withheld, {}),
    (conflict, {"fields": "count"}),
    (ended_elsewhere, {}),
    (unreadable, {"fields": "count"}),
    (bad_signature, {}),
    (ambiguous_cookie, {}),
    (corrupt, {"reason": "the record was not sealed here"}),
    (
        refused,
        {
            "error": "SessionInvalid",
            "reason": "The session's data cannot be written. (count: expected int, got str)",
            "route": "/refused/{number}",
        },
    ),
    (store_error, {"reason": "told to fail"}),
    (
        origin_rejected,
        {"method": "POST", "origin": "https://evil.example", "host": "testserver"},
    ),
]

each_cause = pytest.mark.parametrize(
    ("cause", "facts"), CAUSES, ids=[cause.__name__ for cause, _ in CAUSES]
)


def test_every_kind_of_event_is_tested():
    """Each kind has a function of its name in ``CAUSES``."""
    assert [cause.__name__ for cause, _ in CAUSES] == sorted(
        get_args(EventKind), key=[cause.__name__ for cause, _ in CAUSES].index
    )


@each_cause
async def test_an_event_is_emitted_once_with_provider_key_and_facts(site, cause, facts):
    """The hook gets the kind, the provider's name, the public key, and further facts as text."""
    key = await cause(site)
    assert [event for event in site.events if event.kind == cause.__name__] == [
        SessionEvent(cause.__name__, "web", key, facts)
    ]
    assert {event.provider for event in site.events} == {"web"}


@each_cause
async def test_an_event_is_logged_once_with_the_same_facts(site, caplog, cause, facts):
    """The logger ``fastapi_async_sessions`` gets one line, without the cookie."""
    caplog.set_level(logging.DEBUG, LOGGER)
    key = await cause(site)
    lines = [record for record in caplog.records if record.name == LOGGER]
    about = [line for line in lines if line.getMessage().startswith(f"{cause.__name__}: ")]
    assert len(about) == 1
    message = about[0].getMessage()
    assert "\n" not in message
    for fact in (key, "web", *facts.values()):
        assert fact is None or fact in message
    if "__Host-web" in site.client.cookies:
        assert site.cookie() not in caplog.text


def test_the_level_of_a_log_line_follows_its_severity():
    """Routine is logged at DEBUG, and what needs attention as a warning or an error."""
    levels: dict[str, int] = {}

    class Levels(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            levels[record.getMessage().partition(":")[0]] = record.levelno

    logger, handler = logging.getLogger(LOGGER), Levels()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        events = make_provider().repository.events
        for kind in get_args(EventKind):
            events.emit(kind)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    assert {kind for kind, level in levels.items() if level >= logging.ERROR} == {
        "corrupt",
        "refused",
        "store_error",
        "unreadable",
    }
    assert {kind for kind, level in levels.items() if level == logging.WARNING} == {
        "bad_signature",
        "ambiguous_cookie",
        "origin_rejected",
    }
    assert {kind for kind, level in levels.items() if level == logging.DEBUG} == {
        "created",
        "renewed",
        "extended",
        "destroyed",
        "missing",
    }


async def test_a_request_that_only_reads_emits_no_event(site):
    """This holds without a session and with a live one."""
    await site.client.get("/")
    await site.stored_key()
    await site.client.get("/")
    assert site.events == []


async def test_a_cookie_whose_record_was_evicted_is_missing_at_each_request(site):
    """The store lost it, and no request replaces it until one has something to store."""
    key = await site.stored_key()
    await site.store.inner.delete(key)
    await site.client.get("/")
    await site.client.get("/")
    assert [(event.kind, event.key) for event in site.events] == [("missing", key)] * 2


async def test_each_kind_has_a_log_template_of_its_own(caplog):
    """Error trackers group log records by their template."""
    caplog.set_level(logging.DEBUG, LOGGER)
    events = make_provider().repository.events
    for kind in get_args(EventKind):
        events.emit(kind)
    assert len({record.msg for record in caplog.records}) == len(get_args(EventKind))


async def test_revoking_all_emits_one_event_with_the_number_of_sessions(site):
    """Three sessions of a user give one ``revoked`` event; where there is none, there is none."""
    for _ in range(3):
        await browser(site.app).post("/renew")
    site.events.clear()
    await site.get_session.revoke_all("42")
    await site.get_session.revoke_all("42")
    (event,) = site.events
    assert (event.kind, event.key, event.facts) == (
        *("revoked", None),
        {"reason": "revoked", "count": "3"},
    )


async def test_a_revocation_that_fails_halfway_says_how_many_sessions_it_ended(site):
    """The event comes before the error of the store."""
    for _ in range(3):
        await browser(site.app).post("/renew")
    site.events.clear()

    async def fail_at_the_second_page(call):
        if site.store.calls.count("delete_owned") > 1:
            raise StoreUnavailable("down")
        return await call.pass_on()

    site.store.hook = fail_at_the_second_page
    with pytest.raises(StoreUnavailable):
        await site.get_session.revoke_all("42")
    assert [event.facts.get("count") for event in site.events if event.kind == "revoked"] == ["3"]


async def test_each_guess_emits_an_event_and_never_reaches_the_store(site):
    """An alarm can count them (OWASP, "Session ID Guessing and Brute Force Detection")."""
    for number in range(100):
        await site.client.get("/", headers={"cookie": f"__Host-web={number:064}.{'A' * 43}"})
    assert [event.kind for event in site.events] == ["bad_signature"] * 100
    assert site.store.calls == []


async def test_a_cookie_cannot_break_a_log_line(site, caplog):
    """Line breaks and other control characters of a client stay out of the log (ASVS 16.4.1)."""
    caplog.set_level(logging.DEBUG, LOGGER)
    for value in ("x%0aERROR", "\r\nfake: line", "\x1b[31mred", "\u2028"):
        header = f"__Host-web={value}".encode()
        await site.client.get("/", headers=[(b"cookie", header)])
    messages = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert len(messages) == 4
    assert all(message.isprintable() for message in messages)


async def test_a_fact_cannot_break_a_log_line(caplog):
    """Field names and the messages of a store come from outside of the library."""
    make_provider().repository.events.emit("store_error", reason="gone\nERROR fake: line\x1b[31m")
    assert caplog.records[0].getMessage().isprintable()


def test_an_event_is_frozen():
    """A hook can keep it, and no other hook can change it."""
    event = SessionEvent("created", "web", "k", {})
    with pytest.raises(FrozenInstanceError):
        event.kind = "destroyed"


async def test_an_event_shows_no_cookie_and_no_secret(site):
    """Neither its repr nor any attribute holds one."""
    for cause, _ in CAUSES:
        other = Site()
        await cause(other)
        for event in other.events:
            text = f"{event!r} {event.key} {event.facts}"
            if "__Host-web" in other.client.cookies:
                value = other.cookie()
                assert value not in text
                assert value.partition(".")[0] not in text


# hooks


class HookError(Exception):
    """An error of a hook."""


async def test_a_failing_hook_does_not_affect_the_request(caplog):
    """The log says that the hook failed, and why."""

    def hook(event: SessionEvent) -> None:
        raise HookError("the metrics server is down")

    get_session = make_provider(on_event=hook)
    app = make_app()

    @app.post("/")
    async def change(session: Annotated[Session[Data], Depends(get_session)]) -> int:
        session.data.count += 1
        session.renew(subject="42")
        return session.data.count

    client = browser(app)
    for count in (1, 2, 3):
        response = await client.post("/")
        assert (response.status_code, response.json()) == (200, count)
        assert COOKIE in response.headers["set-cookie"]
    # created, and twice renewed, each with a sign-in
    assert caplog.text.count("on_event failed") == 6
    assert "the metrics server is down" in caplog.text
    assert (await client.post("/", headers={"origin": "https://evil.example"})).status_code == 403
    assert await get_session.revoke_all("42") == 1


async def an_async_hook(event: SessionEvent) -> None:
    """A hook whose result would never be awaited."""


@pytest.mark.parametrize("hook", ["print", 42, an_async_hook])
def test_a_hook_must_be_a_plain_callable(hook):
    """Anything else would fail at each event and go unnoticed."""
    with pytest.raises(ConfigurationError, match="on_event"):
        make_provider(on_event=hook)


def test_a_migration_must_not_be_a_coroutine_function():
    """Its result would never be awaited."""

    async def migrate(raw: dict[str, Any], error: Exception) -> Data:
        return Data()

    with pytest.raises(ConfigurationError, match="on_invalid"):
        make_provider(on_invalid=migrate)


async def test_only_a_sign_in_is_reported_as_one(site: Site) -> None:
    """Neither a change of somebody who is signed in, nor an extension."""
    await site.stored_key("/renew")
    await site.client.post("/change")
    assert site.events == []
    site.clock.advance(HOUR / 2)
    await site.client.post("/change")
    await site.client.get("/")
    assert [event.kind for event in site.events] == []
    site.clock.advance(HOUR / 2)
    await site.client.get("/")
    assert [event.kind for event in site.events] == ["extended"]


async def test_a_session_is_destroyed_also_if_the_note_about_it_cannot_be_stored(
    site: Site,
) -> None:
    """That note is for late requests only: the browser is signed out all the same."""
    await site.stored_key("/renew")
    site.store.hook = failing("create")
    response = await site.client.post("/destroy")
    assert (response.status_code, "__Host-web" in site.client.cookies) == (200, False)
    assert [event.kind for event in site.events] == ["destroyed", "store_error"]
    assert await site.store.records() == {}
