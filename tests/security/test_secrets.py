"""Nothing that opens a session is shown: not by an error, a log, a traceback, a repr or a pickle.

The spy is ``Secrets``: it knows every spelling of what a cookie holds, and searches for it.
"""

import ast
import base64
import copy
import hmac
import json
import logging
import pickle
import re
import traceback
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from pydantic import BaseModel, SecretStr

import fastapi_async_sessions
from fastapi_async_sessions import (
    ConfigurationError,
    MemoryStore,
    Session,
    SessionClosed,
    SessionConflict,
    SessionError,
    SessionEvent,
    SessionInvalid,
    SessionNotFound,
    SessionProvider,
    SessionTooLarge,
    StoreUnavailable,
)
from fastapi_async_sessions._core.tokens import Token
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.testing import FrozenClock

from ..apps import COOKIE, SECRET, browser, cookie_value, make_app, make_provider
from ..doubles import SpyStore, failing, pass_on

PACKAGE = Path(fastapi_async_sessions.__file__).parent
PASSWORD = "hunter2-and-a-half"


class Secrets:
    """What must not be shown, in every spelling that a leak could have."""

    def __init__(self) -> None:
        self.spellings: set[str] = set()
        self.add(SECRET.encode())

    def add(self, secret: bytes) -> None:
        plain = secret.decode("latin-1")
        encoded = {base64.b64encode(secret), base64.urlsafe_b64encode(secret)}
        self.spellings |= {plain, repr(secret)[2:-1], secret.hex(), secret.hex().upper()}
        self.spellings |= {each.decode().rstrip("=") for each in encoded}

    def add_cookie(self, value: str, get_session: Any) -> str:
        """A signed cookie value with its parts."""
        text, _, signature = value.partition(".")
        token: Token = get_session.verifier.verify([value.encode()]).token
        self.spellings |= {value, text, signature}
        for part in (token.handle, token.secret, token.handle + token.secret):
            self.add(part)
        return value

    def shown_by(self, *things: object) -> list[str]:
        """The secrets that a text, bytes or the repr of anything else holds."""
        texts = [thing if isinstance(thing, str) else repr(thing) for thing in things]
        return [each for each in self.spellings if any(each in text for text in texts)]


@pytest.fixture
def secrets() -> Secrets:
    return Secrets()


def test_the_spy_finds_what_it_looks_for(secrets):
    """In each spelling; a test that can't fail would prove nothing."""
    get_session = make_provider()
    token = Token.issue()
    value = secrets.add_cookie(get_session.verifier.sign(token), get_session)
    for leak in (
        f"cookie: {value}",
        value.partition(".")[0],
        token.secret,
        f"{token.secret!r}",
        token.secret.hex(),
        base64.b64encode(token.handle).decode(),
        {"headers": [(b"cookie", f"{COOKIE}={value}".encode())]},
        f"key={SECRET}",
    ):
        assert secrets.shown_by(leak), leak
    assert not secrets.shown_by(token, token.key("session"), get_session)


class Data(BaseModel):
    count: int = 0
    note: str = ""


class World:
    """An application that does everything, and remembers what its routes met."""

    def __init__(self, store: SpyStore, clock: FrozenClock, secrets: Secrets) -> None:
        self.store, self.clock, self.secrets = store, clock, secrets
        self.events: list[SessionEvent] = []
        self.sessions: list[Session[Data]] = []
        self.errors: list[BaseException] = []
        self.get_session = make_provider(
            store,
            Data,
            clock=clock,
            on_event=self.events.append,
            on_conflict="raise",
            on_invalid="raise",
            max_bytes=4096,
        )
        self.app = self.make_site()

    def make_site(self) -> FastAPI:
        app = make_app()
        site_session = Annotated[Session[Data], Depends(self.get_session)]

        @app.get("/")
        async def read(session: site_session) -> dict[str, Any]:
            return {"data": session.data.model_dump(), "key": session.key}

        @app.post("/change")
        async def change(session: site_session) -> None:
            session.data.count += 1

        @app.post("/sign-in")
        async def sign_in(session: site_session) -> Any:
            self.sessions.append(session)
            session.renew(subject="42", persistent=True)
            session.data.count += 1
            await session.commit()
            session.renew()
            return session.data

        @app.post("/destroy")
        async def destroy(session: site_session) -> None:
            await session.destroy()

        @app.post("/large")
        async def large(session: site_session) -> None:
            session.renew(subject="42")
            session.data.note = "x" * 5000

        @app.post("/invalid")
        async def invalid(session: site_session) -> None:
            session.data.__dict__["count"] = "many"

        @app.post("/overtaken")
        async def overtaken(session: site_session) -> None:
            async with self.get_session.open(session.key) as other:
                other.data.count = 5
            session.data.count = 6

        @app.post("/crash")
        async def crash(session: site_session) -> None:
            session.renew(subject="42")
            raise RuntimeError("told to fail")

        @app.middleware("http")
        async def remember(request: Any, call_next: Any) -> Any:
            try:
                return await call_next(request)
            except Exception as error:
                self.errors.append(error)
                raise

        @app.exception_handler(SessionError)
        async def remembered(request: Any, error: Any) -> Any:
            self.errors.append(error)
            from fastapi.exception_handlers import http_exception_handler

            return await http_exception_handler(request, error)

        return app

    async def visitor(self) -> Any:
        """A browser with a session, whose cookie is known to the spy."""
        client = browser(self.app)
        self.know(await client.post("/change"))
        return client

    def know(self, response: Any) -> Any:
        if "set-cookie" in response.headers and "Max-Age=0" not in response.headers["set-cookie"]:
            self.secrets.add_cookie(cookie_value(response), self.get_session)
        return response


@pytest.fixture
def world(store, clock, secrets) -> World:
    return World(store, clock, secrets)


# a whole life, with every logger talking


@pytest.fixture
def every_logger(caplog) -> Iterator[Any]:
    """DEBUG for all that is there, and for what comes."""
    caplog.set_level(logging.DEBUG)
    levels = {}
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger):
            levels[name] = logger.level
            logger.setLevel(logging.DEBUG)
    yield caplog
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


async def live(world: World) -> None:
    """Everything that can happen to a session, good and bad."""
    client = await world.visitor()
    for method, path in (
        ("GET", "/"),
        ("POST", "/sign-in"),
        ("POST", "/change"),
        ("POST", "/large"),
        ("POST", "/invalid"),
        ("POST", "/overtaken"),
        ("POST", "/crash"),
    ):
        world.know(await client.request(method, path))
    world.clock.advance(timedelta(minutes=30))
    world.know(await client.get("/"))
    value = client.cookies[COOKIE]
    for cookie in (value[:-1], value + "=", f"{value}; {COOKIE}={await other_cookie(world)}"):
        await browser(world.app).get("/", headers={"cookie": f"{COOKIE}={cookie}"})
    await client.post("/change", headers={"origin": "https://evil.example"})
    for verb in ("load", "save", "create", "delete"):
        world.store.hook = failing(verb)
        await client.get("/")
        await client.post("/sign-in")
        await client.post("/destroy")
    world.store.hook = pass_on
    await world.get_session.sessions("42")
    await world.get_session.revoke_all("42")
    await client.get("/")
    await client.post("/destroy")
    await world.get_session.check()


async def other_cookie(world: World) -> str:
    return str((await world.visitor()).cookies[COOKIE])


async def test_no_logger_shows_a_secret(world, every_logger):
    """Ours, the driver's, the client's and asyncio's, all at DEBUG, over a whole life."""
    await live(world)
    assert len(every_logger.records) > 20
    shown = [every_logger.text]
    for record in every_logger.records:
        shown += [record.getMessage(), repr(record.args), str(record.exc_text)]
    assert world.secrets.shown_by(*shown) == []


async def test_no_event_shows_a_secret(world):
    """Whatever its kind; nor does it show the session's data."""
    await live(world)
    assert len({event.kind for event in world.events}) >= 9
    assert world.secrets.shown_by(*world.events) == []
    assert "xxxx" not in repr(world.events)


async def test_the_store_is_given_no_secret(world):
    """No key, body, version or subject holds the handle or the secret, raw or in any spelling."""
    client = await world.visitor()
    world.know(await client.post("/sign-in"))
    world.store.keys.extend(await world.store.records())
    assert len(await world.store.records()) == 1
    assert world.secrets.shown_by(*world.store.keys, *(await world.store.records()).values()) == []
    bodies = b"".join(record.body for record in (await world.store.records()).values())
    assert world.secrets.shown_by(bodies.decode("latin-1")) == []


async def test_redis_is_given_no_secret(redis_url, redis_client, clock, secrets):
    """A dump of all its keys, values and lists opens nothing."""
    redis = RedisStore.from_url(redis_url, clock=clock)
    world = World(SpyStore(redis), clock, secrets)
    world.know(await (await world.visitor()).post("/sign-in"))
    dump = []
    for name in await redis_client.keys("*"):
        kind = await redis_client.type(name)
        value = await (
            redis_client.get(name) if kind == b"string" else redis_client.zrange(name, 0, -1)
        )
        dump += [name, value, name.decode("latin-1"), str(value)]
        dump += [value.decode("latin-1")] if isinstance(value, bytes) else []
    assert len(dump) > 8
    assert secrets.shown_by(*dump) == []
    await redis.aclose()


async def test_no_page_shows_a_secret(world):
    """Neither a body nor a header but ``Set-Cookie``: routes return their data, errors a reason."""
    client = await world.visitor()
    responses = [world.know(await client.post("/sign-in"))]
    paths = ("/change", "/large", "/invalid", "/overtaken", "/crash")
    responses += [world.know(await client.post(path)) for path in paths]
    responses.append(await client.post("/change", headers={"origin": "https://evil.example"}))
    world.store.hook = failing("load")
    responses.append(await client.get("/"))
    world.store.hook = pass_on
    responses.append(await client.post("/destroy"))
    assert {response.status_code for response in responses} == {200, 403, 409, 500, 503}
    for response in responses:
        headers = [pair for pair in response.headers.items() if pair[0] != "set-cookie"]
        assert world.secrets.shown_by(response.text, headers) == []


async def test_openapi_shows_the_cookie_s_name_and_no_more(world):
    """The lock of the documentation."""
    await live(world)
    schema = (await browser(world.app).get("/openapi.json")).json()
    assert schema["components"]["securitySchemes"] == {
        "session": {"type": "apiKey", "in": "cookie", "name": COOKIE}
    }
    assert world.secrets.shown_by(json.dumps(schema)) == []


# errors


async def provoke(world: World, deed: Callable[[], Awaitable[Any]]) -> BaseException:
    """The one error that a deed ends in, over HTTP or out of it."""
    world.errors.clear()
    try:
        await deed()
    except Exception as error:
        return error
    (error,) = world.errors
    return error


def each_error(world: World, client: Any) -> dict[type[BaseException], Any]:
    """For each error class a way to meet it."""

    def post(path: str) -> Any:
        return lambda: client.post(path)

    async def unavailable() -> Any:
        world.store.hook = failing("save")
        try:
            return await client.post("/sign-in")
        finally:
            world.store.hook = pass_on

    async def closed() -> None:
        world.sessions[-1].renew()

    async def not_found() -> None:
        (listed,) = await world.get_session.sessions("42")
        await world.get_session.revoke(listed.key)
        async with world.get_session.open(listed.key):
            pass

    async def configuration() -> None:
        make_provider(secret_key=[SECRET, SECRET])

    return {
        SessionInvalid: post("/invalid"),
        SessionConflict: post("/overtaken"),
        SessionTooLarge: post("/large"),
        StoreUnavailable: unavailable,
        SessionClosed: closed,
        ConfigurationError: configuration,
        RuntimeError: post("/crash"),
        SessionNotFound: not_found,
    }


def chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def our_frames(error: BaseException) -> str:
    """A traceback with all locals of this package's frames, as error trackers keep it.

    Left out is what belongs to ASGI: ``scope`` holds the request's headers in every frame of
    every framework, and ``message`` those of the response.
    """
    told = traceback.TracebackException.from_exception(error, capture_locals=True, compact=True)
    lines = []
    for frame in told.stack:
        if Path(frame.filename).is_relative_to(PACKAGE):
            found = (frame.locals or {}).items()
            lines += [f"{name}={value}" for name, value in found if name not in ASGI]
    return "\n".join([*lines, *told.format_exception_only()])


ASGI = {"scope", "message"}


async def test_no_error_shows_a_secret(world):
    """Each class: its text, arguments, attributes, causes, and a traceback with locals."""
    client = await world.visitor()
    world.know(await client.post("/sign-in"))
    for expected, deed in each_error(world, client).items():
        error = await provoke(world, deed)
        assert type(error) is expected
        for each in chain(error):
            shown = [str(each), repr(each), each.args, vars(each)]
            if expected is not ConfigurationError:  # raised where the secret is handed in
                shown.append(our_frames(each))
            assert world.secrets.shown_by(*shown) == [], expected
            assert "xxxx" not in f"{each!s}{each!r}{each.args}{vars(each)}"
            text = "".join(traceback.format_exception(each))
            assert world.secrets.shown_by(text) == [], expected


async def test_an_error_of_the_library_is_chained_to_no_other(world):
    """Drivers' and validators' texts hold addresses and values: they are left behind."""
    client = await world.visitor()
    world.know(await client.post("/sign-in"))
    for expected, deed in each_error(world, client).items():
        error = await provoke(world, deed)
        links = [type(each) for each in chain(error)][1:]
        if issubclass(expected, SessionError):
            assert [link for link in links if not issubclass(link, SessionError)] == [], expected


@pytest.mark.parametrize(
    "secret_key",
    [
        "short-" + PASSWORD,
        PASSWORD.encode(),
        SecretStr(PASSWORD),
        [PASSWORD * 3, PASSWORD * 3],
        [PASSWORD * 3] * 6,
        "changeme" + PASSWORD * 2,
        PASSWORD + " " * 40,
    ],
    ids=range(7),
)
def test_a_weak_secret_is_refused_without_being_shown(secret_key):
    """The message names the rule and how to make a good one."""
    with pytest.raises(ConfigurationError) as raised:
        make_provider(secret_key=secret_key)
    assert PASSWORD not in f"{raised.value!r}{raised.value.__context__!r}"


async def test_a_store_s_password_is_shown_nowhere(caplog):
    """Not by a repr, an error, an event or a log, with a server that is not there."""
    caplog.set_level(logging.DEBUG)
    url = f"redis://user:{PASSWORD}@127.0.0.1:1/0"
    store = RedisStore.from_url(url)
    events: list[SessionEvent] = []
    get_session = make_provider(store, on_event=events.append)
    with pytest.raises(StoreUnavailable) as raised:
        await get_session.check()
    shown = [
        repr(store),
        str(store),
        repr(get_session.repository),
        repr(events),
        caplog.text,
        *(f"{each!r} {each} {each.args}" for each in chain(raised.value)),
        "".join(traceback.format_exception(raised.value)),
    ]
    assert [text for text in shown if PASSWORD in text] == []
    await store.aclose()


# objects


async def test_objects_show_no_secret(world):
    """``repr``, ``str``, ``format``, ``vars`` of what a program may print."""
    client = await world.visitor()
    value = world.know(await client.post("/sign-in")).cookies[COOKIE]
    get_session = world.get_session
    verified = get_session.verifier.verify([value.encode()])
    (listed,) = await get_session.sessions("42")
    things = [
        *(world.sessions[-1], get_session, get_session.verifier, get_session.cookie),
        *(get_session.repository, verified, verified.token, listed, get_session.required),
        *(get_session.signed_in(), world.store, world.store.inner, get_session.lifespan),
        *(await world.store.records()).values(),
    ]
    for thing in things:
        shown = [repr(thing), str(thing), f"{thing}", f"{thing!s:>200}", f"{[thing]}"]
        shown += [repr(getattr(thing, "__dict__", None))]
        assert world.secrets.shown_by(*shown) == [], type(thing)
    token = verified.token
    assert world.secrets.shown_by(f"{token!r} {token}", [token], {"token": token}) == []


def test_a_provider_that_could_not_be_built_can_be_shown():
    """An error tracker that prints the locals of a ``ConfigurationError`` meets it half made."""
    assert repr(SessionProvider.__new__(SessionProvider)) == "<SessionProvider None>"


async def test_what_holds_a_secret_cannot_be_pickled_or_copied(world):
    """A queue, a cache and a crash report do not get one."""
    client = await world.visitor()
    value = world.know(await client.post("/sign-in")).cookies[COOKIE]
    session, verifier = world.sessions[-1], world.get_session.verifier
    token = verifier.verify([value.encode()]).token
    for thing in (session, verifier, token, world.get_session):
        for take in (pickle.dumps, copy.deepcopy):
            with pytest.raises((TypeError, AttributeError)) as raised:
                take(thing)
            assert world.secrets.shown_by(str(raised.value)) == []
    for thing in (session, verifier, token):
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            copy.copy(thing)


async def test_what_can_be_pickled_holds_no_secret(world):
    """Events, listed sessions and errors may travel."""
    client = await world.visitor()
    world.know(await client.post("/sign-in"))
    (listed,) = await world.get_session.sessions("42")
    for thing in (world.events, listed, SessionTooLarge(2, 1), StoreUnavailable("away")):
        pickled = None
        try:
            pickled = pickle.dumps(thing)
        except (TypeError, AttributeError):
            continue
        assert world.secrets.shown_by(pickled.decode("latin-1")) == []


async def test_a_session_as_a_response_shows_its_data_and_nothing_else(world):
    """Who returns ``session.data`` returns the model; the session itself is no response."""
    site_session = Annotated[Session[Data], Depends(world.get_session)]

    @world.app.get("/itself", response_model=None)
    async def itself(session: site_session) -> Any:
        return session

    with pytest.raises(ConfigurationError, match=r"return session\.data"):

        @world.app.get("/model")
        async def model(session: site_session) -> Session[Data]:
            return session

    client = await world.visitor()
    response = world.know(await client.post("/sign-in"))
    assert response.json() == {"count": 2, "note": ""}
    response = await client.get("/itself")
    assert response.status_code == 500
    assert world.secrets.shown_by(response.text) == []


# what the source may not use


def modules() -> list[tuple[str, ast.Module]]:
    """Every file of the package."""
    return [
        (str(path.relative_to(PACKAGE)), ast.parse(path.read_text()))
        for path in sorted(PACKAGE.rglob("*.py"))
    ]


def imported(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def test_cryptography_is_somebody_else_s():
    """Signatures by itsdangerous, hashes by ``hashlib``, comparison by ``hmac.compare_digest``."""
    compared = []
    for name, tree in modules():
        names = imported(tree)
        assert "hmac" not in names or {n for n in names if n.startswith("hmac")} <= {
            "hmac",
            "hmac.compare_digest",
        }, name
        assert not any(module.startswith("cryptography") for module in names), name
        compared += [name] if "hmac.compare_digest" in names else []
        for node in ast.walk(tree):
            # ^ on numbers is what a cipher of one's own begins with
            assert not isinstance(node, ast.BitXor), name
    assert "_core/repository.py" in compared


def test_a_signature_is_hmac_sha256_under_a_key_of_its_own():
    """Computed here by the standard library alone: purpose, provider and cookie are in the key."""
    salt = b"".join(
        b"%d:%s" % (len(part), part)
        for part in (b"fastapi_async_sessions/v1", b"session", b"__Host-session")
    )
    text = Token(bytes(range(16)), bytes(range(32))).text()
    key = hmac.digest(SECRET.encode(), salt, "sha256")
    signature = base64.urlsafe_b64encode(hmac.digest(key, text, "sha256")).rstrip(b"=")
    value = b".".join([text, signature])
    verifier = make_provider().verifier
    assert verifier.sign(Token.parse(text)).encode() == value
    assert verifier.verify([value]).token.secret == bytes(range(32))


def test_no_weak_hash_protects_anything():
    """SHA-1 names Redis scripts, as Redis wants it, and nothing else; MD5 is nowhere."""
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text()
        assert "md5" not in source
        for line in source.splitlines():
            if re.search(r"\bsha1\(", line):
                assert "usedforsecurity=False" in line, path


def test_no_secret_has_a_default():
    """A provider without ``secret_key`` can't be written, and one is never made up."""
    with pytest.raises(TypeError, match="secret_key"):
        fastapi_async_sessions.SessionProvider(Data, store=MemoryStore())
    for name, tree in modules():
        environs = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and node.attr == "environ"
        ]
        assert environs == [], name


def test_nothing_caches_by_a_secret():
    """No ``lru_cache`` keeps tokens or cookies alive."""
    for name, tree in modules():
        assert {"functools.lru_cache", "functools.cache"}.isdisjoint(imported(tree)), name
