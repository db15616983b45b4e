"""An audit log of sign-ins in a database table.

    pip install -e ".[examples,sql]"
    uvicorn examples.audit:app

``on_event`` is a synchronous function that is called while a request waits, so it only puts the
event into a queue. A task of the lifespan writes the events to the table, in order, and tries again
while the database is down.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, FastAPI
from pydantic import BaseModel
from sqlalchemy import JSON, Column, DateTime, Integer, MetaData, String, Table, insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from fastapi_async_sessions import MemoryStore, Session, SessionEvent, SessionProvider, SessionRoute

log = logging.getLogger(__name__)

entries = Table(
    "session_audit",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("key", String(64)),
    Column("facts", JSON, nullable=False),
)


class Audit:
    """Writes some kinds of events to ``entries``; give it to a provider as ``on_event``."""

    kinds = frozenset({"signed_in", "signed_out", "destroyed", "revoked", "bad_signature"})

    def __init__(self, engine: AsyncEngine, pause: float = 1) -> None:
        self.engine = engine
        self.pause = pause
        self._queue: asyncio.Queue[dict[str, object]] | None = None

    def __call__(self, event: SessionEvent) -> None:
        if self._queue is None or event.kind not in self.kinds:
            return
        entry = {"at": datetime.now(UTC), "kind": event.kind, "key": event.key}
        # if the database is down for so long that the queue is full, the library logs the QueueFull
        self._queue.put_nowait({**entry, "facts": dict(event.facts)})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write events until the end of the block, and then the rest of the queue."""
        async with self.engine.begin() as connection:
            await connection.run_sync(entries.metadata.create_all)
        self._queue = queue = asyncio.Queue(10_000)
        writing = asyncio.create_task(self._write(queue))
        try:
            yield
        finally:
            with suppress(TimeoutError):
                await asyncio.wait_for(queue.join(), 5)
            writing.cancel()
            if queue.qsize():
                log.error("%d events were not written", queue.qsize())

    async def _write(self, queue: asyncio.Queue[dict[str, object]]) -> None:
        while True:
            batch = [await queue.get()]
            while not queue.empty():
                batch.append(queue.get_nowait())
            while not await self._is_written(batch):  # noqa: ASYNC110  # no event to wait for
                await asyncio.sleep(self.pause)
            for _ in batch:
                queue.task_done()

    async def _is_written(self, batch: list[dict[str, object]]) -> bool:
        try:
            async with self.engine.begin() as connection:
                await connection.execute(insert(entries), batch)
        except (SQLAlchemyError, OSError):
            log.exception("%d events cannot be written yet", len(batch))
            return False
        return True


class User(BaseModel):
    pass


audit = Audit(create_async_engine("sqlite+aiosqlite:///audit.db", hide_parameters=True))
get_session = SessionProvider(
    User,
    store=MemoryStore(),
    secret_key=secrets.token_urlsafe(32),
    name="audited",
    on_event=audit,
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # the sessions are closed first, because they still emit events
    async with audit.running(), get_session.lifespan(app):
        yield


app = FastAPI(lifespan=lifespan)
app.router.route_class = SessionRoute
UserSession = Annotated[Session[User], Depends(get_session)]


@app.post("/sign-in")
async def sign_in(name: str, session: UserSession) -> None:
    session.renew(subject=name)  # check a password first, as examples/login does


@app.post("/sign-out")
async def sign_out(session: UserSession) -> None:
    await session.destroy()
