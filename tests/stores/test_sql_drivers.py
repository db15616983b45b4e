"""SQLStore on each driver, and on what looks like one."""

import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from fastapi_async_sessions.errors import ConfigurationError
from fastapi_async_sessions.stores.sql import SQLStore
from fastapi_async_sessions.testing import StoreContract
from tests.stores.crowd import Crowd


class TestPsycopg(StoreContract):
    """A store from a URL."""

    @pytest.fixture(autouse=True)
    def _server(self, postgres_server, postgres_url):
        self.url = postgres_server.url_for("postgres", driver="psycopg")

    def make_store(self, clock):
        return SQLStore.from_url(self.url, create_table=True, clock=clock)


class TestPsycopgOfTheApplication(StoreContract):
    """An engine that the application made as SQLAlchemy's tutorial does."""

    @pytest.fixture(autouse=True)
    def _server(self, postgres_server, postgres_url):
        self.url = postgres_server.url_for("postgres", driver="psycopg")

    def make_store(self, clock):
        engine = create_async_engine(self.url, poolclass=sqlalchemy.NullPool)
        return SQLStore(engine, create_table=True, clock=clock)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_server_that_restarts_under_load_loses_nothing(start_postgres, driver):
    """What was acknowledged is there; requests fail while it is away, and then no more."""
    server = start_postgres(fsync=True)
    store = SQLStore.from_url(server.url_for("postgres", driver=driver), create_table=True)
    await store.open()
    crowd = Crowd(store, 16)
    async with crowd.at_work():
        await crowd.do(200)
        server.kill()
        server.start()
        await crowd.do(200)
        server.restart()
        # a call under way meets the old connections once more
        await crowd.do(200)
        since = crowd.now()
        await crowd.do(200)
        assert crowd.refused_since(since) == {}
    assert await crowd.mistakes() == []
    await store.aclose()


# what looks like a driver


@pytest.mark.parametrize("url", ["sqlite:///s.db", "postgresql+psycopg://host/db"])
def test_a_synchronous_engine_is_refused(url):
    """That of the tutorial: each call would raise TypeError."""
    engine = sqlalchemy.create_engine(url)
    with pytest.raises(ConfigurationError, match=r"create_async_engine\("):
        SQLStore(engine)


@pytest.mark.parametrize("wrong", ["session", "factory", "connection", "url"])
def test_what_wraps_an_engine_is_refused(wrong):
    """The engine beneath is what the store takes."""
    engine = create_async_engine("sqlite+aiosqlite:///s.db")
    wrongs = {
        "session": AsyncSession(engine),
        "factory": async_sessionmaker(engine),
        "connection": engine.connect(),
        "url": "sqlite+aiosqlite:///s.db",
    }
    with pytest.raises(ConfigurationError, match="AsyncEngine"):
        SQLStore(wrongs[wrong])


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("postgres://me:pa55word@host/db", "postgresql+asyncpg://"),
        ("postgresql://me:pa55word@host/db", "postgresql+asyncpg://"),
        ("postgresql+psycopg2://me:pa55word@host/db", "postgresql+psycopg://"),
        ("postgresql+psycopg2://me:pa55word@host/db", "postgresql+asyncpg://"),
        ("sqlite:///sessions.db", "sqlite+aiosqlite://"),
    ],
)
def test_a_url_of_another_driver_is_refused_with_one_that_works(url, line):
    """``postgres://`` is what hosts of PostgreSQL hand out."""
    with pytest.raises(ConfigurationError) as raised:
        SQLStore.from_url(url)
    assert line in str(raised.value)
    assert "pa55word" not in str(raised.value)


def test_an_option_of_libpq_is_refused_for_asyncpg():
    """asyncpg calls it otherwise; each call would raise TypeError."""
    with pytest.raises(ConfigurationError, match=r"ssl=require"):
        SQLStore.from_url("postgresql+asyncpg://host/db?sslmode=require")


def test_an_option_that_no_driver_knows_is_refused():
    """When the store is made, not by the first request."""
    for driver in ("asyncpg", "psycopg"):
        with pytest.raises(ConfigurationError, match="colour"):
            SQLStore.from_url(f"postgresql+{driver}://host/db?colour=red")


async def test_sslmode_is_an_option_of_psycopg(postgres_server, postgres_url):
    """It is the one that libpq itself reads."""
    url = postgres_server.url_for("postgres", driver="psycopg")
    store = SQLStore.from_url(f"{url}?sslmode=prefer", create_table=True)
    await store.open()
    await store.aclose()
