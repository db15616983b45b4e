"""Sign in, sign out, list devices, change the password."""

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from fastapi_async_sessions import SessionRoute

from . import users
from .pages import EXPIRED, RESPONSES, own_path, page, see_other
from .sessions import (
    REMEMBERED,
    AnySession,
    RecentSession,
    UserSession,
    get_session,
)

router = APIRouter(
    route_class=SessionRoute, default_response_class=HTMLResponse, responses=RESPONSES
)

Text = Annotated[str, Form(max_length=200)]


@router.get("/sign-in")
async def sign_in_page(
    request: Request,
    session: AnySession,
    next: str = "/",  # noqa: A002
    expired: bool = False,
) -> HTMLResponse:
    if expired:
        session.data.messages.append(EXPIRED)
    return page(request, "sign_in.html", session, demo=users.DEMO, next=own_path(next))


@router.post("/sign-in")
async def sign_in(
    request: Request,
    session: AnySession,
    name: Text = "",
    password: Text = "",
    next: Text = "/",  # noqa: A002
    remember: Annotated[bool, Form()] = False,
) -> Response:
    if not await users.is_right(name, password):
        values = {"error": "Wrong name or password.", "name": name, "next": own_path(next)}
        values["wrong"] = "password" if name else "name"
        return page(request, "sign_in.html", session, 403, demo=users.DEMO, **values)
    # first: if another user was signed in, the data is fresh from here on
    if remember:
        session.renew(subject=name, lifetime=REMEMBERED, persistent=True)
    else:
        session.renew(subject=name)
    session.data.device = _device(request)
    session.data.messages.append(f"Welcome, {name}.")
    return see_other(request, own_path(next))


@router.post("/sign-out")
async def sign_out(request: Request, session: AnySession) -> RedirectResponse:
    await session.destroy()  # deletes the record now; the response removes the cookie
    return see_other(request, "/sign-in")


@router.get("/account")
async def account(request: Request, session: UserSession) -> HTMLResponse:
    devices = await get_session.sessions(session.subject)
    return page(request, "account.html", session, devices=devices)


@router.post("/account/devices/{key}/sign-out")
async def sign_out_device(request: Request, key: str, session: UserSession) -> RedirectResponse:
    # with the subject, the key of another user's session has no effect
    if await get_session.revoke(key, session.subject):
        session.data.messages.append("That device has been signed out.")
    return see_other(request, "/account")


@router.post("/account/devices/sign-out-others")
async def sign_out_others(request: Request, session: UserSession) -> RedirectResponse:
    ended = await get_session.revoke_all(session.subject, keep=session)
    session.data.messages.append(f"Other devices signed out: {ended}.")
    return see_other(request, "/account")


@router.get("/account/password")
async def password_page(request: Request, session: RecentSession) -> HTMLResponse:
    return page(request, "password.html", session)


@router.post("/account/password")
async def change_password(
    request: Request, session: RecentSession, password: Text = ""
) -> Response:
    if len(password) < 12:
        values = {"error": "Use at least 12 characters.", "wrong": "password"}
        return page(request, "password.html", session, 400, **values)
    await users.change_password(session.subject, password)
    await get_session.revoke_all(session.subject, keep=session)
    session.renew()
    session.data.messages.append(
        "Your password has been changed. All other devices are signed out."
    )
    return see_other(request, "/account")


def _device(request: Request) -> str:
    """Return a short name for the user's device, taken from its ``User-Agent``."""
    agent = request.headers.get("user-agent", "")
    browser = _first(agent, "Firefox", "Edg", "Chrome", "Safari", "curl") or "A browser"
    system = _first(agent, "Android", "iPhone", "Windows", "Mac", "Linux")
    return f"{browser} on {system}" if system else browser


def _first(agent: str, *names: str) -> str:
    return next((name for name in names if name in agent), "")
