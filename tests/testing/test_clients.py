"""``sign_in`` and ``sign_out`` for the clients of tests."""

import inspect
from typing import Any

import httpx
import httpx2
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fastapi_async_sessions import CookieConfig, SessionProvider
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.testing import sign_in, sign_out

from .test_standins import Basket, make_app


def async_client(library: Any, app: FastAPI) -> Any:
    transport = library.ASGITransport(app)
    return library.AsyncClient(transport=transport, base_url="https://testserver")


class Driver:
    """Signs in and out by a client of any kind, and requests pages."""

    def __init__(self, client: Any, get_session: SessionProvider[Basket]) -> None:
        self.client, self.get_session = client, get_session

    async def sign_in(self, *arguments: Any) -> None:
        await self._done(sign_in(self.client, self.get_session, *arguments))

    async def sign_out(self) -> None:
        await self._done(sign_out(self.client, self.get_session))

    async def get(self, path: str) -> Any:
        return await self._done(self.client.get(path))

    async def post(self, path: str) -> Any:
        return await self._done(self.client.post(path))

    async def _done(self, result: Any) -> Any:
        return await result if inspect.isawaitable(result) else result


@pytest.fixture(params=["TestClient", "TestClient, entered", "httpx", "httpx2"])
async def driver(request: Any) -> Any:
    """One for each client."""
    app, get_session = make_app()
    match request.param:
        case "TestClient":
            yield Driver(TestClient(app, base_url="https://testserver"), get_session)
        case "TestClient, entered":
            with TestClient(app, base_url="https://testserver") as client:
                yield Driver(client, get_session)
        case library:
            async with async_client({"httpx": httpx, "httpx2": httpx2}[library], app) as client:
                yield Driver(client, get_session)


async def test_a_user_is_signed_in_and_out(driver: Driver) -> None:
    """The session is a real one, with the data that it is given."""
    await driver.sign_in("ada", Basket(items=["bread"]))
    assert (await driver.get("/me")).json() == "ada"
    assert (await driver.get("/items")).json() == ["bread"]
    (stored,) = await driver.get_session.sessions("ada")
    assert stored.data.items == ["bread"]
    await driver.sign_out()
    assert (await driver.get("/me")).status_code == 401
    assert await driver.get_session.sessions("ada") == []


async def test_whatever_the_client_held_before_is_replaced(driver: Driver) -> None:
    """A cookie that the application set, another user's, and one without a domain."""
    await driver.post("/items/honey")
    await driver.sign_in("ada")
    driver.client.cookies.set(driver.get_session.cookie.name, "stale")
    await driver.sign_in("bob")
    assert len(list(driver.client.cookies.jar)) == 1
    assert (await driver.get("/me")).json() == "bob"
    assert (await driver.get("/items")).json() == []
    await driver.sign_out()
    assert list(driver.client.cookies) == []


async def test_the_applications_own_sign_out_removes_it(driver: Driver) -> None:
    """The client holds the cookie as if a response had set it."""
    await driver.sign_in("ada")
    await driver.post("/out")
    assert list(driver.client.cookies) == []


async def test_signing_out_without_a_session_is_nothing(driver: Driver) -> None:
    """Nor is it with a cookie that is none of ours."""
    await driver.sign_out()
    driver.client.cookies.set(driver.get_session.cookie.name, "forged")
    await driver.sign_out()
    assert list(driver.client.cookies) == []


@pytest.mark.parametrize("base_url", ["https://app.example.com", "https://127.0.0.1:8443"])
@pytest.mark.parametrize("has_domain", [False, True])
async def test_cookies_of_a_domain(base_url: str, has_domain: bool) -> None:
    """The renewed cookie of the application replaces the one of the test."""
    domain = "example.com" if has_domain else None
    if domain and "example" not in base_url:
        pytest.skip("an address has no domain")
    app, get_session = make_app(cookie=CookieConfig(domain=domain))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url=base_url) as client:
        await sign_in(client, get_session, "ada")
        assert (await client.get("/me")).json() == "ada"
        await client.post("/out")
        assert list(client.cookies) == []


def test_a_client_that_was_not_entered_over_a_store_with_connections(redis_url: str) -> None:
    """Each of its requests runs in an event loop of its own, and so does a sign-in."""
    app, get_session = make_app(RedisStore.from_url(redis_url))
    client = TestClient(app, base_url="https://testserver")
    for user in ("ada", "bob"):
        sign_in(client, get_session, user)
        assert client.get("/me").json() == user
    sign_out(client, get_session)
    assert client.get("/me").status_code == 401
