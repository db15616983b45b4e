"""The admin area, whose sessions have their own cookie, model and lifetime."""

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from fastapi_async_sessions import SessionRoute

from . import users
from .pages import EXPIRED, RESPONSES, page, see_other
from .sessions import AdminSession, AnyAdminSession, get_session

router = APIRouter(
    prefix="/admin",
    route_class=SessionRoute,
    default_response_class=HTMLResponse,
    responses=RESPONSES,
)

Text = Annotated[str, Form(max_length=200)]


@router.get("/sign-in")
async def sign_in_page(
    request: Request, session: AnyAdminSession, expired: bool = False
) -> HTMLResponse:
    if expired:
        session.data.messages.append(EXPIRED)
    return page(request, "admin/sign_in.html", session, demo=users.DEMO)


@router.post("/sign-in")
async def sign_in(
    request: Request, session: AnyAdminSession, name: Text = "", password: Text = ""
) -> Response:
    if not await users.is_right(name, password) or name not in users.ADMINS:
        values = {"error": "Wrong name or password.", "name": name, "demo": users.DEMO}
        values["wrong"] = "password" if name else "name"
        return page(request, "admin/sign_in.html", session, 403, **values)
    session.renew(subject=name)
    return see_other(request, "/admin")


@router.post("/sign-out")
async def sign_out(request: Request, session: AnyAdminSession) -> RedirectResponse:
    await session.destroy()
    return see_other(request, "/admin/sign-in")


@router.get("")
async def overview(request: Request, session: AdminSession) -> HTMLResponse:
    sessions = {name: await get_session.sessions(name) for name in users.names()}
    return page(request, "admin/overview.html", session, sessions=sessions)


@router.post("/users/{name}/sign-out")
async def sign_user_out(request: Request, name: str, session: AdminSession) -> RedirectResponse:
    ended = await get_session.revoke_all(name)
    session.data.done.append(f"Signed {name} out everywhere. Sessions ended: {ended}.")
    return see_other(request, "/admin")
