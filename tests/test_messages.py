"""Error messages for a newcomer's mistakes: each names the cause and the line to write instead.

Each test makes one mistake the way a user would. The expected texts are written out, so that this
file reads as a list of all messages.
"""

import importlib
import logging
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

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
    SessionConflict,
    SessionError,
    SessionInvalid,
    SessionNotFound,
    SessionProvider,
    SessionTooLarge,
    SignedInSession,
    SignInRequired,
    StoreUnavailable,
    errors,
)
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.stores.sql import SQLStore

from .apps import SECRET, Data, Line, browser, call, make_app, make_provider

GUIDE = (Path(__file__).parents[1] / "examples/README.md").read_text()

WRITE_DEPENDS = "write session: Session[UserData] = Depends(get_session)"
WRITE_PARENTHESES = "write Depends(get_session.signed_in()), with parentheses"
MAKE_A_SECRET = 'Make one with: python -c "import secrets; print(secrets.token_urlsafe(32))"'


def in_order(*parts: str) -> str:
    """A pattern for ``match=``: these texts in this order."""
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
    """The error comes when the provider is built, with the command that makes a good secret."""
    with pytest.raises(ConfigurationError, match=in_order(cause, MAKE_A_SECRET)):
        SessionProvider(Data, store=MemoryStore(), secret_key=secret)


def test_a_model_without_defaults() -> None:
    """The error names the fields and says why a new session needs defaults."""

    class UserData(BaseModel):
        name: str
        age: int
        cart: list[str] = []

    with pytest.raises(
        ConfigurationError,
        match=in_order(
            "a new session begins as UserData()",
            "each field needs a default",
            "name, age",
        ),
    ):
        make_provider(model=UserData)


@pytest.mark.parametrize("model", [dict, {"count": 0}, Data()])
def test_a_model_that_is_not_a_class(model: Any) -> None:
    """Neither a dict nor an instance is a model."""
    with pytest.raises(
        ConfigurationError, match=in_order("a class derived from pydantic.BaseModel")
    ):
        make_provider(model=model)


@pytest.mark.parametrize("store", [MemoryStore, "redis://localhost", None])
def test_a_store_that_is_not_a_store(store: Any) -> None:
    """Given are the class without parentheses, a URL, and ``None``."""
    with pytest.raises(ConfigurationError, match=in_order("takes a Store, such as MemoryStore()")):
        SessionProvider(Data, store=store, secret_key=SECRET)


def test_a_url_where_a_client_belongs() -> None:
    """Stores take a client or an engine; for a URL they have ``from_url``."""
    with pytest.raises(ConfigurationError, match=in_order("write RedisStore.from_url(...)")):
        RedisStore("redis://localhost")
    with pytest.raises(ConfigurationError, match=in_order("write SQLStore.from_url(...)")):
        SQLStore("sqlite+aiosqlite:///sessions.db")


@pytest.mark.parametrize(
    ("url", "drivers"),
    [
        ("sqlite:///sessions.db", ["sqlite+aiosqlite:///..."]),
        (
            "postgresql://app:hunter2@db/app",
            ["postgresql+asyncpg://...", "postgresql+psycopg://..."],
        ),
    ],
)
def test_a_url_with_a_driver_that_is_not_async(url: str, drivers: list[str]) -> None:
    """The error names the drivers that work, and does not show the password."""
    with pytest.raises(
        ConfigurationError, match=in_order(*drivers, "an asynchronous driver")
    ) as raised:
        SQLStore.from_url(url)
    assert "hunter2" not in str(raised.value)


def test_two_models_of_one_name_in_one_store() -> None:
    """The error comes when the second is built, and shows how to give it another name."""
    store = MemoryStore()
    living = make_provider(store)
    with pytest.raises(
        ConfigurationError,
        match=in_order("already serves a provider named 'session'", 'SessionProvider(..., name="'),
    ):
        make_provider(store, Line)
    del living


ONE_COOKIE = in_order("two providers use the cookie __Host-session", 'SessionProvider(..., name="')


async def test_two_providers_of_one_name_with_a_store_each() -> None:
    """No store can notice; the application fails to start, wherever the two are used."""
    get_session, get_staff_session = make_provider(), make_provider()
    app = make_app()
    app.get("/", dependencies=[Depends(get_session)])(lambda: None)
    app.get("/staff", dependencies=[Depends(get_staff_session.signed_in())])(lambda: None)
    with pytest.raises(ConfigurationError, match=ONE_COOKIE):
        async with get_session.lifespan(app):
            pass


async def test_two_providers_of_one_name_in_one_request() -> None:
    """Without the lifespan the first request that uses both fails."""
    app = make_app()
    both = [Depends(make_provider()), Depends(make_provider())]
    app.get("/", dependencies=both)(lambda: None)
    with pytest.raises(ConfigurationError, match=ONE_COOKIE):
        await call(app)


# the route


NO_SESSION_ROUTE = in_order(
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


async def test_a_plain_route_with_the_lifespan() -> None:
    """The application does not start: the error has path, function and the line to write."""
    get_session = make_provider()
    with pytest.raises(ConfigurationError, match=NO_SESSION_ROUTE):
        async with get_session.lifespan(on_a_plain_router(get_session)):
            pass


async def test_a_plain_route_without_the_lifespan() -> None:
    """The first request fails with the same message."""
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


def provider_for_an_annotation(app: FastAPI, get_session: Any) -> None:
    @app.get("/")
    async def home(session: get_session) -> int:
        return session.data.count


def requirement_for_an_annotation(app: FastAPI, get_session: Any) -> None:
    @app.get("/")
    async def home(session: get_session.signed_in()) -> int:
        return session.data.count


def class_of_the_provider(app: FastAPI, get_session: Any) -> None:
    @app.get("/")
    async def home(session: Session[Data] = Depends(SessionProvider)) -> int:
        return session.data.count


def class_of_the_session(app: FastAPI, get_session: Any) -> None:
    @app.get("/")
    async def home(session: Session[Data] = Depends(Session)) -> int:
        return session.data.count


def session_as_the_return_type(app: FastAPI, get_session: Any) -> None:
    @app.get("/")
    async def home(session: Session[Data] = Depends(get_session)) -> Session[Data]:
        return session


def peek_as_a_dependency(app: FastAPI, get_session: Any) -> None:
    @app.get("/")
    async def home(stored: Any = Depends(get_session.peek)) -> None: ...


def open_as_a_dependency(app: FastAPI, get_session: Any) -> None:
    @app.get("/")
    async def home(session: Any = Depends(get_session.open)) -> None: ...


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
        (provider_for_an_annotation, WRITE_DEPENDS),
        (requirement_for_an_annotation, WRITE_DEPENDS),
        (class_of_the_provider, WRITE_DEPENDS),
        (class_of_the_session, WRITE_DEPENDS),
        (session_as_the_return_type, "return session.data"),
        (peek_as_a_dependency, "write async with get_session.open(key) as session"),
        (open_as_a_dependency, "await get_session.peek(request), in the route"),
        (signed_in_without_parentheses, WRITE_PARENTHESES),
        (signed_in_without_parentheses_on_a_route, WRITE_PARENTHESES),
        (signed_in_without_parentheses_on_a_router, WRITE_PARENTHESES),
    ],
)
def test_depends_on_the_wrong_thing(mistake: Callable[[FastAPI, Any], None], line: str) -> None:
    """The error comes when the route is added; ``signed_in`` by itself would let everybody in."""
    with pytest.raises(ConfigurationError, match=in_order(line)):
        mistake(make_app(), make_provider())


@pytest.mark.parametrize("depends", [Depends(), Depends(Session[Data])], ids=["nothing", "Session"])
async def test_depends_on_the_session_itself(depends: Any) -> None:
    """FastAPI would read the session's arguments from the query string: the application does
    not start."""
    app = make_app()

    @app.get("/")
    async def home(session: Session[Data] = depends) -> int:
        return session.data.count

    with pytest.raises(ConfigurationError, match=in_order(WRITE_DEPENDS)):
        async with make_provider().lifespan(app):
            pass


@pytest.mark.parametrize(
    "mistake",
    [
        lambda get_session: Depends(get_session()),
        lambda get_session: get_session(make_app()),
        lambda get_session: FastAPI(lifespan=get_session).router.lifespan_context(make_app()),
    ],
    ids=["nothing", "application", "lifespan"],
)
def test_calling_the_provider(mistake: Callable[[Any], Any]) -> None:
    """The error comes in the line with the mistake, not where the result is awaited."""
    with pytest.raises(
        TypeError,
        match=in_order(
            "get_session takes a request or a websocket",
            WRITE_DEPENDS,
            "await get_session(request)",
            "FastAPI(lifespan=get_session.lifespan)",
        ),
    ):
        mistake(make_provider())


Item = TypeVar("Item")


class Other(BaseModel):
    count: int = 0


@pytest.mark.parametrize("guard", ["any", "required", "signed_in"])
@pytest.mark.parametrize("place", ["route", "dependency", "class"])
async def test_the_provider_of_another_model(guard: str, place: str) -> None:
    """A type checker cannot know what ``Depends`` gives: the application does not start."""
    get_session = make_provider()
    depends = {
        "any": get_session,
        "required": get_session.required,
        "signed_in": get_session.signed_in(),
    }[guard]
    app = make_app()

    async def dependency(session: Annotated[Session[Other], Depends(depends)]) -> int:
        return session.data.count

    class Service:
        def __init__(self, session: "SignedInSession[Other]" = Depends(depends)) -> None:
            self.count = session.data.count

    calls: dict[str, Any] = {"dependency": dependency, "class": Service}
    if place == "route":
        app.get("/admin")(dependency)
    else:
        app.get("/admin", dependencies=[Depends(calls[place])])(lambda: None)
    with pytest.raises(
        ConfigurationError,
        match=in_order(
            "the route /admin",
            "declares a Session[Other] but depends on the provider of Data",
            "write Session[Data], or Depends(...) with the provider of Other",
        ),
    ):
        async with get_session.lifespan(app):
            pass


class Derived(Data):
    more: int = 0


@pytest.mark.parametrize(
    "annotation", [Session[Data], Session[Derived], Session[Any], Session, Any]
)
async def test_annotations_of_the_providers_model(annotation: Any) -> None:
    """A base class of the model will do, and so does an annotation that names none."""
    get_session = make_provider(model=Derived)
    app = make_app()

    @app.get("/")
    async def home(session: annotation = Depends(get_session)) -> None: ...

    async with get_session.lifespan(app):
        pass


class Page(BaseModel, Generic[Item]):
    items: list[Item] = []


@pytest.mark.parametrize(
    "annotation", [Session[Page[int]], Session[Page[Any]], Session[Page], Session[BaseModel]]
)
async def test_annotations_of_a_generic_model(annotation: Any) -> None:
    """Any will do for a parameter, as it does for a type checker."""
    get_session = make_provider(model=Page[int])
    app = make_app()

    @app.get("/")
    async def home(session: annotation = Depends(get_session)) -> None: ...

    async with get_session.lifespan(app):
        pass


# the session in a route

IN_SESSION_DATA = in_order("the data is in session.data", "session.renew(subject=...)")


def read_an_attribute(session: Any) -> Any:
    return session.count


def set_an_attribute(session: Any) -> None:
    session.count = 1


def set_the_subject(session: Any) -> None:
    session.subject = "ada"


def read_an_item(session: Any) -> Any:
    return session["count"]


def set_an_item(session: Any) -> None:
    session["count"] = 1


@pytest.mark.parametrize(
    ("mistake", "error"),
    [
        (read_an_attribute, AttributeError),
        (set_an_attribute, AttributeError),
        (set_the_subject, AttributeError),
        (read_an_item, TypeError),
        (set_an_item, TypeError),
    ],
)
async def test_the_session_for_its_data(
    mistake: Callable[[Any], Any], error: type[Exception]
) -> None:
    """As the sessions of Starlette and Flask are used."""
    get_session = make_provider()
    app = make_app()

    @app.get("/")
    async def home(session: Annotated[Session[Data], Depends(get_session)]) -> None:
        mistake(session)

    with pytest.raises(error, match=IN_SESSION_DATA):
        await call(app)


@pytest.mark.parametrize("result", [lambda session: session, lambda session: {"session": session}])
async def test_returning_the_session(result: Callable[[Any], Any]) -> None:
    """FastAPI tries to make a dict of it, and its error has the line."""
    get_session = make_provider()
    app = make_app()

    @app.get("/")
    async def home(session: Annotated[Session[Data], Depends(get_session)]):
        return result(session)

    with pytest.raises(ValueError, match=in_order("return session.data")):
        await call(app)


@pytest.mark.parametrize("within", [5, "5 minutes"])
def test_signed_in_within_takes_a_timedelta(within: Any) -> None:
    """The error comes when the route is written, not when the first signed-in user requests it."""
    with pytest.raises(
        ConfigurationError, match=in_order("signed_in(within=...) takes a timedelta")
    ):
        make_provider().signed_in(within=within)


# after the request

DO_IT_BEFORE = in_order(
    "the session was committed when the route returned",
    "Do it before, or use get_session.open(key) in a stream or background task",
)


@pytest.mark.parametrize("action", ["renew", "destroy", "commit", "reload", "assign data"])
async def test_a_session_used_after_the_response(action: str) -> None:
    """A background task can only read it; the error says when it was committed and what to use."""
    get_session = make_provider()
    app = make_app()
    errors: list[SessionClosed] = []

    async def later(session: Session[Data]) -> None:
        try:
            if action == "assign data":
                session.data = Data(count=2)
            else:
                result = getattr(session, action)()
                if result is not None:
                    await result
        except SessionClosed as error:
            errors.append(error)

    @app.get("/")
    async def home(tasks: BackgroundTasks, session: Session[Data] = Depends(get_session)) -> None:
        tasks.add_task(later, session)

    await call(app)
    (error,) = errors
    assert str(error).startswith(f"cannot {action}: ")
    assert re.search(DO_IT_BEFORE, str(error))


@pytest.mark.parametrize("count", [1, "many"])
async def test_data_changed_after_the_response(
    caplog: pytest.LogCaptureFixture, count: int | str
) -> None:
    """Nothing can be raised there, so the log reports the lost change and what to use.

    A value that could not have been stored is reported as well.
    """
    get_session = make_provider()
    app = make_app()

    def later(session: Session[Data]) -> None:
        session.data.__dict__["count"] = count

    @app.get("/")
    async def home(tasks: BackgroundTasks, session: Session[Data] = Depends(get_session)) -> None:
        tasks.add_task(later, session)

    await call(app)
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert re.search(
        in_order(
            "(provider 'session') was changed after the response had begun: that change is lost",
            "use get_session.open(key) in a stream or background task",
        ),
        record.getMessage(),
    )


# plain HTTP, missing libraries and tables


def counting_app() -> FastAPI:
    get_session = make_provider()
    app = make_app()

    @app.get("/")
    async def count(session: Session[Data] = Depends(get_session)) -> int:
        session.data.count += 1
        return session.data.count

    return app


def test_a_test_client_on_http() -> None:
    """The client would silently drop the cookie; the warning has the line to write."""
    with pytest.warns(
        UserWarning,
        match=in_order("drops Secure cookies", 'TestClient(app, base_url="https://testserver")'),
    ):
        TestClient(counting_app()).get("/")


async def test_an_async_test_client_on_http() -> None:
    """FastAPI's documentation uses the base URL ``http://test`` in async tests."""
    transport = httpx.ASGITransport(counting_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        with pytest.warns(UserWarning, match=in_order('base_url="https://test"')):
            await client.get("/")


def test_a_secure_cookie_on_http_elsewhere() -> None:
    """A server cannot see what a browser drops; the guide explains it at ``secure``."""
    (row,) = re.findall(r"^\| `secure` \|.*$", GUIDE, re.MULTILINE)
    assert re.search(
        in_order("http://", "drop a `Secure` cookie", "each request begins a new"), row
    )


@pytest.mark.parametrize(
    ("store", "library", "extra"),
    [
        ("redis", "redis", "redis"),
        ("sql", "sqlalchemy", "sql"),
        ("http", "httpx", "http"),
    ],
)
def test_a_missing_extra(
    store: str, library: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importing the store names the extra to install, and hides how the import failed."""
    module = f"fastapi_async_sessions.stores.{store}"
    monkeypatch.delitem(sys.modules, module, raising=False)
    imported = [name for name in sys.modules if name.startswith(f"{library}.")]
    for name in (library, *imported):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        ConfigurationError,
        match=in_order("needs", f'pip install "fastapi_async_sessions[{extra}]"'),
    ) as raised:
        importlib.import_module(module)
    assert raised.value.__suppress_context__


def test_a_missing_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLAlchemy is installed and the driver of this URL is not; the error names the extra."""
    monkeypatch.setitem(sys.modules, "aiosqlite", None)
    with pytest.raises(
        ConfigurationError,
        match=in_order("is not installed", 'pip install "fastapi_async_sessions[sql]"'),
    ):
        SQLStore.from_url("sqlite+aiosqlite:///sessions.db")


async def test_a_missing_table(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without the lifespan ``create_table=True`` does nothing: a 503, and a log with both lines."""
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
        in_order(
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


@pytest.mark.parametrize(("web_concurrency", "command", "is_logged"), SERVERS)
async def test_memory_store_with_several_workers(
    web_concurrency: str,
    command: str,
    is_logged: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each worker logs at its start what will happen and what to use; a single worker, with
    reload or without, logs nothing."""
    monkeypatch.setenv("WEB_CONCURRENCY", web_concurrency)
    monkeypatch.setattr(sys, "argv", command.split())

    async with make_provider().lifespan(make_app()):
        pass

    warning = in_order(
        "MemoryStore is for one process",
        "signed out at random",
        "Run one worker, or use RedisStore or SQLStore",
    )
    assert (re.search(warning, caplog.text) is not None) is is_logged


# jobs

ERRORS = [
    ConfigurationError("a mistake"),
    SignInRequired("too_old"),
    SessionClosed("its request is over"),
    SessionNotFound("0" * 64),
    SessionInvalid("it does not fit", ["n"], ["n: expected int, got str"]),
    SessionConflict("it has changed", ["n"]),
    SessionTooLarge(2, 1),
    StoreUnavailable("away", retry_after=None),
]


def test_every_error_is_tried_in_another_process() -> None:
    """A new one has to be added to the list above."""
    ours = {each for each in SessionError.__subclasses__() if each.__module__ == errors.__name__}
    assert {type(error) for error in ERRORS} == ours


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_reads_the_same_in_another_process(error: Exception) -> None:
    """Task queues and process pools pickle what a job raised."""
    there = pickle.loads(pickle.dumps(error))
    assert (str(there), vars(there)) == (str(error), vars(error))
