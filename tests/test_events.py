"""What happens to sessions is told: to the application's hook and to the log, and to both once."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, get_args

import pytest
from fastapi import Depends, FastAPI

from fastapi_async_sessions import ConfigurationError, MemoryStore, Record, Session, SessionEvent
from fastapi_async_sessions.events import EventKind
from fastapi_async_sessions.records import new_version
from fastapi_async_sessions.testing import FrozenClock

from .apps import COOKIE, Data, browser, cookie_value, make_app, make_provider
from .doubles import SpyStore, failing

START = datetime(2026, 3, 1, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)
LOGGER = "fastapi_async_sessions"


class KeepingStore(MemoryStore):
    """Serves what has expired, as a store whose clock is behind does."""

    def __init__(self) -> None:
        super().__init__(clock=lambda: START)


class World:
    """An application, its events, and the means to provoke each of them."""

    def __init__(self) -> None:
        self.told: list[SessionEvent] = []
        self.clock = FrozenClock(START)
        self.store = SpyStore(KeepingStore())
        self.get_session = make_provider(
            self.store, name="web", clock=self.clock, on_event=self.told.append
        )
        self.app = self.make_site()
        self.client = browser(self.app)

    def make_site(self) -> FastAPI:
        app = make_app()
        site_session = Annotated[Session[Data], Depends(self.get_session)]

        @app.get("/")
        async def read(session: site_session) -> int:
            return session.data.count

        @app.post("/change")
        async def change(session: site_session) -> None:
            session.data.count += 1

        @app.post("/renew")
        async def renew(session: site_session) -> None:
            session.renew(subject="42")

        @app.post("/destroy")
        async def destroy(session: site_session) -> None:
            await session.destroy()

        @app.post("/overtaken")
        async def overtaken(session: site_session) -> None:
            async with self.get_session.open(session.key) as other:
                other.data.count = 5
            session.data.count = 6

        @app.post("/ended")
        async def ended(session: site_session) -> None:
            await self.store.inner.delete(session.key)
            session.data.count = 6

        return app

    async def began(self) -> str:
        """A stored session's key; what was told so far is forgotten."""
        await self.client.post("/change")
        (key,) = await self.store.records()
        self.told.clear()
        return key

    def cookie(self) -> str:
        return str(self.client.cookies["__Host-web"])

    async def write(self, key: str, body: bytes) -> None:
        record = await self.store.inner.load(key)
        assert record is not None
        other = Record(body, new_version(), None, record.expires_at)
        assert await self.store.inner.save(key, other, replaces=record.version)


@pytest.fixture
def world() -> World:
    return World()


Deed = Callable[[World], Awaitable[str | None]]


async def created(world: World) -> str:
    await world.client.post("/change")
    (key,) = await world.store.records()
    return key


async def renewed(world: World) -> str:
    key = await world.began()
    await world.client.post("/renew")
    return key


async def extended(world: World) -> str:
    key = await world.began()
    world.clock.advance(HOUR / 2)
    await world.client.get("/")
    return key


async def destroyed(world: World) -> str:
    key = await world.began()
    await world.client.post("/destroy")
    return key


async def revoked(world: World) -> str:
    key = await world.began()
    await world.get_session.revoke(key)
    return key


async def expired(world: World) -> str:
    key = await world.began()
    world.clock.advance(HOUR)
    await world.client.get("/")
    return key


async def conflict(world: World) -> str:
    key = await world.began()
    await world.client.post("/overtaken")
    return key


async def ended_elsewhere(world: World) -> str:
    key = await world.began()
    await world.client.post("/ended")
    return key


async def bad_signature(world: World) -> None:
    await world.client.get("/", headers={"cookie": "__Host-web=forged"})


async def ambiguous_cookie(world: World) -> None:
    first = cookie_value(await browser(world.app).post("/change"), "__Host-web")
    second = cookie_value(await browser(world.app).post("/change"), "__Host-web")
    world.told.clear()
    header = f"__Host-web={first}; __Host-web={second}"
    await world.client.get("/", headers={"cookie": header})


async def corrupt(world: World) -> str:
    key = await world.began()
    await world.write(key, b"garbage")
    await world.client.get("/")
    return key


async def store_error(world: World) -> str:
    key = await world.began()
    world.store.hook = failing("load")
    await world.client.get("/")
    return key


async def origin_rejected(world: World) -> None:
    await world.client.post("/change", headers={"origin": "https://evil.example"})


DEEDS: list[tuple[Deed, dict[str, str]]] = [
    (created, {}),
    (renewed, {}),
    (extended, {}),
    (destroyed, {}),
    (revoked, {}),
    (expired, {}),
    (conflict, {"fields": "count"}),
    (ended_elsewhere, {}),
    (bad_signature, {}),
    (ambiguous_cookie, {}),
    (corrupt, {"reason": "the header is not one of ours"}),
    (store_error, {"reason": "told to fail"}),
    (origin_rejected, {"method": "POST"}),
]


def test_every_kind_of_event_has_its_test():
    """A new kind comes with a deed of its name."""
    assert [deed.__name__ for deed, _ in DEEDS] == sorted(
        get_args(EventKind), key=[deed.__name__ for deed, _ in DEEDS].index
    )


@pytest.mark.parametrize(("deed", "facts"), DEEDS, ids=lambda each: getattr(each, "__name__", ""))
async def test_it_is_told_once_with_provider_key_and_facts(world, deed, facts):
    """To the hook: the kind, whose provider, the public key, and what else is known as text."""
    key = await deed(world)
    assert [event for event in world.told if event.kind == deed.__name__] == [
        SessionEvent(deed.__name__, "web", key, facts)
    ]
    assert {event.provider for event in world.told} == {"web"}


@pytest.mark.parametrize(("deed", "facts"), DEEDS, ids=lambda each: getattr(each, "__name__", ""))
async def test_it_is_logged_once_with_the_same_facts(world, caplog, deed, facts):
    """To the logger ``fastapi_async_sessions``, one line, without cookie or secret."""
    caplog.set_level(logging.DEBUG, LOGGER)
    key = await deed(world)
    lines = [record for record in caplog.records if record.name == LOGGER]
    about = [line for line in lines if line.getMessage().startswith(f"{deed.__name__}: ")]
    assert len(about) == 1
    message = about[0].getMessage()
    assert "\n" not in message
    for fact in (key, "web", *facts.values()):
        assert fact is None or fact in message
    if "__Host-web" in world.client.cookies:
        assert world.cookie() not in caplog.text


def test_routine_is_logged_below_trouble():
    """Sessions come and go at DEBUG; what somebody should see is a warning or an error."""
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
        "store_error",
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
        "expired",
    }


async def test_nothing_is_told_of_a_request_that_only_reads(world):
    """No session, a live one, and a cookie of a session that has gone."""
    await world.client.get("/")
    key = await world.began()
    await world.client.get("/")
    await world.store.inner.delete(key)
    await world.client.get("/")
    assert world.told == []


async def test_revoking_all_tells_of_each_session(world):
    """As many events as sessions."""
    for _ in range(3):
        await browser(world.app).post("/renew")
    keys = {each.key for each in await world.get_session.sessions("42")}
    world.told.clear()
    await world.get_session.revoke_all("42")
    assert [event.kind for event in world.told] == ["revoked"] * 3
    assert {event.key for event in world.told} == keys


async def test_guessing_is_told_each_time_and_never_asks_the_store(world):
    """What an alarm counts (OWASP, "Session ID Guessing and Brute Force Detection")."""
    for number in range(100):
        await world.client.get("/", headers={"cookie": f"__Host-web={number:064}.{'A' * 43}"})
    assert [event.kind for event in world.told] == ["bad_signature"] * 100
    assert world.store.calls == []


async def test_a_line_break_in_a_cookie_breaks_no_log_line(world, caplog):
    """Nor does any other byte that a client can send (ASVS 16.4.1)."""
    caplog.set_level(logging.DEBUG, LOGGER)
    for value in ("x%0aERROR", "\r\nfake: line", "\x1b[31mred", "\u2028"):
        header = f"__Host-web={value}".encode()
        await world.client.get("/", headers=[(b"cookie", header)])
    messages = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert len(messages) == 4
    assert all(message.isprintable() for message in messages)


async def test_a_line_break_in_a_fact_breaks_no_log_line(caplog):
    """Field names and a store's words come from elsewhere."""
    make_provider().repository.events.emit("store_error", reason="gone\nERROR fake: line\x1b[31m")
    assert caplog.records[0].getMessage().isprintable()


def test_an_event_is_frozen():
    """A hook can keep it."""
    event = SessionEvent("created", "web", "k", {})
    with pytest.raises(FrozenInstanceError):
        event.kind = "destroyed"


async def test_an_event_shows_no_cookie_and_no_secret(world):
    """Neither in its text nor in any attribute."""
    for deed, _ in DEEDS:
        other = World()
        await deed(other)
        for event in other.told:
            text = f"{event!r} {event.key} {event.facts}"
            if "__Host-web" in other.client.cookies:
                value = other.cookie()
                assert value not in text
                assert value.partition(".")[0] not in text


# hooks


class Broken(Exception):
    """What a hook may raise."""


async def test_a_hook_that_fails_changes_nothing(caplog):
    """The request goes on, and the log says that the hook failed and why."""

    def hook(event: SessionEvent) -> None:
        raise Broken("the metrics server is down")

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
    assert caplog.text.count("on_event failed") == 3
    assert "the metrics server is down" in caplog.text
    assert (await client.post("/", headers={"origin": "https://evil.example"})).status_code == 403
    assert await get_session.revoke_all("42") == 1


async def an_async_hook(event: SessionEvent) -> None:
    """What nobody would await."""


@pytest.mark.parametrize("hook", ["print", 42, an_async_hook], ids=repr)
def test_what_cannot_be_called_is_no_hook(hook):
    """It would fail at each event and be noticed late."""
    with pytest.raises(ConfigurationError, match="on_event"):
        make_provider(on_event=hook)


def test_a_migration_is_no_coroutine_either():
    """Nobody would await it."""

    async def migrate(raw: dict[str, Any], error: Exception) -> Data:
        return Data()

    with pytest.raises(ConfigurationError, match="on_invalid"):
        make_provider(on_invalid=migrate)
