"""SQLStore in a SQLite file that others use too, or that the machine fails."""

import asyncio
import os
import re
import secrets
import sqlite3
import subprocess
import sys
import threading
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from fastapi_async_sessions.errors import StoreUnavailable
from fastapi_async_sessions.records import Record, new_version
from fastapi_async_sessions.stores import _sql_engine
from fastapi_async_sessions.stores.sql import SQLStore
from tests.apps import make_provider
from tests.stores.processes import run_crowds

KEY = "a" * 64
SHORT = timedelta(seconds=1)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "app.db"


@asynccontextmanager
async def opened(path, **options):
    store = SQLStore.from_url(f"sqlite+aiosqlite:///{path}", create_table=True, **options)
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


@asynccontextmanager
async def on_an_engine(path, **options):
    """A store on one that the application made, and that engine."""
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{path}", poolclass=AsyncAdaptedQueuePool, **options
    )
    store = SQLStore(engine, create_table=True)
    await store.open()
    try:
        yield store, engine
    finally:
        await store.aclose()  # waits for calls that were given up
        await engine.dispose()


def a_record():
    return Record(b"body", new_version(), None, datetime.now(UTC) + timedelta(hours=1))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a megabyte."""
    if sys.platform != "linux" or os.geteuid():
        pytest.skip("only root can mount a file system of its own")
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@contextmanager
def full(place):
    """Another file takes what is left."""
    filler = place / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    yield
    filler.unlink()


@contextmanager
def writing(path):
    """A transaction of the application's that writes, and takes its time."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER)")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO orders VALUES (1)")
        yield
        connection.execute("ROLLBACK")


async def check(store, **options):
    await make_provider(store, name=secrets.token_hex(4), **options).check()


async def test_another_writer_is_named(path):
    """It holds the one lock that a file has, and the reason of a call that timed out says so."""
    async with opened(path) as store:
        with writing(path), pytest.raises(StoreUnavailable, match="a separate file"):
            await check(store, store_timeout=SHORT)
        await check(store)


async def test_another_writer_is_named_on_an_engine_of_the_application(path):
    """Its busy timeout is the application's: five seconds, where it says nothing."""
    async with on_an_engine(path) as (store, _):
        with writing(path), pytest.raises(StoreUnavailable, match="a separate file"):
            await check(store, store_timeout=SHORT)


async def test_a_pool_whose_connections_are_all_taken_is_named(path):
    """Requests that hold one each and commit a session wait for each other."""
    async with on_an_engine(path, pool_size=1, max_overflow=0) as (store, engine):
        async with engine.connect():
            with pytest.raises(StoreUnavailable, match=r"pool.*SQLStore\.from_url"):
                await check(store, store_timeout=SHORT)
        await check(store)


async def check_often(get_session):
    """A page or two may still be free."""
    for _ in range(100):
        await get_session.check()


async def test_a_full_disk_is_named(small_disk):
    """Reads go on, and writes as soon as there is room."""
    async with opened(small_disk / "app.db") as store:
        get_session = make_provider(store)
        await get_session.check()
        with full(small_disk):
            with pytest.raises(StoreUnavailable, match="disk is full"):
                await check_often(get_session)
            assert await store.load(KEY) is None
        await get_session.check()


async def test_a_file_that_was_deleted_is_noticed(path):
    """What is written to it would be lost, so the next call fails."""
    async with opened(path) as store:
        get_session = make_provider(store)
        await get_session.check()
        for each in path.parent.glob("app.db*"):
            each.unlink()
        for call in (get_session.check, lambda: store.load(KEY)):
            with pytest.raises(StoreUnavailable, match="missing"):
                await call()
        await store.open()
        await get_session.check()


async def test_a_file_that_was_replaced_is_the_one_that_counts(path, tmp_path):
    """As by a backup that is put back while the application runs."""
    kept, newer = a_record(), a_record()
    async with opened(path) as store:
        await store.create(KEY, kept)
        with closing(sqlite3.connect(path)) as source:
            source.execute(f"VACUUM INTO '{tmp_path}/backup.db'")
        await store.save(KEY, newer, replaces=kept.version)
        for each in path.parent.glob("app.db-*"):
            each.unlink()
        (tmp_path / "backup.db").replace(path)
        assert await store.load(KEY) == kept
        assert await store.save(KEY, newer, replaces=kept.version)
    async with opened(path) as store:
        assert await store.load(KEY) == newer


@asynccontextmanager
async def new_threads_end():
    """aiosqlite does not wait for the thread of a connection that could not be opened."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        await asyncio.to_thread(thread.join, 60)


async def test_a_directory_that_does_not_exist_is_named(tmp_path):
    """The reason is not only a code."""
    store = SQLStore.from_url(f"sqlite+aiosqlite:///{tmp_path}/missing/app.db", create_table=True)
    async with new_threads_end():
        with pytest.raises(StoreUnavailable, match="cannot be opened"):
            await store.open()
    await store.aclose()


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"not a database" * 100, "not a SQLite database"), (None, "read-only")],
)
async def test_a_file_that_cannot_be_used_is_named(path, content, reason):
    """It holds something else, or may not be written."""
    url = f"sqlite+aiosqlite:///{path}"
    if content:
        path.write_bytes(content)
    else:
        async with opened(path):
            url = f"sqlite+aiosqlite:///file:{path}?mode=ro&uri=true"
    store = SQLStore.from_url(url)
    with pytest.raises(StoreUnavailable, match=reason):
        await store.open()
    await store.aclose()


async def test_a_damaged_file_is_named(path):
    """Its first page is whole, so that SQLite takes it for a database."""
    async with opened(path) as store:
        for number in range(100):
            await store.create(f"{number:064x}", a_record())
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))
    store = SQLStore.from_url(f"sqlite+aiosqlite:///{path}")
    with pytest.raises(StoreUnavailable, match=r"SQLITE_CORRUPT.*: the SQLite file is damaged"):
        await store.open()
    await store.aclose()


# as a disk that fails: the system refuses to write beyond 64 KiB of any file of the process
FAILING_DISK = """
import asyncio, resource, sys
from datetime import UTC, datetime, timedelta
from fastapi_async_sessions import Record, StoreUnavailable
from fastapi_async_sessions.stores.sql import SQLStore

async def main():
    store = SQLStore.from_url(f"sqlite+aiosqlite:///{sys.argv[1]}", create_table=True)
    await store.open()
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, resource.RLIM_INFINITY))
    record = Record(bytes(20_000), "1", None, datetime.now(UTC) + timedelta(hours=1))
    try:
        for number in range(100):
            await store.create(f"{number:064x}", record)
    except StoreUnavailable as error:
        print(error.reason)
    await store.aclose()

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
@pytest.mark.slow
def test_a_disk_that_fails_is_named(path):
    """SQLite has one code for what a disk may do wrong, apart from being full."""
    program = [sys.executable, "-c", FAILING_DISK, str(path)]
    done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=300)
    reason = r"OperationalError SQLITE_IOERR\w*: the disk of the SQLite file fails, or is full\n"
    assert re.fullmatch(reason, done.stdout)


@contextmanager
def locked(path):
    """Another connection opens the new file at the same moment, and has its lock."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield other


async def test_a_new_file_whose_lock_another_has_is_tried_again(path, monkeypatch):
    """SQLite does not wait for the lock that it needs for WAL."""
    pauses = []

    def pause(sleep):
        sleep.close()
        pauses.append(sleep)
        other.execute("COMMIT")

    monkeypatch.setattr(_sql_engine, "await_only", pause)
    with locked(path) as other:
        # without a timeout of SQLite's, so that each try fails at once
        store = SQLStore.from_url(f"sqlite+aiosqlite:///{path}?timeout=0", create_table=True)
        await store.open()
        assert len(pauses) == 1
        assert other.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
    await store.aclose()


async def test_a_new_file_whose_lock_another_keeps_is_named(path, monkeypatch):
    """The store does not wait for ever, and no thread of a connection is left behind."""
    monkeypatch.setattr(_sql_engine, "_WAL_SECONDS", -1)
    store = SQLStore.from_url(f"sqlite+aiosqlite:///{path}?timeout=0", create_table=True)
    async with new_threads_end():
        with locked(path), pytest.raises(StoreUnavailable, match="a separate file"):
            await store.open()
    await store.open()
    await store.aclose()


@pytest.mark.slow
async def test_four_processes_write_one_file(path):
    """No call is refused, and nothing is lost."""
    async with opened(path):
        reports = await run_crowds(f"sqlite+aiosqlite:///{path}", processes=4, calls=100)
    assert reports == [{"mistakes": [], "refused": {}}] * 4
