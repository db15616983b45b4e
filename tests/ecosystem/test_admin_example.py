"""``examples/admin``: the admin of sqladmin, by HTTP and in a browser."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Route

from ..apps import session_cookies
from ..programs import load_example
from ..servers.asgi import serve

pytest.importorskip("sqladmin")

COOKIE = "__Secure-staff"
CREDENTIALS = {"username": "ada", "password": "demo"}
ELSEWHERE = {"sec-fetch-site": "cross-site", "origin": "https://evil.example"}


@pytest.fixture
def program() -> Any:
    return load_example("admin")


@pytest.fixture
def client(program: Any) -> Iterator[TestClient]:
    with TestClient(program.app, base_url="https://testserver", follow_redirects=False) as client:
        yield client


def sign_in(client: TestClient, **credentials: str) -> Any:
    return client.post("/admin/login", data={**CREDENTIALS, **credentials})


def titles(client: TestClient) -> list[str]:
    page = client.get("/admin/article/list").text
    return [title for title in ("First", "Planted") if title in page]


def test_signing_in_and_out(client: TestClient) -> None:
    """The cookie is that of the admin alone; a copy of it is worth nothing afterwards."""
    assert client.get("/admin/article/list").status_code == 302
    (cookie,) = session_cookies(sign_in(client), COOKIE)
    assert cookie.endswith("; Path=/admin; HttpOnly; Secure; SameSite=Strict")
    assert client.post("/admin/article/create", data={"title": "First"}).status_code == 302
    assert titles(client) == ["First"]
    copy = cookie.partition(";")[0]
    assert client.get("/admin/logout").status_code == 302
    response = client.get("/admin/article/list", headers={"cookie": copy})
    assert response.status_code == 302


@pytest.mark.parametrize(
    "credentials", [{"password": "wrong"}, {"username": "eve"}, {"username": ""}]
)
def test_a_wrong_password(client: TestClient, credentials: dict[str, str]) -> None:
    assert sign_in(client, **credentials).status_code == 400
    assert client.get("/admin/article/list").status_code == 302


def test_a_revocation_closes_the_admin(client: TestClient, program: Any) -> None:
    """The user is the subject of the session."""
    sign_in(client)
    assert client.get("/admin/article/list").status_code == 200
    assert client.portal.call(program.get_staff_session.revoke_all, "ada") == 1
    assert client.get("/admin/article/list").status_code == 302


def test_other_sites_can_do_nothing(client: TestClient) -> None:
    """Not sign somebody in, not create, not delete."""
    assert client.post("/admin/login", data=CREDENTIALS, headers=ELSEWHERE).status_code == 403
    sign_in(client)
    client.post("/admin/article/create", data={"title": "First"})
    form = {"title": "Planted"}
    created = client.post("/admin/article/create", data=form, headers=ELSEWHERE)
    deleted = client.delete("/admin/article/delete?pks=1", headers=ELSEWHERE)
    assert (created.status_code, deleted.status_code) == (403, 403)
    assert titles(client) == ["First"]


@pytest.mark.slow
def test_in_a_browser(program: Any, profile: Any) -> None:
    """Its forms work, a link of another site signs nobody out, and Back shows nothing."""

    async def elsewhere(request: Any) -> HTMLResponse:
        return HTMLResponse(f'<a href="{admin}/logout">Win</a>')

    with (
        serve(program.app) as url,
        serve(Starlette(routes=[Route("/", elsewhere)]), lifespan="off") as other,
    ):
        admin = f"{url.replace('127.0.0.1', 'localhost')}/admin"
        tab = profile.new_page()
        tab.goto(f"{admin}/login")
        tab.locator("[name=username]").fill("ada")
        tab.locator("[name=password]").fill("demo")
        tab.locator("[type=submit]").click()
        tab.wait_for_url(f"{admin}/")
        tab.goto(f"{admin}/article/create")
        tab.locator("[name=title]").fill("First")
        tab.locator("[type=submit][name=save]").first.click()
        tab.get_by_role("cell", name="First", exact=True).wait_for()

        tab.goto(other)
        tab.get_by_role("link", name="Win").click()
        tab.wait_for_url(f"{admin}/login")  # this request came without the cookie
        tab.goto(f"{admin}/article/list")
        tab.get_by_role("cell", name="First", exact=True).wait_for()

        tab.goto(f"{admin}/logout")
        tab.wait_for_url(f"{admin}/login")
        tab.go_back()
        tab.wait_for_url(f"{admin}/login")
        tab.goto("about:blank")  # closes the connections to both servers
