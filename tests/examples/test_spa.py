"""``examples/spa``: a front end on another origin, in a browser, and other origins by HTTP."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from fastapi_async_sessions.testing import sign_in

from ..programs import EXAMPLES, load_example
from ..servers.asgi import serve
from ..servers.chromium import launch_another

FRONT_END = "https://www.example.com"
STRANGER = "https://evil.example"


@pytest.fixture
def program() -> Any:
    return load_example("spa", FRONT_END=FRONT_END)


@pytest.fixture
def client(program: Any) -> Iterator[TestClient]:
    with TestClient(program.app, base_url="https://api.example.com") as client:
        yield client


def sent_from(origin: str, site: str = "same-site") -> dict[str, str]:
    return {"origin": origin, "sec-fetch-site": site}


def ask_first(client: TestClient, origin: str) -> Any:
    """What a browser asks before it sends JSON to another origin."""
    wanted = {"access-control-request-method": "POST"}
    wanted["access-control-request-headers"] = "content-type"
    return client.options("/notes", headers={**sent_from(origin), **wanted})


class TestOverHTTP:
    def test_the_front_end_may_read_and_change(self, client: TestClient, program: Any) -> None:
        """Its requests bring the cookie, and it can read the responses."""
        sign_in(client, program.get_session, "ada")
        asked = ask_first(client, FRONT_END)
        assert asked.status_code == 200
        response = client.post("/notes", json={"text": "milk"}, headers=sent_from(FRONT_END))
        assert response.json() == {"notes": ["milk"]}
        for each in (asked, response):
            assert each.headers["access-control-allow-origin"] == FRONT_END
            assert each.headers["access-control-allow-credentials"] == "true"
        assert {"Cookie", "Origin"} <= set(response.headers["vary"].replace(" ", "").split(","))

    @pytest.mark.parametrize("site", ["same-site", "cross-site"])
    @pytest.mark.parametrize("path", ["/notes", "/sign-in", "/sign-out"])
    def test_another_origin_changes_nothing(
        self, client: TestClient, program: Any, path: str, site: str
    ) -> None:
        """It gets a 403, with the cookie too: a subdomain that was taken over is on our site."""
        sign_in(client, program.get_session, "ada")
        body = {"text": "x", "name": "eve", "password": "demo"}
        response = client.post(path, json=body, headers=sent_from(STRANGER, site))
        assert response.status_code == 403
        assert client.get("/notes").json() == {"notes": []}
        assert ask_first(client, STRANGER).status_code == 400

    def test_another_origin_reads_nothing(self, client: TestClient, program: Any) -> None:
        """Its browser shows a page only a response that names its origin."""
        sign_in(client, program.get_session, "ada")
        response = client.get("/notes", headers=sent_from(STRANGER))
        assert "access-control-allow-origin" not in response.headers

    def test_the_401_has_its_reason(self, client: TestClient, program: Any) -> None:
        """The front end can read it, although it is an error."""
        headers = sent_from(FRONT_END)
        response = client.get("/notes", headers=headers)
        assert (response.status_code, response.json()["reason"]) == (401, "no_session")
        assert response.headers["access-control-allow-origin"] == FRONT_END
        sign_in(client, program.get_session, "ada")
        client.portal.call(program.get_session.revoke_all, "ada")
        response = client.get("/notes", headers=headers)
        assert (response.status_code, response.json()["reason"]) == (401, "ended")

    def test_a_wrong_password(self, client: TestClient) -> None:
        credentials = {"name": "ada", "password": "wrong"}
        assert client.post("/sign-in", json=credentials).status_code == 403
        assert client.get("/notes").status_code == 401

    @pytest.mark.parametrize(
        ("other_site", "attributes"),
        [("false", "SameSite=Lax"), ("true", "SameSite=None; Partitioned")],
    )
    def test_the_cookie(self, other_site: str, attributes: str) -> None:
        program = load_example("spa", FRONT_END=FRONT_END, OTHER_SITE=other_site)
        client = TestClient(program.app, base_url="https://api.example.com")
        response = client.post("/sign-in", json={"name": "ada", "password": "demo"})
        assert response.headers["set-cookie"].endswith(f"HttpOnly; Secure; {attributes}")


@contextmanager
def running(front_end_host: str, api_host: str, **environment: str) -> Iterator[tuple[str, Any]]:
    """Serve both, each on a port of its own; gives the front end's address and the API's module."""
    api: list[str] = []

    async def config(request: Any) -> Response:
        return Response(f'export const API = "{api[0]}";', media_type="text/javascript")

    async def stranger(request: Any) -> Response:
        return HTMLResponse("<h1>A page of another origin</h1>")

    files = StaticFiles(directory=EXAMPLES / "spa/page", html=True)
    front_end = Starlette(
        routes=[Route("/config.js", config), Route("/stranger", stranger), Mount("/", files)]
    )
    with serve(front_end, lifespan="off") as url:
        page = url.replace("127.0.0.1", front_end_host)
        program = load_example("spa", FRONT_END=page, **environment)
        with serve(program.app) as url:
            api.append(url.replace("127.0.0.1", api_host))
            program.url = api[0]
            yield page, program


def sign_in_with_form(tab: Any) -> None:
    tab.get_by_label("Name").fill("ada")
    tab.get_by_label("Password").fill("demo")
    tab.get_by_role("button", name="Sign in").click()


def add(tab: Any, note: str) -> None:
    tab.get_by_label("Note").fill(note)
    tab.get_by_role("button", name="Add").click()
    tab.get_by_role("listitem").get_by_text(note, exact=True).wait_for()


SAME_SITE = ("localhost", "localhost", "false")
OTHER_SITE = ("localhost", "127.0.0.1", "true")


@pytest.mark.slow
class TestInABrowser:
    @pytest.mark.parametrize(("front_end", "api", "other_site"), [SAME_SITE, OTHER_SITE])
    def test_a_story(self, profile: Any, front_end: str, api: str, other_site: str) -> None:
        """Sign in, change, come back, sign out."""
        with running(front_end, api, OTHER_SITE=other_site) as (page, _):
            tab = profile.new_page()
            tab.goto(page)
            tab.get_by_text("Please sign in.").wait_for()
            sign_in_with_form(tab)
            add(tab, "milk")
            add(tab, "<b>bread</b>")
            tab.reload()
            tab.get_by_role("listitem").get_by_text("milk").wait_for()
            tab.get_by_role("button", name="Sign out").click()
            tab.get_by_text("You are signed out.").wait_for()
            tab.reload()
            tab.get_by_text("Please sign in.").wait_for()
            assert profile.cookies() == []
            tab.goto("about:blank")  # closes the connections to both servers

    @pytest.mark.parametrize(("front_end", "api", "other_site"), [SAME_SITE, OTHER_SITE])
    def test_a_session_that_has_ended_meanwhile(
        self, profile: Any, front_end: str, api: str, other_site: str
    ) -> None:
        """The page says so at the next click."""
        with running(front_end, api, OTHER_SITE=other_site) as (page, program):
            tab = profile.new_page()
            tab.goto(page)
            sign_in_with_form(tab)
            add(tab, "milk")
            with TestClient(program.app) as client:  # the same store
                assert client.portal.call(program.get_session.revoke_all, "ada") == 1
            tab.get_by_label("Note").fill("bread")
            tab.get_by_role("button", name="Add").click()
            tab.get_by_text("Your session has expired. Please sign in again.").wait_for()
            tab.goto("about:blank")

    @pytest.mark.parametrize("other_site", ["true", "false"])
    def test_where_third_party_cookies_are_blocked(self, chromium: Any, other_site: str) -> None:
        """A partitioned cookie is kept; another one is not, and the page says so."""
        with (
            running("localhost", "127.0.0.1", OTHER_SITE=other_site) as (page, _),
            launch_another(chromium, "--test-third-party-cookie-phaseout") as profile,
        ):
            tab = profile.new_page()
            tab.goto(page)
            sign_in_with_form(tab)
            if other_site == "true":
                add(tab, "milk")
            else:
                tab.get_by_text("Your browser did not keep the session cookie.").wait_for()
            tab.goto("about:blank")

    def test_a_page_of_another_origin_neither_reads_nor_changes(self, profile: Any) -> None:
        """It is on the same site, where ``SameSite`` does not help."""
        with (
            running(*SAME_SITE[:2]) as (page, program),
            running(*SAME_SITE[:2]) as (stranger, _),
        ):
            tab = profile.new_page()
            tab.goto(page)
            sign_in_with_form(tab)
            add(tab, "milk")
            other = profile.new_page()
            other.goto(f"{stranger}/stranger")
            read = f"fetch('{program.url}/notes', {{credentials: 'include'}})"
            assert other.evaluate(f"{read}.then(() => 'read', () => 'hidden')") == "hidden"
            with other.expect_response(f"{program.url}/sign-out") as response:
                other.evaluate(
                    f"fetch('{program.url}/sign-out', "
                    "{method: 'POST', mode: 'no-cors', credentials: 'include'}).then(() => 0)"
                )
            assert response.value.status == 403
            tab.reload()
            tab.get_by_role("listitem").get_by_text("milk").wait_for()
            for each in (tab, other):
                each.goto("about:blank")
