"""Requests that come late, or from another site, over real connections and from a real browser."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse

from fastapi_async_sessions import CookieConfig, Session

from .apps import COOKIE, Data, cookie_value, make_app, make_provider, set_cookie_kind
from .doubles import WAIT_LIMIT
from .servers.asgi import serve

HALF = b"x" * 4096


class Site:
    """An application with a form for files, and the events so far."""

    def __init__(self, **options: Any) -> None:
        self.events: list[Any] = []
        self.get_session = make_provider(on_event=self.events.append, **options)
        self.upload_has_begun = threading.Event()
        self.app = make_app()
        self._add_routes(self.app)

    def _add_routes(self, app: FastAPI) -> None:
        MySession = Annotated[Session[Data], Depends(self.get_session)]

        @app.get("/")
        async def read(session: MySession) -> dict[str, Any]:
            return {"subject": session.subject, "count": session.data.count}

        @app.get("/change")
        @app.post("/change")
        async def change(session: MySession) -> dict[str, Any]:
            session.data.count += 1
            return {"detached": session.is_detached, "count": session.data.count}

        async def whole_body(request: Request) -> int:
            return len(await request.body())

        @app.post("/upload")
        async def upload(
            size: Annotated[int, Depends(whole_body)], session: MySession
        ) -> dict[str, Any]:
            session.data.count = size
            return {"detached": session.is_detached, "count": session.data.count}

        @app.get("/sign-in")
        async def sign_in(session: MySession) -> None:
            session.renew(subject="ada")

        @app.get("/sign-out")
        async def sign_out(session: MySession) -> None:
            await session.destroy()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope.get("path") == "/upload":
            self.upload_has_begun.set()
        await self.app(scope, receive, send)

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


async def halves(site: Site, is_over: asyncio.Event) -> AsyncIterator[bytes]:
    """A body whose second half leaves when ``is_over`` is set."""
    yield HALF
    async with asyncio.timeout(WAIT_LIMIT):
        await is_over.wait()
    yield HALF


@pytest.mark.parametrize(
    ("meanwhile", "event"),
    [
        pytest.param(["/sign-in"], "outdated_token", id="a step-up"),
        pytest.param(["/sign-out", "/sign-in"], "ended_elsewhere", id="another sign-in"),
    ],
)
async def test_an_upload_that_outlasts_a_sign_in_signs_nobody_out(
    meanwhile: list[str], event: str
) -> None:
    """It began before, and takes its session after it: its change is dropped, and the cookie of the
    sign-in stays."""
    site, is_over = Site(), asyncio.Event()
    with serve(site) as url:
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=WAIT_LIMIT) as client:

            async def get(path: str, cookie: str) -> httpx.Response:
                # httpx sends no Secure cookie without TLS
                return await client.get(path, headers={"cookie": f"{COOKIE}={cookie}"})

            cookie = cookie_value(await client.get("/sign-in"))
            header, body = {"cookie": f"{COOKIE}={cookie}"}, halves(site, is_over)
            upload = asyncio.create_task(client.post("/upload", headers=header, content=body))
            assert await asyncio.to_thread(site.upload_has_begun.wait, WAIT_LIMIT)
            for path in meanwhile:
                response = await get(path, cookie)
                if set_cookie_kind(response) == "sent":
                    cookie = cookie_value(response)
            site.events.clear()
            is_over.set()
            late = await upload
            assert late.json() == {"detached": True, "count": 2 * len(HALF)}
            assert set_cookie_kind(late) is None
            assert site.kinds() == [event]
            assert (await get("/", cookie)).json() == {"subject": "ada", "count": 0}


@contextmanager
def other_site() -> Iterator[tuple[str, dict[str, str]]]:
    """A page of another site, with a link and a form to the addresses in the dict."""
    targets: dict[str, str] = {}
    app = FastAPI()

    @app.get("/")
    async def page() -> HTMLResponse:
        return HTMLResponse(
            f'<a href="{targets["link"]}">Link</a>'
            f'<form method="post" action="{targets["form"]}"><button>Send</button></form>'
        )

    with serve(app) as url:
        yield url, targets


@pytest.mark.slow
@pytest.mark.parametrize(
    ("samesite", "role", "name"), [("strict", "link", "Link"), ("lax", "button", "Send")]
)
def test_a_page_of_another_site_signs_nobody_out(
    profile: Any, samesite: Any, role: Any, name: str
) -> None:
    """Chromium withholds the cookie from a link (strict) and from a form (lax) of a trusted origin.
    What the page writes is not stored, and the user is still signed in."""
    with other_site() as (other, targets):
        site = Site(cookie=CookieConfig(samesite=samesite), trusted_origins=[other])
        with serve(site) as url:
            home = url.replace("127.0.0.1", "localhost")  # another site for a browser
            targets.update(link=f"{home}/change", form=f"{home}/change")
            tab = profile.new_page()
            tab.goto(f"{home}/sign-in")
            tab.goto(other)
            site.events.clear()
            tab.get_by_role(role, name=name).click()
            tab.wait_for_url(f"{home}/change")
            assert tab.locator("body").inner_text() == '{"detached":true,"count":1}'
            assert site.kinds() == ["cookie_withheld"]
            tab.goto(home)
            assert tab.locator("body").inner_text() == '{"subject":"ada","count":0}'
