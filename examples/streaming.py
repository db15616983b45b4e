"""Sessions in streams and background tasks.

    uvicorn examples.streaming:app

A session is committed when the route returns, before the first byte of the response is sent. Code
that runs later, in a streamed body or a background task, can read the session's data. To change
it, open the session again by its key.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import BackgroundTasks, Depends, FastAPI
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import BaseModel

from fastapi_async_sessions import (
    MemoryStore,
    Session,
    SessionNotFound,
    SessionProvider,
    SessionRoute,
)


class Reader(BaseModel):
    downloads: int = 0
    finished: int = 0
    reports: list[str] = []


get_session = SessionProvider(
    Reader,
    store=MemoryStore(),
    secret_key=os.environ.get("SESSION_SECRET") or secrets.token_urlsafe(32),
)

ReaderSession = Annotated[Session[Reader], Depends(get_session)]

app = FastAPI(lifespan=get_session.lifespan)
app.router.route_class = SessionRoute


@app.get("/")
async def status(session: ReaderSession) -> Reader:
    return session.data


@app.get("/download", response_class=PlainTextResponse)
async def download(session: ReaderSession) -> StreamingResponse:
    session.data.downloads += 1
    await session.commit()  # a new session has no key until it is stored
    return StreamingResponse(lines(session), media_type="text/plain")


async def lines(session: Session[Reader]) -> AsyncIterator[str]:
    for number in range(1, 4):
        yield f"download {session.data.downloads}, line {number}\n"
        await asyncio.sleep(0)
    async with get_session.open(session.key) as stored:
        stored.data.finished += 1


@app.post("/report", status_code=202)
async def report(session: ReaderSession, tasks: BackgroundTasks) -> None:
    session.data.reports = ["requested"]
    await session.commit()
    tasks.add_task(write_report, session.key)


async def write_report(key: str) -> None:
    try:
        async with get_session.open(key) as stored:
            stored.data.reports.append("ready")
    except SessionNotFound:
        pass  # the session has ended in the meantime: the report is not needed any more
