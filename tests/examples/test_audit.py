"""The audit: every event of the kinds that it keeps is in the table, in order."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from examples import audit
from fastapi_async_sessions import SessionEvent


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/audit.db")
    yield engine
    await engine.dispose()


async def written(engine: AsyncEngine) -> list[Any]:
    async with engine.connect() as connection:
        return list(await connection.execute(select(audit.entries).order_by(audit.entries.c.id)))


def event(number: int, kind: Any = "signed_in") -> SessionEvent:
    return SessionEvent(kind, "web", f"{number:064x}", {"number": str(number)})


async def test_sign_ins_are_in_the_table(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the application has stopped, those of its last requests too."""
    monkeypatch.setattr(audit.audit, "engine", engine)
    transport = httpx.ASGITransport(audit.app)
    async with (
        audit.lifespan(audit.app),
        httpx.AsyncClient(transport=transport, base_url="https://testserver") as client,
    ):
        for _ in range(2):
            assert (await client.post("/sign-in?name=jupiter")).status_code == 200
            assert (await client.post("/sign-out")).status_code == 200
    rows = await written(engine)
    assert [row.kind for row in rows] == ["signed_in", "destroyed"] * 2
    assert rows[0].key == rows[1].key != rows[2].key
    assert "jupiter" not in str(rows)


async def test_events_are_written_in_order(engine: AsyncEngine) -> None:
    """Whenever they come; those of other kinds are left out."""
    writer = audit.Audit(engine)
    writer(event(0))  # before it runs, nothing is kept
    async with writer.running():
        for number in range(1, 501):
            writer(event(number, "created" if number % 10 == 0 else "signed_in"))
            if number % 7 == 0:
                await asyncio.sleep(0)
    expected = [number for number in range(1, 501) if number % 10]
    assert [int(row.facts["number"]) for row in await written(engine)] == expected


async def test_a_database_that_is_down_loses_no_event(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests go on meanwhile; when it is back the events are written, each once."""
    writer = audit.Audit(engine, pause=0.01)
    has_failed = asyncio.Event()
    begin: Callable[[], Any] = engine.begin

    class Down:
        """An engine that cannot connect, five times."""

        left = 5

        def begin(self) -> Any:
            if self.left == 0:
                return begin()
            self.left -= 1
            has_failed.set()
            raise OSError("connection refused")

    async with writer.running():
        writer.engine = Down()  # type: ignore[assignment]
        writer(event(1))
        await asyncio.wait_for(has_failed.wait(), 60)
        writer(event(2))
    assert [row.facts["number"] for row in await written(engine)] == ["1", "2"]
    assert "1 events cannot be written yet" in caplog.text
