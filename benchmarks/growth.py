"""How the cost grows: ``python -m benchmarks.growth``.

Four tables: the CPU time of a request by the size of its session, by the number of sessions that
are stored, and by the number of connections, each in multiples of the time that FastAPI without
sessions takes for a request at the same moment; and the bytes that a session takes in each store.
With ``--leak N`` instead: the memory of this process before and after N requests.
"""

import argparse
import asyncio
import gc
import json
import os
import random
import resource
import secrets
import sqlite3
import sys
import tracemalloc
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import asyncpg
import uvloop
from fastapi import Depends, FastAPI
from pydantic import BaseModel
from redis import Redis

from fastapi_async_sessions import MemoryStore, Record, Session, SessionProvider, SessionRoute
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.stores.sql import SQLStore
from fastapi_async_sessions.testing import session_cookies

from .contenders import BY_HAND, FASTAPI, OURS, Addresses, fastapi_alone
from .cpu import cores, cpu_seconds, pin, require_linux
from .direct import in_process
from .servers import servers
from .tables import Table, print_table
from .wire import over_http
from .work import PATIENCE, SECRET, Item, Request, Run, Send

WIDTH = 32
SAMPLE = 12_288  # more than a process remembers to have read
SIZES = {"0.1 kB": 100, "1 kB": 1000, "8 kB": 8000, "64 kB": 64000}
STORED = (1000, 100_000, 1_000_000)
CONNECTIONS = (1, 8, 32, 128, 512)
TIMES = "How many times the CPU time of FastAPI alone a request takes, measured in turns"
CAPTIONS = {
    "bytes stored": "Bytes that a session takes in each store, indexes included.",
    "size": f"{TIMES}, by the size of its session. Both applications run in the measuring process, "
    "whose own work is included.",
    "number": f"{TIMES}, by the number of sessions that are stored. The same, and with Redis the "
    "CPU time of its server is included.",
    "connections": f"{TIMES}, by the number of connections, over HTTP.",
}
_BYTES_AN_ITEM = 84


class Data(BaseModel):
    count: int = 0
    items: list[Item] = []


class World:
    """An application on a store."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.provider = SessionProvider(
            Data,
            store=store,
            secret_key=SECRET,
            max_bytes=1024 * 1024,
            store_timeout=PATIENCE,
            commit_timeout=PATIENCE,
        )
        self.app = FastAPI(openapi_url=None, lifespan=self.provider.lifespan)
        self.app.router.route_class = SessionRoute
        UserSession = Annotated[Session[Data], Depends(self.provider)]

        @self.app.get("/read")
        async def read(session: UserSession) -> dict[str, int]:
            return {"count": session.data.count}

        @self.app.post("/change")
        async def change(session: UserSession) -> dict[str, int]:
            session.data.count += 1
            return {"count": session.data.count}

        @self.app.post("/sign-in")
        async def sign_in(session: UserSession) -> dict[str, int]:
            session.data.count = 0
            session.renew(subject="ada")
            return {"count": 0}

        @self.app.post("/sign-out")
        async def sign_out(session: UserSession) -> dict[str, int]:
            await session.destroy()
            return {"count": 0}

    async def add_sessions(self, number: int, size: int) -> list[str]:
        """Store sessions of about so many bytes, no two alike, and return their cookies."""
        data = data_of(size)
        cookies: list[str] = []
        while len(cookies) < number:
            group = range(len(cookies), min(number, len(cookies) + WIDTH))
            made = [data.model_copy(update={"count": count}) for count in group]
            pairs = await asyncio.gather(*(session_cookies(self.provider, each) for each in made))
            cookies += [f"{name}={value}" for pair in pairs for name, value in pair.items()]
        return cookies


def data_of(size: int) -> Data:
    """Data of about so many bytes of JSON that no database can compress."""
    chance = random.Random(size)
    items = [
        Item(sku=f"sku-{n:04}", name=chance.randbytes(15).hex(), quantity=n % 10, cents=n)
        for n in range(max(1, size // _BYTES_AN_ITEM))
    ]
    return Data(items=items)


def main() -> None:
    require_linux()
    options = _options()
    application_core, other_core = cores()
    pin(other_core)
    with servers() as (redis, addresses):
        pin(application_core)
        if options.leak:
            print_table(uvloop.run(leak(addresses, options.leak)))
            return
        made = {
            "bytes stored": uvloop.run(bytes_stored(redis, addresses)),
            "size": uvloop.run(by_size(addresses, options.seconds)),
            "number": uvloop.run(by_number(redis, addresses, options.seconds, options.stored)),
        }
        pin(other_core)
        by_connection = by_connections(addresses, application_core, options.seconds)
        made["connections"] = uvloop.run(by_connection)
    for title, table in made.items():
        print(f"\n## {title}\n{CAPTIONS[title]}\n")
        print_table(table)
    if options.json:
        options.json.write_text(_json(made))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each measurement")
    parser.add_argument("--leak", type=int, nargs="?", const=100_000, metavar="N")
    parser.add_argument("--stored", type=int, nargs="+", default=STORED, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def _json(tables: dict[str, Table]) -> str:
    """Captions and tables, with one row on each line."""
    parts = []
    for name, table in tables.items():
        rows = ",\n".join(f"   {json.dumps(row)}" for row in table)
        caption = json.dumps(CAPTIONS[name])
        parts.append(f' "{name}": {{\n  "caption": {caption},\n  "table": [\n{rows}\n  ]\n }}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def progress(text: str) -> None:
    print(f"{text} ...", file=sys.stderr, flush=True)


def stores(addresses: Addresses, name: str) -> dict[str, Callable[[], Any]]:
    """A fresh one of each kind."""
    postgres = {"table_name": name, "create_table": True}
    sqlite = f"sqlite+aiosqlite:///{addresses.sqlite}.{name}"
    return {
        "memory": lambda: MemoryStore(max_sessions=2_000_000),
        "Redis": lambda: RedisStore.from_url(addresses.redis, prefix=name),
        "SQLite": lambda: SQLStore.from_url(sqlite, create_table=True),
        "PostgreSQL": lambda: SQLStore.from_url(addresses.postgres, **postgres),
    }


@asynccontextmanager
async def served(make: Callable[[], Any]) -> AsyncIterator[tuple[World, Send]]:
    """An application on a store, which runs in this process."""
    world = World(make())
    async with in_process(world.app) as send:
        yield world, send


async def bytes_stored(redis: Redis, addresses: Addresses, number: int = 200) -> Table:
    """The bytes that so many sessions take, divided by their number; indexes included."""
    rows = []
    async with served(MemoryStore) as (world, _):
        await world.add_sessions(WIDTH, 100)  # so that what is made once is not counted
    for title, size in SIZES.items():
        progress(f"bytes stored for {title}")
        name = f"bytes{size}"
        made = stores(addresses, name)
        memory = await bytes_in_memory(made["memory"], number, size)
        for store in ("Redis", "SQLite", "PostgreSQL"):
            async with served(made[store]) as (world, _):
                await world.add_sessions(number, size)
        in_redis = sum(redis.memory_usage(key) or 0 for key in redis.scan_iter(f"{name}*"))
        sqlite = bytes_in_sqlite(f"{addresses.sqlite}.{name}")
        totals = (memory, in_redis, sqlite, await bytes_in_postgres(addresses, name))
        json_bytes = len(data_of(size).model_dump_json())
        rows.append([f"{json_bytes:,}", *(f"{total // number:,}" for total in totals)])
    return [["JSON", "memory", "Redis", "SQLite", "PostgreSQL"], *rows]


async def bytes_in_memory(make: Callable[[], Any], number: int, size: int) -> int:
    async with served(make) as (world, _):
        tracemalloc.start()
        await world.add_sessions(number, size)
        gc.collect()
        traced, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return traced


def bytes_in_sqlite(path: str) -> int:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return os.path.getsize(path)


async def bytes_in_postgres(addresses: Addresses, table: str) -> int:
    connection = await asyncpg.connect(addresses.postgres.replace("+asyncpg", ""))
    size: int = await connection.fetchval(f"SELECT pg_total_relation_size('{table}')")
    await connection.close()
    return size


async def by_size(addresses: Addresses, seconds: float) -> Table:
    """256 users, each with one session of that size."""
    rows = []
    for title, size in SIZES.items():
        progress(f"sessions of {title}")
        row = [title]
        for make in stores(addresses, f"size{size}").values():
            async with served(make) as (world, send):
                row += await costs(send, await world.add_sessions(256, size), seconds)
        rows.append(row)
    return [_head("JSON", ("memory", "Redis", "SQLite", "PostgreSQL")), *rows]


async def by_number(
    redis: Redis, addresses: Addresses, seconds: float, numbers: Sequence[int]
) -> Table:
    """Requests for a sample of the sessions of 1 kB that are stored."""
    rows = []
    server = redis.info("server")["process_id"]
    for number in numbers:
        progress(f"{number:,} sessions stored")
        made = stores(addresses, f"number{number}")
        row = [f"{number:,}"]
        async with served(made["Redis"]) as (world, send):
            cookies = await world.add_sessions(min(number, SAMPLE), 1000)
            await fill_redis(world.store, number - len(cookies))
            row += await costs(send, cookies, seconds, server)
        async with served(made["SQLite"]) as (world, send):
            cookies = await world.add_sessions(min(number, SAMPLE), 1000)
            fill_sqlite(f"{addresses.sqlite}.number{number}", number - len(cookies))
            row += await costs(send, cookies, seconds)
        rows.append(row)
    return [_head("sessions stored", ("Redis", "SQLite")), *rows]


async def fill_redis(store: RedisStore, number: int) -> None:
    """Add records of 1 kB that no cookie opens."""
    body = data_of(1000).model_dump_json().encode()
    record = Record(body, secrets.token_hex(7), None, datetime.now(UTC) + timedelta(hours=24))

    async def work() -> None:
        for _ in range(number // WIDTH):
            await store.create(secrets.token_hex(32), record)

    await asyncio.gather(*(work() for _ in range(WIDTH)))


def fill_sqlite(path: str, number: int) -> None:
    """Add copies of a session under keys that no cookie opens, in one transaction."""
    connection = sqlite3.connect(path)
    found = connection.execute("SELECT * FROM sessions LIMIT 1")
    columns, row = [column[0] for column in found.description], found.fetchone()
    values = dict(zip(columns, row, strict=True))
    copies = ({**values, "key": secrets.token_hex(32)} for _ in range(number))
    marks = ", ".join(f":{column}" for column in columns)
    with connection:
        connection.executemany(f"INSERT INTO sessions VALUES ({marks})", copies)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


async def by_connections(addresses: Addresses, core: int, seconds: float) -> Table:
    """Over HTTP, 1024 users who read or change."""
    rows = []
    serve = partial(over_http, addresses=addresses, core=core, connections=max(CONNECTIONS))
    for contender in (BY_HAND, OURS):
        progress(f"connections, {contender.name}")
        async with serve(FASTAPI) as alone, serve(contender) as send:
            names = [Request("POST", f"/sign-in/user-{number}") for number in range(1024)]
            cookies = [answer.cookie() for answer in (await run(send, names, 1)).answers]
            for method, path in (("GET", "/read"), ("POST", "/change")):
                requests = [Request(method, path, cookie) for cookie in cookies]
                row = [await cost(send, alone, requests, width, seconds) for width in CONNECTIONS]
                rows.append([f"{contender.name}: {path.removeprefix('/')}", *row])
    return [["connections", *map(str, CONNECTIONS)], *rows]


async def costs(
    send: Send, cookies: Sequence[str], seconds: float, server: int | None = None
) -> list[str]:
    """The cost of a read and that of a change in this process, with 32 requests in flight."""
    found = []
    async with in_process(fastapi_alone()) as alone:
        for method, path in (("GET", "/read"), ("POST", "/change")):
            requests = [Request(method, path, cookie) for cookie in cookies]
            found.append(await cost(send, alone, requests, WIDTH, seconds, server))
    return found


async def cost(
    send: Send,
    alone: Send,
    requests: Sequence[Request],
    width: int,
    seconds: float,
    server: int | None = None,
) -> str:
    """How many times the CPU time of FastAPI alone a request takes: the median of several runs.

    Both run in turns. With a server's process, its CPU time is counted as well.
    """
    times: list[float] = []
    spent = 0.0
    for batch in cycle(_batches(requests)):
        base = await run(alone, batch, width)
        began = cpu_seconds(server) if server else 0
        done = await run(send, batch, width)
        of_server = cpu_seconds(server) - began if server else 0
        times.append((done.cpu_seconds + of_server) / base.cpu_seconds)
        spent += done.seconds
        if spent > seconds and len(times) > 5:
            break
    # the first run has warmed up
    return f"{median(times[1:]):.1f}"


def _batches(requests: Sequence[Request]) -> list[Sequence[Request]]:
    return [requests[start : start + 1024] for start in range(0, len(requests), 1024)]


async def run(send: Send, requests: Sequence[Request], width: int) -> Run:
    done = await send(requests, width)
    refused = [answer for answer in done.answers if answer.status != 200]
    if refused:
        raise RuntimeError(f"{len(refused)} of {len(requests)} failed: {refused[0]}")
    return done


async def leak(addresses: Addresses, number: int) -> Table:
    """Sign in, read, change, sign out, and return what that leaves in this process."""
    rows = []
    made = stores(addresses, "leak")
    for title in ("memory", "Redis"):
        async with served(made[title]) as (_, send):
            await lives(send, max(1000, number // 10))
            before = held()
            await lives(send, number)
            after = held()
        rows.append([title, *before, *after])
    head = [f"{number:,} requests", "RSS before, MB", "objects", "RSS after, MB", "objects"]
    return [head, *rows]


async def lives(send: Send, number: int) -> None:
    for _ in range(number // 1024 + 1):
        signed_in = await run(send, [Request("POST", "/sign-in")] * 256, WIDTH)
        cookies = [answer.cookie() for answer in signed_in.answers]
        for method, path in (("GET", "/read"), ("POST", "/change"), ("POST", "/sign-out")):
            await run(send, [Request(method, path, cookie) for cookie in cookies], WIDTH)


def held() -> tuple[str, str]:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return f"{pages * resource.getpagesize() / 1e6:.1f}", f"{len(gc.get_objects()):,}"


def _head(title: str, names: Sequence[str]) -> list[str]:
    return [title, *(f"{name}, {verb}" for name in names for verb in ("read", "change"))]


if __name__ == "__main__":
    main()
