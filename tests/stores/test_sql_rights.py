"""SQLStore as a user who may not do everything, or on a server that takes no writes."""

from contextlib import asynccontextmanager

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from fastapi_async_sessions.errors import StoreUnavailable
from fastapi_async_sessions.stores.sql import SQLStore
from tests.apps import make_provider

VERBS = ("SELECT", "INSERT", "UPDATE", "DELETE")


@pytest.fixture(params=["asyncpg", "psycopg"])
def driver(request):
    return request.param


@pytest.fixture
async def table(postgres_url):
    """The table, made by its owner beforehand."""
    async with closing(SQLStore.from_url(postgres_url, create_table=True)) as store:
        await store.open()
    return "sessions"


@asynccontextmanager
async def closing(store):
    try:
        yield store
    finally:
        await store.aclose()


async def works(store):
    await store.open()
    await make_provider(store).check()
    return True


async def test_a_table_that_exists_is_enough(postgres_server, postgres_role, table, driver):
    """create_table=True makes it where it is missing; where it is, no right to make one is due."""
    postgres_server.execute(
        f"GRANT USAGE ON SCHEMA public TO {postgres_role}",
        f"GRANT {', '.join(VERBS)} ON {table} TO {postgres_role}",
    )
    url = postgres_server.url_for(postgres_role, driver=driver)
    async with closing(SQLStore.from_url(url, create_table=True)) as store:
        assert await works(store)


async def test_a_table_that_may_not_be_made_is_named(postgres_server, postgres_role, driver):
    """The reason says what is missing, and who can help."""
    postgres_server.execute(f"GRANT USAGE ON SCHEMA public TO {postgres_role}")
    url = postgres_server.url_for(postgres_role, driver=driver)
    async with closing(SQLStore.from_url(url, create_table=True)) as store:
        with pytest.raises(StoreUnavailable, match="CREATE") as raised:
            await store.open()
    assert "'sessions'" in raised.value.reason


@pytest.mark.parametrize("missing", VERBS)
async def test_a_right_that_is_missing_is_named(
    postgres_server, postgres_role, table, driver, missing
):
    """By open() and by check(), not by the first visitor."""
    rights = ", ".join(verb for verb in VERBS if verb != missing)
    postgres_server.execute(
        f"GRANT USAGE ON SCHEMA public TO {postgres_role}",
        f"GRANT {rights} ON {table} TO {postgres_role}",
    )
    url = postgres_server.url_for(postgres_role, driver=driver)
    async with closing(SQLStore.from_url(url)) as store:
        for call in (store.open, make_provider(store).check):
            with pytest.raises(StoreUnavailable, match="SELECT, INSERT, UPDATE and DELETE"):
                await call()


async def test_a_schema_of_its_own(postgres_server, postgres_role, driver):
    """It is where the role looks first, so nothing has to be said to the store."""
    postgres_server.execute(f"CREATE SCHEMA {postgres_role} AUTHORIZATION {postgres_role}")
    url = postgres_server.url_for(postgres_role, driver=driver)
    async with closing(SQLStore.from_url(url, create_table=True)) as store:
        assert await works(store)
    tables = postgres_server.execute("SELECT schemaname FROM pg_tables WHERE tablename='sessions'")
    assert tables == postgres_role


async def test_a_schema_that_the_connection_names(postgres_server, postgres_url, driver):
    """By ``search_path``, of an engine that the application made."""
    postgres_server.execute("DROP SCHEMA IF EXISTS web CASCADE", "CREATE SCHEMA web")
    path = {
        "asyncpg": {"server_settings": {"search_path": "web"}},
        "psycopg": {"options": "-csearch_path=web"},
    }[driver]
    url = postgres_server.url_for("postgres", driver=driver)
    engine = create_async_engine(url, connect_args=path)
    try:
        assert await works(SQLStore(engine, create_table=True))
    finally:
        await engine.dispose()
    tables = postgres_server.execute("SELECT schemaname FROM pg_tables WHERE tablename='sessions'")
    assert tables == "web"


@pytest.mark.parametrize("create_table", [True, False])
async def test_a_standby_is_noticed(postgres_server, postgres_standby, table, driver, create_table):
    """By open() and by check(): it can be read, and every sign-in would fail."""
    postgres_standby.wait_until_follows(postgres_server)
    url = postgres_standby.url_for("postgres", driver=driver)
    async with closing(SQLStore.from_url(url, create_table=create_table)) as store:
        for call in (store.open, make_provider(store).check):
            with pytest.raises(StoreUnavailable, match="read-only"):
                await call()


async def test_a_role_that_may_only_read_is_noticed(postgres_server, postgres_role, table, driver):
    """``default_transaction_read_only``, as administrators set it during maintenance."""
    postgres_server.execute(
        f"GRANT USAGE ON SCHEMA public TO {postgres_role}",
        f"GRANT {', '.join(VERBS)} ON {table} TO {postgres_role}",
        f"ALTER ROLE {postgres_role} SET default_transaction_read_only = on",
    )
    url = postgres_server.url_for(postgres_role, driver=driver)
    async with closing(SQLStore.from_url(url)) as store:
        for call in (store.open, make_provider(store).check):
            with pytest.raises(StoreUnavailable, match="read-only"):
                await call()


async def test_a_statement_that_the_server_gave_up_is_named(
    postgres_server, postgres_role, table, driver
):
    """``statement_timeout`` ends a call that waits for a lock; the reason says so."""
    postgres_server.execute(
        f"GRANT USAGE ON SCHEMA public TO {postgres_role}",
        f"GRANT {', '.join(VERBS)} ON {table} TO {postgres_role}",
        f"ALTER ROLE {postgres_role} SET statement_timeout = '100ms'",
    )
    url = postgres_server.url_for(postgres_role, driver=driver)
    engine = create_async_engine(postgres_server.url)
    async with closing(SQLStore.from_url(url)) as store, engine.connect() as other:
        await other.exec_driver_sql(f"LOCK TABLE {table}")
        with pytest.raises(StoreUnavailable, match="statement_timeout"):
            await store.load("a" * 64)
        await other.rollback()
    await engine.dispose()
