"""Wrong programs: mypy and pyright must report exactly the lines that end in ``# error``.

``tests/test_typing.py`` runs them. Never imported; ``typing_checks.py`` has the right programs.
"""

from datetime import timedelta
from typing import Annotated

from fastapi import Depends, FastAPI
from fastapi.requests import HTTPConnection
from pydantic import BaseModel, ValidationError

from fastapi_async_sessions import (
    CookieConfig,
    Lifetime,
    MemoryStore,
    Session,
    SessionEvent,
    SessionProvider,
    StoredSession,
)
from fastapi_async_sessions.testing import override_session

SECRET = "x"
STORE = MemoryStore()


class UserData(BaseModel):
    name: str = ""
    cart: list[int] = []


class Other(BaseModel):
    theme: str = "light"


get_session = SessionProvider(UserData, store=STORE, secret_key=SECRET)
UserSession = Annotated[Session[UserData], Depends(get_session)]


# the data of a session is the user's model


async def route(session: UserSession) -> None:
    session.data.surname  # error  # noqa: B018
    session.data.name = 1  # error
    session.data.cart.append("apple")  # error
    session.data = Other()  # error
    session.data = {"name": "Ada"}  # error
    session["name"]  # error
    name: str = session.subject  # error
    session.subject = "42"  # error
    session.key = "f" * 64  # error
    session.is_new = True  # error
    session.renew(user="42")  # error
    session.renew(subject=42)  # error
    await session.renew(subject="42")  # error
    reloaded: str = await session.reload()  # error
    del name, reloaded


# a provider keeps its model


other: SessionProvider[Other] = get_session  # error


async def another_model(connection: HTTPConnection) -> None:
    session: Session[Other] = await get_session(connection)  # error
    del session


async def administration(stored: StoredSession[UserData]) -> None:
    stored.data.theme  # error  # noqa: B018
    stored.data = UserData()  # error
    async with get_session.open("f" * 64) as opened:
        opened.data.theme  # error  # noqa: B018
    async with get_session.open(b"f" * 64):  # error
        pass
    for each in await get_session.sessions("42"):
        each.data.theme  # error  # noqa: B018
    for _ in get_session.sessions("42"):  # error
        pass
    await get_session.revoke_all(42)  # error
    await get_session.revoke_all("42", keep="f" * 64)  # error


get_session.signed_in(timedelta(minutes=5))
get_session.signed_in(within=5)  # error
get_session.signed_in().session  # error  # noqa: B018


# the arguments of a provider


def migrate(raw: dict[str, object], error: ValidationError) -> UserData:
    return UserData()


def migrate_to_other(raw: dict[str, object], error: ValidationError) -> Other:
    return Other()


async def on_event(event: SessionEvent) -> None: ...


SessionProvider(UserData, store=STORE, secret_key=SECRET, on_invalid=migrate)
SessionProvider(UserData, store=STORE)  # error
SessionProvider(UserData, secret_key=SECRET)  # error
SessionProvider(UserData, STORE, SECRET)  # error
SessionProvider(dict, store=STORE, secret_key=SECRET)  # error
SessionProvider(UserData(), store=STORE, secret_key=SECRET)  # error
SessionProvider(UserData, store=MemoryStore, secret_key=SECRET)  # error
SessionProvider(UserData, store="redis://localhost", secret_key=SECRET)  # error
SessionProvider(UserData, store=STORE, secret_key=42)  # error
SessionProvider(UserData, store=STORE, secret_key=SECRET, on_conflict="merge")  # error
SessionProvider(UserData, store=STORE, secret_key=SECRET, on_invalid="ignore")  # error
misfit: SessionProvider[UserData] = SessionProvider(UserData, store=STORE, secret_key=SECRET, on_invalid=migrate_to_other)  # error  # noqa: E501  # fmt: skip
SessionProvider(UserData, store=STORE, secret_key=SECRET, on_event=on_event)  # error
SessionProvider(UserData, store=STORE, secret_key=SECRET, lifetime=3600)  # error
SessionProvider(UserData, store=STORE, secret_key=SECRET, store_timeout=2)  # error
SessionProvider(UserData, store=STORE, secret_key=SECRET, cookie={})  # error
SessionProvider(UserData, store=STORE, secret_key=SECRET, unknown=1)  # error
Lifetime(idle=3600)  # error
CookieConfig(samesite="sometimes")  # error


# the helpers for tests


def helpers(app: FastAPI) -> None:
    with override_session(app, get_session, Other()):  # error
        pass
