"""Libraries that keep sessions, each used as its documentation shows, with default settings.

A library is imported when its application is made, so that the others need not be installed.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import UUID, uuid4

import httpx
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from pydantic import BaseModel
from redis.asyncio import Redis

from fastapi_async_sessions import Session, SessionProvider, SessionRoute
from fastapi_async_sessions.stores.redis import RedisStore

from .work import SECRET

ADA = {"username": "ada", "password": "Correct-horse-9"}


class Browser:
    """Keeps the cookies of a server, also ``Secure`` ones over HTTP."""

    def __init__(self, url: str, cookies: dict[str, str] | None = None) -> None:
        self.url, self.cookies = url, dict(cookies or {})
        self.set_cookies: list[str] = []

    def copy(self) -> "Browser":
        return Browser(self.url, self.cookies)

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = options.pop("headers", {}) | {
            "cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        }
        response = httpx.request(
            method, self.url + path, headers=headers, timeout=60, trust_env=False, **options
        )
        self.set_cookies += response.headers.get_list("set-cookie")
        for line in response.headers.get_list("set-cookie"):
            name, _, value = line.partition(";")[0].partition("=")
            removed = "max-age=0" in line.lower() or "1970" in line
            self.cookies.pop(name, None) if removed else self.cookies.update({name: value})
        return response

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.send("POST", path, **options)

    def user(self) -> str | None:
        return self._read().get("user")

    def cart(self) -> list[str]:
        return self._read().get("cart", [])

    def _read(self) -> dict[str, Any]:
        response = self.send("GET", "/read")
        return response.json() if response.status_code == 200 else {}


class Library:
    """A library, and how its sessions are used.

    Attributes:
        kept_in: The stores that it has, and where.
        timeouts: The timeouts that it has, and the parameters that set them.
        saved_by: The call that stores changes; empty: they are found.
    """

    distribution: str
    used_as: str
    data: str = "dict"
    cookie = "session"
    invented = "a" * 64
    kept_in: tuple[tuple[str, str], ...]
    timeouts: tuple[str, list[str]]
    saved_by = ""

    def make(self, redis: str) -> Any:
        """An application with the routes of ``_add_routes``."""
        raise NotImplementedError

    def on_demand(self, redis: str) -> Any:
        """The same, loading sessions where routes need them; None: there is one way only."""
        return None

    def begin(self, browser: Browser) -> None:
        browser.post("/assign/a")

    def sign_in(self, browser: Browser, **options: Any) -> None:
        browser.post("/sign-in", **options)

    def sign_out(self, browser: Browser) -> None:
        browser.post("/sign-out")

    def revoke_all(self, browser: Browser) -> bool:
        """End all sessions of the user; False: the library has no such thing."""
        return False


# ---- the applications


def _add_routes(app: FastAPI, load: Any = None, renew: Any = None) -> FastAPI:
    """Routes over ``request.session``, a dict."""
    both = asyncio.Barrier(2)

    async def loaded(request: Request) -> dict[str, Any]:
        if load is not None:
            await load(request)
        return request.session

    @app.get("/plain")
    async def plain() -> str:
        return "plain"

    @app.get("/read")
    async def read(request: Request) -> dict[str, Any]:
        session = await loaded(request)
        return {"user": session.get("user"), "cart": session.get("cart", [])}

    @app.post("/assign/{item}")
    async def assign(item: str, request: Request) -> None:
        session = await loaded(request)
        session["cart"] = [*session.get("cart", []), item]

    @app.post("/append/{item}")
    async def append(item: str, request: Request) -> None:
        session = await loaded(request)
        session["cart"].append(item)

    @app.post("/meet/{item}")
    async def meet(item: str, request: Request) -> None:
        session = await loaded(request)
        session["cart"] = [*session["cart"], item]
        await asyncio.wait_for(both.wait(), 60)

    @app.post("/fail/{item}")
    async def fail(item: str, request: Request) -> None:
        session = await loaded(request)
        session["cart"] = [*session["cart"], item]
        raise HTTPException(400)

    @app.post("/sign-in")
    async def sign_in(request: Request) -> None:
        session = await loaded(request)
        session["user"] = "ada"
        if renew is not None:
            renew(request)

    @app.post("/sign-out")
    async def sign_out(request: Request) -> None:
        session = await loaded(request)
        session.clear()

    return app


class Starlette(Library):
    distribution = "starlette"
    used_as = "middleware"
    kept_in = (
        ("the cookie, signed and readable", "starlette.middleware.sessions:SessionMiddleware"),
    )
    timeouts = "one age, in the cookie", ["starlette.middleware.sessions:SessionMiddleware max_age"]

    def make(self, redis: str) -> Any:
        from starlette.middleware.sessions import SessionMiddleware

        app = FastAPI()
        app.add_middleware(SessionMiddleware, secret_key=SECRET)
        return _add_routes(app)


class Starsessions(Library):
    distribution = "starsessions"
    used_as = "middleware"
    kept_in = (
        ("cookie", "starsessions:CookieStore"),
        ("memory", "starsessions:InMemoryStore"),
        ("Redis", "starsessions.stores.redis:RedisStore"),
    )
    timeouts = (
        "idle or absolute",
        ["starsessions:SessionMiddleware lifetime", "starsessions:SessionMiddleware rolling"],
    )

    def make(self, redis: str) -> Any:
        from starsessions import SessionAutoloadMiddleware, regenerate_session_id

        app = FastAPI()
        app.add_middleware(SessionAutoloadMiddleware)
        return _add_routes(self._with_sessions(app, redis), renew=regenerate_session_id)

    def on_demand(self, redis: str) -> Any:
        from starsessions import load_session, regenerate_session_id

        app = self._with_sessions(FastAPI(), redis)
        return _add_routes(app, load_session, regenerate_session_id)

    def _with_sessions(self, app: FastAPI, redis: str) -> FastAPI:
        from starsessions import SessionMiddleware
        from starsessions.stores.redis import RedisStore

        store = RedisStore(connection=Redis.from_url(redis))
        app.add_middleware(SessionMiddleware, store=store)
        return app


class FastAPISessions(Library):
    distribution = "fastapi-sessions"
    used_as = "dependencies"
    data = "your model"
    kept_in = (("memory", "fastapi_sessions.backends.implementations:InMemoryBackend"),)
    timeouts = (
        "one age, in the cookie",
        ["fastapi_sessions.frontends.implementations:CookieParameters max_age"],
    )
    saved_by = "update"

    def make(self, redis: str) -> Any:
        from fastapi_sessions.backends.implementations import InMemoryBackend
        from fastapi_sessions.frontends.implementations import CookieParameters, SessionCookie
        from fastapi_sessions.session_verifier import SessionVerifier

        class Data(BaseModel):
            user: str | None = None
            cart: list[str] = []

        cookie = SessionCookie(
            cookie_name=self.cookie,
            identifier="general",
            secret_key=SECRET,
            cookie_params=CookieParameters(),
        )
        store = InMemoryBackend[UUID, Data]()

        class Verifier(SessionVerifier[UUID, Data]):
            identifier = "general"
            backend = store
            auto_error = True
            auth_http_exception = HTTPException(403)

            def verify_session(self, model: Data) -> bool:
                return True

        Id = Annotated[UUID, Depends(cookie)]
        Loaded = Annotated[Data, Depends(Verifier())]
        app, both = FastAPI(), asyncio.Barrier(2)

        @app.get("/plain")
        async def plain() -> str:
            return "plain"

        @app.get("/read")
        async def read(session_id: Id, data: Loaded) -> Data:
            return data

        @app.post("/begin")
        async def begin(response: Response) -> None:
            session_id = uuid4()
            await store.create(session_id, Data(cart=["a"]))
            cookie.attach_to_response(response, session_id)

        @app.post("/assign/{item}")
        async def assign(item: str, session_id: Id, data: Loaded) -> None:
            data.cart.append(item)
            await store.update(session_id, data)

        @app.post("/append/{item}")
        async def append(item: str, session_id: Id, data: Loaded) -> None:
            data.cart.append(item)

        @app.post("/meet/{item}")
        async def meet(item: str, session_id: Id, data: Loaded) -> None:
            data.cart.append(item)
            await asyncio.wait_for(both.wait(), 60)
            await store.update(session_id, data)

        @app.post("/fail/{item}")
        async def fail(item: str, session_id: Id, data: Loaded) -> None:
            data.cart.append(item)
            raise HTTPException(400)

        @app.post("/sign-in")
        async def sign_in(session_id: Id, data: Loaded) -> None:
            data.user = "ada"
            await store.update(session_id, data)

        @app.post("/sign-out")
        async def sign_out(session_id: Id, response: Response) -> None:
            await store.delete(session_id)
            cookie.delete_from_response(response)

        return app

    def begin(self, browser: Browser) -> None:
        browser.post("/begin")


class RedisSDK(Library):
    distribution = "fastapi-redis-sdk"
    used_as = "middleware"
    kept_in = (("Redis 7.4, Valkey 9", "redis_fastapi:FastAPIRedis.sessions"),)
    timeouts = (
        "idle and absolute",
        [f"redis_fastapi.sessions:SessionMiddleware {kind}_ttl" for kind in ("idle", "absolute")],
    )

    def make(self, redis: str) -> Any:
        from redis_fastapi import FastAPIRedis, get_settings
        from redis_fastapi.deps import get_session_store

        settings = get_settings()
        settings.url = redis
        settings.session_principal_keys = ["user"]
        app = FastAPI()
        FastAPIRedis(app).lifespan().sessions()

        @app.post("/revoke-all")
        async def revoke_all(store: Annotated[Any, Depends(get_session_store)]) -> None:
            assert len(await store.list_for_subject("ada")) > 1
            await store.revoke_all("ada")

        return _add_routes(app)

    def revoke_all(self, browser: Browser) -> bool:
        return browser.post("/revoke-all").status_code == 200


class Crudauth(Library):
    distribution = "crudauth"
    used_as = "routers and dependencies, with users and passwords"
    data = "the user only"
    cookie = "session_id"
    kept_in = (
        ("memory", "crudauth.storage.backends.memory:MemorySessionStorage"),
        ("Redis", "crudauth.storage.backends.redis:RedisSessionStorage"),
        ("SQL", "crudauth.storage.backends.database:DatabaseSessionStorage"),
    )
    timeouts = (
        "idle, and absolute if asked for",
        [
            f"crudauth:SessionTransport {name}"
            for name in ("session_timeout_minutes", "absolute_timeout_hours")
        ],
    )

    def make(self, redis: str) -> Any:
        from crudauth import CRUDAuth, Principal, SessionTransport
        from crudauth.models import AuthUserMixin
        from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
        from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

        class Base(DeclarativeBase):
            pass

        class User(Base, AuthUserMixin):
            __tablename__ = "users"
            id: Mapped[int] = mapped_column(primary_key=True)

        home = tempfile.TemporaryDirectory()
        engine = create_async_engine(f"sqlite+aiosqlite:///{home.name}/users.db")

        async def db() -> AsyncIterator[AsyncSession]:
            async with AsyncSession(engine, expire_on_commit=False) as session:
                yield session

        auth = CRUDAuth(
            session=db,
            user_model=User,
            SECRET_KEY=SECRET,
            redis_url=redis,
            transports=[SessionTransport(management_routes=True, redis_url=redis)],
        )

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            async with engine.begin() as connection:
                await connection.run_sync(Base.metadata.create_all)
            await auth.initialize()
            yield
            await auth.shutdown()
            await engine.dispose()
            home.cleanup()

        app = FastAPI(lifespan=lifespan)
        app.include_router(auth.router)
        Guest = Annotated[Principal | None, Depends(auth.current_user(optional=True))]

        @app.get("/plain")
        async def plain() -> str:
            return "plain"

        @app.get("/read")
        async def read(user: Guest = None) -> dict[str, str | None]:
            return {"user": user and user.user.username}

        @app.post("/assign/{item}")
        async def assign(
            item: str, user: Annotated[Principal, Depends(auth.current_user())]
        ) -> None:
            pass

        return app

    def begin(self, browser: Browser) -> None:
        browser.post("/register", json={"email": "ada@example.com", **ADA})
        self.sign_in(browser)

    def sign_in(self, browser: Browser, **options: Any) -> None:
        browser.post("/login", data=ADA, **options)

    def sign_out(self, browser: Browser) -> None:
        browser.post("/logout", headers=self.token(browser))

    def token(self, browser: Browser) -> dict[str, str]:
        return {"x-csrf-token": browser.cookies["csrf_token"]}

    def revoke_all(self, browser: Browser) -> bool:
        return browser.post("/logout-all", headers=self.token(browser)).status_code == 200


class Litestar(Library):
    distribution = "litestar"
    used_as = "middleware of another framework"
    kept_in = (
        ("cookie", "litestar.middleware.session.client_side:CookieBackendConfig"),
        ("memory", "litestar.stores.memory:MemoryStore"),
        ("files", "litestar.stores.file:FileStore"),
        ("Redis", "litestar.stores.redis:RedisStore"),
        ("Valkey", "litestar.stores.valkey:ValkeyStore"),
    )
    timeouts = (
        "one age",
        ["litestar.middleware.session.server_side:ServerSideSessionConfig max_age"],
    )

    def make(self, redis: str) -> Any:
        from litestar import Litestar, get, post
        from litestar import Request as LitestarRequest
        from litestar.exceptions import HTTPException
        from litestar.middleware.session.server_side import ServerSideSessionConfig
        from litestar.stores.redis import RedisStore

        SessionRequest = LitestarRequest[Any, Any, Any]
        both = asyncio.Barrier(2)

        @get("/plain")
        async def plain() -> str:
            return "plain"

        @get("/read")
        async def read(request: SessionRequest) -> dict[str, Any]:
            session = request.session
            return {"user": session.get("user"), "cart": session.get("cart", [])}

        @post("/assign/{item:str}")
        async def assign(item: str, request: SessionRequest) -> None:
            request.session["cart"] = [*request.session.get("cart", []), item]

        @post("/append/{item:str}")
        async def append(item: str, request: SessionRequest) -> None:
            request.session["cart"].append(item)

        @post("/meet/{item:str}")
        async def meet(item: str, request: SessionRequest) -> None:
            request.session["cart"] = [*request.session["cart"], item]
            await asyncio.wait_for(both.wait(), 60)

        @post("/fail/{item:str}")
        async def fail(item: str, request: SessionRequest) -> None:
            request.session["cart"] = [*request.session["cart"], item]
            raise HTTPException(status_code=400)

        @post("/sign-in")
        async def sign_in(request: SessionRequest) -> None:
            request.session["user"] = "ada"

        @post("/sign-out")
        async def sign_out(request: SessionRequest) -> None:
            request.clear_session()

        return Litestar(
            [plain, read, assign, append, meet, fail, sign_in, sign_out],
            middleware=[ServerSideSessionConfig().middleware],
            stores={"sessions": RedisStore.with_client(url=redis)},
            logging_config=None,
        )


class ThisLibrary(Library):
    distribution = "fastapi_async_sessions"
    used_as = "dependencies and a route class"
    data = "your model"
    cookie = "__Host-session"
    kept_in = (
        ("memory", "fastapi_async_sessions:MemoryStore"),
        ("Redis, Valkey", "fastapi_async_sessions.stores.redis:RedisStore"),
        ("SQLite, PostgreSQL", "fastapi_async_sessions.stores.sql:SQLStore"),
        ("HTTP", "fastapi_async_sessions.stores.http:HTTPStore"),
    )
    timeouts = (
        "idle and absolute",
        [f"fastapi_async_sessions:Lifetime {kind}" for kind in ("idle", "absolute")],
    )

    def make(self, redis: str) -> Any:
        class Data(BaseModel):
            cart: list[str] = []

        get_session = SessionProvider(Data, store=RedisStore.from_url(redis), secret_key=SECRET)
        UserSession = Annotated[Session[Data], Depends(get_session)]
        app, both = FastAPI(lifespan=get_session.lifespan), asyncio.Barrier(2)
        app.router.route_class = SessionRoute

        @app.get("/plain")
        async def plain() -> str:
            return "plain"

        @app.get("/read")
        async def read(session: UserSession) -> dict[str, Any]:
            return {"user": session.subject, "cart": session.data.cart}

        @app.post("/assign/{item}")
        async def assign(item: str, session: UserSession) -> None:
            session.data.cart = [*session.data.cart, item]

        @app.post("/append/{item}")
        async def append(item: str, session: UserSession) -> None:
            session.data.cart.append(item)

        @app.post("/meet/{item}")
        async def meet(item: str, session: UserSession) -> None:
            session.data.cart = [*session.data.cart, item]
            await asyncio.wait_for(both.wait(), 60)

        @app.post("/fail/{item}")
        async def fail(item: str, session: UserSession) -> None:
            session.data.cart.append(item)
            raise HTTPException(400)

        @app.post("/sign-in")
        async def sign_in(session: UserSession) -> None:
            session.renew(subject="ada")

        @app.post("/sign-out")
        async def sign_out(session: UserSession) -> None:
            await session.destroy()

        @app.post("/revoke-all")
        async def revoke_all() -> None:
            assert len(await get_session.sessions("ada")) > 1
            await get_session.revoke_all("ada")

        return app

    def revoke_all(self, browser: Browser) -> bool:
        return browser.post("/revoke-all").status_code == 200


LIBRARIES: dict[str, Library] = {
    "Starlette": Starlette(),
    "starsessions": Starsessions(),
    "fastapi-sessions": FastAPISessions(),
    "fastapi-redis-sdk": RedisSDK(),
    "crudauth": Crudauth(),
    "Litestar": Litestar(),
    "this library": ThisLibrary(),
}
