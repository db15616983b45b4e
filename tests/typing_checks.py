"""Right programs: the type of a user's model is kept everywhere.

mypy and pyright check them, and nothing runs them; ``typing_errors.py`` has wrong ones.
"""

from datetime import datetime, timedelta
from typing import Annotated, assert_type

from fastapi import APIRouter, Depends, WebSocket
from fastapi.testclient import TestClient
from httpx import AsyncClient
from httpx2 import AsyncClient as AsyncClient2
from pydantic import BaseModel

from fastapi_async_sessions import (
    MemoryStore,
    Session,
    SessionProvider,
    SessionRoute,
    SignedInSession,
    StoredSession,
)
from fastapi_async_sessions.testing import sign_in, sign_out


class UserData(BaseModel):
    name: str = ""
    cart: list[int] = []


get_session = SessionProvider(UserData, store=MemoryStore(), secret_key="x")
UserSession = Annotated[Session[UserData], Depends(get_session)]

assert_type(get_session, SessionProvider[UserData])


async def route(session: UserSession) -> None:
    assert_type(session.data, UserData)
    assert_type(session.data.cart, list[int])
    assert_type(session.subject, str | None)
    assert_type(session.expires_at, datetime)
    assert_type(await session.reload(), bool)
    session.data = UserData(name="Ada")
    await session.destroy()


async def plain_default(session: Session[UserData] = Depends(get_session)) -> UserData:
    return session.data


async def guarded(
    required: Session[UserData] = Depends(get_session.required),
    recent: SignedInSession[UserData] = Depends(get_session.signed_in(within=timedelta(minutes=5))),
) -> tuple[str, str]:
    assert_type(recent.subject, str)
    assert_type(recent.data, UserData)
    assert_type(await get_session.signed_in()(required), SignedInSession[UserData])
    assert_type(await get_session.required()(required), Session[UserData])
    return required.data.name, recent.data.name


async def passed_on(session: SignedInSession[UserData]) -> None:
    await route(session)


async def peeks(websocket: WebSocket) -> str | None:
    stored = await get_session.peek(websocket)
    assert_type(stored, StoredSession[UserData] | None)
    assert_type(await get_session.peek({"type": "http"}), StoredSession[UserData] | None)
    return None if stored is None else stored.data.name


async def clients(test: TestClient, httpx: AsyncClient, httpx2: AsyncClient2) -> None:
    assert_type(sign_in(test, get_session, "ada", UserData()), None)
    assert_type(sign_out(test, get_session), None)
    assert_type(await sign_in(httpx, get_session, "ada"), None)
    assert_type(await sign_out(httpx2, get_session), None)


assert_type(SessionRoute.convert(APIRouter()), APIRouter)


async def administration() -> None:
    for stored in await get_session.sessions("42"):
        assert_type(stored.data, UserData)
    async with get_session.open("0" * 64) as session:
        assert_type(session, Session[UserData])
    assert_type(await get_session.revoke("0" * 64), bool)
    assert_type(await get_session.revoke_all("42"), int)
