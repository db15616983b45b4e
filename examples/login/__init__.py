"""A small shop with a sign-in, a cart, a list of devices, a password page and an admin area.

    uvicorn examples.login:app

Read ``sessions`` first, then ``shop``, ``account`` and ``admin``.

The forms need no tokens against cross-site request forgery: before a route runs, the provider
rejects unsafe requests, such as POST, that a browser sends from another site.
"""

from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlencode

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse
from fastapi.staticfiles import StaticFiles

from fastapi_async_sessions import SignInRequired

from . import account, admin, shop
from .pages import see_other
from .sessions import get_admin_session, get_session


@asynccontextmanager
async def lifespan(app: FastAPI):
    async with get_session.lifespan(app), get_admin_session.lifespan(app):
        yield


app = FastAPI(title="The corner shop", lifespan=lifespan)
app.mount("/static", StaticFiles(directory=Path(__file__).with_name("static")))
app.include_router(shop.router)
app.include_router(account.router)
app.include_router(admin.router)


@app.exception_handler(SignInRequired)
async def ask_to_sign_in(request: Request, error: SignInRequired) -> RedirectResponse:
    """Redirect to the sign-in form, which says if the session has expired.

    The 401 of ``signed_in`` suits an API, not a browser.
    """
    page, query = request.url.path, dict[str, str]()
    is_admin = page.startswith("/admin")
    if request.method == "GET" and not is_admin:
        query["next"] = page
    if error.reason == "ended":
        query["expired"] = "true"
    form = "/admin/sign-in" if is_admin else "/sign-in"
    return see_other(f"{form}?{urlencode(query, safe='/')}" if query else form)
