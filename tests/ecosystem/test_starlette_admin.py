"""starlette-admin: the sign-in inside the mounted admin is on our session."""

import re
from typing import Any

import pytest
from fastapi import FastAPI

from fastapi_async_sessions import SessionRouteMiddleware

from ..apps import SECRET, browser, make_app, make_provider

pytest.importorskip("starlette_admin")

from sqlalchemy import Column, Integer, String, create_engine
from sqlalchemy.orm import declarative_base
from sqlalchemy.pool import StaticPool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette_admin.auth import AdminUser, AuthProvider
from starlette_admin.contrib.sqla import Admin, ModelView

Base: Any = declarative_base()


class Page(Base):
    __tablename__ = "pages"
    id = Column(Integer, primary_key=True)
    name = Column(String)


class Provider(AuthProvider):
    """Who is signed in is the subject of the session."""

    def __init__(self, get_session: Any) -> None:
        super().__init__()
        self.get_session = get_session

    async def login(self, username: str, password: str, remember_me: bool, request: Request) -> Any:
        (await self.get_session(request)).renew(subject=username)

    async def authenticate(self, request: Request) -> Any:
        subject = (await self.get_session(request)).subject
        return AdminUser(username=subject) if subject else None

    is_authenticated = authenticate

    def get_admin_user(self, request: Request) -> AdminUser:
        return AdminUser(username="ada")

    async def logout(self, request: Request) -> Any:
        await (await self.get_session(request)).destroy()


def make_admin_app(get_session: Any) -> FastAPI:
    engine = create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )
    Base.metadata.create_all(engine)
    app = make_app()
    admin = Admin(
        engine,
        auth_provider=Provider(get_session),
        secret_key=SECRET,
        middlewares=[Middleware(SessionRouteMiddleware)],
    )
    admin.add_view(ModelView(Page))
    admin.mount_to(app)
    return app


async def test_the_admin_signs_in() -> None:
    """The session has the user as its subject, and after its revocation the admin is closed."""
    get_session = make_provider()
    async with browser(make_admin_app(get_session)) as client:
        page = await client.get("/admin/login")
        token = re.search(r'name="([^"]*csrf[^"]*)" value="([^"]+)"', page.text)
        form = {"username": "ada", "password": "b", **(dict([token.groups()]) if token else {})}
        assert (await client.get("/admin/page/list")).status_code in (302, 303, 307)
        assert (await client.post("/admin/login", data=form)).status_code == 303
        assert (await client.get("/admin/page/list")).status_code == 200
        assert len(await get_session.sessions("ada")) == 1
        await get_session.revoke_all("ada")
        assert (await client.get("/admin/page/list")).status_code in (302, 303, 307)
