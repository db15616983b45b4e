"""Sign in with an OpenID provider such as Google, Entra, Apple or Keycloak, by Authlib.

    pip install -e ".[examples]" authlib httpx oidc-provider-mock
    oidc-provider-mock                        a provider to try it with, on port 9400
    uvicorn examples.oauth:app                then open http://localhost:8000/orders/42?tab=2

For a provider of your own set ``OIDC_ISSUER``, ``OIDC_CLIENT_ID`` and ``OIDC_CLIENT_SECRET``, and
register ``http://localhost:8000/callback`` there. ``OIDC_RESPONSE_MODE`` is ``query`` or
``form_post``, which Apple requires. Behind a proxy that terminates TLS run uvicorn with
``--proxy-headers``, or the provider is given an ``http://`` address to return to.

The browser comes back from another site, by a request that may lack the session cookie: by POST
with ``form_post``, and always with ``samesite="strict"``. So ``/callback`` uses no session. It
responds with a page that sends the provider's answer once more, this time from our own site.
"""

import os
import re
import secrets
from base64 import b64encode
from hashlib import sha256
from html import escape
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from authlib.integrations.starlette_client import OAuth, OAuthError
from fastapi import Depends, FastAPI, Form, Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import BaseModel

from fastapi_async_sessions import (
    MemoryStore,
    Session,
    SessionProvider,
    SessionRoute,
    SignedInSession,
    SignInRequired,
)

ISSUER = os.environ.get("OIDC_ISSUER", "http://localhost:9400")

oauth = OAuth()
oauth.register(
    "provider",
    client_id=os.environ.get("OIDC_CLIENT_ID", "example"),
    client_secret=os.environ.get("OIDC_CLIENT_SECRET", "example"),
    server_metadata_url=f"{ISSUER}/.well-known/openid-configuration",
    authorize_params={"response_mode": os.environ.get("OIDC_RESPONSE_MODE", "query")},
    client_kwargs={"scope": "openid profile email", "code_challenge_method": "S256"},
)


class Visitor(BaseModel):
    oauth: dict[str, Any] = {}  # request.session: Authlib keeps the state of a sign-in here
    next: str = "/"  # the page to return to
    email: str = ""


get_session = SessionProvider(
    Visitor,
    store=MemoryStore(),
    secret_key=os.environ.get("SESSION_SECRET") or secrets.token_urlsafe(32),
    request_session="oauth",
)

AnySession = Annotated[Session[Visitor], Depends(get_session)]
UserSession = Annotated[SignedInSession[Visitor], Depends(get_session.signed_in())]

app = FastAPI(lifespan=get_session.lifespan)
app.router.route_class = SessionRoute


# ---- sign in and out


@app.get("/sign-in")
async def sign_in_page(next: str = "/", expired: bool = False) -> HTMLResponse:  # noqa: A002
    note = "<p>Your session has expired. Please sign in again." if expired else ""
    return page(f"{note}{button('/sign-in', 'Sign in', next=own_path(next))}")


@app.post("/sign-in")
async def sign_in(
    request: Request,
    session: AnySession,
    next: Annotated[str, Form()] = "/",  # noqa: A002
) -> Response:
    """Send the browser to the provider.

    A POST, which only pages of this site can send: otherwise any site could start a sign-in.
    """
    session.data.next = own_path(next)
    return await oauth.provider.authorize_redirect(request, request.url_for("callback"))


SUBMIT = "document.forms[0].submit()"
SUBMIT_HASH = b64encode(sha256(SUBMIT.encode()).digest()).decode()
CALLBACK_HEADERS = {
    # this script and no other, and a form to this site and to no other
    "Content-Security-Policy": (
        f"default-src 'none'; script-src 'sha256-{SUBMIT_HASH}'; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'"
    ),
    # the address may hold the code
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@app.api_route("/callback", methods=["GET", "POST"], include_in_schema=False)
async def callback(request: Request) -> HTMLResponse:
    """Send the provider's answer once more, from a page of this site."""
    async with request.form() as form:
        answer = {**request.query_params, **form}
    fields = {name: answer[name] for name in ("code", "state", "error") if name in answer}
    again = button(request.url_for("finish_sign_in").path, "Continue", **fields)
    return page(f"{again}<script>{SUBMIT}</script>", headers=CALLBACK_HEADERS)


@app.post("/callback/finish", include_in_schema=False)
async def finish_sign_in(request: Request, session: AnySession) -> RedirectResponse:
    async with request.form() as form:
        if "error" in form:
            raise OAuthError(form["error"])  # Authlib looks for it in the query only
    # checks that the state is of this session, and verifies the ID token
    token = await oauth.provider.authorize_access_token(request)
    claims = token["userinfo"]
    target, session.data.next = session.data.next, "/"
    # Gives the session a new token; after another user, its data is fresh from here on. With
    # several providers, put the name of each before its users' ids.
    session.renew(subject=claims["sub"])
    session.data.email = claims.get("email", "")
    return RedirectResponse(target, 303)


@app.post("/sign-out")
async def sign_out(session: AnySession) -> RedirectResponse:
    """End the session here; the provider may still know the user."""
    await session.destroy()
    return RedirectResponse("/", 303)


@app.exception_handler(OAuthError)
async def sign_in_failed(request: Request, error: OAuthError) -> HTMLResponse:
    """The user said no, or the sign-in was begun in another browser or long ago."""
    return page('<p>The sign-in did not work. <a href="/sign-in">Try again</a>', 400)


@app.exception_handler(SignInRequired)
async def ask_to_sign_in(request: Request, error: SignInRequired) -> Response:
    """Redirect a browser to the sign-in page, which leads back; other clients get the 401."""
    if request.method != "GET" or "text/html" not in request.headers.get("accept", ""):
        return await http_exception_handler(request, error)
    path = quote(request.url.path)  # which Starlette has decoded
    query = {"next": f"{path}?{request.url.query}".removesuffix("?")}
    if error.reason == "ended":
        query["expired"] = "true"
    return RedirectResponse(f"/sign-in?{urlencode(query)}", 303)


# ---- pages


@app.get("/")
async def home(session: AnySession) -> HTMLResponse:
    if session.subject is None:
        return page('<p>You are not signed in. <a href="/sign-in">Sign in</a>')
    return page(f"<p>You are {escape(session.data.email)}.{button('/sign-out', 'Sign out')}")


@app.get("/me")
async def me(session: UserSession) -> dict[str, str]:
    return {"subject": session.subject, "email": session.data.email}


@app.get("/orders/{number}")
async def order(number: int, session: UserSession, tab: int = 1) -> HTMLResponse:
    return page(f"<h1>Order {number}, tab {tab}</h1><p>of {escape(session.data.email)}")


def page(body: str, status_code: int = 200, headers: dict[str, str] | None = None) -> HTMLResponse:
    return HTMLResponse(f"<!doctype html><title>Sign-in</title>{body}", status_code, headers)


def button(action: str, label: str, **fields: str) -> str:
    """Return a form with hidden fields and a button."""
    inputs = "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(str(value))}">'
        for name, value in fields.items()
    )
    return f'<form method="post" action="{escape(action)}">{inputs}<button>{label}</button></form>'


def own_path(path: str) -> str:
    """Return a path from a request if it leads to this site, and ``/`` otherwise.

    Browsers take ``//host`` and ``/\\host`` for another site, and drop tabs and line ends.
    """
    return path if re.fullmatch(r"/(?![/\\])[!-~]{0,500}", path) else "/"
