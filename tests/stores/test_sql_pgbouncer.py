"""SQLStore behind PgBouncer, which lends few connections to many clients."""

from contextlib import asynccontextmanager

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from fastapi_async_sessions.errors import ConfigurationError, StoreUnavailable
from fastapi_async_sessions.stores.sql import SQLStore
from fastapi_async_sessions.testing import StoreContract
from tests.servers.pgbouncer import run_pgbouncer
from tests.servers.releases import one_of_each
from tests.stores.crowd import Crowd
from tests.stores.processes import run_crowds

pytestmark = pytest.mark.debian("pgbouncer")

DRIVERS = ["asyncpg", "psycopg"]


@asynccontextmanager
async def opened(url, **options):
    store = SQLStore.from_url(url, create_table=True, **options)
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


@pytest.fixture(scope="module")
def transaction_poolers(postgres_servers):
    """One in transaction mode before each server."""
    with one_of_each(
        lambda release: run_pgbouncer(postgres_servers(release), mode="transaction")
    ) as poolers:
        yield poolers


@pytest.fixture
def transaction_pooler(transaction_poolers, postgres_release):
    return transaction_poolers(postgres_release)


class BehindPgBouncer(StoreContract):
    driver = ""

    @pytest.fixture(autouse=True)
    def _server(self, transaction_pooler, postgres_url):
        self.url = transaction_pooler.url(driver=self.driver)

    def make_store(self, clock):
        return SQLStore.from_url(self.url, pgbouncer=True, create_table=True, clock=clock)


class TestAsyncpg(BehindPgBouncer):
    driver = "asyncpg"


@pytest.mark.slow
class TestPsycopg(BehindPgBouncer):
    driver = "psycopg"


@pytest.mark.parametrize("driver", DRIVERS)
async def test_transaction_mode_under_load(start_pgbouncer, postgres_url, driver):
    """32 clients on 4 connections, each transaction on any of them."""
    url = start_pgbouncer(mode="transaction").url(driver=driver)
    async with opened(url, pgbouncer=True) as store:
        crowd = Crowd(store, 32)
        async with crowd.at_work():
            await crowd.do(1000)
        assert crowd.refused_since(0) == {}
        assert await crowd.mistakes() == []


@pytest.mark.parametrize("driver", DRIVERS)
async def test_session_mode_under_load(start_pgbouncer, postgres_url, driver):
    """A connection is a client's as long as it is open: nothing has to be said."""
    url = start_pgbouncer(mode="session", default_pool_size=20).url(driver=driver)
    async with opened(url) as store:
        crowd = Crowd(store, 32)
        async with crowd.at_work():
            await crowd.do(1000)
        assert crowd.refused_since(0) == {}
        assert await crowd.mistakes() == []


@pytest.mark.parametrize("driver", DRIVERS)
async def test_pgbouncer_that_restarts_is_met_again(start_pgbouncer, postgres_url, driver):
    """Connections that it cut are replaced."""
    pooler = start_pgbouncer(mode="transaction")
    async with opened(pooler.url(driver=driver), pgbouncer=True) as store:
        crowd = Crowd(store, 8)
        async with crowd.at_work():
            await crowd.do(200)
            pooler.restart()
            await crowd.do(200)
            since = crowd.now()
            await crowd.do(200)
            assert crowd.refused_since(since) == {}
        assert await crowd.mistakes() == []


@pytest.mark.parametrize("is_own_engine", [True, False])
async def test_transaction_mode_without_the_option_is_named(
    start_pgbouncer, postgres_url, is_own_engine
):
    """asyncpg's prepared statements get lost; the reason says what to write."""
    url = start_pgbouncer(mode="transaction", default_pool_size=2).url()
    if is_own_engine:
        store = SQLStore.from_url(url, create_table=True)
    else:
        store = SQLStore(create_async_engine(url), create_table=True)
    crowd = Crowd(store, 32)
    reasons = set()
    try:
        await store.open()
        async with crowd.at_work():
            await crowd.until_refused()
        reasons = {refusal.reason for refusal in crowd.refusals}
    except StoreUnavailable as error:
        reasons.add(error.reason)
    finally:
        await store._engine.dispose()
    assert any("PgBouncer" in reason and "pgbouncer=True" in reason for reason in reasons), reasons


@pytest.mark.slow
@pytest.mark.parametrize("driver", DRIVERS)
async def test_no_process_runs_a_statement_of_another(
    start_pgbouncer, postgres_server, postgres_url, driver
):
    """Without the option a call may fail, but a load never runs the delete of another process."""
    pooler = start_pgbouncer(mode="transaction", default_pool_size=2)
    direct = postgres_server.url_for("postgres", driver=driver)
    async with opened(direct):
        reports = await run_crowds(
            pooler.url(driver=driver), processes=3, calls=300, checked_at=direct
        )
    assert [report["mistakes"] for report in reports] == [[], [], []]
    # psycopg sends each statement whole, so it needs no option
    assert any(report["refused"] for report in reports) == (driver == "asyncpg")


async def test_the_option_is_for_postgresql(tmp_path):
    """A SQLite file has no pooler before it."""
    with pytest.raises(ConfigurationError, match="PostgreSQL"):
        SQLStore.from_url(f"sqlite+aiosqlite:///{tmp_path}/s.db", pgbouncer=True)
