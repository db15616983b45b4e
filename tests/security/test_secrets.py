"""Nothing that opens a session leaks: not in an error, a log, a traceback, a repr or a pickle.

``Secrets`` knows every encoding of the contents of a cookie, and searches for them.
"""

import ast
import base64
import copy
import hashlib
import hmac
import json
import logging
import pickle
import re
import traceback
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from hypothesis import given
from hypothesis import strategies as st
from itsdangerous import Signer
from pydantic import BaseModel, SecretStr

import fastapi_async_sessions
from fastapi_async_sessions import (
    ConfigurationError,
    CookieConfig,
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
from fastapi_async_sessions._core.commit import Change, Committed
from fastapi_async_sessions._core.data import MergedData
from fastapi_async_sessions._core.encryption import Encryption
from fastapi_async_sessions._core.keys import Keyring, Mac
from fastapi_async_sessions._core.repository import Contents, LoadedSession, SessionRecord
from fastapi_async_sessions._core.tokens import Token
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.testing import FrozenClock

from ..apps import COOKIE, OLDER_SECRET, SECRET, browser, cookie_value, make_app, make_provider
from ..doubles import SpyStore, failing, pass_on

PACKAGE = Path(fastapi_async_sessions.__file__).parent
PASSWORD = "hunter2-and-a-half"


class Secrets:
    """The secrets of a test, in every encoding in which they could leak."""

    def __init__(self) -> None:
        self.encodings: set[str] = set()
        self.add(SECRET.encode())

    def add(self, secret: bytes) -> None:
        plain = secret.decode("latin-1")
        encoded = {base64.b64encode(secret), base64.urlsafe_b64encode(secret)}
        self.encodings |= {plain, repr(secret)[2:-1], secret.hex(), secret.hex().upper()}
        self.encodings |= {each.decode().rstrip("=") for each in encoded}

    def add_cookie(self, value: str, get_session: Any) -> str:
        """Add a signed cookie value and its parts."""
        text, _, signature = value.partition(".")
        token: Token = get_session.verifier.verify([value.encode()])[0].token
        self.encodings |= {value, text, signature}
        for part in (token.handle, token.secret, token.handle + token.secret):
            self.add(part)
        return value

    def shown_by(self, *things: object) -> list[str]:
        """Return the secrets found in strings, and in the repr of anything else."""
        texts = [thing if isinstance(thing, str) else repr(thing) for thing in things]
        return [each for each in self.encodings if any(each in text for text in texts)]


@pytest.fixture
def secrets() -> Secrets:
    return Secrets()


def test_the_search_finds_each_encoding(secrets):
    """Without this the other tests could not fail."""
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


class RecordingSite:
    """An application with a route for each success and failure; it keeps events and errors."""

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
        own_session = Annotated[Session[Data], Depends(self.get_session)]

        @app.get("/")
        async def read(session: own_session) -> dict[str, Any]:
            return {"data": session.data.model_dump(), "key": session.key}

        @app.post("/change")
        async def change(session: own_session) -> None:
            session.data.count += 1

        @app.post("/sign-in")
        async def sign_in(session: own_session) -> Any:
            self.sessions.append(session)
            session.renew(subject="42", persistent=True)
            session.data.count += 1
            await session.commit()
            session.renew()
            return session.data

        @app.post("/destroy")
        async def destroy(session: own_session) -> None:
            await session.destroy()

        @app.post("/large")
        async def large(session: own_session) -> None:
            session.renew(subject="42")
            session.data.note = "x" * 5000

        @app.post("/invalid")
        async def invalid(session: own_session) -> None:
            session.data.__dict__["count"] = "many"

        @app.post("/overtaken")
        async def overtaken(session: own_session) -> None:
            async with self.get_session.open(session.key) as other:
                other.data.count = 5
            session.data.count = 6

        @app.post("/crash")
        async def crash(session: own_session) -> None:
            session.renew(subject="42")
            raise RuntimeError("told to fail")

        @app.middleware("http")
        async def record_crash(request: Any, call_next: Any) -> Any:
            try:
                return await call_next(request)
            except Exception as error:
                self.errors.append(error)
                raise

        @app.exception_handler(SessionError)
        async def record_error(request: Any, error: Any) -> Any:
            self.errors.append(error)
            from fastapi.exception_handlers import http_exception_handler

            return await http_exception_handler(request, error)

        return app

    async def visitor(self) -> Any:
        """A browser with a session, whose cookie is among the secrets."""
        client = browser(self.app)
        self.learn(await client.post("/change"))
        return client

    def learn(self, response: Any) -> Any:
        if "set-cookie" in response.headers and "Max-Age=0" not in response.headers["set-cookie"]:
            self.secrets.add_cookie(cookie_value(response), self.get_session)
        return response


@pytest.fixture
def site(store, clock, secrets) -> RecordingSite:
    return RecordingSite(store, clock, secrets)


# every outcome, with every logger at DEBUG


@pytest.fixture
def every_logger(caplog) -> Iterator[Any]:
    """Sets every existing logger, and the root for later ones, to DEBUG."""
    caplog.set_level(logging.DEBUG)
    levels = {}
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger):
            levels[name] = logger.level
            logger.setLevel(logging.DEBUG)
    yield caplog
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


async def run_through(site: RecordingSite) -> None:
    """Run through everything that can happen to a session."""
    client = await site.visitor()
    for method, path in (
        ("GET", "/"),
        ("POST", "/sign-in"),
        ("POST", "/change"),
        ("POST", "/large"),
        ("POST", "/invalid"),
        ("POST", "/overtaken"),
        ("POST", "/crash"),
    ):
        site.learn(await client.request(method, path))
    site.clock.advance(timedelta(minutes=30))
    site.learn(await client.get("/"))
    value = client.cookies[COOKIE]
    for cookie in (value[:-1], value + "=", f"{value}; {COOKIE}={await other_cookie(site)}"):
        await browser(site.app).get("/", headers={"cookie": f"{COOKIE}={cookie}"})
    await client.post("/change", headers={"origin": "https://evil.example"})
    for verb in ("load", "save", "create", "delete"):
        site.store.hook = failing(verb)
        await client.get("/")
        await client.post("/sign-in")
        await client.post("/destroy")
    site.store.hook = pass_on
    await site.get_session.sessions("42")
    await site.get_session.revoke_all("42")
    await client.get("/")
    await client.post("/destroy")
    await site.get_session.check()


async def other_cookie(site: RecordingSite) -> str:
    return str((await site.visitor()).cookies[COOKIE])


async def test_no_logger_shows_a_secret(site, every_logger):
    """Loggers of the library, the driver, the client and asyncio are all at DEBUG."""
    await run_through(site)
    assert len(every_logger.records) > 20
    shown = [every_logger.text]
    for record in every_logger.records:
        shown += [record.getMessage(), repr(record.args), str(record.exc_text)]
    assert site.secrets.shown_by(*shown) == []


async def test_no_event_shows_a_secret(site):
    """This holds for each kind, and the session's data is not shown either."""
    await run_through(site)
    assert len({event.kind for event in site.events}) >= 9
    assert site.secrets.shown_by(*site.events) == []
    assert "xxxx" not in repr(site.events)


async def test_the_store_gets_no_secret(site):
    """No key, body, version or subject holds the handle or the secret, raw or encoded."""
    client = await site.visitor()
    site.learn(await client.post("/sign-in"))
    site.store.keys.extend(await site.store.records())
    assert len(await site.store.records()) == 1
    assert site.secrets.shown_by(*site.store.keys, *(await site.store.records()).values()) == []
    bodies = b"".join(record.body for record in (await site.store.records()).values())
    assert site.secrets.shown_by(bodies.decode("latin-1")) == []


async def test_redis_gets_no_secret(redis_url, redis_client, clock, secrets):
    """A dump of all keys and values opens no session."""
    redis = RedisStore.from_url(redis_url, clock=clock)
    site = RecordingSite(SpyStore(redis), clock, secrets)
    site.learn(await (await site.visitor()).post("/sign-in"))
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


async def test_no_response_shows_a_secret(site):
    """Only ``Set-Cookie`` holds one; bodies are the data of a route or the reason of an error."""
    client = await site.visitor()
    responses = [site.learn(await client.post("/sign-in"))]
    paths = ("/change", "/large", "/invalid", "/overtaken", "/crash")
    responses += [site.learn(await client.post(path)) for path in paths]
    responses.append(await client.post("/change", headers={"origin": "https://evil.example"}))
    site.store.hook = failing("load")
    responses.append(await client.get("/"))
    site.store.hook = pass_on
    responses.append(await client.post("/destroy"))
    assert {response.status_code for response in responses} == {200, 403, 409, 500, 503}
    for response in responses:
        headers = [pair for pair in response.headers.items() if pair[0] != "set-cookie"]
        assert site.secrets.shown_by(response.text, headers) == []


async def test_openapi_shows_only_the_name_of_the_cookie(site):
    """The security scheme has no other content."""
    await run_through(site)
    site.app.get("/required", dependencies=[Depends(site.get_session.required)])(lambda: None)
    schema = (await browser(site.app).get("/openapi.json")).json()
    assert schema["components"]["securitySchemes"] == {
        "session": {"type": "apiKey", "in": "cookie", "name": COOKIE}
    }
    assert site.secrets.shown_by(json.dumps(schema)) == []


# errors


async def provoke(site: RecordingSite, cause: Callable[[], Awaitable[Any]]) -> BaseException:
    """Return the one error raised by ``cause()``, or by the route that it requested."""
    site.errors.clear()
    try:
        await cause()
    except Exception as error:
        return error
    (error,) = site.errors
    return error


def each_error(site: RecordingSite, client: Any) -> dict[type[BaseException], Any]:
    """A function for each class of error that causes it."""

    def post(path: str) -> Any:
        return lambda: client.post(path)

    async def unavailable() -> Any:
        site.store.hook = failing("save")
        try:
            return await client.post("/sign-in")
        finally:
            site.store.hook = pass_on

    async def closed() -> None:
        site.sessions[-1].renew()

    async def not_found() -> None:
        (listed,) = await site.get_session.sessions("42")
        await site.get_session.revoke(listed.key)
        async with site.get_session.open(listed.key):
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

    ASGI's own variables are left out: ``scope`` holds the headers of the request in every frame
    of every framework, and ``message`` those of the response.
    """
    report = traceback.TracebackException.from_exception(error, capture_locals=True, compact=True)
    lines = []
    for frame in report.stack:
        if Path(frame.filename).is_relative_to(PACKAGE):
            found = (frame.locals or {}).items()
            lines += [f"{name}={value}" for name, value in found if name not in ASGI]
    return "\n".join([*lines, *report.format_exception_only()])


ASGI = {"scope", "message"}


async def test_no_error_shows_a_secret(site):
    """Neither text, arguments, attributes nor causes do, nor does a traceback with locals."""
    client = await site.visitor()
    site.learn(await client.post("/sign-in"))
    for expected, cause in each_error(site, client).items():
        error = await provoke(site, cause)
        assert type(error) is expected
        for each in chain(error):
            shown = [str(each), repr(each), each.args, vars(each)]
            if expected is not ConfigurationError:  # the caller's secret is an argument there
                shown.append(our_frames(each))
            assert site.secrets.shown_by(*shown) == [], expected
            assert "xxxx" not in f"{each!s}{each!r}{each.args}{vars(each)}"
            text = "".join(traceback.format_exception(each))
            assert site.secrets.shown_by(text) == [], expected


async def test_an_error_of_the_library_is_chained_to_no_other(site):
    """Errors of drivers and validators hold addresses and values, and are not chained."""
    client = await site.visitor()
    site.learn(await client.post("/sign-in"))
    for expected, cause in each_error(site, client).items():
        error = await provoke(site, cause)
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
def test_the_error_for_a_weak_secret_does_not_show_it(secret_key):
    """Neither its text nor its context does."""
    with pytest.raises(ConfigurationError) as raised:
        make_provider(secret_key=secret_key)
    assert PASSWORD not in f"{raised.value!r}{raised.value.__context__!r}"


async def test_the_password_of_a_store_is_never_shown(caplog):
    """With an unreachable server neither a repr, an error, an event nor the log shows it."""
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


async def test_objects_show_no_secret(site):
    """This holds for ``repr``, ``str``, ``format`` and ``__dict__``."""
    client = await site.visitor()
    value = site.learn(await client.post("/sign-in")).cookies[COOKIE]
    get_session = site.get_session
    (verified,) = get_session.verifier.verify([value.encode()])
    repository = get_session.repository
    (listed,) = await get_session.sessions("42")
    things = [
        *(site.sessions[-1], get_session, get_session.verifier, get_session.cookie),
        *(repository, repository.seal, repository.settings, repository.settings.keyring),
        *(verified, verified.token, listed, get_session.required),
        *(get_session.signed_in(), site.store, site.store.inner, get_session.lifespan),
        *(await site.store.records()).values(),
    ]
    for thing in things:
        shown = [repr(thing), str(thing), f"{thing}", f"{thing!s:>200}", f"{[thing]}"]
        shown += [repr(getattr(thing, "__dict__", None))]
        assert site.secrets.shown_by(*shown) == [], type(thing)
    token = verified.token
    assert site.secrets.shown_by(f"{token!r} {token}", [token], {"token": token}) == []


def test_a_half_built_provider_has_a_repr():
    """An error tracker prints the locals of a ``ConfigurationError``."""
    assert repr(SessionProvider.__new__(SessionProvider)) == "<SessionProvider None>"


# what pickle cannot handle is a PicklingError in its Python implementation, and since 3.14 in the
# C one too (https://github.com/python/cpython/issues/122311)
@pytest.mark.parametrize("take", [pickle.dumps, pickle._dumps, copy.copy, copy.deepcopy])
async def test_what_holds_a_secret_cannot_be_pickled_or_copied(site, take):
    """The library raises its own ``TypeError`` before pickle meets what it cannot handle."""
    client = await site.visitor()
    value = site.learn(await client.post("/sign-in")).cookies[COOKIE]
    session, verifier = site.sessions[-1], site.get_session.verifier
    token = verifier.verify([value.encode()])[0].token
    repository = site.get_session.repository
    derived = (repository.settings.keyring, repository.seal, Encryption([bytes(32)]))
    for thing in (session, verifier, token, site.get_session, *derived):
        for held in (thing, *([] if take is copy.copy else [[thing]])):
            with pytest.raises(TypeError, match="cannot be pickled or copied") as raised:
                take(held)
            # Python 3.14 adds notes that say what was being pickled
            notes = getattr(raised.value, "__notes__", [])
            assert site.secrets.shown_by(str(raised.value), *notes) == []


async def test_what_can_be_pickled_holds_no_secret(site):
    """Events, listed sessions and errors may be sent to another process."""
    client = await site.visitor()
    site.learn(await client.post("/sign-in"))
    (listed,) = await site.get_session.sessions("42")
    for thing in (site.events, listed, SessionTooLarge(2, 1), StoreUnavailable("away")):
        assert site.secrets.shown_by(pickle.dumps(thing).decode("latin-1")) == []


async def test_a_session_as_a_response_shows_its_data_and_nothing_else(site):
    """A route can return ``session.data``; returning the session itself is an error."""
    own_session = Annotated[Session[Data], Depends(site.get_session)]

    @site.app.get("/itself", response_model=None)
    async def itself(session: own_session) -> Any:
        return session

    with pytest.raises(ConfigurationError, match=r"return session\.data"):

        @site.app.get("/model")
        async def model(session: own_session) -> Session[Data]:
            return session

    client = await site.visitor()
    response = site.learn(await client.post("/sign-in"))
    assert response.json() == {"count": 2, "note": ""}
    response = await client.get("/itself")
    assert response.status_code == 500
    assert site.secrets.shown_by(response.text) == []


# rules for the source


@cache
def modules() -> list[tuple[str, ast.Module]]:
    """The path and the syntax tree of each file of the package."""
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


def test_no_cryptography_is_hand_written():
    """``hmac`` signs and seals, ``cryptography`` encrypts, ``hashlib`` hashes."""
    compared = []
    for name, tree in modules():
        names = imported(tree)
        allowed = {"hmac", "hmac.compare_digest"}
        if name == "_core/encryption.py":
            allowed.add("hmac.digest")
        of_hmac = {each for each in names if each.startswith("hmac")}
        assert of_hmac <= allowed, name
        assert (of_hmac == {"hmac"}) is (name == "_core/keys.py"), name  # imported as a whole
        encrypts = any(module.startswith("cryptography") for module in names)
        assert encrypts is (name == "_core/encryption.py"), name
        compared += [name] if "hmac.compare_digest" in names else []
        for node in ast.walk(tree):
            # a hand-written cipher needs the operator ^; the one here pads the key of an HMAC
            assert not isinstance(node, ast.BitXor) or name == "_core/keys.py", name
    assert compared == ["_core/repository.py", "_core/seal.py", "_web/verifier.py"]


@given(key=st.binary(min_size=1, max_size=64), messages=st.lists(st.binary(), min_size=2))
def test_a_mac_is_that_of_the_standard_library(key: bytes, messages: list[bytes]) -> None:
    """HMAC-SHA-256, for one message after another."""
    mac = Mac(key)
    for message in messages:
        assert mac(message) == hmac.digest(key, message, "sha256")


@pytest.mark.parametrize(
    ("cookie", "attributes"),
    [
        (CookieConfig(), (b"__Host-session", b"", b"/")),
        (CookieConfig(partitioned=True), (b"__Host-session", b"", b"/", b"partitioned")),
        (
            CookieConfig(domain="example.com", path="/a"),
            (b"__Secure-session", b"example.com", b"/a"),
        ),
    ],
)
def test_a_signature_is_hmac_sha256_under_a_derived_key(cookie, attributes):
    """The standard library gives the same one; the key depends on purpose, provider and cookie:
    its name, domain and path, and whether it is partitioned."""
    parts = (b"fastapi_async_sessions/v1", b"session", *attributes)
    salt = b"".join(b"%d:%s" % (len(part), part) for part in parts)
    text = Token(bytes(range(16)), bytes(range(32))).text()
    key = hmac.digest(SECRET.encode(), salt, "sha256")
    signature = base64.urlsafe_b64encode(hmac.digest(key, text, "sha256")).rstrip(b"=")
    value = b".".join([text, signature])
    verifier = make_provider(cookie=cookie).verifier
    assert verifier.sign(Token.parse(text)).encode() == value
    (verified,) = verifier.verify([value])
    assert verified.token.secret == bytes(range(32))


def test_itsdangerous_verifies_what_we_sign_and_we_verify_what_it_signs():
    """Cookies have its format, under every secret, so that another program can read them."""
    secrets = [SECRET, OLDER_SECRET]
    get_session = make_provider(secret_key=secrets)
    verifier, audience = get_session.verifier, get_session.cookie.audience
    keys = Keyring(secrets).derive(b"fastapi_async_sessions/v1", *audience)
    signers = [Signer(key, key_derivation="none", digest_method=hashlib.sha256) for key in keys]
    token = Token.issue()
    assert signers[0].unsign(verifier.sign(token)) == token.text()
    for signer in signers:
        (verified,) = verifier.verify([signer.sign(token.text())])
        assert verified.token.text() == token.text()


def test_no_weak_hash_is_used_for_security():
    """SHA-1 only names scripts, as Redis requires; MD5 is not used."""
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text()
        assert "md5" not in source
        for line in source.splitlines():
            if re.search(r"\bsha1\(", line):
                assert "usedforsecurity=False" in line, path


def test_no_secret_has_a_default():
    """``secret_key`` is required, and never generated or read from the environment."""
    with pytest.raises(TypeError, match="secret_key"):
        fastapi_async_sessions.SessionProvider(Data, store=MemoryStore())
    for name, tree in modules():
        environs = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and node.attr == "environ"
        ]
        assert environs == [], name


def test_no_secret_is_kept_in_a_cache():
    """Nor is a token: the only cache is that of the names under which stores know users."""
    caches = {"functools.lru_cache", "functools.cache"}
    found = [name for name, tree in modules() if caches & imported(tree)]
    assert found == ["_core/seal.py"]


def test_what_a_traceback_holds_shows_no_data():
    """Tools that report errors show the ``repr`` of local variables: of these, for a commit."""
    data, token = PASSWORD.encode(), Token.issue()
    record = SessionRecord("0" * 64, data, data, data, data)
    merged = MergedData(PASSWORD, data, data)
    change = Change(data, data, PASSWORD, token, PASSWORD, 0, 0, None)
    committed = Committed(record, data, token, "changed", merged)
    for thing in (
        record,
        merged,
        change,
        committed,
        Contents(PASSWORD, data),
        LoadedSession(record, bytes),
    ):
        assert PASSWORD not in repr(thing), type(thing)
