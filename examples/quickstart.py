import secrets
from typing import Annotated

from fastapi import Depends, FastAPI
from pydantic import BaseModel

from fastapi_async_sessions import MemoryStore, Session, SessionProvider, SessionRoute


class Visits(BaseModel):
    count: int = 0


get_session = SessionProvider(
    Visits,
    store=MemoryStore(),
    secret_key=secrets.token_urlsafe(32),  # in production: from the environment
)

app = FastAPI()
app.router.route_class = SessionRoute


@app.get("/")
async def home(session: Annotated[Session[Visits], Depends(get_session)]) -> Visits:
    session.data.count += 1
    return session.data
