"""A session service, and two applications that share the sessions it keeps.

    pip install -e ".[examples,http]"
    export SESSION_SECRET=... SERVICE_TOKEN=...      two different secrets
    uvicorn examples.service:service --port 8100
    uvicorn examples.service:shop --port 8101
    uvicorn examples.service:blog --port 8102

Only the service reaches the database. The applications share sessions because their providers
have the same name, secret and store; put them under one host name, for the cookie's sake.
"""

import os
import secrets
from typing import Annotated

from fastapi import Depends, FastAPI, Query
from pydantic import BaseModel

from fastapi_async_sessions import MemoryStore, Session, SessionProvider, SessionRoute
from fastapi_async_sessions.stores.http import HTTPStore
from fastapi_async_sessions.stores.service import session_service

SECRET = os.environ.get("SESSION_SECRET") or secrets.token_urlsafe(32)
TOKEN = os.environ.get("SERVICE_TOKEN") or secrets.token_urlsafe(32)
SERVICE = os.environ.get("SERVICE_URL", "http://127.0.0.1:8100")

# in production a RedisStore or an SQLStore
service = session_service(MemoryStore(), token=TOKEN)


class Reader(BaseModel):
    name: str = ""
    cart: list[str] = []


def provider() -> SessionProvider[Reader]:
    """Each application makes its own provider, as it would in a separate process and repository."""
    return SessionProvider(Reader, store=HTTPStore(SERVICE, token=TOKEN), secret_key=SECRET)


get_shop_session = provider()
shop = FastAPI(title="Shop", lifespan=get_shop_session.lifespan)
shop.router.route_class = SessionRoute


@shop.post("/sign-in")
async def sign_in(
    name: Annotated[str, Query(pattern=r"^[A-Za-z]{1,40}$")],
    session: Annotated[Session[Reader], Depends(get_shop_session)],
) -> Reader:
    session.data.name = name  # a real application checks a password, as examples/login does
    session.renew(subject=name)
    return session.data


get_blog_session = provider()
blog = FastAPI(title="Blog", lifespan=get_blog_session.lifespan)
blog.router.route_class = SessionRoute


@blog.get("/")
async def front_page(
    session: Annotated[Session[Reader], Depends(get_blog_session.signed_in())],
) -> dict[str, str]:
    return {"welcome": session.data.name}


@blog.post("/sign-out", status_code=204)
async def sign_out(session: Annotated[Session[Reader], Depends(get_blog_session)]) -> None:
    await session.destroy()
