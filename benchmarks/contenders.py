"""Who is measured: FastAPI alone, redis-py by hand, this library on each store, and its peers."""

import json
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.routing import APIRoute
from redis.asyncio import Redis

from fastapi_async_sessions import MemoryStore, Session, SessionProvider, SessionRoute, Store
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.stores.sql import SQLStore

from . import peers
from .least import LeastProvider, LeastRoute
from .work import SECRET, Basket, new_basket

HOUR = 3600


@dataclass(frozen=True)
class Places:
    """Where the servers are that contenders keep their sessions in."""

    redis: str
    sqlite: str
    postgres: str


@dataclass(frozen=True)
class Contender:
    """An application to measure.

    Attributes:
        uses_redis: Its commands are counted.
        in_store: A session can be ended, and changed from two requests, because a server holds it.
        is_baseline: It has no sessions; nothing to check.
    """

    name: str
    make: Callable[[Places], Any]
    uses_redis: bool = False
    in_store: bool = True
    is_baseline: bool = False


def fastapi_alone(places: Places) -> FastAPI:
    """The same routes, and nothing behind them."""
    app = FastAPI(openapi_url=None)

    async def answer() -> dict[str, int]:
        return {"count": 0}

    async def answer_user(user: str) -> dict[str, int]:
        return {"count": 0}

    async def answer_page(page: str) -> dict[str, int]:
        return {"count": 0}

    for path in ("/plain", "/read", "/session"):
        app.get(path)(answer)
    for path in ("/change", "/sign-out"):
        app.post(path)(answer)
    app.post("/sign-in/{user}")(answer_user)
    app.post("/visit/{page}")(answer_page)
    return app


def by_hand(places: Places) -> FastAPI:
    """What one writes in an afternoon: an unsigned random id, ``get`` and ``set``."""
    # redis-py's own limit of 100 makes errors of the requests beyond it
    redis = Redis.from_url(places.redis, max_connections=1024)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await redis.aclose()

    app = FastAPI(openapi_url=None, lifespan=lifespan)

    @app.get("/plain")
    async def plain() -> dict[str, int]:
        return {"count": 0}

    @app.get("/read")
    async def read(request: Request) -> dict[str, int]:
        session = json.loads(await redis.get("hand:" + request.cookies["sid"]))
        return {"count": session["data"]["count"]}

    @app.post("/change")
    async def change(request: Request) -> dict[str, int]:
        key = "hand:" + request.cookies["sid"]
        session = json.loads(await redis.get(key))
        session["data"]["count"] += 1
        await redis.set(key, json.dumps(session), ex=HOUR)
        return {"count": session["data"]["count"]}

    @app.post("/sign-in/{user}")
    async def sign_in(user: str, response: Response) -> dict[str, int]:
        sid = secrets.token_urlsafe(32)
        session = {"user": user, "data": new_basket(user)}
        await redis.set("hand:" + sid, json.dumps(session), ex=HOUR)
        response.set_cookie("sid", sid, httponly=True, secure=True, samesite="lax")
        return {"count": 0}

    @app.post("/sign-out")
    async def sign_out(request: Request, response: Response) -> dict[str, int]:
        await redis.delete("hand:" + request.cookies["sid"])
        response.delete_cookie("sid", httponly=True, secure=True, samesite="lax")
        return {"count": 0}

    @app.post("/visit/{page}")
    async def visit(page: str, request: Request) -> dict[str, int]:
        key = "hand:" + request.cookies["sid"]
        session = json.loads(await redis.get(key))
        session["data"]["pages"][page] += 1
        await redis.set(key, json.dumps(session), ex=HOUR)
        return {"count": session["data"]["pages"][page]}

    @app.get("/session")
    async def whole(request: Request) -> dict[str, Any]:
        stored = await redis.get("hand:" + request.cookies.get("sid", ""))
        return json.loads(stored) if stored else {"user": None, "data": None}

    return app


def ours(make_store: Callable[[Places], Store]) -> Callable[[Places], FastAPI]:
    """This library on one of its stores."""

    def make(places: Places) -> FastAPI:
        provider = SessionProvider(Basket, store=make_store(places), secret_key=SECRET)
        return _with_sessions(provider, SessionRoute)

    return make


def least(places: Places) -> FastAPI:
    """The same routes, and no promise behind them."""
    return _with_sessions(LeastProvider(Redis.from_url(places.redis)), LeastRoute)


def _with_sessions(
    provider: SessionProvider[Basket] | LeastProvider, route_class: type[APIRoute]
) -> FastAPI:
    app = FastAPI(openapi_url=None, lifespan=provider.lifespan)
    app.router.route_class = route_class
    UserSession = Annotated[Session[Basket], Depends(provider)]

    @app.get("/plain")
    async def plain() -> dict[str, int]:
        return {"count": 0}

    @app.get("/read")
    async def read(session: UserSession) -> dict[str, int]:
        return {"count": session.data.count}

    @app.post("/change")
    async def change(session: UserSession) -> dict[str, int]:
        session.data.count += 1
        return {"count": session.data.count}

    @app.post("/sign-in/{user}")
    async def sign_in(user: str, session: UserSession) -> dict[str, int]:
        session.data = Basket.model_validate(new_basket(user))
        session.renew(subject=user)
        return {"count": 0}

    @app.post("/sign-out")
    async def sign_out(session: UserSession) -> dict[str, int]:
        await session.destroy()
        return {"count": 0}

    @app.post("/visit/{page}")
    async def visit(page: str, session: UserSession) -> dict[str, int]:
        session.data.pages[page] += 1
        return {"count": session.data.pages[page]}

    @app.get("/session")
    async def whole(session: UserSession) -> dict[str, Any]:
        return {"user": session.subject, "data": session.data.model_dump()}

    return app


def _sqlite(places: Places) -> Store:
    return SQLStore.from_url(f"sqlite+aiosqlite:///{places.sqlite}", create_table=True)


def _postgres(places: Places) -> Store:
    return SQLStore.from_url(places.postgres, create_table=True)


FASTAPI = Contender("FastAPI alone", fastapi_alone, is_baseline=True)
BY_HAND = Contender("redis-py by hand", by_hand, uses_redis=True)
BASELINES = (FASTAPI, BY_HAND)

CONTENDERS = (
    *BASELINES,
    Contender("ours, Redis", ours(lambda places: RedisStore.from_url(places.redis)), True),
    Contender("the least of this design, Redis", least, uses_redis=True),
    Contender("ours, memory", ours(lambda places: MemoryStore())),
    Contender("ours, SQLite", ours(_sqlite)),
    Contender("ours, PostgreSQL", ours(_postgres)),
    Contender("Starlette SessionMiddleware", peers.starlette, in_store=False),
    Contender("starsessions, on demand", peers.starsessions, uses_redis=True),
    Contender("starsessions, autoload", peers.starsessions_autoload, uses_redis=True),
    Contender("fastapi-sessions, memory", peers.fastapi_sessions),
    Contender("Litestar, Redis", peers.litestar, uses_redis=True),
)


def chosen(only: list[str]) -> Iterator[Contender]:
    """Those whose name holds one of these words, and the two that all are compared with."""
    for contender in CONTENDERS:
        words = [word.lower() for word in only]
        if not only or contender in BASELINES or any(w in contender.name.lower() for w in words):
            yield contender
