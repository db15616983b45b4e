"""An API, and a front end on another origin that signs in, reads, changes and signs out.

    uvicorn examples.spa:app --port 8000
    python -m http.server 5173 --directory examples/spa/page     then open http://localhost:5173

Three things let the front end in. ``CORSMiddleware`` lets it read responses, ``trusted_origins``
lets it send requests that change something, and ``credentials: "include"`` in ``page/app.js`` sends
the cookie. Pages of other origins can do neither.

The default cookie is enough if both are on one site: ``https://www.example.com`` and
``https://api.example.com``, or two ports of localhost. If they are on different sites, start the
API with ``OTHER_SITE=true``: browsers send only cookies with ``SameSite=None`` to another site, and
those that block third-party cookies only ``Partitioned`` ones. Such a cookie needs https, except on
localhost.
"""

import os
import secrets
from hmac import compare_digest
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from fastapi_async_sessions import (
    CookieConfig,
    MemoryStore,
    Session,
    SessionProvider,
    SessionRoute,
    SignedInSession,
    SignInRequired,
)

FRONT_END = os.environ.get("FRONT_END", "http://localhost:5173")
OTHER_SITE = os.environ.get("OTHER_SITE") == "true"


class Notebook(BaseModel):
    notes: list[str] = []


class Credentials(BaseModel):
    name: str
    password: str


class Note(BaseModel):
    text: str


get_session = SessionProvider(
    Notebook,
    store=MemoryStore(),
    secret_key=os.environ.get("SESSION_SECRET") or secrets.token_urlsafe(32),
    trusted_origins=(FRONT_END,),
    cookie=CookieConfig(samesite="none", partitioned=True) if OTHER_SITE else CookieConfig(),
)

AnySession = Annotated[Session[Notebook], Depends(get_session)]
UserSession = Annotated[SignedInSession[Notebook], Depends(get_session.signed_in())]

app = FastAPI(lifespan=get_session.lifespan)
app.router.route_class = SessionRoute


@app.post("/sign-in")
async def sign_in(credentials: Credentials, session: AnySession) -> Notebook:
    # a real application verifies a hash: see examples/login
    if not compare_digest(credentials.password.encode(), b"demo"):
        raise HTTPException(403, "Wrong name or password.")
    session.renew(subject=credentials.name)
    return session.data


@app.post("/sign-out", status_code=204)
async def sign_out(session: AnySession) -> None:
    await session.destroy()


@app.get("/notes")
async def read(session: UserSession) -> Notebook:
    return session.data


@app.post("/notes")
async def add(note: Note, session: UserSession) -> Notebook:
    session.data.notes.append(note.text)
    return session.data


@app.exception_handler(SignInRequired)
async def say_why(request: Request, error: SignInRequired) -> JSONResponse:
    """Add the reason, so that the front end can say that the session has expired."""
    body = {"detail": error.detail, "reason": error.reason}
    return JSONResponse(body, error.status_code, error.headers)


# Last, which makes it the outermost: what other middleware responds can be read as well. Never
# allow "*" together with credentials: the middleware would let every origin read.
app.add_middleware(
    CORSMiddleware,
    allow_origins=[FRONT_END],
    allow_credentials=True,
    allow_methods=["GET", "POST"],
    allow_headers=["Content-Type"],
)
