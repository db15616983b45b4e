"""sqladmin: the sign-in inside the mounted admin is on our session."""

from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from fastapi_async_sessions import SessionRouteMiddleware

from ..apps import browser, cookie_value, make_app, make_provider

pytest.importorskip("sqladmin")

from sqladmin import Admin, ModelView
from sqladmin.authentication import AuthenticationBackend
from sqlalchemy import Column, Integer, String, create_engine
from sqlalchemy.orm import declarative_base
from sqlalchemy.pool import StaticPool
from starlette.middleware import Middleware
from starlette.requests import Request

Base: Any = declarative_base()


class Staff(BaseModel):
    extra: dict[str, Any] = {}


class Page(Base):
    __tablename__ = "pages"
    id = Column(Integer, primary_key=True)
    name = Column(String)


class PageAdmin(ModelView, model=Page):
    column_list = (Page.id, Page.name)


class WithRequestSession(AuthenticationBackend):
    """The backend of sqladmin's documentation, but for the middleware."""

    def __init__(self, get_session: Any) -> None:
        self.middlewares = [Middleware(SessionRouteMiddleware, request_session=get_session)]

    async def login(self, request: Request) -> bool:
        form = await request.form()
        request.session.update({"user": form["username"]})
        return form["password"] == "correct"

    async def logout(self, request: Request) -> bool:
        request.session.clear()
        return True

    async def authenticate(self, request: Request) -> bool:
        return "user" in request.session


class WithOurSession(AuthenticationBackend):
    """One that signs in a subject, which can be listed and revoked."""

    def __init__(self, get_session: Any) -> None:
        self.middlewares = [Middleware(SessionRouteMiddleware)]
        self.get_session = get_session

    async def login(self, request: Request) -> bool:
        form = await request.form()
        (await self.get_session(request)).renew(subject=str(form["username"]))
        return True

    async def logout(self, request: Request) -> bool:
        await (await self.get_session(request)).destroy()
        return True

    async def authenticate(self, request: Request) -> bool:
        return (await self.get_session(request)).subject is not None


def make_admin_app(backend: Any) -> FastAPI:
    engine = create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )
    Base.metadata.create_all(engine)
    app = make_app()
    Admin(app, engine, authentication_backend=backend).add_view(PageAdmin)
    return app


async def list_status(client: httpx.AsyncClient) -> int:
    return (await client.get("/admin/page/list")).status_code


FORM = {"username": "ada", "password": "correct"}


@pytest.mark.parametrize("kind", [WithRequestSession, WithOurSession])
async def test_the_admin_signs_in_and_out(kind: Any) -> None:
    """A planted token is dead afterwards."""
    get_session = make_provider(model=Staff, request_session="extra")
    app = make_admin_app(kind(get_session))

    @app.get("/begin")
    async def begin(request: Request) -> None:
        (await get_session(request)).data.extra["theme"] = "dark"

    async with browser(app) as client:
        planted = cookie_value(await client.get("/begin"))
        assert await list_status(client) == 302
        response = await client.post("/admin/login", data=FORM)
        assert response.status_code == 302
        assert await list_status(client) == 200
        async with browser(app, planted) as attacker:
            assert await list_status(attacker) == 302
        assert (await client.get("/admin/logout")).status_code == 302
        assert await list_status(client) == 302


async def test_without_the_middleware_the_error_has_the_line_to_write() -> None:
    """The admin is a mounted application, which has no session of ours by itself."""
    backend = WithOurSession(make_provider())
    backend.middlewares = []
    async with browser(make_admin_app(backend)) as client:
        client._transport.raise_app_exceptions = True
        with pytest.raises(Exception, match=r"POST /admin/login uses .*SessionRouteMiddleware"):
            await client.post("/admin/login", data=FORM)
