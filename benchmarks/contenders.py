"""The applications to measure: FastAPI alone, redis-py by hand, this library, and its peers."""

import json
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
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
from .work import HOUR, PATIENCE, SECRET, Basket, new_basket


@dataclass(frozen=True)
class Addresses:
    """Where contenders keep their sessions."""

    redis: str
    sqlite: str
    postgres: str


@dataclass(frozen=True)
class Contender:
    """An application to measure.

    Attributes:
        uses_redis: The commands that it sends are counted.
        in_store: A server holds its sessions, so that one can be ended, and changed by two
            requests at the same time.
        is_baseline: It has no sessions: there is nothing to check.
    """

    name: str
    make: Callable[[Addresses], Any]
    uses_redis: bool = False
    in_store: bool = True
    is_baseline: bool = False


def fastapi_alone() -> FastAPI:
    """The same routes without any session."""
    app = FastAPI(openapi_url=None)

    async def answer() -> dict[str, int]:
        return {"count": 0}

    async def answer_subject() -> dict[str, str]:
        return {"user": "ada"}

    async def answer_user(user: str) -> dict[str, int]:
        return {"count": 0}

    async def answer_page(page: str) -> dict[str, int]:
        return {"count": 0}

    # in the order of the other applications: a later route is found later
    app.get("/plain")(answer)
    app.get("/subject")(answer_subject)
    app.get("/read")(answer)
    app.post("/change")(answer)
    app.post("/sign-in/{user}")(answer_user)
    app.post("/sign-out")(answer)
    app.post("/visit/{page}")(answer_page)
    app.get("/session")(answer)
    return app


def by_hand(addresses: Addresses) -> FastAPI:
    """An afternoon's work: an unsigned random id, ``get`` and ``set``."""
    # beyond redis-py's default of 100 connections, requests fail
    redis = Redis.from_url(addresses.redis, max_connections=1024)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await redis.aclose()

    app = FastAPI(openapi_url=None, lifespan=lifespan)

    @app.get("/plain")
    async def plain() -> dict[str, int]:
        return {"count": 0}

    @app.get("/subject")
    async def subject(request: Request) -> dict[str, str]:
        session = json.loads(await redis.get("hand:" + request.cookies["sid"]))
        return {"user": session["user"]}

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


def ours(
    make_store: Callable[[Addresses], Store], **options: Any
) -> Callable[[Addresses], FastAPI]:
    """This library on one of its stores, with other options of the provider."""

    def make(addresses: Addresses) -> FastAPI:
        provider = SessionProvider(
            Basket,
            store=make_store(addresses),
            secret_key=SECRET,
            store_timeout=PATIENCE,
            commit_timeout=PATIENCE,
            **options,
        )
        return _with_sessions(provider, SessionRoute)

    return make


def least(addresses: Addresses) -> FastAPI:
    """This design without its promises."""
    return _with_sessions(LeastProvider(Redis.from_url(addresses.redis)), LeastRoute)


def _with_sessions(
    provider: SessionProvider[Basket] | LeastProvider, route_class: type[APIRoute]
) -> FastAPI:
    app = FastAPI(openapi_url=None, lifespan=provider.lifespan)
    app.router.route_class = route_class
    UserSession = Annotated[Session[Basket], Depends(provider)]

    @app.get("/plain")
    async def plain() -> dict[str, int]:
        return {"count": 0}

    @app.get("/subject")
    async def subject(session: UserSession) -> dict[str, str | None]:
        return {"user": session.subject}

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


def _sqlite(addresses: Addresses) -> Store:
    seconds = PATIENCE.total_seconds()
    url = f"sqlite+aiosqlite:///{addresses.sqlite}?timeout={seconds}"
    return SQLStore.from_url(url, create_table=True)


def _postgres(addresses: Addresses) -> Store:
    return SQLStore.from_url(addresses.postgres, create_table=True)


FASTAPI = Contender("FastAPI alone", lambda addresses: fastapi_alone(), is_baseline=True)
BY_HAND = Contender("redis-py by hand", by_hand, uses_redis=True)
OURS = Contender(
    "this library, Redis",
    ours(
        lambda addresses: RedisStore.from_url(
            addresses.redis, socket_timeout=PATIENCE.total_seconds()
        )
    ),
    uses_redis=True,
)
BASELINES = (FASTAPI, BY_HAND)

CONTENDERS = (
    *BASELINES,
    OURS,
    Contender("this design without promises, Redis", least, uses_redis=True),
    Contender("this library, memory", ours(lambda addresses: MemoryStore())),
    Contender("this library, SQLite", ours(_sqlite)),
    Contender("this library, PostgreSQL", ours(_postgres)),
    Contender("fastapi-redis-sdk, Redis", peers.fastapi_redis_sdk, uses_redis=True),
    Contender("starsessions on demand, Redis", peers.starsessions, uses_redis=True),
    Contender("starsessions autoload, Redis", peers.starsessions_autoload, uses_redis=True),
    Contender("Litestar, Redis", peers.litestar, uses_redis=True),
    Contender("fastapi-sessions, memory", peers.fastapi_sessions),
    Contender("Starlette SessionMiddleware, no store", peers.starlette, in_store=False),
)


def chosen(only: Sequence[str]) -> list[Contender]:
    """Those with one of these words in their names, and the baselines; all if there are none."""
    words = [word.lower() for word in only]
    return [
        contender
        for contender in CONTENDERS
        if not words
        or contender in BASELINES
        or any(word in contender.name.lower() for word in words)
    ]
