"""What grows with size, number and crowd: ``python -m benchmarks.growth``.

Five tables: the cost of a request against the size of its session, the number of sessions that are
stored, and the number of connections; the bytes that a session takes in each store; and with
``--leak N`` the memory of this process before and after N requests.
"""

import argparse
import asyncio
import gc
import os
import random
import resource
import sqlite3
import sys
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated, Any

import uvloop
from fastapi import Depends, FastAPI
from pydantic import BaseModel

from fastapi_async_sessions import MemoryStore, Record, Session, SessionProvider, SessionRoute
from fastapi_async_sessions._core.header import Header
from fastapi_async_sessions._core.tokens import Token
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.stores.sql import SQLStore
from tests.servers.redis import RedisServer

from .contenders import CONTENDERS, Places
from .direct import in_process
from .report import print_table
from .servers import servers
from .wire import cores, over_http, pin
from .work import SECRET, Item, Request, Run, Send

WIDTH = 32
SAMPLE = 16384  # more contents than a process remembers
SIZES = {"100 B": 100, "1 kB": 1000, "8 kB": 8000, "64 kB": 64000}
_BYTES_AN_ITEM = 84
CONNECTIONS = (1, 8, 32, 128, 512)


class Data(BaseModel):
    count: int = 0
    items: list[Item] = []


class World:
    """An application on a store, and sessions that are put there without signing anybody in."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.provider = SessionProvider(Data, store=store, secret_key=SECRET, max_bytes=1024 * 1024)
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

    def records(self, numbers: Sequence[int], size: int) -> Iterator[tuple[str, Record]]:
        """Sessions whose data is about so many bytes, each with its store key."""
        repository = self.provider.repository
        settings = repository.settings
        data = data_of(size)
        now = settings.now()
        for number in numbers:
            data.count = number  # no two have the same content
            raw = repository.codec.dump(data)
            token = token_of(number)
            new = Header.new(now, settings.lifetime, persistent=False)
            header = new._replace(secret_hash=token.secret_hash())
            key = token.key(settings.name)
            yield key, repository.new_record(key, header, raw, None)

    def cookies(self, numbers: Sequence[int]) -> list[str]:
        """What opens them."""
        sign = self.provider.verifier.sign
        return [f"{self.provider.cookie.name}={sign(token_of(number))}" for number in numbers]


def token_of(number: int) -> Token:
    return Token(number.to_bytes(16, "big"), 32 * b"s")


def data_of(size: int) -> Data:
    """A basket of as many things as make so many bytes of JSON that no database can compress."""
    chance = random.Random(size)
    items = [
        Item(sku=f"sku-{n:04}", name=chance.randbytes(15).hex(), quantity=n % 10, cents=n)
        for n in range(max(1, size // _BYTES_AN_ITEM))
    ]
    return Data(items=items)


def main() -> None:
    options = _options()
    application_core, other_core = cores()
    pin(other_core)
    with servers() as (redis, places):
        pin(application_core)
        if options.leak:
            uvloop.run(leak(places, options.leak))
            return
        uvloop.run(bytes_a_session(redis, places))
        uvloop.run(against_size(places, options.seconds))
        uvloop.run(against_number(places, options.seconds, options.stored))
        pin(other_core)
        uvloop.run(against_connections(places, application_core, options.seconds))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each measurement")
    parser.add_argument("--leak", type=int, nargs="?", const=100_000, metavar="N")
    stored = [1000, 100_000, 1_000_000]
    parser.add_argument("--stored", type=int, nargs="+", default=stored, metavar="N")
    return parser.parse_args()


def stores(places: Places, name: str) -> dict[str, Callable[[], Any]]:
    """A fresh one of each kind."""
    postgres = {"table_name": name, "create_table": True}
    sqlite = f"sqlite+aiosqlite:///{places.sqlite}.{name}"
    return {
        "memory": lambda: MemoryStore(max_sessions=2_000_000),
        "Redis": lambda: RedisStore.from_url(places.redis, prefix=name),
        "SQLite": lambda: SQLStore.from_url(sqlite, create_table=True),
        "PostgreSQL": lambda: SQLStore.from_url(places.postgres, **postgres),
    }


async def fill(world: World, numbers: Sequence[int], size: int) -> None:
    """Store a session for each number, many at the same time."""
    records = world.records(numbers, size)

    async def work() -> None:
        for key, record in records:
            await world.store.create(key, record)

    await asyncio.gather(*(work() for _ in range(WIDTH)))


@asynccontextmanager
async def filled(make: Callable[[], Any], number: int, size: int) -> AsyncIterator[World]:
    world = World(make())
    await world.store.open()
    await fill(world, range(number), size)
    yield world
    await world.store.aclose()


async def bytes_a_session(redis: RedisServer, places: Places) -> None:
    """What 1000 sessions take, divided by 1000; indexes included."""
    rows = []
    async with filled(MemoryStore, 10, 100):
        pass  # what is made at the first use is nobody's
    for title, size in SIZES.items():
        name = f"bytes{size}"
        made = stores(places, name)
        tracemalloc.start()
        async with filled(made["memory"], 1000, size):
            memory, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        async with filled(made["Redis"], 1000, size) as world:
            keys = [key for key, _ in world.records(range(100), size)]
            usage = [redis.command("MEMORY", "USAGE", f"{name}:{key}") for key in keys]
        async with filled(made["SQLite"], 1000, size):
            sqlite3.connect(f"{places.sqlite}.{name}").execute("PRAGMA wal_checkpoint(TRUNCATE)")
        on_disk = os.path.getsize(f"{places.sqlite}.{name}")  # noqa: ASYNC240
        async with filled(made["PostgreSQL"], 1000, size) as world:
            relation = await postgres_size(places, name)
        figures = (memory // 1000, median(usage), on_disk // 1000, relation // 1000)
        rows.append([title, str(len(data_of(size).model_dump_json())), *map(str, figures)])
    head = ["bytes a session", "JSON", "memory", "Redis", "SQLite", "PostgreSQL"]
    print_table([head, *rows])


async def postgres_size(places: Places, table: str) -> int:
    import asyncpg

    connection = await asyncpg.connect(places.postgres.replace("+asyncpg", ""))
    size: int = await connection.fetchval(f"SELECT pg_total_relation_size('{table}')")
    await connection.close()
    return size


async def against_size(places: Places, seconds: float) -> None:
    """One session of each user; all of them of one size."""
    rows = []
    for title, size in SIZES.items():
        row = [title]
        for make in stores(places, f"size{size}").values():
            async with filled(make, 256, size) as world:
                row += await figures(world, range(256), seconds)
        rows.append(row)
    print_table([_head("us a request, by size"), *rows])


async def against_number(places: Places, seconds: float, numbers: Sequence[int]) -> None:
    """Sessions of 1 kB; requests go to a random sample of them."""
    rows = []
    made = stores(places, "number")
    redis, sqlite = World(made["Redis"]()), World(made["SQLite"]())
    await sqlite.store.open()
    before = 0
    for number in numbers:
        print(f"storing {number:,} sessions ...", file=sys.stderr, flush=True)
        await fill(redis, range(before, number), 1000)
        fill_sqlite(Path(f"{places.sqlite}.number"), sqlite, range(before, number))
        before = number
        sample = random.sample(range(number), min(number, SAMPLE))
        row = [f"{number:,}"]
        for world in (redis, sqlite):
            row += await figures(world, sample, seconds)
        rows.append(row)
    for world in (redis, sqlite):
        await world.store.aclose()
    print_table([_head("us a request, by number stored", ("Redis", "SQLite")), *rows])


def fill_sqlite(path: Path, world: World, numbers: Sequence[int]) -> None:
    """As ``fill``, in a few transactions instead of one for each session."""
    connection = sqlite3.connect(path)
    rows = (
        (key, record.version, None, int(record.expires_at.timestamp() * 1_000_000), record.body)
        for key, record in world.records(numbers, 1000)
    )
    while chunk := list(islice(rows, 50_000)):
        with connection:
            connection.executemany("INSERT INTO sessions VALUES (?, ?, ?, ?, ?)", chunk)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


async def figures(world: World, numbers: Sequence[int], seconds: float) -> list[str]:
    """Microseconds of a read and of a change, with 32 requests in flight."""
    cookies = world.cookies(numbers)
    found = []
    async with in_process(world.app) as send:
        for method, path in (("GET", "/read"), ("POST", "/change")):
            requests = [Request(method, path, cookie) for cookie in cookies]
            found.append(f"{1e6 * await typical(send, requests, WIDTH, seconds):.0f}")
    return found


async def typical(send: Send, requests: Sequence[Request], width: int, seconds: float) -> float:
    """The median of the seconds a request, over as many runs as fit."""
    await run(send, requests[:256], width)
    times: list[float] = []
    spent = 0.0
    while spent < seconds or len(times) < 3:
        gc.collect()
        done = await run(send, requests, width)
        spent += done.seconds
        times.append(done.seconds / len(requests))
    return median(times)


async def run(send: Send, requests: Sequence[Request], width: int) -> Run:
    done = await send(requests, width)
    refused = [answer for answer in done.answers if answer.status != 200]
    if refused:
        raise RuntimeError(f"{len(refused)} of {len(requests)} failed: {refused[0]}")
    return done


async def against_connections(places: Places, core: int, seconds: float) -> None:
    """Over HTTP, 1024 users who read or change."""
    rows = []
    chosen = ("FastAPI alone", "redis-py by hand", "ours, Redis")
    for contender in CONTENDERS:
        if contender.name not in chosen:
            continue
        async with over_http(contender, places, core=core, connections=512) as send:
            names = [Request("POST", f"/sign-in/user-{number}") for number in range(1024)]
            cookies = [answer.cookie() for answer in (await run(send, names, 1)).answers]
            for method, path in (("GET", "/read"), ("POST", "/change")):
                requests = [Request(method, path, cookie) for cookie in cookies]
                rates = [await rate(send, requests, width, seconds) for width in CONNECTIONS]
                rows.append([f"{contender.name}, {path.removeprefix('/')}", *rates])
    head = ["requests/s (p99 in ms), by connections", *map(str, CONNECTIONS)]
    print_table([head, *rows])


async def rate(send: Send, requests: Sequence[Request], width: int, seconds: float) -> str:
    pace = await typical(send, requests, width, seconds)
    latencies = (await run(send, requests, width)).latencies
    return f"{1 / pace:.0f} ({quantiles(latencies, n=100)[-1] * 1000:.1f})"


async def leak(places: Places, number: int) -> None:
    """Sign in, read, change, sign out: what stays of it in this process."""
    rows = []
    made = stores(places, "leak")
    for title in ("memory", "Redis"):
        async with in_process(World(made[title]()).app) as send:
            await lives(send, max(1000, number // 10))
            before = held()
            await lives(send, number)
            after = held()
        rows.append([title, *before, *after])
    head = [f"{number:,} requests", "RSS before, MB", "objects", "RSS after, MB", "objects"]
    print_table([head, *rows])


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


def _head(title: str, names: Sequence[str] = ("memory", "Redis", "SQLite", "PostgreSQL")) -> Any:
    return [title, *(f"{name}, {verb}" for name in names for verb in ("read", "change"))]


if __name__ == "__main__":
    main()
