"""Other libraries, each used as its documentation shows.

A library is imported by the process that serves it, and not by the others.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID, uuid4

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from redis.asyncio import Redis

from .work import HOUR, SECRET, Basket, new_basket

if TYPE_CHECKING:
    from .contenders import Addresses


def starlette(addresses: "Addresses") -> FastAPI:
    """Data in a signed cookie: there is no store to ask, and nothing can be revoked."""
    from starlette.middleware.sessions import SessionMiddleware

    app = FastAPI(openapi_url=None)
    app.add_middleware(SessionMiddleware, secret_key=SECRET, max_age=HOUR, https_only=True)
    _add_dict_routes(app)
    return app


def starsessions(addresses: "Addresses") -> FastAPI:
    """``await load_session(request)`` in each route that needs the session."""
    return _starsessions(addresses, autoload=False)


def starsessions_autoload(addresses: "Addresses") -> FastAPI:
    """Every request loads its session."""
    return _starsessions(addresses, autoload=True)


def _starsessions(addresses: "Addresses", *, autoload: bool) -> FastAPI:
    from starsessions import (
        SessionAutoloadMiddleware,
        SessionMiddleware,
        load_session,
        regenerate_session_id,
    )
    from starsessions.stores.redis import RedisStore

    redis = Redis.from_url(addresses.redis)
    app = FastAPI(openapi_url=None, lifespan=_closing(redis))
    if autoload:
        app.add_middleware(SessionAutoloadMiddleware)
    app.add_middleware(SessionMiddleware, store=RedisStore(connection=redis), lifetime=HOUR)
    _add_dict_routes(app, None if autoload else load_session, regenerate_session_id)
    return app


def _add_dict_routes(app: FastAPI, load: Any = None, renew: Any = None) -> None:
    """Routes over ``request.session``, a dict."""

    async def loaded(request: Request) -> dict[str, Any]:
        if load is not None:
            await load(request)
        return request.session

    @app.get("/plain")
    async def plain() -> dict[str, int]:
        return {"count": 0}

    @app.get("/subject")
    async def subject(request: Request) -> dict[str, str]:
        session = await loaded(request)
        return {"user": session["user"]}

    @app.get("/read")
    async def read(request: Request) -> dict[str, int]:
        session = await loaded(request)
        return {"count": session["data"]["count"]}

    @app.post("/change")
    async def change(request: Request) -> dict[str, int]:
        session = await loaded(request)
        data = session["data"]
        data["count"] += 1
        session["data"] = data
        return {"count": data["count"]}

    @app.post("/sign-in/{user}")
    async def sign_in(user: str, request: Request) -> dict[str, int]:
        session = await loaded(request)
        session["user"] = user
        session["data"] = new_basket(user)
        if renew is not None:
            renew(request)
        return {"count": 0}

    @app.post("/sign-out")
    async def sign_out(request: Request) -> dict[str, int]:
        session = await loaded(request)
        session.clear()
        return {"count": 0}

    @app.post("/visit/{page}")
    async def visit(page: str, request: Request) -> dict[str, int]:
        session = await loaded(request)
        data = session["data"]
        data["pages"][page] += 1
        session["data"] = data
        return {"count": data["pages"][page]}

    @app.get("/session")
    async def whole(request: Request) -> dict[str, Any]:
        session = await loaded(request)
        return {"user": session.get("user"), "data": session.get("data")}


def fastapi_redis_sdk(addresses: "Addresses") -> FastAPI:
    """The middleware of the Redis company; its server needs ``HEXPIRE``: Redis 7.4, Valkey 9."""
    from redis_fastapi import FastAPIRedis, get_settings

    settings = get_settings()
    settings.url = addresses.redis
    settings.session_principal_keys = ["user"]
    app = FastAPI(openapi_url=None)
    FastAPIRedis(app).lifespan().sessions(idle_ttl=HOUR)
    _add_dict_routes(app)
    return app


def fastapi_sessions(addresses: "Addresses") -> FastAPI:
    """In memory, the only backend that it has."""
    from fastapi_sessions.backends.implementations import InMemoryBackend
    from fastapi_sessions.frontends.implementations import CookieParameters, SessionCookie
    from fastapi_sessions.session_verifier import SessionVerifier

    class UserBasket(Basket):
        user: str = ""

    cookie = SessionCookie(
        cookie_name="session",
        identifier="general",
        secret_key=SECRET,
        cookie_params=CookieParameters(secure=True, max_age=HOUR),
    )
    store = InMemoryBackend[UUID, UserBasket]()

    class Verifier(SessionVerifier[UUID, UserBasket]):
        identifier = "general"
        backend = store
        auto_error = True
        auth_http_exception = HTTPException(403)

        def verify_session(self, model: UserBasket) -> bool:
            return True

    class Guest(Verifier):
        auto_error = False

    Id = Annotated[UUID, Depends(cookie)]
    Data = Annotated[UserBasket, Depends(Verifier())]
    app = FastAPI(openapi_url=None)

    @app.get("/plain")
    async def plain() -> dict[str, int]:
        return {"count": 0}

    @app.get("/subject")
    async def subject(session_id: Id, data: Data) -> dict[str, str]:
        return {"user": data.user}

    @app.get("/read")
    async def read(session_id: Id, data: Data) -> dict[str, int]:
        return {"count": data.count}

    @app.post("/change")
    async def change(session_id: Id, data: Data) -> dict[str, int]:
        data.count += 1
        await store.update(session_id, data)
        return {"count": data.count}

    @app.post("/sign-in/{user}")
    async def sign_in(user: str, response: Response) -> dict[str, int]:
        session_id = uuid4()
        await store.create(session_id, UserBasket.model_validate(new_basket(user) | {"user": user}))
        cookie.attach_to_response(response, session_id)
        return {"count": 0}

    @app.post("/sign-out")
    async def sign_out(session_id: Id, data: Data, response: Response) -> dict[str, int]:
        await store.delete(session_id)
        cookie.delete_from_response(response)
        return {"count": 0}

    @app.post("/visit/{page}")
    async def visit(page: str, session_id: Id, data: Data) -> dict[str, int]:
        data.pages[page] += 1
        await store.update(session_id, data)
        return {"count": data.pages[page]}

    @app.get("/session")
    async def whole(
        session_id: Id, data: Annotated[UserBasket | None, Depends(Guest())]
    ) -> dict[str, Any]:
        if data is None:
            return {"user": None, "data": None}
        return {"user": data.user, "data": data.model_dump(exclude={"user"})}

    return app


def litestar(addresses: "Addresses") -> Any:
    """Another framework, whose sessions are part of it."""
    from litestar import Litestar, get, post
    from litestar import Request as LitestarRequest
    from litestar.middleware.session.server_side import ServerSideSessionConfig
    from litestar.stores.redis import RedisStore

    SessionRequest = LitestarRequest[Any, Any, Any]

    @get("/plain")
    async def plain() -> dict[str, int]:
        return {"count": 0}

    @get("/subject")
    async def subject(request: SessionRequest) -> dict[str, str]:
        return {"user": request.session["user"]}

    @get("/read")
    async def read(request: SessionRequest) -> dict[str, int]:
        return {"count": request.session["data"]["count"]}

    @post("/change", status_code=200)
    async def change(request: SessionRequest) -> dict[str, int]:
        request.session["data"]["count"] += 1
        return {"count": request.session["data"]["count"]}

    @post("/sign-in/{user:str}", status_code=200)
    async def sign_in(user: str, request: SessionRequest) -> dict[str, int]:
        request.set_session({"user": user, "data": new_basket(user)})
        return {"count": 0}

    @post("/sign-out", status_code=200)
    async def sign_out(request: SessionRequest) -> dict[str, int]:
        request.clear_session()
        return {"count": 0}

    @post("/visit/{page:str}", status_code=200)
    async def visit(page: str, request: SessionRequest) -> dict[str, int]:
        request.session["data"]["pages"][page] += 1
        return {"count": request.session["data"]["pages"][page]}

    @get("/session")
    async def whole(request: SessionRequest) -> dict[str, Any]:
        return {"user": request.session.get("user"), "data": request.session.get("data")}

    sessions = ServerSideSessionConfig(max_age=HOUR, secure=True)
    return Litestar(
        [plain, subject, read, change, sign_in, sign_out, visit, whole],
        middleware=[sessions.middleware],
        stores={"sessions": RedisStore.with_client(url=addresses.redis)},
        openapi_config=None,
        logging_config=None,
    )


def _closing(redis: Any) -> Any:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await redis.aclose()

    return lifespan
