"""An admin interface by sqladmin, with its own sessions and sign-in.

    pip install -e ".[examples]" sqladmin
    uvicorn examples.admin:app            then open http://127.0.0.1:8000/admin

The admin is a mounted application, so ``SessionRouteMiddleware`` commits its sessions, instead of
Starlette's ``SessionMiddleware``. The signed-in user is the subject of the session, so sessions can
be listed, and ``await get_staff_session.revoke_all("ada")`` signs Ada out of the admin at once.
Forms that other sites send to the admin get a 403.
"""

import os
import secrets
from hmac import compare_digest

from fastapi import FastAPI
from pydantic import BaseModel
from sqladmin import Admin, ModelView
from sqladmin.authentication import AuthenticationBackend
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import StaticPool
from starlette.middleware import Middleware
from starlette.requests import Request

from fastapi_async_sessions import (
    CookieConfig,
    Lifetime,
    MemoryStore,
    SessionProvider,
    SessionRouteMiddleware,
)


class Staff(BaseModel):
    """The session of a member of staff, which holds no data."""


get_staff_session = SessionProvider(
    Staff,
    store=MemoryStore(),
    secret_key=os.environ.get("SESSION_SECRET") or secrets.token_urlsafe(32),
    name="staff",
    cookie=CookieConfig(path="/admin", samesite="strict"),
    lifetime=Lifetime.NIST_AAL3,
)


PASSWORDS = {"ada": "demo"}  # a real application has hashes: see examples/login


def is_right(name: str, password: str) -> bool:
    return name in PASSWORDS and compare_digest(password.encode(), PASSWORDS[name].encode())


class StaffSignIn(AuthenticationBackend):
    def __init__(self) -> None:
        self.middlewares = [Middleware(SessionRouteMiddleware)]

    async def login(self, request: Request) -> bool:
        form = await request.form()
        name, password = str(form.get("username")), str(form.get("password"))
        if not is_right(name, password):
            return False
        session = await get_staff_session(request)
        session.renew(subject=name)
        return True

    async def logout(self, request: Request) -> bool:
        session = await get_staff_session(request)
        # sqladmin signs out by a link, which another site can contain as well. With
        # SameSite=Strict the browser then sends no cookie, so no user is signed out.
        if session.subject is not None:
            await session.destroy()
        return True

    async def authenticate(self, request: Request) -> bool:
        return await self.get_user_id(request) is not None

    async def get_user_id(self, request: Request) -> str | None:
        session = await get_staff_session(request)
        return session.subject


class Base(DeclarativeBase):
    pass


class Article(Base):
    __tablename__ = "articles"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


class ArticleAdmin(ModelView, model=Article):
    column_list = ("id", "title")


engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
Base.metadata.create_all(engine)

app = FastAPI(lifespan=get_staff_session.lifespan)
Admin(app, engine, authentication_backend=StaffSignIn()).add_view(ArticleAdmin)
