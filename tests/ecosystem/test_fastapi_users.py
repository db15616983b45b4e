"""fastapi-users: its own login route signs in with our session, through one backend."""

import uuid
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Response

from fastapi_async_sessions import Session, SessionRoute

from ..apps import Data, browser, cookie_value, make_app, make_provider

pytest.importorskip("fastapi_users")

from fastapi_users import BaseUserManager, FastAPIUsers, UUIDIDMixin, schemas
from fastapi_users.authentication import AuthenticationBackend, Strategy, Transport
from fastapi_users.exceptions import UserNotExists

get_session: Any = make_provider()
UserSession = Annotated[Session[Data], Depends(get_session)]


class SessionTransport(Transport):
    """The session carries the user, so that the "token" is its subject."""

    async def scheme(session: UserSession) -> str | None:
        return session.subject

    scheme = staticmethod(scheme)

    async def get_login_response(self, token: str) -> Response:
        return Response(status_code=204)

    async def get_logout_response(self) -> Response:
        return Response(status_code=204)

    @staticmethod
    def get_openapi_login_responses_success() -> Any:
        return {204: {}}

    @staticmethod
    def get_openapi_logout_responses_success() -> Any:
        return {204: {}}


class SessionStrategy(Strategy):
    def __init__(self, session: UserSession) -> None:
        self.session = session

    async def read_token(self, token: str | None, user_manager: Any) -> Any:
        try:
            return token and await user_manager.get(user_manager.parse_id(token))
        except UserNotExists:  # the user was deleted
            return None

    async def write_token(self, user: Any) -> str:
        self.session.renew(subject=str(user.id))
        return ""

    async def destroy_token(self, token: str, user: Any) -> None:
        await self.session.destroy()


class User:
    """A user of a database in memory."""

    def __init__(self, **fields: Any) -> None:
        self.is_active, self.is_superuser, self.is_verified = True, False, False
        vars(self).update(fields)


class Users(dict[uuid.UUID, User]):
    async def get(self, key: uuid.UUID) -> User | None:
        return dict.get(self, key)

    async def get_by_email(self, email: str) -> User | None:
        return next((user for user in self.values() if user.email == email), None)

    async def create(self, fields: dict[str, Any]) -> User:
        user = User(id=uuid.uuid4(), **fields)
        return self.setdefault(user.id, user)

    async def update(self, user: User, fields: dict[str, Any]) -> User:
        vars(user).update(fields)
        return user


class Manager(UUIDIDMixin, BaseUserManager[Any, uuid.UUID]):
    reset_password_token_secret = verification_token_secret = "x" * 32


def make_users_app(*, is_converted: bool = True) -> FastAPI:
    users = Users()

    async def get_manager() -> Any:
        yield Manager(users)

    backend = AuthenticationBackend("session", SessionTransport(), SessionStrategy)
    package = FastAPIUsers[Any, uuid.UUID](get_manager, [backend])
    app = make_app(lifespan=get_session.lifespan)
    for router in (
        package.get_auth_router(backend),
        package.get_register_router(schemas.BaseUser[uuid.UUID], schemas.BaseUserCreate),
        package.get_users_router(schemas.BaseUser[uuid.UUID], schemas.BaseUserUpdate),
    ):
        app.include_router(SessionRoute.convert(router) if is_converted else router)

    app.state.users = users

    @app.post("/count")
    async def count(session: UserSession) -> int:
        session.data.count += 1
        return session.data.count

    return app


async def test_its_own_login_route_signs_in() -> None:
    """A planted token is dead afterwards, the data stays, and its logout ends the session."""
    app = make_users_app()
    credentials = {"email": "ada@example.com", "password": "correct-horse"}
    async with get_session.lifespan(app), browser(app) as client:
        planted = cookie_value(await client.post("/count"))
        assert (await client.post("/register", json=credentials)).status_code == 201
        assert (await client.get("/me")).status_code == 401
        form = {"username": credentials["email"], "password": credentials["password"]}
        assert (await client.post("/login", data={**form, "password": "x"})).status_code == 400
        assert (await client.post("/login", data=form)).status_code == 204
        assert (await client.get("/me")).json()["email"] == "ada@example.com"
        assert (await client.post("/count")).json() == 2
        async with browser(app, planted) as attacker:
            assert (await attacker.get("/me")).status_code == 401
        assert (await client.post("/logout")).status_code == 204
        assert (await client.get("/me")).status_code == 401


async def test_a_user_who_was_deleted_or_locked_is_refused() -> None:
    """The package looks the user up at each request."""
    app = make_users_app()
    credentials = {"email": "ada@example.com", "password": "correct-horse"}
    async with get_session.lifespan(app), browser(app) as client:
        await client.post("/register", json=credentials)
        form = {"username": credentials["email"], "password": credentials["password"]}
        assert (await client.post("/login", data=form)).status_code == 204
        (user,) = app.state.users.values()
        user.is_active = False
        assert (await client.get("/me")).status_code == 401
        user.is_active = True
        assert (await client.get("/me")).status_code == 200
        app.state.users.clear()
        assert (await client.get("/me")).status_code == 401


async def test_without_the_conversion_the_application_does_not_start() -> None:
    """The error names its routes, and the line to write."""
    app = make_users_app(is_converted=False)
    with pytest.raises(Exception, match=r"/login .*SessionRoute\.convert\(router\)"):
        async with get_session.lifespan(app):
            pass
