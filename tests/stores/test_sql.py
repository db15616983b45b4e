"""SQLStore: the contract on SQLite and PostgreSQL, transactions, purges and failures."""

import asyncio
import importlib
import logging
import sqlite3
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, event, func, insert, select
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool

from fastapi_async_sessions.errors import ConfigurationError, StoreUnavailable
from fastapi_async_sessions.records import Record, new_version
from fastapi_async_sessions.stores.sql import SQLStore
from fastapi_async_sessions.testing import StoreContract
from tests.servers.proxy import Proxy

KEY = "ab" * 32
HOUR = timedelta(hours=1)
UNUSED_PORT = 1


class TestContractOnSQLite(StoreContract):
    """A file."""

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path):
        self.url = f"sqlite+aiosqlite:///{tmp_path}/sessions.db?timeout=60"

    def make_store(self, clock):
        return SQLStore.from_url(self.url, create_table=True, clock=clock)


class TestContractOnPostgreSQL(StoreContract):
    """A server."""

    @pytest.fixture(autouse=True)
    def _server(self, postgres_url):
        self.url = postgres_url

    def make_store(self, clock):
        return SQLStore.from_url(self.url, create_table=True, clock=clock)


@pytest.mark.slow
class TestContractOnAnEngineOfTheApplication(StoreContract):
    """Without autocommit, and at the strictest isolation level."""

    @pytest.fixture(autouse=True)
    def _server(self, postgres_url):
        self.url = postgres_url

    def make_store(self, clock):
        engine = create_async_engine(self.url, poolclass=NullPool, isolation_level="SERIALIZABLE")
        return SQLStore(engine, create_table=True, clock=clock)


@pytest.fixture(params=["sqlite", "asyncpg", "psycopg"])
def url(request, tmp_path):
    """The address of an empty database of each kind, and for each driver."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/sessions.db?timeout=60"
    return with_driver(request.getfixturevalue("postgres_url"), request.param)


def with_driver(url, driver):
    return url.replace("+asyncpg:", f"+{driver}:")


@asynccontextmanager
async def opened(url, **options):
    store = SQLStore.from_url(url, **{"create_table": True, **options})
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


@asynccontextmanager
async def an_engine(url, **options):
    # the default of newer versions of SQLAlchemy
    engine = create_async_engine(url, poolclass=AsyncAdaptedQueuePool, **options)
    try:
        yield engine
    finally:
        await engine.dispose()


def a_record(**changes):
    record = Record(b"body", new_version(), "user:42", datetime.now(UTC) + HOUR)
    return replace(record, **changes)


async def fill(store, count, record):
    """Insert many rows in one transaction."""
    values = {
        "version": record.version,
        "owner": record.owner,
        "expires_at": round(record.expires_at.timestamp() * 1_000_000),
        "body": record.body,
    }
    rows = [{"key": f"{number:064x}", **values} for number in range(count)]
    # as the engine is set, SQLite would write each row to the disk on its own
    async with store._engine.execution_options(
        isolation_level="SERIALIZABLE"
    ).begin() as connection:
        await connection.execute(insert(store.table), rows)


async def count_rows(store):
    async with store._engine.begin() as connection:
        return await connection.scalar(select(func.count()).select_from(store.table))


def watch(engine):
    """Collect the statements and their row counts."""
    seen = []

    @event.listens_for(engine.sync_engine, "after_cursor_execute")
    def _(connection, cursor, statement, parameters, context, executemany):
        seen.append((statement, cursor.rowcount))

    return seen


# opening and closing


async def test_sessions_survive_a_restart(url):
    """A new store loads what an earlier one wrote."""
    record = a_record()
    async with opened(url) as store:
        await store.create(KEY, record)
    async with opened(url) as store:
        assert await store.load(KEY) == record


async def test_several_processes_may_open_at_the_same_time(url):
    """Each finds the table, whichever of them created it."""
    stores = [SQLStore.from_url(url, create_table=True) for _ in range(8)]
    try:
        await asyncio.gather(*(store.open() for store in stores))
        assert await asyncio.gather(*(store.load(KEY) for store in stores)) == [None] * 8
    finally:
        await asyncio.gather(*(store.aclose() for store in stores))


async def test_one_of_many_creates_in_several_processes_wins(url):
    """The database decides, not the process."""
    async with opened(url) as one, opened(url) as other:
        creates = [store.create(KEY, a_record()) for store in (one, other) * 10]
        assert sum(await asyncio.gather(*creates)) == 1


async def test_one_of_many_saves_in_several_processes_wins(url):
    """No process overwrites a version that it has not read."""
    record = a_record()
    async with opened(url) as one, opened(url) as other:
        await one.create(KEY, record)
        saves = [
            store.save(KEY, a_record(), replaces=record.version) for store in (one, other) * 10
        ]
        assert sum(await asyncio.gather(*saves)) == 1


async def test_the_table_can_come_from_a_migration(url):
    """It is an ordinary table that can be added to the metadata of the application."""
    store = SQLStore.from_url(url, table_name="web_sessions")
    metadata = MetaData()
    store.table.to_metadata(metadata)
    async with an_engine(url) as engine, engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    async with opened(url, table_name="web_sessions", create_table=False) as store:
        assert await store.create(KEY, a_record())


async def test_stores_with_different_tables_are_independent(url):
    """A store clears only its own table."""
    async with opened(url, table_name="one") as one, opened(url, table_name="two") as two:
        await one.create(KEY, a_record())
        await two.create(KEY, a_record())
        await two.clear()
        assert await one.load(KEY)


async def test_a_table_of_the_longest_name_works(url):
    """The names of its indexes are shortened if the database requires it."""
    async with opened(url, table_name="s" * 63) as store:
        assert await store.create(KEY, a_record())


async def test_an_engine_of_the_application_stays_open(url):
    """aclose() closes only an engine that from_url() made."""
    async with an_engine(url) as engine:
        store = SQLStore(engine, create_table=True)
        await store.open()
        await store.aclose()
        assert engine.pool.checkedin() == 1


async def test_a_store_works_again_after_it_was_closed(url):
    """As with a second lifespan in tests."""
    store = SQLStore.from_url(url, create_table=True)
    for _ in range(2):
        await store.open()
        await store.load(KEY)
        await store.aclose()


async def test_sqlite_files_are_in_wal_mode(tmp_path):
    """Readers never wait for a writer."""
    path = tmp_path / "sessions.db"
    record = a_record()
    async with opened(f"sqlite+aiosqlite:///{path}") as store:
        await store.create(KEY, record)
        writer = sqlite3.connect(path, isolation_level=None)
        writer.execute("BEGIN EXCLUSIVE")
        assert await store.load(KEY) == record
        save = asyncio.create_task(store.save(KEY, a_record(), replaces=record.version))
        assert await store.load(KEY) == record
        writer.execute("ROLLBACK")
        writer.close()
        assert await save


# transactions and connections of the application


async def test_a_rollback_in_the_application_does_not_undo_a_session(url):
    """The store writes in a transaction of its own, even on an engine that both use."""
    async with an_engine(url) as engine:
        store = SQLStore(engine, create_table=True)
        await store.open()
        async with engine.begin() as connection:
            await store.create(KEY, a_record())
            await connection.rollback()
        assert await store.load(KEY)


async def test_a_rollback_does_not_restore_a_destroyed_session(postgres_url):
    """A logout remains done when the request fails later on."""
    async with opened(postgres_url) as store, an_engine(postgres_url) as engine:
        other = Table("other", MetaData(), Column("id", Integer))
        await store.create(KEY, a_record())
        async with engine.begin() as connection:
            await connection.run_sync(other.create)
            await store.delete(KEY)
            await connection.rollback()
        assert await store.load(KEY) is None


async def test_no_connection_is_held_between_calls(url):
    """After each call, its connection is back in the pool."""
    async with opened(url) as store:
        await store.create(KEY, a_record())
        assert store._engine.pool.checkedout() == 0
        await store.find("user:42")
        assert store._engine.pool.checkedout() == 0


async def test_sessions_work_while_the_application_uses_all_its_connections(url):
    """A store that was made from a URL has its own."""
    async with (
        an_engine(url, pool_size=1, max_overflow=0) as engine,
        opened(url) as store,
        engine.connect(),
    ):
        assert await store.create(KEY, a_record())


async def test_sessions_that_are_being_written_are_deleted_with_their_owner(postgres_url):
    """PostgreSQL waits for their locks: left out, they would be taken for the last."""
    async with opened(postgres_url) as store:
        await store.create(KEY, a_record())
        async with store._engine.connect() as connection:
            connection = await connection.execution_options(isolation_level="READ COMMITTED")
            await connection.execute(select(store.table).with_for_update())
            deletion = asyncio.create_task(store.delete_owned("user:42"))
            await asyncio.wait({deletion}, timeout=0.3)
            await connection.rollback()
        assert await deletion == 1


async def test_many_calls_share_one_connection(url):
    """A call needs one connection, and never waits for a second one while it holds it."""
    async with an_engine(url, pool_size=1, max_overflow=0) as engine:
        store = SQLStore(engine, create_table=True)
        await store.open()
        keys = [f"{number:064x}" for number in range(20)]
        created = [store.create(key, a_record()) for key in keys]
        assert all(await asyncio.gather(*created))
        assert all(await asyncio.gather(*(store.load(key) for key in keys)))


# purge


async def test_purge_removes_a_thousand_rows_at_a_time(url):
    """In separate transactions, so that none of them blocks other writers for long."""
    async with opened(url) as store:
        await fill(store, 2500, a_record(expires_at=datetime.now(UTC) - HOUR))
        seen = watch(store._engine)
        assert await store.purge() == 2500
        assert [rows for _, rows in seen] == [1000, 1000, 500]


async def test_concurrent_purges_remove_each_row_once(url):
    """Neither fails or touches a live session, and their counts add up."""
    async with opened(url) as one, opened(url) as other:
        await fill(one, 5000, a_record(expires_at=datetime.now(UTC) - HOUR))
        await one.create(KEY, a_record())
        assert sum(await asyncio.gather(one.purge(), other.purge())) == 5000
        assert await count_rows(one) == 1


async def test_a_purge_does_not_wait_for_locked_rows(postgres_url):
    """It leaves them to the next purge."""
    async with opened(postgres_url) as store, an_engine(postgres_url) as engine:
        await fill(store, 3, a_record(expires_at=datetime.now(UTC) - HOUR))
        async with engine.begin() as connection:
            await connection.execute(select(store.table).limit(1).with_for_update())
            assert await asyncio.wait_for(store.purge(), 60) == 2
        assert await store.purge() == 1


async def test_sessions_can_be_used_during_a_purge(url):
    """They are loaded and saved, and none is lost."""
    async with opened(url) as store:
        await fill(store, 10_000, a_record(expires_at=datetime.now(UTC) - HOUR))
        record = a_record()
        await store.create(KEY, record)
        purge = asyncio.create_task(store.purge())
        rounds = 0
        while not purge.done():
            newer = a_record()
            assert await store.save(KEY, newer, replaces=record.version)
            assert await store.load(KEY) == newer
            record = newer
            rounds += 1
        assert await purge == 10_000
        assert rounds > 1


# mistakes and failures


@pytest.mark.parametrize("name", ["", "1s", "a b", "s;--", "sessions\n", 's"', "ä", "s" * 64])
def test_a_table_name_is_plain(name):
    """It never needs quoting."""
    with pytest.raises(ConfigurationError, match="table_name"):
        SQLStore.from_url("sqlite+aiosqlite:///s.db", table_name=name)


def test_other_databases_are_refused(monkeypatch):
    """The statements are written for SQLite and PostgreSQL."""
    engine = create_async_engine("sqlite+aiosqlite://")
    monkeypatch.setattr(engine.dialect, "name", "mysql")
    with pytest.raises(ConfigurationError, match="not with mysql"):
        SQLStore(engine)


def test_a_missing_sqlalchemy_says_how_to_install_it(monkeypatch):
    """Importing the module fails, which is the only one that needs it."""
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    monkeypatch.delitem(sys.modules, "fastapi_async_sessions.stores.sql")
    with pytest.raises(ConfigurationError, match=r"fastapi_async_sessions\[sql\]"):
        importlib.import_module("fastapi_async_sessions.stores.sql")


async def test_a_missing_table_is_reported_with_what_to_do(url):
    """When the store opens, and by every verb."""
    store = SQLStore.from_url(url, table_name="web_sessions")
    try:
        for call in (store.open, store.purge, store.clear):
            with pytest.raises(StoreUnavailable) as raised:
                await call()
            assert "'web_sessions' is missing" in raised.value.reason
            assert "create_table=True" in raised.value.reason
            assert "Alembic" in raised.value.reason
    finally:
        await store.aclose()


async def test_a_missing_column_is_reported_when_the_store_opens(url):
    """A migration may have been forgotten."""
    async with an_engine(url) as engine, engine.begin() as connection:
        table = Table("sessions", MetaData(), Column("key", Integer))
        await connection.run_sync(table.create)
    store = SQLStore.from_url(url, create_table=False)
    try:
        with pytest.raises(StoreUnavailable, match="or one of its columns"):
            await store.open()
    finally:
        await store.aclose()


async def test_a_refused_connection_is_unavailable_and_shows_no_password():
    """It is in neither the text nor the arguments nor the cause of the error."""
    store = SQLStore.from_url(f"postgresql+asyncpg://me:pa55word@127.0.0.1:{UNUSED_PORT}/db")
    with pytest.raises(StoreUnavailable) as raised:
        await store.load(KEY)
    assert raised.value.reason == "ConnectionRefusedError"
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None
    assert "pa55word" not in f"{raised.value!r} {raised.value} {store!r}"
    await store.aclose()


async def test_an_error_shows_no_parameters(postgres_url):
    """PostgreSQL refuses a text with a NUL, and its error quotes the text."""
    async with opened(postgres_url) as store:
        with pytest.raises(StoreUnavailable) as raised:
            await store.create(KEY, a_record(owner="so secret\0", body=b"so secret"))
    assert raised.value.reason == "CharacterNotInRepertoireError 22021"
    assert "secret" not in f"{raised.value!r} {raised.value} {raised.value.args}"
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None


async def test_no_values_are_in_statements_or_log_lines(url, caplog):
    """Statements have parameters, which an engine made by from_url() does not log."""
    caplog.set_level(logging.INFO, "sqlalchemy")
    async with opened(url) as store:
        seen = watch(store._engine)
        record = a_record(owner="so'secret", body=b"so secret")
        await store.create(KEY, record)
        newer = replace(record, version=new_version())
        await store.save(KEY, newer, replaces=record.version)
        await store.load(KEY)
        await store.find("so'secret")
        await store.delete(KEY)
    statements = " ".join(statement for statement, _ in seen)
    assert len(seen) == 5
    assert "INSERT INTO sessions" in caplog.text
    for value in (KEY, record.version, newer.version, "secret"):
        assert value not in statements
        assert value not in caplog.text


async def test_times_do_not_depend_on_the_time_zone(url, monkeypatch):
    """Neither on that of the process nor on that of the server."""
    record = a_record(expires_at=datetime.now(UTC) + timedelta(hours=1, microseconds=1))
    async with opened(url) as store:
        await store.create(KEY, record)
    monkeypatch.setenv("TZ", "America/St_Johns")
    monkeypatch.setenv("PGTZ", "Asia/Kathmandu")
    time.tzset()
    try:
        async with opened(url) as store:
            loaded = await store.load(KEY)
            await store.save(KEY, replace(record, version="2"), replaces=record.version)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert loaded == record
    assert loaded.expires_at.utcoffset() == timedelta(0)
    async with opened(url) as store:
        assert await store.load(KEY) == replace(record, version="2")


@pytest.mark.parametrize(("failures", "saved"), [(9, True), (10, False)])
async def test_a_serialization_failure_is_tried_again_nine_times(
    postgres_server, postgres_url, failures, saved
):
    """After that the store is unavailable; whether to try again is up to the caller."""
    record = a_record()
    async with opened(postgres_url) as store:
        await store.create(KEY, record)
        postgres_server.execute(f"""
            CREATE SEQUENCE attempts;
            CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF nextval('attempts') <= {failures} THEN
                    RAISE 'try again' USING ERRCODE = '40001';
                END IF;
                RETURN NEW;
            END $$;
            CREATE TRIGGER fail BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION fail();
        """)
        save = store.save(KEY, a_record(), replaces=record.version)
        if saved:
            assert await save
        else:
            with pytest.raises(StoreUnavailable, match="SerializationError 40001"):
                await save
        assert postgres_server.execute("SELECT last_value FROM attempts") == 10


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_an_engine_of_a_strict_level_does_not_fail_a_call_again_and_again(
    postgres_server, postgres_url, driver
):
    """Where each of many writers would fail it: from the second attempt on it waits for them."""
    record = a_record()
    url = with_driver(postgres_url, driver)
    async with an_engine(url, pool_size=1, isolation_level="SERIALIZABLE") as engine:
        store = SQLStore(engine, create_table=True)
        await store.open()
        await store.create(KEY, record)
        postgres_server.execute("""
            CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF current_setting('transaction_isolation') = 'serializable' THEN
                    RAISE 'try again' USING ERRCODE = '40001';
                END IF;
                RETURN NEW;
            END $$;
            CREATE TRIGGER fail BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION fail();
        """)
        assert await store.save(KEY, a_record(), replaces=record.version)
        async with engine.connect() as connection:
            level = await connection.exec_driver_sql("SHOW transaction_isolation")
            assert level.scalar() == "serializable"


@asynccontextmanager
async def through_a_proxy(url):
    async with Proxy(url) as proxy, opened(proxy.url) as store:
        yield store, proxy


async def test_a_broken_connection_is_replaced(postgres_url):
    """The next call succeeds, without a restart."""
    async with through_a_proxy(postgres_url) as (store, proxy):
        await store.create(KEY, a_record())
        proxy.cut()
        assert await store.load(KEY)


async def test_a_write_whose_reply_was_lost_is_recognised(postgres_url):
    """It is sent again, and finds that it was done."""
    async with through_a_proxy(postgres_url) as (store, proxy):
        record, newer = a_record(), a_record()
        proxy.lose_replies = 1
        assert await store.create(KEY, record)
        proxy.lose_replies = 1
        assert await store.save(KEY, newer, replaces=record.version)
        assert await store.load(KEY) == newer
        assert proxy.lose_replies == 0


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_call_to_a_silent_server_can_be_cancelled(postgres_url, driver):
    """It ends at once, its connection is released soon after, and the store recovers."""
    async with through_a_proxy(with_driver(postgres_url, driver)) as (store, proxy):
        await store.create(KEY, a_record())
        proxy.pause()
        loop = asyncio.get_running_loop()
        for _ in range(20):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02) as deadline:
                    await store.load(KEY)
            assert loop.time() < deadline.when() + 10
        given_up = loop.time()
        while store._engine.pool.checkedout():
            assert loop.time() < given_up + 60
            await asyncio.sleep(0.05)
        proxy.resume()
        assert await store.load(KEY)


async def test_the_reply_to_a_cancelled_call_is_not_given_to_another(url):
    """Wherever it is cancelled, the other calls return their own records."""
    records = {f"{number:064x}": a_record() for number in range(10)}
    async with opened(url) as store:
        for key, record in records.items():
            await store.create(key, record)
        for turns in range(60):
            calls = [asyncio.create_task(store.load(key)) for key in records]
            for _ in range(turns):
                await asyncio.sleep(0)
            for call in calls[::2]:
                call.cancel()
            done = await asyncio.gather(*calls, return_exceptions=True)
            assert done[1::2] == list(records.values())[1::2]
            for answer, record in zip(done, records.values(), strict=True):
                assert answer == record or isinstance(answer, asyncio.CancelledError)
