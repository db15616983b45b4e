"""How the cost grows: ``python -m benchmarks.growth``.

Five tables: the CPU time of a request by the size of its session, by the number of sessions that
are stored, by the number of sessions that its user has, and by the number of connections, each in
multiples of the time that FastAPI without sessions takes for a request at the same moment; and the
bytes that a session takes in each store.
"""

import argparse
import asyncio
import gc
import os
import random
import secrets
import sqlite3
import sys
import tracemalloc
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated, Any

import asyncpg
import uvloop
from fastapi import Depends, FastAPI
from pydantic import BaseModel
from redis import Redis

from fastapi_async_sessions import MemoryStore, Session, SessionProvider, SessionRoute
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.stores.sql import SQLStore
from fastapi_async_sessions.testing import session_cookies

from .contenders import BY_HAND, FASTAPI, OURS, Addresses, fastapi_alone
from .cpu import cores, cpu_seconds, pin, require_linux
from .direct import in_process
from .servers import servers
from .tables import Table, as_json, print_table
from .wire import over_http
from .work import PATIENCE, SECRET, Item, Request, Run, Send, sign_ins

WIDTH = 32
SAMPLE = 1000
SIZES = {"0.1 kB": 100, "1 kB": 1000, "8 kB": 8000, "64 kB": 64000}
STORED = (1000, 30_000, 1_000_000)
OWNED = (100, 1000, 10_000)
CONNECTIONS = (1, 8, 32, 128, 512)
TIMES = "How many times the CPU time of FastAPI alone a request takes, measured in turns"
CAPTIONS = {
    "bytes stored": "Bytes that a session takes in each store, indexes included.",
    "size": f"{TIMES}, by the size of its session. Both applications run in the measuring process, "
    "whose own work is included.",
    "number": f"{TIMES}, by the number of sessions that are stored. The same, and with Redis the "
    "CPU time of its server is included.",
    "subject": f"{TIMES}, by the number of sessions that one user has: a sign-in, a list of the "
    "first hundred, and the revocation of all, divided by their number. As above.",
    "connections": f"{TIMES}, by the number of connections, over HTTP.",
}
_BYTES_AN_ITEM = 84


_COPY = """
local value, lifetime = redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])
for number = ARGV[2], ARGV[3] - 1 do
  local key = redis.sha1hex(number) .. string.sub(redis.sha1hex(-number), 1, 24)
  redis.call('SET', ARGV[1] .. key, value, 'PX', lifetime)
end
"""


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

        @self.app.post("/sign-in/{user}")
        async def sign_in(user: str, session: UserSession) -> dict[str, int]:
            session.data.count = 0
            session.renew(subject=user)
            return {"count": 0}

        @self.app.get("/list/{user}")
        async def listed(user: str) -> dict[str, int]:
            return {"count": len(await self.provider.sessions(user))}

        @self.app.post("/revoke/{user}")
        async def revoke(user: str) -> dict[str, int]:
            return {"count": await self.provider.revoke_all(user)}

    async def add_sessions(
        self, number: int, size: int, *, subject: str | None = None
    ) -> list[str]:
        """Store sessions of about so many bytes, no two alike, and return their cookies."""
        data = data_of(size)
        cookies: list[str] = []
        while len(cookies) < number:
            group = range(len(cookies), min(number, len(cookies) + WIDTH))
            made = [data.model_copy(update={"count": count}) for count in group]
            stored = (session_cookies(self.provider, each, subject=subject) for each in made)
            pairs = await asyncio.gather(*stored)
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
    made: dict[str, Table] = {}
    with servers() as (redis, addresses):
        pin(application_core)
        seconds = options.seconds
        for title, measure in {
            "bytes stored": partial(bytes_stored, redis, addresses),
            "size": partial(by_size, addresses, seconds),
            "number": partial(by_number, redis, addresses, seconds, options.stored),
            "subject": partial(by_subject, redis, addresses, seconds, options.owned),
            "connections": partial(
                by_connections, addresses, application_core, other_core, seconds
            ),
        }.items():
            began = perf_counter()
            made[title] = uvloop.run(measure())
            print(f"\n## {title}, in {perf_counter() - began:.0f} s\n{CAPTIONS[title]}\n")
            print_table(made[title])
    if options.json:
        options.json.write_text(as_json(CAPTIONS, made))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.5, help="for each measurement")
    parser.add_argument("--stored", type=int, nargs="+", default=STORED, metavar="N")
    parser.add_argument("--owned", type=int, nargs="+", default=OWNED, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def progress(text: str) -> None:
    print(f"{text} ...", file=sys.stderr, flush=True)


def stores(addresses: Addresses, name: str) -> dict[str, Callable[[], Any]]:
    """A fresh one of each kind."""
    postgres = {"table_name": name, "create_table": True}
    seconds = PATIENCE.total_seconds()
    sqlite = f"sqlite+aiosqlite:///{addresses.sqlite}.{name}?timeout={seconds}"
    return {
        "memory": lambda: MemoryStore(max_sessions=2_000_000),
        "Redis": lambda: RedisStore.from_url(addresses.redis, prefix=name, socket_timeout=seconds),
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
    """A hundred users, each with one session of that size."""
    rows = []
    for title, size in SIZES.items():
        progress(f"sessions of {title}")
        row = [title]
        for make in stores(addresses, f"size{size}").values():
            async with served(make) as (world, send):
                row += await costs(send, await world.add_sessions(100, size), seconds)
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
            fill_redis(redis, f"number{number}", number - len(cookies))
            row += await costs(send, cookies, seconds, server)
        async with served(made["SQLite"]) as (world, send):
            cookies = await world.add_sessions(min(number, SAMPLE), 1000)
            fill_sqlite(f"{addresses.sqlite}.number{number}", number - len(cookies))
            row += await costs(send, cookies, seconds)
        rows.append(row)
    return [_head("sessions stored", ("Redis", "SQLite")), *rows]


def fill_redis(redis: Redis, prefix: str, number: int) -> None:
    """Add copies of a session under keys that no cookie opens."""
    session = next(redis.scan_iter(f"{prefix}:*"))
    for start in range(0, number, 10_000):
        redis.eval(_COPY, 1, session, f"{prefix}:", start, min(number, start + 10_000))


def fill_sqlite(path: str, number: int) -> None:
    """Add copies of a session under keys that no cookie opens, in one transaction."""
    connection = sqlite3.connect(path)
    found = connection.execute("SELECT * FROM sessions LIMIT 1")
    columns, row = [column[0] for column in found.description], found.fetchone()
    values = dict(zip(columns, row, strict=True))
    # in the order of the index, which is many times faster
    keys = sorted(secrets.token_hex(32) for _ in range(number))
    copies = ({**values, "key": key} for key in keys)
    marks = ", ".join(f":{column}" for column in columns)
    with connection:
        connection.executemany(f"INSERT INTO sessions VALUES ({marks})", copies)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


async def by_subject(
    redis: Redis, addresses: Addresses, seconds: float, numbers: Sequence[int]
) -> Table:
    """Requests of a user who has so many sessions, or for that user."""
    rows = []
    server = redis.info("server")["process_id"]
    names = ("memory", "Redis", "SQLite")
    for number in numbers:
        progress(f"{number:,} sessions of one user")
        row = [f"{number:,}"]
        for name in names:
            make = stores(addresses, f"subject{number}")[name]
            async with served(make) as (world, send):
                await world.add_sessions(number, 100, subject="ada")
                row += await costs_of_user(
                    send, number, seconds / 4, server if name == "Redis" else None
                )
        rows.append(row)
    verbs = ("sign-in", "list", "revoke each")
    return [["sessions", *(f"{name}, {verb}" for name in names for verb in verbs)], *rows]


async def costs_of_user(send: Send, number: int, seconds: float, server: int | None) -> list[str]:
    """The cost of a sign-in, of a list, and of a revocation for each of the sessions."""
    found = []
    async with in_process(_alone()) as alone:
        for method, path in (("POST", "/sign-in/ada"), ("GET", "/list/ada")):
            requests = [Request(method, path)] * 16
            found.append(await cost(send, alone, requests, WIDTH, seconds, server))
        base = await spent(alone, [Request("POST", "/revoke/ada")] * 256, WIDTH)
        revoked = await spent(send, [Request("POST", "/revoke/ada")], 1, server)
    return [*found, f"{revoked / number / base:.2f}"]


def _alone() -> FastAPI:
    """FastAPI alone, with the routes for one user."""
    app = fastapi_alone()

    async def answer_user(user: str) -> dict[str, int]:
        return {"count": 0}

    app.get("/list/{user}")(answer_user)
    app.post("/revoke/{user}")(answer_user)
    return app


async def by_connections(addresses: Addresses, core: int, other_core: int, seconds: float) -> Table:
    """Over HTTP, as many users as connections who read or change."""
    pin(other_core)
    rows = []
    serve = partial(over_http, addresses=addresses, core=core, connections=max(CONNECTIONS))
    for contender in (BY_HAND, OURS):
        progress(f"connections, {contender.name}")
        async with serve(FASTAPI) as alone, serve(contender) as send:
            signed_in = await run(send, sign_ins(range(max(CONNECTIONS))), WIDTH)
            cookies = [answer.cookie() for answer in signed_in.answers]
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

    Both run in turns.
    """
    times: list[float] = []
    began = perf_counter()
    for batch in cycle(_batches(requests)):
        base = await spent(alone, batch, width)
        times.append(await spent(send, batch, width, server) / base)
        if len(times) > 4 and perf_counter() - began > seconds:
            break
    # the first run has warmed up
    return f"{median(times[1:]):.1f}"


async def spent(
    send: Send, requests: Sequence[Request], width: int, server: int | None = None
) -> float:
    """The CPU time of a request in seconds, with that of a server's process if there is one."""
    began = cpu_seconds(server) if server else 0
    done = await run(send, requests, width)
    of_server = cpu_seconds(server) - began if server else 0
    return (done.cpu_seconds + of_server) / len(requests)


def _batches(requests: Sequence[Request]) -> list[Sequence[Request]]:
    return [requests[start : start + 1024] for start in range(0, len(requests), 1024)]


async def run(send: Send, requests: Sequence[Request], width: int) -> Run:
    done = await send(requests, width)
    refused = [answer for answer in done.answers if answer.status != 200]
    if refused:
        raise RuntimeError(f"{len(refused)} of {len(requests)} failed: {refused[0]}")
    return done


def _head(title: str, names: Sequence[str]) -> list[str]:
    return [title, *(f"{name}, {verb}" for name in names for verb in ("read", "change"))]


if __name__ == "__main__":
    main()
