"""What users' own tests are given: a session that stands in, and one that is really stored."""

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
    StoreUnavailable,
)
from fastapi_async_sessions.testing import override_session, session_cookies
from tests.apps import SECRET


class Basket(BaseModel):
    items: list[str] = []


class NoStore(MemoryStore):
    """Fails when it is asked for anything."""

    async def load(self, key: str) -> None:
        raise StoreUnavailable("nobody may ask")


def make_app(
    store: MemoryStore | None = None, cookie: CookieConfig | None = None
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
    """The block is given the very object, without a cookie or a call of the store."""
    app, get_session = make_app(NoStore())
    with override_session(app, get_session, Basket(items=["bread"])) as session:
        assert browser(app).post("/items/honey").json() == ["bread", "honey"]
        assert session.data.items == ["bread", "honey"]
        assert session.data == Basket(items=["bread", "honey"])


def test_required_and_signed_in_follow_the_stand_in() -> None:
    """Data makes it a live session, a subject a signed-in one; neither, a new one."""
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


def test_a_stand_in_can_be_destroyed() -> None:
    """A sign-out leaves the fresh new session that it leaves everywhere."""
    app, get_session = make_app()
    with override_session(app, get_session, Basket(items=["bread"]), subject="ada") as session:
        assert browser(app).post("/out").status_code == 200
        assert (session.subject, session.data, session.is_new) == (None, Basket(), True)


def test_what_was_overridden_before_is_so_again() -> None:
    """Blocks nest, and the end of one also comes when it raises."""
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
    """What ``session_cookies`` stores is loaded, changed and saved as any other session."""
    app, get_session = make_app()
    with browser(app) as client:
        assert client.portal is not None
        give = partial(session_cookies, get_session, Basket(items=["bread"]), subject="ada")
        client.cookies.update(client.portal.call(give))
        assert client.get("/me").json() == "ada"
        client.post("/items/honey")
        assert client.get("/items").json() == ["bread", "honey"]


async def test_stored_cookies_work_with_an_async_client() -> None:
    """The same in an async test; a session with the data of a new one is stored as well."""
    app, get_session = make_app()
    transport = httpx.ASGITransport(app)
    cookies = await session_cookies(get_session)
    async with httpx.AsyncClient(
        transport=transport, base_url="https://testserver", cookies=cookies
    ) as client:
        assert (await client.get("/items")).json() == []


def test_a_secure_cookie_over_http_is_warned_of() -> None:
    """The default base URL of a test client would lose the cookie: the warning says what to do."""
    app, _ = make_app()
    with pytest.warns(UserWarning, match=r'base_url="https://testserver"'):
        TestClient(app).post("/items/bread")


def test_nothing_is_warned_of_that_works() -> None:
    """A cookie that is not Secure goes over http, and a request may leave none at all."""
    app, _ = make_app(cookie=CookieConfig(secure=False))
    client = TestClient(app)
    client.post("/items/bread")
    assert client.get("/items").json() == ["bread"]
    TestClient(make_app()[0]).post("/out")
