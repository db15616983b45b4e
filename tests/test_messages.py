"""The mistakes that a newcomer makes, and what is said: the cause, and the line to write instead.

Each test makes one mistake in the way it is made. What a message must hold stands in full, so that
this page reads as the list of all of them.
"""

import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel

from fastapi_async_sessions import (
    ConfigurationError,
    MemoryStore,
    Session,
    SessionClosed,
    SessionProvider,
)
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.stores.sql import SQLStore

from .apps import SECRET, Data, browser, call, make_app, make_provider

README = (Path(__file__).parents[1] / "README.md").read_text()

WRITE_DEPENDS = "write session: Session[UserData] = Depends(get_session)"
WRITE_PARENTHESES = "write Depends(get_session.signed_in()), with parentheses"
MAKE_A_SECRET = 'Make one with: python -c "import secrets; print(secrets.token_urlsafe(32))"'


def says(*parts: str) -> str:
    """A pattern for ``match=``: these texts, in this order."""
    return "(?s)" + ".*".join(map(re.escape, parts))


# the provider


@pytest.mark.parametrize(
    ("secret", "cause"),
    [
        ("secret", "secret_key is shorter than 32 bytes"),
        (None, "secret_key takes str, bytes or SecretStr"),
        ("changeme" * 4, "secret_key repeats a few characters"),
        ("your-secret-key-goes-here-0123456789", "secret_key is a sample from documentation"),
    ],
)
def test_a_weak_secret(secret: Any, cause: str) -> None:
    """Told when the provider is built, with the command that makes a good one."""
    with pytest.raises(ConfigurationError, match=says(cause, MAKE_A_SECRET)):
        SessionProvider(Data, store=MemoryStore(), secret_key=secret)


def test_a_model_without_defaults() -> None:
    """It names the fields, and why a new session needs them filled."""

    class UserData(BaseModel):
        name: str
        age: int
        cart: list[str] = []

    with pytest.raises(
        ConfigurationError,
        match=says(
            "a new session begins as UserData()",
            "each field needs a default",
            "name, age",
        ),
    ):
        make_provider(model=UserData)


@pytest.mark.parametrize("model", [dict, {"count": 0}, Data()])
def test_a_model_that_is_none(model: Any) -> None:
    """A dict, or an instance where the class belongs."""
    with pytest.raises(ConfigurationError, match=says("a class derived from pydantic.BaseModel")):
        make_provider(model=model)


@pytest.mark.parametrize("store", [MemoryStore, "redis://localhost", None])
def test_a_store_that_is_none(store: Any) -> None:
    """The class without parentheses, an address, or nothing."""
    with pytest.raises(ConfigurationError, match=says("takes a Store, such as MemoryStore()")):
        SessionProvider(Data, store=store, secret_key=SECRET)


def test_an_address_where_a_client_belongs() -> None:
    """The stores take what you made; for an address there is another line."""
    with pytest.raises(ConfigurationError, match=says("write RedisStore.from_url(...)")):
        RedisStore("redis://localhost")
    with pytest.raises(ConfigurationError, match=says("write SQLStore.from_url(...)")):
        SQLStore("sqlite+aiosqlite:///sessions.db")


@pytest.mark.parametrize("url", ["sqlite:///sessions.db", "postgresql://app:hunter2@db/app"])
def test_a_url_with_a_driver_that_is_not_async(url: str) -> None:
    """It names the two that are, and shows no password."""
    with pytest.raises(
        ConfigurationError,
        match=says("sqlite+aiosqlite://...", "postgresql+asyncpg://...", "another driver"),
    ) as raised:
        SQLStore.from_url(url)
    assert "hunter2" not in str(raised.value)


def test_two_providers_of_one_name_in_one_store() -> None:
    """Told when the second is built, with another name for it."""
    store = MemoryStore()
    make_provider(store)
    with pytest.raises(
        ConfigurationError,
        match=says("already serves a provider named 'session'", 'SessionProvider(..., name="'),
    ):
        make_provider(store)


ONE_COOKIE = says("two providers use the cookie __Host-session", 'SessionProvider(..., name="')


async def test_two_providers_of_one_name_with_a_store_each() -> None:
    """No store sees it: the application does when it starts, on whatever routes they are."""
    get_session, get_staff_session = make_provider(), make_provider()
    app = make_app()
    app.get("/", dependencies=[Depends(get_session)])(lambda: None)
    app.get("/staff", dependencies=[Depends(get_staff_session.signed_in())])(lambda: None)
    with pytest.raises(ConfigurationError, match=ONE_COOKIE):
        async with get_session.lifespan(app):
            pass


async def test_two_providers_of_one_name_in_one_request() -> None:
    """The same without the lifespan, at the first request that asks both."""
    app = make_app()
    both = [Depends(make_provider()), Depends(make_provider())]
    app.get("/", dependencies=both)(lambda: None)
    with pytest.raises(ConfigurationError, match=ONE_COOKIE):
        await call(app)


# the route


NO_SESSION_ROUTE = says(
    "the route /shop/cart",
    "cart) uses a session but is not a SessionRoute",
    "write APIRouter(route_class=SessionRoute)",
    "app.router.route_class = SessionRoute before they are added",
)


def on_a_plain_router(get_session: Any) -> FastAPI:
    app, router = make_app(), APIRouter(prefix="/shop")

    @router.get("/cart")
    async def cart(session: Session[Data] = Depends(get_session)) -> int:
        return session.data.count

    app.include_router(router)
    return app


async def test_a_route_that_is_no_session_route() -> None:
    """The application does not start: path, function, and the line for either kind of router."""
    get_session = make_provider()
    with pytest.raises(ConfigurationError, match=NO_SESSION_ROUTE):
        async with get_session.lifespan(on_a_plain_router(get_session)):
            pass


async def test_a_route_that_is_no_session_route_without_the_lifespan() -> None:
    """The first request says the same."""
    with pytest.raises(ConfigurationError, match=NO_SESSION_ROUTE):
        await call(on_a_plain_router(make_provider()), "/shop/cart")


def without_depends(app: FastAPI, get_session: Any) -> None:
    @app.get("/")
    async def home(session: Session[Data]) -> int:
        return session.data.count


def provider_as_the_default(app: FastAPI, get_session: Any) -> None:
    @app.get("/")
    async def home(session: Session[Data] = get_session) -> int:
        return session.data.count


def provider_as_the_annotation(app: FastAPI, get_session: Any) -> None:
    @app.get("/")
    async def home(session: Annotated[Session[Data], get_session]) -> int:
        return session.data.count


def class_of_the_provider(app: FastAPI, get_session: Any) -> None:
    @app.get("/")
    async def home(session: Session[Data] = Depends(SessionProvider)) -> int:
        return session.data.count


def class_of_the_session(app: FastAPI, get_session: Any) -> None:
    @app.get("/")
    async def home(session: Session[Data] = Depends(Session)) -> int:
        return session.data.count


def session_as_the_answer(app: FastAPI, get_session: Any) -> None:
    @app.get("/")
    async def home(session: Session[Data] = Depends(get_session)) -> Session[Data]:
        return session


def signed_in_without_parentheses(app: FastAPI, get_session: Any) -> None:
    @app.get("/")
    async def home(session: Session[Data] = Depends(get_session.signed_in)) -> int:
        return session.data.count


def signed_in_without_parentheses_on_a_route(app: FastAPI, get_session: Any) -> None:
    app.get("/", dependencies=[Depends(get_session.signed_in)])(lambda: "for members only")


def signed_in_without_parentheses_on_a_router(app: FastAPI, get_session: Any) -> None:
    router = APIRouter(dependencies=[Depends(get_session.signed_in)])
    router.get("/")(lambda: "for members only")
    app.include_router(router)


@pytest.mark.parametrize(
    ("mistake", "line"),
    [
        (without_depends, WRITE_DEPENDS),
        (provider_as_the_default, WRITE_DEPENDS),
        (provider_as_the_annotation, WRITE_DEPENDS),
        (class_of_the_provider, WRITE_DEPENDS),
        (class_of_the_session, WRITE_DEPENDS),
        (session_as_the_answer, "return session.data"),
        (signed_in_without_parentheses, WRITE_PARENTHESES),
        (signed_in_without_parentheses_on_a_route, WRITE_PARENTHESES),
        (signed_in_without_parentheses_on_a_router, WRITE_PARENTHESES),
    ],
)
def test_depends_on_the_wrong_thing(mistake: Callable[[FastAPI, Any], None], line: str) -> None:
    """Told where the route is written. Without parentheses ``signed_in`` would let everybody in."""
    with pytest.raises(ConfigurationError, match=says(line)):
        mistake(make_app(), make_provider())


@pytest.mark.parametrize("depends", [Depends(), Depends(Session[Data])])
async def test_depends_on_the_session_itself(depends: Any) -> None:
    """FastAPI would look for the session's arguments in the query; the application does not
    start."""
    app = make_app()

    @app.get("/")
    async def home(session: Session[Data] = depends) -> int:
        return session.data.count

    with pytest.raises(ConfigurationError, match=says(WRITE_DEPENDS)):
        async with make_provider().lifespan(app):
            pass


def test_a_provider_that_is_called() -> None:
    """Python's own words, in the line that makes the mistake: it takes a connection."""
    with pytest.raises(TypeError, match=says("SessionProvider.__call__()", "'connection'")):
        Depends(make_provider()())


@pytest.mark.parametrize("within", [5, "5 minutes"])
def test_a_step_up_within_no_timedelta(within: Any) -> None:
    """It would fail only for who is signed in; it is told where it is written."""
    with pytest.raises(ConfigurationError, match=says("signed_in(within=...) takes a timedelta")):
        make_provider().signed_in(within=within)


# the request is over

DO_IT_BEFORE = says(
    "the session was committed when the route returned",
    "Do it before, or use get_session.open(key) in a stream or background task",
)


@pytest.mark.parametrize("deed", ["renew", "destroy", "commit", "reload", "assign data"])
async def test_a_session_used_after_the_response(deed: str) -> None:
    """In a background task it can only be read: the error says when, and what to use there."""
    get_session = make_provider()
    app = make_app()
    errors: list[SessionClosed] = []

    async def later(session: Session[Data]) -> None:
        try:
            if deed == "assign data":
                session.data = Data(count=2)
            else:
                result = getattr(session, deed)()
                if result is not None:
                    await result
        except SessionClosed as error:
            errors.append(error)

    @app.get("/")
    async def home(tasks: BackgroundTasks, session: Session[Data] = Depends(get_session)) -> None:
        tasks.add_task(later, session)

    await call(app)
    (error,) = errors
    assert str(error).startswith(f"cannot {deed}: ")
    assert re.search(DO_IT_BEFORE, str(error))


async def test_data_changed_after_the_response(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing can raise there, so the log tells of the lost change, and what to use."""
    get_session = make_provider()
    app = make_app()

    def later(session: Session[Data]) -> None:
        session.data.count += 1

    @app.get("/")
    async def home(tasks: BackgroundTasks, session: Session[Data] = Depends(get_session)) -> None:
        tasks.add_task(later, session)

    await call(app)
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert re.search(
        says(
            "was changed after the response had begun: that change is lost",
            "use get_session.open(key) in a stream or background task",
        ),
        record.getMessage(),
    )


# http, and the way to a store


def counting_app() -> FastAPI:
    get_session = make_provider()
    app = make_app()

    @app.get("/")
    async def count(session: Session[Data] = Depends(get_session)) -> int:
        session.data.count += 1
        return session.data.count

    return app


def test_a_test_client_on_http() -> None:
    """The client would drop the cookie without a word: the warning has the line to write."""
    with pytest.warns(
        UserWarning,
        match=says("drops Secure cookies", 'TestClient(app, base_url="https://testserver")'),
    ):
        TestClient(counting_app()).get("/")


async def test_an_async_test_client_on_http() -> None:
    """The same under the name that FastAPI's documentation uses in async tests."""
    transport = httpx.ASGITransport(counting_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        with pytest.warns(UserWarning, match=says('base_url="https://test"')):
            await client.get("/")


def test_a_secure_cookie_on_http_elsewhere() -> None:
    """A server cannot see what a browser drops: the manual says it where it explains ``secure``."""
    (row,) = re.findall(r"^\| `secure` \|.*$", README, re.MULTILINE)
    assert re.search(says("http://", "drop a `Secure` cookie", "each request begins a new"), row)


@pytest.mark.parametrize(
    ("store", "library", "extra"),
    [
        ("redis", "redis", "redis"),
        ("sql", "sqlalchemy", "sql"),
        ("http", "httpx", "http"),
    ],
)
def test_a_missing_extra(store: str, library: str, extra: str) -> None:
    """Importing the store says what to install, and nothing of how the import failed inside."""
    program = (
        f"import sys; sys.modules[{library!r}] = None; import fastapi_async_sessions.stores.{store}"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    last_line = run.stderr.strip().splitlines()[-1]
    assert re.search(
        says("ConfigurationError", "needs", f'pip install "fastapi_async_sessions[{extra}]"'),
        last_line,
    )


def test_a_missing_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLAlchemy is there and the driver of this URL is not: it is named."""
    monkeypatch.setitem(sys.modules, "aiosqlite", None)
    with pytest.raises(
        ConfigurationError,
        match=says("is not installed", 'pip install "fastapi_async_sessions[sql]"'),
    ):
        SQLStore.from_url("sqlite+aiosqlite:///sessions.db")


async def test_a_table_that_nobody_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """``create_table=True`` without the lifespan: the client gets a 503, the log both lines."""
    store = SQLStore.from_url(f"sqlite+aiosqlite:///{tmp_path}/sessions.db", create_table=True)
    get_session = make_provider(store)
    app = make_app()

    @app.get("/")
    async def home(session: Session[Data] = Depends(get_session)) -> None:
        session.data.count += 1

    async with browser(app) as client:
        response = await client.get("/")
    await store.aclose()
    assert response.status_code == 503
    assert re.search(
        says(
            "the table 'sessions' is missing",
            "create_table=True",
            "FastAPI(lifespan=get_session.lifespan)",
        ),
        caplog.text,
    )


# more than one worker

SERVERS = [
    ("", "uvicorn app:app --workers 2", True),
    ("", "uvicorn app:app --workers=4 --port 80", True),
    ("", "fastapi run --workers 2", True),
    ("", "gunicorn -w 4 -k uvicorn.workers.UvicornWorker app:app", True),
    ("3", "uvicorn app:app", True),
    ("", "uvicorn app:app", False),
    ("", "uvicorn app:app --reload", False),
    ("", "uvicorn app:app --workers 1", False),
    ("3", "uvicorn app:app --workers 1", False),
    ("many", "uvicorn app:app", False),
]


@pytest.mark.parametrize(("web_concurrency", "command", "is_told"), SERVERS)
async def test_memory_store_with_several_workers(
    web_concurrency: str,
    command: str,
    is_told: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log of each says at its start what will happen, and what to use; one worker alone, with
    reload or without, hears nothing."""
    monkeypatch.setenv("WEB_CONCURRENCY", web_concurrency)
    monkeypatch.setattr(sys, "argv", command.split())

    async with make_provider().lifespan(make_app()):
        pass

    told = says(
        "MemoryStore is for one process",
        "signed out at random",
        "Run one worker, or use RedisStore or SQLStore",
    )
    assert (re.search(told, caplog.text) is not None) is is_told
