"""A small shop with pages: sign in, a cart, a list of devices, a change of password, an admin.

    uvicorn examples.login:app

Read ``sessions`` first, then ``shop``, ``account`` and ``admin``.

None of the forms carries a token against cross-site request forgery. The provider refuses an
unsafe request (POST and the like) that a browser sends from another site, before a route runs.
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
    """``signed_in`` answers 401, which suits an API; people are sent to the form instead."""
    page = request.url.path
    if page.startswith("/admin"):
        return see_other("/admin/sign-in")
    return see_other(f"/sign-in?next={page}" if request.method == "GET" else "/sign-in")
