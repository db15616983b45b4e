"""An application that a test runs under any server, with settings from the environment."""

import os
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from fastapi_async_sessions import (
    Additive,
    CookieConfig,
    MemoryStore,
    Session,
    SessionProvider,
    SessionRoute,
)
from fastapi_async_sessions.stores.redis import RedisStore

REDIS_URL = os.environ.get("REDIS_URL")
MINUTE = timedelta(minutes=1)  # a busy machine does not decide a test


class Data(BaseModel):
    count: Annotated[int, Additive] = 0


get_session = SessionProvider(
    Data,
    store=RedisStore.from_url(REDIS_URL) if REDIS_URL else MemoryStore(),
    secret_key="a-secret-of-the-hosts-0123456789-abcdefghij",
    # the tests' client keeps no Secure cookie from http
    cookie=CookieConfig(secure=False, path=os.environ.get("COOKIE_PATH", "/")),
    store_timeout=MINUTE,
    commit_timeout=MINUTE,
)
AnySession = Annotated[Session[Data], Depends(get_session)]

app = FastAPI(lifespan=get_session.lifespan, root_path=os.environ.get("ROOT_PATH", ""))
app.router.route_class = SessionRoute


@app.get("/")
async def home(request: Request, session: AnySession) -> dict[str, Any]:
    return {
        "subject": session.subject,
        "count": session.data.count,
        "url": str(request.url_for("home")),
    }


@app.post("/sign-in/{name}")
async def sign_in(name: str, session: AnySession) -> None:
    session.renew(subject=name)


@app.post("/add")
async def add(session: AnySession) -> int:
    session.data.count += 1
    # an event loop that is busy accepts nothing, so that the next request is another worker's
    time.sleep(0.05)  # noqa: ASYNC251
    return os.getpid()


@app.post("/refused")
async def refused(session: AnySession) -> None:
    session.data.count += 100
    raise HTTPException(409)


@app.get("/events")
async def events(session: AnySession) -> StreamingResponse:
    session.data.count += 1
    return StreamingResponse(counted(session), media_type="text/event-stream")


async def counted(session: Session[Data]) -> AsyncIterator[str]:
    for number in range(3):
        yield f"data: {number} of {session.data.count}\n\n"


@app.websocket("/echo")
async def echo(websocket: WebSocket, session: AnySession) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        session.data.count += 1
        await session.commit()
        await websocket.send_text(f"{text} {session.data.count}")
