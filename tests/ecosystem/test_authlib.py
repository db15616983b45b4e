"""Authlib: sign-in at a real OpenID provider, whose state is kept in ``request.session``."""

from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.responses import RedirectResponse
from pydantic import BaseModel

from fastapi_async_sessions import Session

from ..apps import browser, cookie_value, make_app, make_provider

pytest.importorskip("authlib.integrations.starlette_client")

from authlib.integrations.starlette_client import OAuth

# of the provider
pytestmark = pytest.mark.filterwarnings("ignore:get_jwt_config:DeprecationWarning")


class Data(BaseModel):
    extra: dict[str, Any] = {}
    email: str = ""


@pytest.fixture(scope="module")
def issuer(serve_provider: Callable[..., str]) -> str:
    return serve_provider()


def make_oidc_app(issuer: str, get_session: Any) -> FastAPI:
    UserSession = Annotated[Session[Data], Depends(get_session)]
    oauth = OAuth()
    oauth.register(
        "provider",
        client_id="client",
        client_secret="secret",
        server_metadata_url=f"{issuer}/.well-known/openid-configuration",
        client_kwargs={"scope": "openid email", "code_challenge_method": "S256"},
    )
    app = make_app(lifespan=get_session.lifespan)

    @app.get("/login", dependencies=[Depends(get_session)])
    async def login(request: Request) -> Any:
        return await oauth.provider.authorize_redirect(request, str(request.url_for("callback")))

    @app.get("/callback")
    async def callback(request: Request, session: UserSession) -> Any:
        token = await oauth.provider.authorize_access_token(request)
        session.data.email = token["userinfo"]["email"]
        session.renew(subject=token["userinfo"]["sub"])
        return RedirectResponse("/me", 303)

    @app.get("/me")
    async def me(session: UserSession) -> list[Any]:
        return [session.subject, session.data.email, list(session.data.extra)]

    return app


async def consent(url: str) -> str:
    """Sign in at the provider as its form does; where it sends the browser back to."""
    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.post(url, data={"sub": "alice"})
    assert response.status_code in (302, 303)
    parts = urlsplit(response.headers["location"])
    return f"{parts.path}?{parts.query}"


async def test_signing_in(issuer: str) -> None:
    """The state of the redirect is kept and taken back out, and a planted token is dead."""
    get_session = make_provider(model=Data, request_session="extra")
    app = make_oidc_app(issuer, get_session)
    async with browser(app) as client:
        response = await client.get("/login")
        planted = cookie_value(response)
        back = await consent(response.headers["location"])
        response = await client.get(back)
        assert (response.status_code, response.headers["location"]) == (303, "/me")
        assert (await client.get("/me")).json() == ["alice", "alice@example.com", []]
        async with browser(app, planted) as attacker:
            assert (await attacker.get("/me")).json() == [None, "", []]


async def test_without_request_session_it_cannot_begin(issuer: str) -> None:
    """Authlib keeps the state there."""
    get_session = make_provider(model=Data)
    async with browser(make_oidc_app(issuer, get_session)) as client:
        assert (await client.get("/login")).status_code == 500


async def test_a_callback_in_another_browser_is_refused(issuer: str) -> None:
    """The state is in the session of the browser that began."""
    get_session = make_provider(model=Data, request_session="extra")
    app = make_oidc_app(issuer, get_session)
    async with browser(app) as client, browser(app) as other:
        back = await consent((await client.get("/login")).headers["location"])
        assert (await other.get(back)).status_code == 500  # Authlib's MismatchingStateError
        assert (await other.get("/me")).json() == [None, "", []]
