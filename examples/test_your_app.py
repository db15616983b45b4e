"""Three ways to test an application with sessions: ``pytest examples/test_your_app.py``."""

# ruff: noqa: S101

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from examples.login import app
from examples.login.sessions import Customer, get_session
from fastapi_async_sessions.testing import override_session, sign_in


@pytest.fixture
def client() -> Iterator[TestClient]:
    # https, because the client drops Secure cookies over http://testserver, its default;
    # with, because it runs the lifespan and keeps one event loop for all requests
    with TestClient(app, base_url="https://testserver") as client:
        yield client


def test_a_route_alone(client: TestClient) -> None:
    """Give the routes a session, without a cookie or the store, and inspect it afterwards."""
    with override_session(app, get_session, Customer(cart=["bread"]), subject="demo") as session:
        client.post("/cart/honey")

        assert session.data.cart == ["bread", "honey"]
        assert client.get("/account").status_code == 200  # signed_in() uses it too


def test_through_the_cookie_and_the_store(client: TestClient) -> None:
    """Store a real session and send its cookie; everything then works as in production."""
    sign_in(client, get_session, "demo", Customer(cart=["bread"]))

    assert "Cart (1)" in client.get("/").text
    assert client.get("/account").status_code == 200


def test_as_a_user_does(client: TestClient) -> None:
    """Sign in through the form; the client keeps the cookie."""
    form = {"name": "demo", "password": "correct-horse-battery"}
    page = client.post("/sign-in", data=form)

    assert "Welcome, demo." in page.text
