"""The shop in a real browser: its pages, and what the browser itself contributes.

Playwright drives the Chromium of the system. ``serve`` listens on the loopback address, where
browsers accept ``Secure`` and ``__Host-`` cookies without TLS.
"""

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from examples import login
from examples.login import sessions, users
from tests.servers.asgi import serve

pytestmark = pytest.mark.slow

COOKIE = "__Host-shop"
PASSWORD = users.DEMO["demo"]
SIGN_IN_PAGE = re.compile(r"/sign-in(\?|$)")


@pytest.fixture(scope="module")
def shop() -> Iterator[str]:
    """The shop's address, with the host name that users type."""
    with serve(login.app) as url:
        yield url.replace("127.0.0.1", "localhost")


def sign_in(profile: Any, shop: str) -> Any:
    """Sign in with the form, and return the tab."""
    tab = profile.new_page()
    tab.goto(f"{shop}/sign-in")
    tab.get_by_label("Name").fill("demo")
    tab.get_by_label("Password").fill(PASSWORD)
    tab.get_by_role("main").get_by_role("button", name="Sign in").click()
    tab.get_by_text("Welcome, demo.").wait_for()
    return tab


def cart(profile: Any, shop: str) -> dict[str, int]:
    """The numbers of items in the cart, as a new tab shows them."""
    tab = profile.new_page()
    tab.goto(f"{shop}/cart")
    rows = [row.inner_text().split() for row in tab.locator("tbody tr").all()]
    return {name: int(number) for name, _, number, *_ in rows}


def test_signing_in_with_the_form(shop: str, profile: Any) -> None:
    """The requested page comes after the form, and the next tab is signed in too."""
    tab = profile.new_page()
    tab.goto(f"{shop}/account")
    assert tab.url == f"{shop}/sign-in?next=/account"
    tab.get_by_label("Name").fill("demo")
    tab.get_by_label("Password").fill(PASSWORD)
    tab.get_by_role("main").get_by_role("button", name="Sign in").click()

    tab.wait_for_url(f"{shop}/account")

    other = profile.new_page()
    other.goto(f"{shop}/account")
    assert other.get_by_role("heading", name="Your devices").is_visible()


def test_signing_in_with_the_keyboard_only(shop: str, profile: Any) -> None:
    """Tab reaches the link and the fields, and Enter follows the link and submits the form."""
    tab = profile.new_page()
    tab.goto(shop)
    press, type_text = tab.keyboard.press, tab.keyboard.type
    stops = []
    while "Sign in" not in stops and len(stops) < 10:
        press("Tab")
        stops.append(tab.evaluate("document.activeElement.innerText"))
    press("Enter")
    tab.wait_for_url(SIGN_IN_PAGE)
    tab.wait_for_function("document.activeElement.tagName === 'INPUT'")
    type_text("demo")  # the first field has autofocus
    press("Tab")
    type_text(PASSWORD)
    press("Enter")

    tab.get_by_text("Welcome, demo.").wait_for()

    assert stops[0] == "Skip to main content"
    assert tab.get_by_role("link", name="demo", exact=True).is_visible()


def test_two_tabs_add_to_the_cart_at_once(
    shop: str, profile: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both requests load the same session before either stores it, and both items are kept."""
    tabs = [profile.new_page(), profile.new_page()]
    for tab in tabs:
        tab.goto(shop)
    load, barrier = sessions.store.load, asyncio.Barrier(2)

    async def load_together(key: str) -> Any:
        record = await load(key)
        if not met:
            await asyncio.wait_for(barrier.wait(), 30)
            met.append(key)
        return record

    met: list[str] = []
    monkeypatch.setattr(sessions.store, "load", load_together)
    # a busy browser may take longer than the shop waits for its store
    monkeypatch.setattr(sessions.get_session.repository.store, "_seconds", 60)
    with tabs[0].expect_navigation(), tabs[1].expect_navigation():
        # the response to the first click waits for the second one
        for tab, item in zip(tabs, ["apple", "honey"], strict=True):
            tab.get_by_role("button", name=f"Add to cart: {item}").evaluate(
                "button => button.click()"
            )

    assert met
    assert cart(profile, shop) == {"Apple": 1, "Honey": 1}


def test_signing_out_everywhere_else_ends_another_browsers_session(
    shop: str, open_profile: Callable[[], Any]
) -> None:
    """Its next click leads to the form; the browser that asked for it stays signed in."""
    laptop, phone = open_profile(), open_profile()
    here, there = sign_in(laptop, shop), sign_in(phone, shop)
    here.goto(f"{shop}/account")
    here.get_by_role("button", name="Sign out all other devices").click()
    here.get_by_text("Other devices signed out:").wait_for()

    there.get_by_role("link", name="demo", exact=True).click()

    there.wait_for_url(SIGN_IN_PAGE)
    here.reload()
    assert here.url == f"{shop}/account"


def test_the_cookie_is_gone_after_signing_out(shop: str, profile: Any) -> None:
    """The browser deletes it, and the account requires a sign-in again."""
    tab = sign_in(profile, shop)
    before = cookie_names(profile)
    tab.get_by_role("button", name="Sign out").click()
    tab.wait_for_url(SIGN_IN_PAGE)

    assert before == [COOKIE]
    assert cookie_names(profile) == []
    tab.goto(f"{shop}/account")
    assert tab.url == f"{shop}/sign-in?next=/account"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_cookie_is_accepted_without_tls_on_the_loopback_address(
    shop: str, profile: Any, host: str
) -> None:
    """The browser sends it back although it is ``Secure``, and no script can read it."""
    tab = profile.new_page()
    tab.goto(shop.replace("localhost", host))
    tab.reload()

    assert tab.get_by_text("You have been here 2 times.").is_visible()
    (cookie,) = profile.cookies()
    assert (cookie["name"], cookie["domain"], cookie["path"]) == (COOKIE, host, "/")
    assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (True, True, "Lax")
    assert tab.evaluate("document.cookie") == ""


@pytest.mark.parametrize(
    ("host", "site"), [("127.0.0.1", "cross-site"), ("localhost", "same-site")]
)
def test_a_form_of_another_site_is_rejected(shop: str, profile: Any, host: str, site: str) -> None:
    """The response is a 403, also for another port of the host, whose requests have the cookie."""
    tab = sign_in(profile, shop)

    async def attacker_page(scope: Any, receive: Any, send: Any) -> None:
        page = f'<form method="post" action="{shop}/cart/honey"><button>Win</button></form>'
        headers = [(b"content-type", b"text/html")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": page.encode()})

    with serve(attacker_page, lifespan="off") as url:
        tab.goto(url.replace("127.0.0.1", host))
        with tab.expect_navigation() as navigation:
            tab.get_by_role("button", name="Win").click()
        response = navigation.value
        sent = response.request.all_headers()
        shown = tab.content()
        tab.goto("about:blank")  # closes the connection to the page's server

    assert response.status == 403
    assert "This request came from another site." in shown
    assert sent["sec-fetch-site"] == site
    assert (COOKIE in sent.get("cookie", "")) is (site == "same-site")
    assert cart(profile, shop) == {}


PAGES = ["/", "/cart", "/sign-in", "/account", "/account/password", "/nothing", "/admin/sign-in"]


def test_a_narrow_screen_needs_no_sideways_scrolling(shop: str, profile: Any) -> None:
    """At 320 pixels, which is 1280 at a zoom of 400 % (WCAG 1.4.10); fields are not cut off."""
    tab = sign_in(profile, shop)
    tab.set_viewport_size({"width": 320, "height": 640})
    for item in ("apple", "cheese"):
        tab.goto(shop)
        tab.get_by_role("button", name=f"Add to cart: {item}").click()
        tab.get_by_text("Added to your cart").wait_for()
    inside = """() => [...document.querySelectorAll("main *")].every(each =>
        each.getBoundingClientRect().right <= each.closest("main").getBoundingClientRect().right)"""
    for path in PAGES:
        tab.goto(f"{shop}{path}")
        assert tab.evaluate("document.documentElement.scrollWidth") == 320, path
        assert tab.evaluate(inside), path


def test_the_wrong_field_has_the_focus_after_a_sign_in_that_failed(shop: str, profile: Any) -> None:
    """So that a user can type at once, and a screen reader says what is wrong with it."""
    tab = profile.new_page()
    tab.goto(f"{shop}/sign-in")
    tab.get_by_label("Name").fill("demo")
    tab.keyboard.press("Tab")
    tab.keyboard.type("wrong")
    tab.keyboard.press("Enter")
    tab.get_by_text("Wrong name or password.").wait_for()
    tab.wait_for_function("document.activeElement.id === 'password'")
    tab.keyboard.type(PASSWORD)
    tab.keyboard.press("Enter")

    tab.get_by_text("Welcome, demo.").wait_for()


def cookie_names(profile: Any) -> list[str]:
    return [cookie["name"] for cookie in profile.cookies()]
