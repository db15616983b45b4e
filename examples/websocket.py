"""A websocket that belongs to a session and closes when the session ends.

    uvicorn examples.websocket:app

A websocket cannot set a cookie, so the session begins in an HTTP route, here ``POST /join``, and
the browser sends its cookie with the handshake. Browsers let any page open a websocket to any
site. So the provider rejects handshakes from other origins, as it rejects their forms.
"""

import os
import secrets
from typing import Annotated

from fastapi import Depends, FastAPI, WebSocket
from pydantic import BaseModel

from fastapi_async_sessions import MemoryStore, Session, SessionProvider, SessionRoute


class Visitor(BaseModel):
    nickname: str = ""
    said: list[str] = []


get_session = SessionProvider(
    Visitor,
    store=MemoryStore(),
    secret_key=os.environ.get("SESSION_SECRET") or secrets.token_urlsafe(32),
)

AnySession = Annotated[Session[Visitor], Depends(get_session)]
KnownSession = Annotated[Session[Visitor], Depends(get_session.required)]

app = FastAPI(lifespan=get_session.lifespan)
app.router.route_class = SessionRoute


@app.post("/join")
async def join(nickname: str, session: AnySession) -> Visitor:
    session.data.nickname = nickname
    return session.data


@app.post("/leave", status_code=204)
async def leave(session: AnySession) -> None:
    await session.destroy()


@app.websocket("/echo")
async def echo(websocket: WebSocket, session: KnownSession) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        # a websocket may stay open for hours, so check that its session still exists
        if not await session.reload():
            await websocket.close(1008, "signed out")
            return
        session.data.said.append(text)
        await session.commit()
        await websocket.send_text(f"{session.data.nickname} said: {', '.join(session.data.said)}")
