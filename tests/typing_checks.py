"""Right programs: the type of a user's model is kept everywhere.

mypy and pyright check them, and nothing runs them; ``typing_errors.py`` has wrong ones.
"""

from datetime import datetime, timedelta
from typing import Annotated, assert_type

from fastapi import Depends
from pydantic import BaseModel

from fastapi_async_sessions import MemoryStore, Session, SessionProvider


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
    recent: Session[UserData] = Depends(get_session.signed_in(within=timedelta(minutes=5))),
) -> tuple[str, str]:
    return required.data.name, recent.data.name


async def administration() -> None:
    for stored in await get_session.sessions("42"):
        assert_type(stored.data, UserData)
    async with get_session.open("0" * 64) as session:
        assert_type(session, Session[UserData])
    assert_type(await get_session.revoke("0" * 64), bool)
    assert_type(await get_session.revoke_all("42"), int)
