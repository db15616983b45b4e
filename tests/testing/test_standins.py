"""Helpers for the tests of applications: a session that overrides the real one, and stored ones."""

from functools import partial

import httpx
import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel

from fastapi_async_sessions import (
    CookieConfig,
    MemoryStore,
    Session,
    SessionProvider,
    SessionRoute,
    Store,
)
from fastapi_async_sessions.testing import override_session, session_cookies

from ..apps import SECRET
from ..doubles import SpyStore


class Basket(BaseModel):
    items: list[str] = []


def make_app(
    store: Store | None = None, cookie: CookieConfig | None = None
) -> tuple[FastAPI, SessionProvider[Basket]]:
    get_session = SessionProvider(
        Basket, store=store or MemoryStore(), secret_key=SECRET, cookie=cookie or CookieConfig()
    )
    app = FastAPI(lifespan=get_session.lifespan)
    app.router.route_class = SessionRoute

    @app.post("/items/{item}")
    async def add(item: str, session: Session[Basket] = Depends(get_session)) -> list[str]:
        session.data.items.append(item)
        return session.data.items

    @app.get("/items")
    async def items(session: Session[Basket] = Depends(get_session.required)) -> list[str]:
        return session.data.items

    @app.get("/me")
    async def me(session: Session[Basket] = Depends(get_session.signed_in())) -> str | None:
        return session.subject

    @app.post("/out")
    async def out(session: Session[Basket] = Depends(get_session)) -> None:
        await session.destroy()

    return app, get_session


def browser(app: FastAPI) -> TestClient:
    return TestClient(app, base_url="https://testserver")


def test_routes_change_the_session_that_the_test_holds() -> None:
    """The block holds the session itself; there is neither a cookie nor a call of the store."""
    store = SpyStore(MemoryStore())
    app, get_session = make_app(store)
    with override_session(app, get_session, Basket(items=["bread"])) as session:
        assert browser(app).post("/items/honey").json() == ["bread", "honey"]
        assert session.data.items == ["bread", "honey"]
        assert session.data == Basket(items=["bread", "honey"])
    assert store.calls == []


def test_required_and_signed_in_use_the_override() -> None:
    """With data it is a live session, with a subject a signed-in one, otherwise a new one."""
    app, get_session = make_app()
    client = browser(app)
    with override_session(app, get_session):
        assert client.get("/items").status_code == 401
    with override_session(app, get_session, Basket()):
        assert client.get("/items").status_code == 200
        assert client.get("/me").status_code == 401
    with override_session(app, get_session, subject="ada") as session:
        assert client.get("/items").status_code == 200
        assert client.get("/me").json() == session.subject == "ada"


def test_another_user_who_signs_in_begins_with_fresh_data() -> None:
    """As with a real session; the same user keeps the data."""
    app, get_session = make_app()

    @app.post("/sign-in/{name}")
    async def sign_in(name: str, session: Session[Basket] = Depends(get_session)) -> list[str]:
        session.renew(subject=name)
        return session.data.items

    with override_session(app, get_session, Basket(items=["bread"]), subject="ada") as session:
        client = browser(app)
        assert client.post("/sign-in/ada").json() == ["bread"]
        key = session.key
        assert client.post("/sign-in/bob").json() == []
        assert client.get("/me").json() == session.subject == "bob"
        assert client.post("/items/honey").json() == ["honey"]
        assert session.key != key


def test_an_overriding_session_can_be_destroyed() -> None:
    """As in an application, a new session takes its place."""
    app, get_session = make_app()
    with override_session(app, get_session, Basket(items=["bread"]), subject="ada") as session:
        assert browser(app).post("/out").status_code == 200
        assert (session.subject, session.data, session.is_new) == (None, Basket(), True)


def test_the_previous_override_is_restored() -> None:
    """Blocks nest, and a block that raises restores it too."""
    app, get_session = make_app()
    app.dependency_overrides["other"] = before = lambda: None
    with override_session(app, get_session, subject="ada"):
        with override_session(app, get_session, subject="bob"):
            assert browser(app).get("/me").json() == "bob"
        with pytest.raises(ZeroDivisionError), override_session(app, get_session):
            raise ZeroDivisionError
        assert browser(app).get("/me").json() == "ada"
    assert app.dependency_overrides == {"other": before}


def test_stored_cookies_open_a_real_session() -> None:
    """A session stored by ``session_cookies`` is loaded, changed and saved like any other."""
    app, get_session = make_app()
    with browser(app) as client:
        assert client.portal is not None
        store = partial(session_cookies, get_session, Basket(items=["bread"]), subject="ada")
        client.cookies.update(client.portal.call(store))
        assert client.get("/me").json() == "ada"
        client.post("/items/honey")
        assert client.get("/items").json() == ["bread", "honey"]


async def test_stored_cookies_work_with_an_async_client() -> None:
    """In an async test, a session is stored even with the data of a new one."""
    app, get_session = make_app()
    transport = httpx.ASGITransport(app)
    cookies = await session_cookies(get_session)
    async with httpx.AsyncClient(
        transport=transport, base_url="https://testserver", cookies=cookies
    ) as client:
        assert (await client.get("/items")).json() == []


def test_a_secure_cookie_over_http_gives_a_warning() -> None:
    """At the default base URL a test client drops the cookie: the warning has the line to write."""
    app, _ = make_app()
    with pytest.warns(UserWarning, match=r'base_url="https://testserver"'):
        TestClient(app).post("/items/bread")


def test_a_configuration_that_works_gives_no_warning() -> None:
    """A cookie that is not ``Secure`` is sent over http, and some requests set no cookie at all."""
    app, _ = make_app(cookie=CookieConfig(secure=False))
    client = TestClient(app)
    client.post("/items/bread")
    assert client.get("/items").json() == ["bread"]
    TestClient(make_app()[0]).post("/out")
