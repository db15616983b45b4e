"""A small shop: sign-in, cart, orders, a list of devices, a password page and an admin area.

    uvicorn examples.login:app

Read ``sessions`` first, then ``shop``, ``account``, ``orders`` and ``admin``.

The forms need no tokens against cross-site request forgery: before a route runs, the provider
rejects unsafe requests, such as POST, that a browser sends from another site.
"""

from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlencode

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException as StarletteHTTPException

from fastapi_async_sessions import SignInRequired

from . import account, admin, orders, shop
from .pages import error_page, own_url, see_other
from .sessions import get_admin_session, get_session


@asynccontextmanager
async def lifespan(app: FastAPI):
    async with get_session.lifespan(app), get_admin_session.lifespan(app):
        yield


app = FastAPI(title="The corner shop", lifespan=lifespan)
app.mount("/static", StaticFiles(directory=Path(__file__).with_name("static")))
app.include_router(shop.router)
app.include_router(account.router)
app.include_router(orders.router)
app.include_router(admin.router)


@app.exception_handler(SignInRequired)
async def ask_to_sign_in(request: Request, error: SignInRequired) -> Response:
    """Redirect to the sign-in form, which says if the session has expired and then leads back."""
    if not wants_a_page(request):
        return await http_exception_handler(request, error)
    page, query = own_url(request), dict[str, str]()
    is_admin = page.startswith("/admin")
    if request.method == "GET" and not is_admin:
        query["next"] = page
    if error.reason == "ended":
        query["expired"] = "true"
    form = "/admin/sign-in" if is_admin else "/sign-in"
    return see_other(request, f"{form}?{urlencode(query, safe='/')}" if query else form)


@app.exception_handler(StarletteHTTPException)
async def show_error(request: Request, error: HTTPException) -> Response:
    """Show a page for an error: 404, 403 by the origin check, 503 while the store is down."""
    if not wants_a_page(request):
        return await http_exception_handler(request, error)
    return error_page(request, error)


def wants_a_page(request: Request) -> bool:
    """Return whether a browser shows the answer; programs get JSON, and their 401."""
    return "application/json" not in request.headers.get("accept", "")
