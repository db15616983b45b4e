"""A session beside a database: which of the two commits first, and what a failure leaves."""

import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI

from fastapi_async_sessions import MemoryStore, Session

from .apps import Data, browser, make_app, make_provider
from .doubles import SpyStore, failing

SCHEMA = """
CREATE TABLE goods (name TEXT PRIMARY KEY);
INSERT INTO goods VALUES ('apple');
CREATE TABLE orders (
    name TEXT REFERENCES goods (name) DEFERRABLE INITIALLY DEFERRED  -- checked by COMMIT
);
"""

Database = sqlite3.Connection


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """Has apples; the COMMIT of an order for anything else fails."""
    connection = sqlite3.connect(tmp_path / "shop.db", isolation_level=None)
    connection.executescript(SCHEMA)
    connection.execute("PRAGMA foreign_keys = ON")
    yield connection
    connection.close()


@pytest.fixture
def store() -> SpyStore:
    return SpyStore(MemoryStore())


def orders(database: Database) -> list[str]:
    return [name for (name,) in database.execute("SELECT name FROM orders")]


def shop(database: Database, store: SpyStore, *, scope: Any = None) -> tuple[FastAPI, list[str]]:
    """An application, and a list that takes the steps of its requests.

    With a ``scope`` a dependency commits the transaction; without one the route does.
    """
    steps: list[str] = []
    get_session = make_provider(store, on_event=lambda event: steps.append(event.kind))
    app = make_app()

    async def transaction() -> AsyncIterator[Database]:
        database.execute("BEGIN")
        try:
            yield database
            if scope is not None:
                steps.append("transaction")
                database.execute("COMMIT")
        finally:
            if database.in_transaction:
                database.execute("ROLLBACK")

    @app.post("/orders/{name}")
    async def order(
        name: str,
        session: Annotated[Session[Data], Depends(get_session)],
        db: Annotated[Database, Depends(transaction, scope=scope)],
        first: str = "transaction",
    ) -> None:
        db.execute("INSERT INTO orders VALUES (?)", [name])
        session.data.count += 1
        if first == "session":
            await session.commit()
        if scope is None:
            db.execute("COMMIT")

    @app.get("/")
    async def count(session: Annotated[Session[Data], Depends(get_session)]) -> int:
        return session.data.count

    return app, steps


async def test_the_session_commits_before_a_dependency_with_function_scope(
    database: Database, store: SpyStore
) -> None:
    """Where that dependency then fails, the client gets a 500, and the session keeps its change."""
    app, steps = shop(database, store, scope="function")
    async with browser(app) as client:
        assert (await client.post("/orders/apple")).status_code == 200
        assert steps == ["created", "transaction"]

        assert (await client.post("/orders/unicorn")).status_code == 500
        assert (await client.get("/")).json() == 2
    assert orders(database) == ["apple"]


async def test_a_transaction_in_the_route_leaves_both_as_they_were(
    database: Database, store: SpyStore
) -> None:
    """The route raises, so the session is rolled back."""
    app, _ = shop(database, store)
    async with browser(app) as client:
        assert (await client.post("/orders/apple")).status_code == 200
        assert (await client.post("/orders/unicorn")).status_code == 500
        assert (await client.get("/")).json() == 1
    assert orders(database) == ["apple"]


@pytest.mark.parametrize(("first", "stored"), [("transaction", ["apple"]), ("session", [])])
async def test_a_session_that_cannot_be_committed(
    database: Database, store: SpyStore, first: str, stored: list[str]
) -> None:
    """A 503, and what comes first stays: the order, or nothing if that is the session."""
    app, _ = shop(database, store)
    store.hook = failing("create")
    async with browser(app) as client:
        response = await client.post("/orders/apple", params={"first": first})
    assert response.status_code == 503
    assert orders(database) == stored
