"""schemathesis: each example responds as its own OpenAPI says, whatever the request."""

import importlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from argon2 import PasswordHasher
from hypothesis import HealthCheck, Phase, given, settings

from examples import login, metrics, quickstart, streaming, websocket
from examples.login import users
from fastapi_async_sessions import MemoryStore
from fastapi_async_sessions.stores.service import session_service

from ..servers.asgi import serve

schemathesis = pytest.importorskip("schemathesis")

TOKEN = "a-token-of-the-session-service-0123456789"


@pytest.fixture(autouse=True)
def quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The passwords of the shop are hashed with the least work that Argon2 allows."""
    hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    hashes = {name: hasher.hash(password) for name, password in users.DEMO.items()}
    monkeypatch.setattr(users, "_hasher", hasher)
    monkeypatch.setattr(users, "_nobody", hasher.hash("nobody"))
    monkeypatch.setattr(users, "_hashes", hashes)


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module of that example, whose applications find a session service that runs."""
    with serve(session_service(MemoryStore(), token=TOKEN)) as url:
        monkeypatch.setenv("SERVICE_URL", url)
        monkeypatch.setenv("SERVICE_TOKEN", TOKEN)
        module = importlib.import_module("examples.service")
        yield importlib.reload(module)


def check(url: str, **options: Any) -> None:
    """Send requests to each operation, ``options`` with each of them."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    for result in schema.get_all_operations():
        check_operation(result.ok(), options)


def check_operation(operation: Any, options: dict[str, Any]) -> None:
    """Send up to ten requests, the same ones in each run."""
    # an application may refuse more than its schema says, such as the wrong password
    excluded = [schemathesis.checks.positive_data_acceptance]

    @settings(
        max_examples=10,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def responds_as_documented(case: Any) -> None:
        case.call_and_validate(excluded_checks=excluded, **options)

    responds_as_documented()


def cookie_of(signed_in: httpx.Response) -> dict[str, str]:
    """The cookie of a response, which no client but a browser keeps from http."""
    name, _, value = signed_in.headers["set-cookie"].partition(";")[0].partition("=")
    return {name: value}


@pytest.mark.parametrize("example", [quickstart, streaming, websocket, metrics, login])
def test_an_example(example: Any) -> None:
    """No server error, and only statuses, content types and bodies that are documented."""
    with serve(example.app) as url:
        check(url)


@pytest.mark.parametrize(("form", "user"), [("/sign-in", "demo"), ("/admin/sign-in", "admin")])
def test_the_shop_for_a_signed_in_user(form: str, user: str) -> None:
    """The pages behind a lock as well; where a form signs the user out, only until then."""
    with serve(login.app) as url:
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        for result in schema.get_all_operations():
            response = httpx.post(url + form, data={"name": user, "password": users.DEMO[user]})
            check_operation(result.ok(), {"cookies": cookie_of(response)})


def test_applications_behind_a_session_service(services: Any) -> None:
    """One signs in, and the other requires it."""
    with serve(services.shop) as shop, serve(services.blog) as blog:
        check(shop)
        check(blog)
        check(blog, cookies=cookie_of(httpx.post(f"{shop}/sign-in?name=Ada")))


@pytest.mark.parametrize("token", [None, TOKEN])
def test_the_session_service(token: str | None) -> None:
    """It refuses requests without its token, and does what its clients ask with it."""
    with serve(session_service(MemoryStore(), token=TOKEN)) as url:
        check(url, headers={} if token is None else {"Authorization": f"Bearer {token}"})
