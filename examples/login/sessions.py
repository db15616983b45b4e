"""The session models of the shop, and their providers."""

import os
import secrets
from datetime import timedelta
from typing import Annotated

from fastapi import Depends
from pydantic import BaseModel

from fastapi_async_sessions import (
    CookieConfig,
    Lifetime,
    MemoryStore,
    Session,
    SessionProvider,
)

# Give all workers the same secret, and keep it out of the code. With a random one, every restart
# ends all sessions.
SECRET_KEY = os.environ.get("SESSION_SECRET") or secrets.token_urlsafe(32)

# The path that a proxy removes before it passes a request on, as in
# ROOT_PATH=/shop uvicorn --root-path /shop examples.login:app
ROOT_PATH = os.environ.get("ROOT_PATH", "")

store = MemoryStore()


class Customer(BaseModel):
    """A customer's session; items that two tabs add to the cart at the same time are both kept."""

    visits: int = 0
    cart: list[str] = []
    device: str = ""
    messages: list[str] = []


class Administrator(BaseModel):
    """An administrator's session, which has nothing in common with a customer's."""

    done: list[str] = []
    messages: list[str] = []


get_session = SessionProvider(Customer, store=store, secret_key=SECRET_KEY, name="shop")

get_admin_session = SessionProvider(
    Administrator,
    store=store,
    secret_key=SECRET_KEY,
    name="admin",
    cookie=CookieConfig(path=f"{ROOT_PATH}/admin", samesite="strict"),
    lifetime=Lifetime.NIST_AAL3,
)

# for "remember me"
REMEMBERED = Lifetime(idle=timedelta(days=14), absolute=timedelta(days=30))

AnySession = Annotated[Session[Customer], Depends(get_session)]
UserSession = Annotated[Session[Customer], Depends(get_session.signed_in())]
RecentSession = Annotated[
    Session[Customer], Depends(get_session.signed_in(within=timedelta(minutes=5)))
]

AnyAdminSession = Annotated[Session[Administrator], Depends(get_admin_session)]
AdminSession = Annotated[Session[Administrator], Depends(get_admin_session.signed_in())]
