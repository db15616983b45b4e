"""SQLStore on each driver, and on what looks like one."""

import asyncio
import re
import socket
import sys
from datetime import timedelta

import pytest
import sqlalchemy
from pydantic import PostgresDsn
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from fastapi_async_sessions.errors import ConfigurationError, StoreUnavailable
from fastapi_async_sessions.stores import _sql_engine
from fastapi_async_sessions.stores.sql import SQLStore
from fastapi_async_sessions.testing import StoreContract
from tests.apps import make_provider
from tests.stores.crowd import Crowd


class TestPsycopg(StoreContract):
    """A store from a URL."""

    @pytest.fixture(autouse=True)
    def _server(self, postgres_server, postgres_url):
        self.url = postgres_server.url_for("postgres", driver="psycopg")

    def make_store(self, clock):
        return SQLStore.from_url(self.url, create_table=True, clock=clock)


@pytest.mark.slow
class TestPsycopgOfTheApplication(StoreContract):
    """An engine that the application made as SQLAlchemy's tutorial does."""

    @pytest.fixture(autouse=True)
    def _server(self, postgres_server, postgres_url):
        self.url = postgres_server.url_for("postgres", driver="psycopg")

    def make_store(self, clock):
        engine = create_async_engine(self.url, poolclass=sqlalchemy.NullPool)
        return SQLStore(engine, create_table=True, clock=clock)


@pytest.mark.parametrize("driver", ["asyncpg", pytest.param("psycopg", marks=pytest.mark.slow)])
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


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_server_that_cannot_be_reached_is_unavailable(driver):
    """The reason names the error, and neither the address nor the password."""
    store = SQLStore.from_url(f"postgresql+{driver}://me:pa55word@127.0.0.1:1/db")
    with pytest.raises(StoreUnavailable, match=r"ConnectionRefused|cannot be reached") as raised:
        await store.open()
    assert not {"pa55word", "127.0.0.1"} & set(raised.value.reason.split())
    await store.aclose()


async def test_a_server_that_accepts_connections_and_says_nothing_is_unavailable(monkeypatch):
    """The store has a timeout of its own, for callers that have none."""
    monkeypatch.setattr(_sql_engine, "_CONNECT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        store = SQLStore.from_url(f"postgresql+asyncpg://me@127.0.0.1:{port}/db")
        with pytest.raises(StoreUnavailable) as raised:
            await store.open()
        assert raised.value.reason == "TimeoutError: the server did not answer in time"
        await store.aclose()


async def test_a_database_that_does_not_exist_is_named(postgres_server, postgres_url):
    """It is not taken for a missing table."""
    store = SQLStore.from_url(re.sub("postgres$", "nowhere", postgres_server.url))
    with pytest.raises(StoreUnavailable, match="the database does not exist"):
        await store.open()
    await store.aclose()


async def test_a_server_without_a_free_connection_is_named(start_postgres):
    """Each process has up to ten of them."""
    server = start_postgres(max_connections=3, superuser_reserved_connections=0)
    store = SQLStore.from_url(server.url, create_table=True)
    await store.open()
    calls = [store.load(f"{number:064x}") for number in range(10)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    reasons = [answer.reason for answer in answers if isinstance(answer, StoreUnavailable)]
    assert reasons
    assert all("max_connections" in reason for reason in reasons)
    await store.aclose()


async def test_a_role_without_a_free_connection_is_named(
    postgres_server, postgres_url, postgres_role
):
    """The limit may be the role's own."""
    postgres_server.execute(f"ALTER ROLE {postgres_role} CONNECTION LIMIT 0")
    store = SQLStore.from_url(postgres_server.url_for(postgres_role))
    with pytest.raises(StoreUnavailable, match=r"53300: no connection is left.*CONNECTION LIMIT"):
        await store.open()
    await store.aclose()


@pytest.mark.parametrize(
    ("driver", "reason"),
    [
        ("asyncpg", "InvalidPasswordError 28P01: the server refuses the user or the password"),
        # libpq tells a program no code of a connection that failed
        (
            "psycopg",
            "OperationalError: the server cannot be reached, or it refuses the user, password or "
            "database",
        ),
    ],
)
async def test_a_refused_password_is_named(start_postgres, driver, reason):
    """The reason does not show it, and nor does it show the right one."""
    server = start_postgres()
    server.execute(
        "CREATE ROLE ada LOGIN PASSWORD 'correct-pa55word'",
        "GRANT CREATE, USAGE ON SCHEMA public TO ada",
    )
    access = server.data / "pg_hba.conf"
    access.write_text(f"host all ada 127.0.0.1/32 scram-sha-256\n{access.read_text()}")
    server.restart()
    urls = [server.url_for(f"ada:{word}-pa55word", driver=driver) for word in ("wrong", "correct")]
    refused, accepted = (SQLStore.from_url(url, create_table=True) for url in urls)
    await accepted.open()
    with pytest.raises(StoreUnavailable) as raised:
        await refused.open()
    assert raised.value.reason == reason
    for store in (refused, accepted):
        await store.aclose()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_full_disk_of_the_server_is_named(postgres_server, postgres_url, driver):
    """The server answers as it does when the disk is full."""
    store = SQLStore.from_url(postgres_server.url_for("postgres", driver=driver), create_table=True)
    await store.open()
    postgres_server.execute(
        """
        CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE 'could not extend file' USING ERRCODE = 'disk_full';
        END $$
        """,
        "CREATE TRIGGER fill BEFORE INSERT ON sessions FOR EACH ROW EXECUTE FUNCTION fill()",
    )
    with pytest.raises(StoreUnavailable, match="53100: the disk of the server is full"):
        await store.open()
    await store.aclose()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_pool_whose_connections_are_all_in_use_is_named(
    postgres_server, postgres_url, driver
):
    """Requests that hold one each and commit a session wait for each other."""
    url = postgres_server.url_for("postgres", driver=driver)
    engine = create_async_engine(url, pool_size=2, max_overflow=0)
    store = SQLStore(engine, create_table=True)
    await store.open()
    get_session = make_provider(store, store_timeout=timedelta(seconds=0.2))
    async with engine.connect(), engine.connect():
        with pytest.raises(StoreUnavailable, match=r"all 2 are in use.*SQLStore\.from_url"):
            await get_session.check()
    await engine.dispose()


async def test_a_pool_that_gives_up_first_is_named(postgres_url):
    """An engine may have a shorter timeout than the provider."""
    engine = create_async_engine(postgres_url, pool_size=1, max_overflow=0, pool_timeout=0.1)
    store = SQLStore(engine)
    async with engine.connect():
        with pytest.raises(StoreUnavailable, match=r"pool became free.*SQLStore\.from_url"):
            await store.load("a" * 64)
    await engine.dispose()


async def test_prepared_statements_have_names_of_their_own(postgres_url):
    """asyncpg counts them, so another process behind the same pooler would use the same names."""
    names = []
    for _ in range(2):
        store = SQLStore.from_url(postgres_url, create_table=True)
        await store.open()
        async with store._engine.connect() as connection:
            prepared = "SELECT name FROM pg_prepared_statements WHERE statement ~ 'sessions'"
            names += (await connection.exec_driver_sql(prepared)).scalars()
        await store.aclose()
    assert len(set(names)) == len(names) >= 4
    assert all(re.fullmatch("sessions_[0-9a-f]{16}", name) for name in names)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_migration_refuses_no_call(postgres_server, postgres_url, driver):
    """A plan that was made for the table as it was before is made again."""
    store = SQLStore.from_url(postgres_server.url_for("postgres", driver=driver), create_table=True)
    await store.open()
    for size in range(410, 420):
        await asyncio.gather(*(store.load(f"{number:064x}") for number in range(20)))
        postgres_server.execute(f"ALTER TABLE sessions ALTER COLUMN owner TYPE varchar({size})")
    assert await store.load("a" * 64) is None
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
        ("sqlite:///sessions.db", "sqlite+aiosqlite:///"),
        ("mysql+aiomysql://me:pa55word@host/db", "postgresql+asyncpg://"),
        ("sqlite+aiosqlite://sessions.db", "sqlite+aiosqlite:///sessions.db"),
        ("sqlite+aiosqlite://", "MemoryStore"),
        ("sqlite+aiosqlite:///:memory:", "MemoryStore"),
        ("sqlite+aiosqlite:///file:s?mode=memory&cache=shared&uri=true", "MemoryStore"),
        ("no url with pa55word", "postgresql+asyncpg://"),
        ("postgresql+asyncpg://me:pa55word@host:port/db", "quote_plus"),
        ("postgresql+asyncpg://me:p@55word@host/db", "quote_plus"),
        ("postgresql+asyncpg://me:pa55word@a,b:1,c:2/db?host=d", "postgresql+asyncpg://"),
        ("", "postgresql+asyncpg://"),
        (None, "environment variable"),
        (PostgresDsn("postgresql+asyncpg://me:pa55word@host/db"), r"str(url)"),
    ],
)
def test_a_url_that_no_engine_can_be_made_of_is_refused_with_one_that_works(url, line):
    """``postgres://`` is what hosts of PostgreSQL hand out."""
    with pytest.raises(ConfigurationError) as raised:
        SQLStore.from_url(url)
    assert line in str(raised.value)
    assert "55word" not in str(raised.value)
    assert raised.value.__context__ is None


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("postgresql+asyncpg://host/db?sslmode=require", "ssl=require"),
        ("postgresql+asyncpg://host/db?sslmode=yes", "ssl=require"),
        ("postgresql+asyncpg://host/db?ssl=true", "ssl=require"),
        ("postgresql+psycopg://host/db?ssl=verify-full", "sslmode=verify-full"),
        ("postgresql+psycopg://host/db?sslmode=1", "sslmode=require"),
        ("postgresql+asyncpg://host/db?channel_binding=require", "postgresql+psycopg://"),
        ("postgresql+asyncpg://host/db?colour=red", "colour"),
        ("postgresql+psycopg://host/db?colour=red", "colour"),
        ("sqlite+aiosqlite:///sessions.db?colour=red", "colour"),
        ("sqlite+aiosqlite:///sessions.db?mode=ro", "mode"),
        ("postgresql+asyncpg://host/db?pgbouncer=true", "pgbouncer=True)"),
        ("postgresql+psycopg://host/db?pgbouncer=true", "pgbouncer=True)"),
        ("postgresql+asyncpg://host/db?prepared_statement_cache_size=0", "pgbouncer=True)"),
        ("postgresql+asyncpg://host/db?statement_cache_size=0", "pgbouncer=True)"),
        ("postgresql+psycopg://host/db?prepare_threshold=0", "pgbouncer=True)"),
    ],
)
def test_an_option_that_the_driver_does_not_take_from_a_url_is_refused(url, line):
    """When the store is made: each call would raise TypeError, or the option would be ignored."""
    with pytest.raises(ConfigurationError) as raised:
        SQLStore.from_url(url)
    assert line in str(raised.value)


async def test_options_that_the_driver_takes_from_a_url_work(
    postgres_server, postgres_url, tmp_path
):
    """``sslmode`` is the one that libpq itself reads."""
    psycopg = postgres_server.url_for("postgres", driver="psycopg")
    for url in (
        f"{postgres_url}?ssl=prefer&target_session_attrs=read-write",
        f"{psycopg}?sslmode=prefer&connect_timeout=3&application_name=shop",
        f"sqlite+aiosqlite:///{tmp_path}/s.db?timeout=1&cached_statements=10",
    ):
        store = SQLStore.from_url(url, create_table=True)
        await store.open()
        await store.aclose()


async def test_an_option_that_the_driver_of_the_application_does_not_know_is_named(postgres_url):
    """Its engine is used as it is, and so the first call tells."""
    engine = create_async_engine(f"{postgres_url}?sslmode=require")
    with pytest.raises(StoreUnavailable, match=r"TypeError: does the driver know each option"):
        await SQLStore(engine).open()
    await engine.dispose()


@pytest.mark.parametrize(
    ("url", "install"),
    [
        ("sqlite+aiosqlite:///s.db", '"fastapi_async_sessions[sql]"'),
        ("postgresql+asyncpg://host/db", '"fastapi_async_sessions[sql]"'),
        ("postgresql+psycopg://host/db", '"psycopg[binary]"'),
    ],
)
def test_a_missing_driver_says_how_to_install_it(monkeypatch, url, install):
    """The error names what pip installs."""
    monkeypatch.setitem(sys.modules, re.split(r"[+:]", url)[1], None)
    with pytest.raises(ConfigurationError) as raised:
        SQLStore.from_url(url)
    assert f"pip install {install}" in str(raised.value)
