"""The headers for caches: a shared cache keeps users apart, and Back after a sign-out shows
nothing."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Response
from fastapi.responses import HTMLResponse

from fastapi_async_sessions import Session, SessionProvider
from fastapi_async_sessions.testing import sign_in

from .apps import COOKIE, Data, browser, make_app, make_provider, set_cookie_kind
from .servers.asgi import serve
from .servers.chromium import launch
from .servers.nginx import Nginx

TABLE = [
    # the route's own, of a visitor, while a user is signed in
    ([], "private", "no-store"),
    ([""], "private", "no-store"),
    (["max-age=60"], "max-age=60, private", "max-age=60, private"),
    (["Max-Age=60 , must-revalidate"], "Max-Age=60, must-revalidate, private", None),
    (["max-age=60", "immutable"], "max-age=60, immutable, private", None),
    (["public, max-age=60"], "public, max-age=60", "public, max-age=60"),
    (["public", "max-age=60"], "public, max-age=60", None),
    (["max-age=60, PRIVATE"], "max-age=60, PRIVATE", None),
    (['private="set-cookie", max-age=60'], 'private="set-cookie", max-age=60', None),
    (["s-maxage=60, max-age=1"], "s-maxage=60, max-age=1", None),
    (["no-cache"], "no-cache", "no-cache"),
    (["no-store"], "no-store", "no-store"),
]


@pytest.mark.parametrize(("given", "visitor", "user"), TABLE)
@pytest.mark.parametrize("is_signed_in", [False, True])
async def test_cache_control_of_a_response_that_read_a_session(
    get_session: Any, given: list[str], visitor: str, user: str | None, is_signed_in: bool
) -> None:
    """It is the route's own, but a page for one user is no page for a shared cache."""
    app = make_app()

    @app.post("/in")
    async def sign_in(session: Annotated[Session[Data], Depends(get_session)]) -> None:
        session.renew(subject="ada")

    @app.get("/")
    async def home(
        response: Response, session: Annotated[Session[Data], Depends(get_session)]
    ) -> None:
        for value in given:
            response.headers.append("Cache-Control", value)

    async with browser(app) as client:
        if is_signed_in:
            await client.post("/in")
        response = await client.get("/")
    expected = (user or visitor) if is_signed_in else visitor
    assert response.headers.get_list("cache-control") == [expected]
    assert response.headers.get_list("vary") == ["Cookie"]


@pytest.mark.parametrize("path", ["/change", "/in", "/renew", "/out", "/destroy"])
async def test_a_response_that_sets_or_removes_the_cookie_has_no_store(
    get_session: Any, path: str
) -> None:
    """Whatever its route says: no cache may store a cookie."""
    app = make_app()

    @app.get("/{action}")
    async def act(
        action: str, response: Response, session: Annotated[Session[Data], Depends(get_session)]
    ) -> None:
        response.headers.append("cache-control", "public")
        response.headers.append("Cache-Control", "max-age=60")
        match action:
            case "change":
                session.data.count = 1
            case "in":
                session.renew(subject="ada")
            case "renew":
                session.renew()
            case "out":
                session.renew(subject=None)
            case "destroy":
                await session.destroy()

    async with browser(app) as client:
        if path != "/change":
            await client.get("/change")
        response = await client.get(path)
    assert set_cookie_kind(response) == ("removed" if path == "/destroy" else "sent")
    assert response.headers.get_list("cache-control") == ["no-store"]


async def test_a_second_session_with_a_user_counts(get_session: Any) -> None:
    """A response that read two sessions is not stored if a user is signed in to one of them."""
    get_staff = make_provider(name="staff")
    app = make_app()

    @app.post("/in")
    async def sign_in(session: Annotated[Session[Data], Depends(get_staff)]) -> None:
        session.renew(subject="ada")

    @app.get("/", dependencies=[Depends(get_session), Depends(get_staff)])
    async def home() -> None:
        pass

    async with browser(app) as client:
        assert (await client.get("/")).headers["cache-control"] == "private"
        await client.post("/in")
        assert (await client.get("/")).headers["cache-control"] == "no-store"


# a shared cache in front


def make_pages(get_session: SessionProvider[Data]) -> FastAPI:
    """Pages that count how often they were made; ``/begin`` begins a session."""
    app = make_app(lifespan=get_session.lifespan)
    made = {"plain": 0}

    @app.get("/plain")
    async def plain(response: Response) -> int:
        response.headers["cache-control"] = "public, max-age=60"
        made["plain"] += 1
        return made["plain"]

    @app.get("/begin")
    async def begin(count: int, session: Annotated[Session[Data], Depends(get_session)]) -> None:
        session.data.count = count

    @app.get("/mine")
    async def mine(session: Annotated[Session[Data], Depends(get_session)]) -> int:
        return session.data.count

    @app.get("/mine/public")
    async def public(
        response: Response, session: Annotated[Session[Data], Depends(get_session)]
    ) -> int:
        response.headers["cache-control"] = "public, max-age=60"
        return session.data.count

    return app


CACHE = """
            proxy_cache pages;
            proxy_cache_valid any 10m;
"""


@pytest.mark.debian("nginx")
@pytest.mark.parametrize(
    ("path", "ignored"), [("/mine", "Vary"), ("/mine", ""), ("/mine/public", "")]
)
def test_a_shared_cache_keeps_users_apart(
    start_nginx: Callable[..., Nginx], path: str, ignored: str
) -> None:
    """nginx serves each browser its own page, and the page without a session from its cache.

    That holds for a cache that ignores ``Vary``; where a route says ``public``, the cache has to
    respect it.
    """
    location = CACHE + (f"proxy_ignore_headers {ignored};" if ignored else "")
    with serve(make_pages(make_provider())) as url, httpx.Client() as client:
        nginx = start_nginx(int(url.rpartition(":")[2]), location=location)

        def get(path: str, cookie: str = "") -> httpx.Response:
            headers = {"cookie": cookie} if cookie else {}
            return client.get(nginx.url + path, headers=headers, cookies=None).raise_for_status()

        assert [get("/plain").json() for _ in range(3)] == [1, 1, 1]
        cookies = []
        for count in (1, 2):
            value = get(f"/begin?count={count}").headers["set-cookie"].partition(";")[0]
            assert value.startswith(COOKIE)
            cookies.append(value)
        client.cookies.clear()
        assert [get(path, cookie).json() for cookie in (*cookies, *cookies)] == [1, 2, 1, 2]
        assert get(path).json() == 0


# a browser's own caches


@pytest.fixture
def site() -> Iterator[str]:
    """Private pages with a sign-out, and a page that is left for."""
    get_session = make_provider()
    app = make_app(lifespan=get_session.lifespan)
    UserSession = Annotated[Session[Data], Depends(get_session)]

    @app.get("/plain", response_class=HTMLResponse)
    async def plain() -> str:
        return "<p>Hello"

    @app.get("/in", response_class=HTMLResponse)
    async def sign_in(session: UserSession) -> str:
        session.renew(subject="ada")
        return "<p>Welcome"

    @app.get("/private", response_class=HTMLResponse)
    async def private(session: UserSession) -> str:
        return f"<p>Letters of {session.subject}</p>"

    @app.get("/out", response_class=HTMLResponse)
    async def sign_out(session: UserSession) -> str:
        await session.destroy()
        return "<p>Goodbye"

    with serve(app) as url:
        yield url.replace("127.0.0.1", "localhost")


@pytest.mark.slow
def test_back_after_a_sign_out_shows_nothing(site: str) -> None:
    """Neither from the browser's cache of whole pages, nor from that of responses.

    A page without a session does come from the first of them, so it is switched on.
    """
    with launch(ignore_default_args=["--disable-back-forward-cache"]) as browser:
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.goto(f"{site}/plain")
        page.evaluate("() => { window.mark = 'kept' }")
        page.goto(f"{site}/in")
        page.go_back(wait_until="commit")
        assert page.evaluate("() => window.mark") == "kept"
        page.goto(f"{site}/private")
        assert page.inner_text("body") == "Letters of ada"
        page.goto(f"{site}/out")
        page.go_back(wait_until="commit")
        page.wait_for_load_state()
        assert page.inner_text("body") == "Letters of None"


async def test_the_repr_of_a_session_tells_users_apart(get_session: Any) -> None:
    """A cache of the application that keys by the arguments of a route relies on it."""
    app = make_app()

    @app.get("/")
    async def home(session: Annotated[Session[Data], Depends(get_session)]) -> list[str | None]:
        return [repr(session), session.key]

    async with browser(app) as ada, browser(app) as bob:
        for client, user in ((ada, "ada"), (bob, "bob")):
            await sign_in(client, get_session, user)
        first, second = (await ada.get("/")).json(), (await bob.get("/")).json()
    assert first[1] in first[0]
    assert first[0] != second[0]
