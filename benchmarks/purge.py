"""The cost of a purge for concurrent requests: ``python -m benchmarks.purge --rows 1000000``.

Fills SQLite and PostgreSQL with expired sessions of 1 kB, then loads and saves live ones 50 times
a second, first alone and then while ``purge()`` runs.
"""

import argparse
import asyncio
import os
import resource
import secrets
import sqlite3
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg

from fastapi_async_sessions import Record
from fastapi_async_sessions.stores.sql import SQLStore
from tests.servers.postgres import PostgresServer, run_postgres

OWNERS = 100_000
PAUSE = 0.02
KEY = "ab" * 32

Row = tuple[str, str, str, int, bytes]
Latencies = dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows: int = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(purge_sqlite(Path(directory) / "sessions.db", rows))
    with run_postgres(fsync=True) as server:
        asyncio.run(purge_postgres(server, rows))


async def purge_sqlite(path: Path, rows: int) -> None:
    async with opened(f"sqlite+aiosqlite:///{path}") as store:
        connection = sqlite3.connect(path)
        with connection:
            connection.executemany("INSERT INTO sessions VALUES (?, ?, ?, ?, ?)", expired(rows))
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        size = os.path.getsize(path)  # noqa: ASYNC240  # nothing else runs in this loop
        print(f"SQLite: {size / rows:.0f} bytes a session of 1,000 bytes")
        await purge(store, rows)


async def purge_postgres(server: PostgresServer, rows: int) -> None:
    async with opened(server.url) as store:
        connection = await asyncpg.connect(server.url.replace("+asyncpg", ""))
        await connection.copy_records_to_table("sessions", records=expired(rows))
        await connection.execute("VACUUM ANALYZE sessions")
        size = await connection.fetchval("SELECT pg_total_relation_size('sessions')")
        await connection.close()
        print(f"PostgreSQL: {size / rows:.0f} bytes a session of 1,000 bytes")
        await purge(store, rows)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[SQLStore]:
    store = SQLStore.from_url(url, create_table=True)
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


def expired(rows: int) -> Iterator[Row]:
    """Rows in the order of the table's columns."""
    now = int(time.time() * 1_000_000)
    for number in range(rows):
        yield (
            secrets.token_hex(32),
            secrets.token_hex(7),
            f"user:{number % OWNERS}",
            now - secrets.randbelow(86_400_000_000),
            secrets.token_bytes(1000),
        )


async def purge(store: SQLStore, rows: int) -> None:
    await store.create(KEY, record())
    show("alone", await traffic(store, asyncio.create_task(asyncio.sleep(5))))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    purging = asyncio.create_task(store.purge())
    latencies = await traffic(store, purging)
    took = time.perf_counter() - started
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    print(f"  purge: {await purging:,} rows in {took:.1f} s, {rows / took:,.0f} a second")
    print(f"  memory of this process grew by {grown / 1024:.1f} MB")
    show("during the purge", latencies)


async def traffic(store: SQLStore, until: "asyncio.Task[object]") -> Latencies:
    """Load and save one session again and again until a task is done."""
    latencies: Latencies = {"load": [], "save": []}
    while not until.done():
        started = time.perf_counter()
        before = await store.load(KEY)
        loaded = time.perf_counter()
        assert before
        assert await store.save(KEY, record(), replaces=before.version)
        latencies["load"].append(loaded - started)
        latencies["save"].append(time.perf_counter() - loaded)
        await asyncio.sleep(PAUSE)
    return latencies


def record() -> Record:
    expires_at = datetime.now(UTC) + timedelta(hours=1)
    return Record(secrets.token_bytes(1000), secrets.token_hex(7), "user:42", expires_at)


def show(title: str, latencies: Latencies) -> None:
    for verb, seconds in latencies.items():
        centiles = statistics.quantiles(seconds, n=100)
        figures = f"p50 {centiles[49] * 1000:.1f} ms, p99 {centiles[98] * 1000:.1f} ms"
        print(
            f"  {verb} {title}: {figures}, worst {max(seconds) * 1000:.1f} ms, {len(seconds)} times"
        )


if __name__ == "__main__":
    main()
