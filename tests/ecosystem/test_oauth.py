"""``examples/oauth``: sign-in at a real OpenID provider, on another site."""

import base64
import hashlib
import re
from collections.abc import Callable
from functools import partial
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import fastapi_async_sessions
from fastapi_async_sessions import CookieConfig, SessionProvider

from ..apps import browser, cookie_value, session_cookies
from ..generated import cases
from ..programs import load_example
from ..servers.asgi import serve

pytest.importorskip("authlib.integrations.starlette_client")

# of the provider
pytestmark = pytest.mark.filterwarnings("ignore:get_jwt_config:DeprecationWarning")

PAGE = "/orders/42?tab=2"
HTML = {"accept": "text/html"}
FROM_PROVIDER = {"sec-fetch-site": "cross-site", "origin": "http://localhost"}
FROM_OURSELVES = {"sec-fetch-site": "same-origin", "origin": "https://testserver"}


def load_program(issuer: str, mode: str, **cookie: Any) -> Any:
    """The example with this provider, and this cookie."""
    with pytest.MonkeyPatch.context() as patch:
        make = partial(SessionProvider, cookie=CookieConfig(**cookie))
        patch.setattr(fastapi_async_sessions, "SessionProvider", make)
        return load_example("oauth", OIDC_ISSUER=issuer, OIDC_RESPONSE_MODE=mode)


@pytest.fixture(scope="module")
def issuer(serve_provider: Callable[..., str]) -> str:
    return serve_provider()


@pytest.fixture(scope="module", params=["query", "form_post"])
def program(issuer: str, request: pytest.FixtureRequest) -> Any:
    return load_program(issuer, request.param)


class Form(HTMLParser):
    """The first form of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.action = ""
        self.fields: dict[str, str] = {}
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self.tags.append(tag)
        if tag == "form":
            self.action = values["action"]
        elif tag == "input":
            self.fields[values["name"]] = values["value"]


async def begin(client: httpx.AsyncClient, page: str = PAGE) -> httpx.Response:
    """Ask for a page, and press the button of the sign-in page, which leads to the provider."""
    redirect = await client.get(page, headers=HTML)
    form = Form((await client.get(redirect.headers["location"])).text)
    return await client.post(form.action, data=form.fields, headers=FROM_OURSELVES)


async def come_back(client: httpx.AsyncClient, url: str, **answer: str) -> httpx.Response:
    """Answer at the provider, and bring what it says to the callback, as a browser does.

    That is a request from another site, and by POST it has no cookie.
    """
    async with httpx.AsyncClient(trust_env=False) as other:
        response = await other.post(url, data=answer)
    if response.status_code == 200:
        form = Form(response.text)
        async with browser(client._transport.app) as without_cookie:
            path = urlsplit(form.action).path
            return await without_cookie.post(path, data=form.fields, headers=FROM_PROVIDER)
    back = urlsplit(response.headers["location"])
    return await client.get(f"{back.path}?{back.query}", headers={"sec-fetch-site": "cross-site"})


async def finish(client: httpx.AsyncClient, page: httpx.Response) -> httpx.Response:
    """What the script of the callback's page does."""
    form = Form(page.text)
    return await client.post(form.action, data=form.fields, headers=FROM_OURSELVES)


async def test_signing_in_and_out(program: Any) -> None:
    """The page that was asked for follows, path and query; a planted token is dead."""
    async with browser(program.app) as client:
        assert "not signed in" in (await client.get("/")).text
        response = await begin(client)
        planted = cookie_value(response)
        page = await come_back(client, response.headers["location"], sub="alice")
        response = await finish(client, page)
        assert (response.status_code, response.headers["location"]) == (303, PAGE)
        assert cookie_value(response) != planted
        assert "Order 42, tab 2" in (await client.get(PAGE)).text
        user = {"subject": "alice", "email": "alice@example.com"}
        assert (await client.get("/me")).json() == user
        async with browser(program.app, planted) as attacker:
            assert (await attacker.get("/me")).status_code == 401
        assert "alice@example.com" in (await client.get("/")).text
        assert (await client.post("/sign-out")).status_code == 303
        assert (await client.get("/me")).status_code == 401


async def test_the_callback_uses_no_session(program: Any) -> None:
    """Whatever cookie came with it, none goes back, and no cache keeps the page."""
    async with browser(program.app) as client:
        response = await begin(client)
        page = await come_back(client, response.headers["location"], sub="alice")
    assert session_cookies(page) == []
    assert page.headers["cache-control"] == "no-store"
    assert "vary" not in page.headers


async def test_an_answer_for_another_browser_signs_nobody_in(program: Any) -> None:
    """The state is that of the session which began; also where the other one has begun too."""
    async with browser(program.app) as client, browser(program.app) as victim:
        await begin(victim)
        response = await begin(client)
        page = await come_back(client, response.headers["location"], sub="alice")
        assert (await finish(victim, page)).status_code == 400
        assert (await victim.get("/me")).status_code == 401
        assert (await finish(client, page)).status_code == 303


async def test_an_answer_is_good_once(program: Any) -> None:
    """A second one is refused, and the user stays signed in."""
    async with browser(program.app) as client:
        response = await begin(client)
        page = await come_back(client, response.headers["location"], sub="alice")
        await finish(client, page)
        assert (await finish(client, page)).status_code == 400
        assert (await client.get("/me")).json()["subject"] == "alice"


async def test_the_user_says_no(program: Any) -> None:
    """The provider's error arrives, too."""
    async with browser(program.app) as client:
        response = await begin(client)
        page = await come_back(client, response.headers["location"], action="deny")
        assert Form(page.text).fields["error"] == "access_denied"
        response = await finish(client, page)
        assert (response.status_code, "Try again" in response.text) == (400, True)
        assert (await client.get("/me")).status_code == 401


@pytest.mark.parametrize("path", ["/sign-in", "/callback/finish", "/sign-out"])
async def test_other_sites_can_do_nothing(program: Any, path: str) -> None:
    """Not begin a sign-in, not bring an answer past the callback, not sign out."""
    async with browser(program.app) as client:
        assert (await client.post(path, headers=FROM_PROVIDER)).status_code == 403


async def test_the_page_sends_itself_by_one_script_only(program: Any) -> None:
    """The policy has the hash of the script in the page."""
    async with browser(program.app) as client:
        page = await client.get("/callback?code=c&state=s")
    (script,) = re.findall(r"<script>(.*?)</script>", page.text)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = page.headers["content-security-policy"]
    assert f"default-src 'none'; script-src 'sha256-{digest}'; form-action 'self'; " in policy


ANSWERS = st.fixed_dictionaries({name: st.text(max_size=50) for name in ("code", "state", "error")})


@cases(100)
@given(answer=ANSWERS)
@example(answer={"code": '"><script>', "state": "'&quot;<", "error": "\r\n</form>"})
async def test_the_page_escapes_what_it_was_sent(program: Any, answer: dict[str, str]) -> None:
    """Other parameters are left out."""
    async with browser(program.app) as client:
        pages = [
            await client.get("/callback", params={**answer, "other": "x"}),
            await client.post("/callback", data={**answer, "<b>": "x"}),
        ]
    for page in pages:
        form = Form(page.text)
        assert form.action == "/callback/finish"
        assert form.tags == ["title", "form", "input", "input", "input", "button", "script"]
        assert form.fields == answer


async def test_a_file_in_the_answer_is_no_error(program: Any) -> None:
    """Anybody can send one."""
    async with browser(program.app) as client:
        page = await client.post("/callback", files={"code": ("<b>", b"x")})
    assert page.status_code == 200
    assert "<b>" not in page.text


async def test_programs_get_the_401(program: Any) -> None:
    """So does a form; only a page that is asked for leads to the sign-in."""
    async with browser(program.app) as client:
        response = await client.get("/me", headers={"accept": "application/json"})
        assert response.status_code == 401
        assert (await client.get("/me", headers=HTML)).status_code == 303


async def test_the_sign_in_page_says_that_the_session_has_expired(program: Any) -> None:
    """The provider's own session may have ended as well, so the user has to know."""
    async with browser(program.app) as client:
        response = await begin(client)
        page = await come_back(client, response.headers["location"], sub="alice")
        await finish(client, page)
        await program.get_session.revoke_all("alice")
        redirect = await client.get(PAGE, headers=HTML)
        query = dict(parse_qsl(urlsplit(redirect.headers["location"]).query))
        assert query == {"next": PAGE, "expired": "true"}
        assert "has expired" in (await client.get(redirect.headers["location"])).text


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        (PAGE, True),
        ("/orders/42?tab=2&x=%2F%2F", True),
        ("/caf%C3%A9/a%20b", True),
        ("https://example.com", False),
        ("//example.com", False),
        ("/\\example.com", False),
        ("/\t/example.com", False),
        ("/a\r\nb", False),
        ("", False),
        ("/" + "a" * 600, False),
    ],
)
def test_the_way_back_is_on_this_site(program: Any, path: str, kept: bool) -> None:
    """Anything else leads to the first page."""
    assert program.own_path(path) == (path if kept else "/")


async def test_the_way_back_is_kept_as_the_browser_wrote_it(program: Any) -> None:
    """Starlette decodes a path."""
    async with browser(program.app) as client:
        redirect = await client.get("/orders/caf%C3%A9%20?tab=%32", headers=HTML)
        query = dict(parse_qsl(urlsplit(redirect.headers["location"]).query))
        assert query == {"next": "/orders/caf%C3%A9%20?tab=%32"}


# ---- in a browser, for which the provider is another site


@pytest.fixture(scope="module")
def strict_issuer(serve_provider: Callable[..., str]) -> str:
    """One whose pages hide where a request comes from: its POST has ``Origin: null``."""
    return serve_provider(("Referrer-Policy", "no-referrer"))


def sign_in(profile: Any, site: str) -> Any:
    """Ask for a page, sign in, and return the tab when the page has arrived."""
    tab = answer_at_provider(profile, site)
    tab.wait_for_url(f"{site}{PAGE}")
    return tab


def answer_at_provider(profile: Any, site: str) -> Any:
    # a stylesheet of the provider, which does not matter
    profile.route(re.compile("^https:"), lambda route: route.abort())
    tab = profile.new_page()
    tab.goto(f"{site}{PAGE}")
    tab.get_by_role("button", name="Sign in").click()
    tab.get_by_role("button", name="alice").click()
    return tab


@pytest.mark.slow
@pytest.mark.parametrize("referrer", ["issuer", "strict_issuer"])
@pytest.mark.parametrize("samesite", ["lax", "strict"])
@pytest.mark.parametrize("mode", ["query", "form_post"])
def test_in_a_browser(
    mode: str, samesite: str, referrer: str, profile: Any, request: pytest.FixtureRequest
) -> None:
    """The recipe needs no trusted origin, and no other setting of the provider."""
    program = load_program(request.getfixturevalue(referrer), mode, samesite=samesite)
    with serve(program.app) as site:
        tab = sign_in(profile, site)
        tab.get_by_role("heading", name="Order 42, tab 2").wait_for()
        (cookie,) = [each for each in profile.cookies() if each["domain"] == "127.0.0.1"]
        assert cookie["sameSite"] == samesite.capitalize()
        tab.goto(site)
        tab.get_by_role("button", name="Sign out").click()
        tab.get_by_text("You are not signed in.").wait_for()
        tab.goto("about:blank")  # closes the connections to the servers


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["no-referrer", "unsafe-url"])
def test_a_referrer_policy_of_the_application_does_not_matter(
    issuer: str, profile: Any, policy: str
) -> None:
    """With ``no-referrer`` the form that the callback sends has ``Origin: null``."""
    program = load_program(issuer, "form_post", samesite="strict")

    @program.app.middleware("http")
    async def add_policy(request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["Referrer-Policy"] = policy
        return response

    with serve(program.app) as site:
        sign_in(profile, site).goto("about:blank")


@pytest.mark.slow
def test_without_scripts_there_is_a_button(issuer: str, chromium: Any) -> None:
    """The callback's page waits for it."""
    program = load_program(issuer, "query", samesite="strict")
    profile = chromium.new_context(java_script_enabled=False)
    profile.set_default_timeout(60_000)
    with serve(program.app) as site:
        tab = answer_at_provider(profile, site)
        tab.get_by_role("button", name="Continue").click()
        tab.wait_for_url(f"{site}{PAGE}")
        profile.close()
