"""Each example does what its docstring says; the shop is used as its customers use it."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest
from argon2 import PasswordHasher
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from examples import login, quickstart, streaming, websocket
from examples.login import sessions, users
from fastapi_async_sessions import StoreUnavailable
from tests.servers.process import free_port, running
from tests.servers.workers import Workers

ROOT = Path(__file__).parents[2]
HTTPS = "https://testserver"
PASSWORD = users.DEMO["demo"]
ADMIN_PASSWORD = users.DEMO["admin"]

Browser = Callable[..., TestClient]


@pytest.fixture(autouse=True, scope="module")
def quick_hashes() -> Iterator[None]:
    """The demo users' passwords are hashed with the least work that Argon2 allows."""
    hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(users, "_hasher", hasher)
        patch.setattr(users, "_nobody", hasher.hash("nobody"))
        hashes = {name: hasher.hash(password) for name, password in users.DEMO.items()}
        patch.setattr(users, "_hashes", hashes)
        yield


@pytest.fixture
def browser() -> Iterator[Browser]:
    """A function that opens a browser on the shop, with cookies of its own."""
    with ExitStack() as stack:

        def open_browser(agent: str = "Firefox/140.0 (Linux)") -> TestClient:
            client = TestClient(login.app, base_url=HTTPS, headers={"user-agent": agent})
            return stack.enter_context(client)

        open_browser().portal.call(sessions.store.clear)
        yield open_browser


@pytest.fixture
def advance(monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    """A function that advances the time of the library."""

    def pass_time(by: timedelta) -> None:
        class LaterDatetime(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:
                return datetime.now(tz) + by

        later, now = round(by.total_seconds() * 1e9), time.time_ns
        monkeypatch.setattr("fastapi_async_sessions.lifetime.datetime", LaterDatetime)
        monkeypatch.setattr("time.time_ns", lambda: now() + later)

    return pass_time


def sign_in(client: TestClient, name: str = "demo", password: str = PASSWORD, **form: str) -> Any:
    form |= {"name": name, "password": password}
    return client.post("/sign-in", data=form, follow_redirects=False)


def sign_in_admin(client: TestClient, name: str = "admin", password: str = ADMIN_PASSWORD) -> Any:
    form = {"name": name, "password": password}
    return client.post("/admin/sign-in", data=form, follow_redirects=False)


def focused(page: str) -> str:
    """The element that a page gives the focus."""
    (element,) = re.findall(r"<input[^>]*\sautofocus[^>]*>", page)
    return element


def device_keys(page: str) -> list[str]:
    return re.findall(r'action="/account/devices/([0-9a-f]{64})/sign-out"', page)


def test_quickstart_counts_visits() -> None:
    with TestClient(quickstart.app, base_url=HTTPS) as client:
        assert [client.get("/").json()["count"] for _ in range(3)] == [1, 2, 3]


class TestShop:
    def test_counts_the_visits_of_each_browser(self, browser: Browser) -> None:
        one, other = browser(), browser()

        pages = [one.get("/").text, other.get("/").text, one.get("/").text]

        counts = [re.search(r"<strong>(\d+)</strong>", page)[1] for page in pages]
        assert counts == ["1", "1", "2"]

    def test_sign_in_redirects_to_the_requested_page(self, browser: Browser) -> None:
        client = browser()
        redirected = client.get("/account", follow_redirects=False)
        form = client.get(redirected.headers["location"]).text
        requested = re.search(r'name="next" value="([^"]*)"', form)[1]

        signed_in = sign_in(client, next=requested)

        assert (redirected.status_code, signed_in.status_code) == (303, 303)
        assert signed_in.headers["location"] == "/account"
        page = client.get("/account").text
        assert "Welcome, demo." in page
        assert "Firefox on Linux" in page
        assert "Welcome" not in client.get("/account").text

    def test_sign_in_leads_back_with_path_and_query(self, browser: Browser) -> None:
        client = browser()
        asked = client.get("/orders/42?tab=2&q=a%2Fb", follow_redirects=False)
        form = client.get(asked.headers["location"]).text
        requested = unescape(re.search(r'name="next" value="([^"]*)"', form)[1])

        signed_in = sign_in(client, next=requested)

        assert signed_in.headers["location"] == "/orders/42?tab=2&q=a%2Fb"

    def test_a_program_gets_the_401_and_no_form(self, browser: Browser) -> None:
        response = browser().get("/account", headers={"accept": "application/json"})

        assert (response.status_code, response.headers["content-type"]) == (401, "application/json")

    def test_the_field_that_is_wrong_has_the_focus(self, browser: Browser) -> None:
        client = browser()
        assert 'id="name"' in focused(client.get("/sign-in").text)
        for name, field in (("demo", "password"), ("", "name")):
            input_ = focused(sign_in(client, name, "wrong").text)
            assert f'id="{field}"' in input_
            assert 'aria-invalid="true"' in input_
            assert 'aria-describedby="error"' in input_
        sign_in(client)
        input_ = focused(client.post("/account/password", data={"password": "short"}).text)
        assert 'aria-describedby="error rule"' in input_

    def test_an_order_is_placed_by_a_customer(self, browser: Browser) -> None:
        client, other = browser(), browser()
        client.post("/cart/honey")
        client.post("/cart/honey", data={"next": "/cart"})
        assert client.post("/orders").url.path == "/sign-in"

        sign_in(client)
        page = client.post("/orders")

        assert "Thank you for your order." in page.text
        assert "11.80 €" in page.text
        assert "Cart (0)" in page.text
        assert client.post("/orders").url.path == "/cart"
        sign_in(other, "admin", ADMIN_PASSWORD)
        assert other.get(page.url.path).status_code == 404

    def test_errors_have_a_page(self, browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
        client = browser()
        client.get("/")
        headers = {"accept": "text/html", "sec-fetch-site": "cross-site"}
        missing, rejected = client.get("/nothing"), client.post("/sign-out", headers=headers)

        async def unavailable(key: str) -> None:
            raise StoreUnavailable("no answer")

        monkeypatch.setattr(sessions.store, "load", unavailable)
        down = client.get("/cart")
        answer = client.get("/cart", headers={"accept": "application/json"})

        for response, status, text in (
            (missing, 404, "There is no such page."),
            (rejected, 403, "This request came from another site."),
            (down, 503, "The shop is not available right now."),
        ):
            assert response.status_code == status
            assert text in response.text
            assert "no answer" not in response.text
        assert down.headers["retry-after"] == answer.headers["retry-after"] == "1"
        assert answer.json().keys() == {"detail"}

    def test_signing_in_changes_the_cookie(self, browser: Browser) -> None:
        client = browser()
        client.get("/")
        before = client.cookies["__Host-shop"]

        sign_in(client)

        planted = browser()
        planted.cookies.set("__Host-shop", before)
        assert planted.get("/account", follow_redirects=False).status_code == 303
        assert client.get("/account", follow_redirects=False).status_code == 200

    @pytest.mark.parametrize(
        ("name", "password"), [("demo", "wrong"), ("nobody", PASSWORD), ("", ""), ("<b>", "x")]
    )
    def test_a_wrong_name_and_a_wrong_password_get_the_same_response(
        self, browser: Browser, name: str, password: str
    ) -> None:
        client = browser()

        refused = sign_in(client, name, password)

        assert refused.status_code == 403
        assert "Wrong name or password." in refused.text
        assert "<b>" not in refused.text
        assert client.get("/account", follow_redirects=False).status_code == 303

    @pytest.mark.parametrize(
        "target",
        [
            "https://example.com",
            "//example.com",
            "/\\example.com",
            "/\t/example.com",
            "\n//example.com",
            "/\r\nSet-Cookie: a=b",
            "/ä",
            "account",
            "javascript:alert(1)",
            "",
        ],
    )
    def test_sign_in_redirects_only_within_the_shop(self, browser: Browser, target: str) -> None:
        assert sign_in(browser(), next=target).headers["location"] == "/"

    def test_the_cart_is_kept_at_the_sign_in(self, browser: Browser) -> None:
        client = browser()
        assert "Added to your cart: honey." in client.post("/cart/honey").text
        client.post("/cart/bread")
        client.post("/cart/bread")

        sign_in(client)
        client.post("/cart/bread/remove")

        page = client.get("/cart").text
        assert "9.10 €" in page
        assert client.post("/cart/nothing").status_code == 404
        assert "Cart (2)" in client.post("/cart/nothing/remove").text

    def test_another_user_does_not_get_the_cart(self, browser: Browser) -> None:
        client = browser()
        sign_in(client)
        client.post("/cart/honey")

        sign_in(client, "admin", ADMIN_PASSWORD)

        page = client.get("/cart").text
        assert "Your cart is empty." in page
        assert "Welcome, admin." in page

    def test_remember_me_sets_a_persistent_cookie(self, browser: Browser) -> None:
        plain, remembered = sign_in(browser()), sign_in(browser(), remember="true")

        assert "Max-Age" not in plain.headers["set-cookie"]
        assert "Max-Age=2592000" in remembered.headers["set-cookie"]

    def test_signs_out(self, browser: Browser) -> None:
        client, thief = browser(), browser()
        sign_in(client)
        thief.cookies.set("__Host-shop", client.cookies["__Host-shop"])

        client.post("/sign-out")

        assert "__Host-shop" not in client.cookies
        assert thief.get("/account", follow_redirects=False).status_code == 303

    def test_lists_devices_and_signs_one_out(self, browser: Browser) -> None:
        laptop, phone = browser(), browser("Chrome Android")
        sign_in(laptop)
        sign_in(phone)
        page = laptop.get("/account").text
        assert "Chrome on Android" in page
        assert re.search(r"Last active\s+<time datetime=\"[^\"]+\">just now</time>", page)
        (key,) = device_keys(page)

        page = laptop.post(f"/account/devices/{key}/sign-out").text
        assert "That device has been signed out." in page

        assert phone.get("/account", follow_redirects=False).status_code == 303
        assert laptop.get("/account", follow_redirects=False).status_code == 200

    def test_says_that_the_session_has_expired(
        self, browser: Browser, advance: Callable[[timedelta], None]
    ) -> None:
        client, other = browser(), browser()
        sign_in(client)
        assert "expired" not in other.get("/account").text

        advance(timedelta(hours=2))

        asked = client.get("/account", follow_redirects=False)
        assert asked.headers["location"] == "/sign-in?next=/account&expired=true"
        assert "Your session has expired." in client.get(asked.headers["location"]).text
        assert "Your session has expired." in client.post("/account/devices/sign-out-others").text
        sign_in(client)
        assert "Welcome, demo." in client.get("/account").text

    def test_does_not_sign_out_devices_of_other_users(self, browser: Browser) -> None:
        mine, theirs, theirs_too = browser(), browser(), browser()
        sign_in(mine)
        for client in (theirs, theirs_too):
            sign_in(client, "admin", ADMIN_PASSWORD)
        (key,) = device_keys(theirs.get("/account").text)

        answer = mine.post(f"/account/devices/{key}/sign-out").text

        assert "That device has been signed out." not in answer
        assert theirs_too.get("/account", follow_redirects=False).status_code == 200

    def test_signs_out_everywhere_else(self, browser: Browser) -> None:
        here, there, elsewhere = browser(), browser(), browser()
        for client in (here, there, elsewhere):
            sign_in(client)

        assert "Other devices signed out: 2." in here.post("/account/devices/sign-out-others").text

        states = [c.get("/account", follow_redirects=False).status_code for c in (there, elsewhere)]
        assert states == [303, 303]

    def test_changing_the_password_requires_a_recent_sign_in(
        self, browser: Browser, advance: Callable[[timedelta], None]
    ) -> None:
        client = browser()
        sign_in(client)
        assert client.get("/account/password", follow_redirects=False).status_code == 200

        advance(timedelta(minutes=6))

        asked = client.get("/account/password", follow_redirects=False)
        assert asked.headers["location"] == "/sign-in?next=/account/password"
        assert "please enter your password again" in client.get(asked.headers["location"]).text
        refused = client.post("/account/password", data={"password": "p" * 12})
        assert refused.url.path == "/sign-in"
        assert client.get("/account", follow_redirects=False).status_code == 200
        assert sign_in(client, next="/account/password").headers["location"] == "/account/password"
        assert client.get("/account/password", follow_redirects=False).status_code == 200

    def test_a_new_password_signs_all_other_devices_out(
        self, browser: Browser, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(users, "_hashes", dict(users._hashes))
        here, there = browser(), browser()
        sign_in(here, remember="true")
        sign_in(there)
        old_cookie = here.cookies["__Host-shop"]
        assert here.post("/account/password", data={"password": "short"}).status_code == 400

        changed = here.post("/account/password", data={"password": "a new long password"})

        assert "Your password has been changed." in changed.text
        assert here.cookies["__Host-shop"] != old_cookie
        assert there.get("/account", follow_redirects=False).status_code == 303
        assert sign_in(browser()).status_code == 403
        assert sign_in(browser(), password="a new long password").status_code == 303

    @pytest.mark.parametrize(
        "headers",
        [
            {"sec-fetch-site": "cross-site", "origin": "https://evil.example"},
            {"sec-fetch-site": "same-site", "origin": "https://other.testserver"},
            {"origin": "https://evil.example"},
            {"origin": "null"},
        ],
    )
    def test_rejects_a_form_of_another_site(
        self, browser: Browser, headers: dict[str, str]
    ) -> None:
        client = browser()
        sign_in(client)

        assert client.post("/sign-out", headers=headers).status_code == 403

        assert client.get("/account", follow_redirects=False).status_code == 200

    def test_accepts_its_own_forms(self, browser: Browser) -> None:
        client = browser()
        headers = {"sec-fetch-site": "same-origin", "origin": HTTPS}

        assert "Cart (1)" in client.post("/cart/honey", headers=headers).text


class TestUnderAPath:
    def test_links_and_redirects_stay_there(self) -> None:
        site = FastAPI(lifespan=login.lifespan)
        site.mount("/shop", login.app)
        with TestClient(site, base_url=HTTPS) as client:
            page = client.get("/shop/").text
            links = re.findall(r'(?:href|action)="(?!#)([^"]*)"', page)
            assert len(links) > 10
            assert [link for link in links if not link.startswith("/shop/")] == []
            assert client.get("/shop/static/shop.css").status_code == 200
            asked = client.get("/shop/orders/42?tab=2", follow_redirects=False)
            assert asked.headers["location"] == "/shop/sign-in?next=/orders/42%3Ftab%3D2"
            form = {"name": "demo", "password": PASSWORD, "next": "/orders/42?tab=2"}
            signed_in = client.post("/shop/sign-in", data=form, follow_redirects=False)
            assert signed_in.headers["location"] == "/shop/orders/42?tab=2"
            assert client.get("/shop/account").url.path == "/shop/account"
            missing = client.get("/shop/nothing")
            assert missing.status_code == 404
            assert 'href="/shop/"' in missing.text

    def test_behind_a_proxy_that_removes_the_path(self, tmp_path: Path) -> None:
        """The server and the shop know it: the cookie of the admin area is for that path."""
        options = ("--root-path", "/shop")
        settings = {"ROOT_PATH": "/shop"}
        server = Workers(
            tmp_path, "examples.login:app", *options, under="uvicorn", count=1, settings=settings
        )
        proxy = httpx.Client(base_url=server.url, timeout=60, trust_env=False)
        with running(server), proxy:
            links = re.findall(r'(?:href|action)="(?!#)([^"]*)"', proxy.get("/").text)
            assert len(links) > 10
            assert [link for link in links if not link.startswith("/shop/")] == []
            assert proxy.get("/static/shop.css").status_code == 200
            form = {"name": "admin", "password": ADMIN_PASSWORD}
            signed_in = proxy.post("/admin/sign-in", data=form)
            assert signed_in.headers["location"] == "/shop/admin"
            cookie, _, attributes = signed_in.headers["set-cookie"].partition("; ")
            assert "Path=/shop/admin" in attributes
            assert proxy.get("/admin", headers={"cookie": cookie}).status_code == 200
            asked = proxy.get("/admin")
            assert asked.headers["location"] == "/shop/admin/sign-in"


class TestAdministration:
    def test_has_a_session_of_its_own(self, browser: Browser) -> None:
        client = browser()
        sign_in(client, "admin", ADMIN_PASSWORD)
        asked = client.get("/admin", follow_redirects=False)
        assert asked.headers["location"] == "/admin/sign-in"

        signed_in = sign_in_admin(client)

        cookie = signed_in.headers["set-cookie"]
        assert cookie.startswith("__Secure-admin=")
        assert "Path=/admin" in cookie
        assert "SameSite=Strict" in cookie
        assert client.get("/admin", follow_redirects=False).status_code == 200
        client.post("/admin/sign-out")
        assert client.get("/admin", follow_redirects=False).status_code == 303
        assert client.get("/account", follow_redirects=False).status_code == 200

    @pytest.mark.parametrize(("name", "password"), [("demo", PASSWORD), ("admin", PASSWORD)])
    def test_rejects_everybody_else(self, browser: Browser, name: str, password: str) -> None:
        assert sign_in_admin(browser(), name, password).status_code == 403

    def test_does_not_accept_a_cookie_of_the_shop(self, browser: Browser) -> None:
        client = browser()
        sign_in(client, "admin", ADMIN_PASSWORD)
        client.cookies.set("__Secure-admin", client.cookies["__Host-shop"])

        assert client.get("/admin", follow_redirects=False).status_code == 303

    def test_signs_a_user_out_everywhere(self, browser: Browser) -> None:
        admin, customer = browser(), browser()
        sign_in(customer)
        sign_in_admin(admin)
        assert "Firefox on Linux" in admin.get("/admin").text

        done = admin.post("/admin/users/demo/sign-out").text

        assert "Signed demo out everywhere. Sessions ended: 1." in done
        assert customer.get("/account", follow_redirects=False).status_code == 303


class TestWebsocket:
    @pytest.fixture
    def client(self) -> Iterator[TestClient]:
        with TestClient(websocket.app, base_url=HTTPS) as client:
            yield client

    def test_remembers_earlier_messages(self, client: TestClient) -> None:
        client.post("/join?nickname=Ada")

        with client.websocket_connect("wss://testserver/echo") as socket:
            socket.send_text("hello")
            assert socket.receive_text() == "Ada said: hello"

        with client.websocket_connect("wss://testserver/echo") as socket:
            socket.send_text("again")
            assert socket.receive_text() == "Ada said: hello, again"

    def test_closes_when_the_session_ends(self, client: TestClient) -> None:
        client.post("/join?nickname=Ada")

        with client.websocket_connect("wss://testserver/echo") as socket:
            client.post("/leave")
            socket.send_text("hello?")
            with pytest.raises(WebSocketDisconnect) as closed:
                socket.receive_text()

        assert closed.value.code == 1008

    def test_requires_a_session(self, client: TestClient) -> None:
        with (
            pytest.raises(WebSocketDenialResponse) as denied,
            client.websocket_connect("wss://testserver/echo"),
        ):
            pass

        assert denied.value.status_code == 401

    def test_rejects_another_origin(self, client: TestClient) -> None:
        client.post("/join?nickname=Ada")

        with (
            pytest.raises(WebSocketDenialResponse) as denied,
            client.websocket_connect(
                "wss://testserver/echo", headers={"origin": "https://evil.example"}
            ),
        ):
            pass

        assert denied.value.status_code == 403


class TestStreaming:
    @pytest.fixture
    def client(self) -> Iterator[TestClient]:
        with TestClient(streaming.app, base_url=HTTPS) as client:
            yield client

    def test_a_stream_reads_the_session_and_writes_by_its_key(self, client: TestClient) -> None:
        assert client.get("/download").text.startswith("download 1, line 1\n")
        client.get("/download")

        assert client.get("/").json() == {"downloads": 2, "finished": 2, "reports": []}

    def test_a_background_task_writes_by_its_key(self, client: TestClient) -> None:
        assert client.post("/report").status_code == 202

        assert client.get("/").json()["reports"] == ["requested", "ready"]

    def test_a_background_task_outlives_its_session(self, client: TestClient) -> None:
        client.portal.call(streaming.write_report, "0" * 64)


@contextmanager
def uvicorn(target: str, port: int, **environment: str) -> Iterator[str]:
    """Run the command that the example names, in another process."""
    command = [sys.executable, "-m", "uvicorn", target, "--port", str(port), "--log-level", "error"]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | environment) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_until_it_listens(url: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            httpx.get(url)
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError(url)


@pytest.mark.slow
def test_two_applications_share_the_sessions_of_a_service() -> None:
    ports = [free_port() for _ in range(3)]
    environment = {
        "SESSION_SECRET": "an-example-secret-of-48-letters-for-this-test-01",
        "SERVICE_TOKEN": "another-secret-of-48-letters-for-the-service-002",
        "SERVICE_URL": f"http://127.0.0.1:{ports[0]}",
    }
    with ExitStack() as stack:
        urls = [
            stack.enter_context(uvicorn(f"examples.service:{name}", port, **environment))
            for name, port in zip(("service", "shop", "blog"), ports, strict=True)
        ]
        for url in urls:
            wait_until_it_listens(url)
        service, shop, blog = urls

        signed_in = httpx.post(f"{shop}/sign-in?name=Ada")
        # httpx keeps Secure cookies from http; browsers and curl don't on 127.0.0.1
        cookie = {"cookie": signed_in.headers["set-cookie"].partition(";")[0]}

        assert httpx.get(f"{blog}/").status_code == 401
        assert httpx.get(f"{blog}/", headers=cookie).json() == {"welcome": "Ada"}
        assert httpx.post(f"{blog}/sign-out", headers=cookie).status_code == 204
        assert httpx.get(f"{blog}/", headers=cookie).status_code == 401
        assert httpx.get(f"{service}/sessions/{'0' * 64}").status_code == 401


@pytest.mark.slow
def test_the_tests_of_the_example_pass() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [*command, "examples/test_your_app.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout
