"""A small shop with a sign-in, a cart, a list of devices, a password page and an admin area.

    uvicorn examples.login:app

Read ``sessions`` first, then ``shop``, ``account`` and ``admin``.

The forms need no tokens against cross-site request forgery: before a route runs, the provider
rejects unsafe requests, such as POST, that a browser sends from another site.
"""

from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse
from fastapi.staticfiles import StaticFiles

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


@app.exception_handler(401)
async def ask_to_sign_in(request: Request, error: Exception) -> RedirectResponse:
    """Redirect to the sign-in form: the 401 of ``signed_in`` suits an API, not a browser."""
    page = request.url.path
    if page.startswith("/admin"):
        return see_other("/admin/sign-in")
    return see_other(f"/sign-in?next={page}" if request.method == "GET" else "/sign-in")
