"""The memory of a process after a million requests: ``python -m benchmarks.memory``.

A million requests sign in, read, change and sign out, each user once, first on a store in memory
and then on Redis. The application runs in the measuring process, whose memory and objects are
counted at powers of ten. Its clock goes a minute forward with each thousand requests, so that the
notes which a sign-out leaves for five minutes expire as on a server with less to do.
"""

import argparse
import gc
import resource
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from time import perf_counter

import uvloop

from fastapi_async_sessions import MemoryStore, Store
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.testing import FrozenClock

from .contenders import Addresses, ours
from .cpu import require_linux
from .direct import in_process
from .growth import WIDTH, run
from .servers import servers
from .tables import as_json, print_table
from .work import PATIENCE, Send, requests_with, sign_ins

USERS = 250
SCENARIOS = ("read", "change", "sign out")  # after the sign-in
BATCH = USERS * (1 + len(SCENARIOS))
REPORTED = 50 * BATCH
STEP = timedelta(minutes=1)
MARKS = (10_000, 100_000, 1_000_000)
CAPTION = (
    "The memory of a process (RSS, in MB), and the objects that Python's garbage collector knows "
    "in it, after so many requests that sign in, read, change and sign out."
)


def main() -> None:
    require_linux()
    options = _options()
    marks = [mark for mark in MARKS if mark <= options.requests]
    with servers() as (_, addresses):
        rows = [
            [title, *uvloop.run(kept(title, make, addresses, marks))]
            for title, make in STORES.items()
        ]
    heads = (f"{mark:,}: {figure}" for mark in marks for figure in ("RSS", "objects"))
    table = [["requests", *heads], *rows]
    print(f"{CAPTION}\n")
    print_table(table)
    if options.json:
        options.json.write_text(as_json({"memory": CAPTION}, {"memory": table}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--requests", type=int, default=MARKS[-1], help="up to so many")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def _memory(addresses: Addresses, clock: FrozenClock) -> Store:
    return MemoryStore(clock=clock)


def _redis(addresses: Addresses, clock: FrozenClock) -> Store:
    return RedisStore.from_url(
        addresses.redis, clock=clock, socket_timeout=PATIENCE.total_seconds()
    )


STORES: dict[str, Callable[[Addresses, FrozenClock], Store]] = {
    "memory": _memory,
    "Redis": _redis,
}


async def kept(
    title: str,
    make: Callable[[Addresses, FrozenClock], Store],
    addresses: Addresses,
    marks: list[int],
) -> list[str]:
    """The memory and the objects of this process after each of these numbers of requests."""
    clock, began = FrozenClock(), perf_counter()
    row: list[str] = []
    app = ours(lambda addresses: make(addresses, clock), clock=clock)(addresses)
    async with in_process(app) as send:
        for done in range(BATCH, marks[-1] + 1, BATCH):
            await _live(send, done)
            clock.advance(STEP)
            if done in marks:
                row += held()
            if done % REPORTED == 0:
                passed, (memory, objects) = perf_counter() - began, held()
                text = (
                    f"{title}: {done:,} requests in {passed:.0f} s, {memory} MB, {objects} objects"
                )
                print(f"{text} ...", file=sys.stderr, flush=True)
    return row


async def _live(send: Send, first: int) -> None:
    """New users sign in, read, change and sign out."""
    signed_in = await run(send, sign_ins(range(first, first + USERS)), WIDTH)
    cookies = [answer.cookie() for answer in signed_in.answers]
    for scenario in SCENARIOS:
        await run(send, requests_with(cookies, scenario), WIDTH)


def held() -> tuple[str, str]:
    """The memory of this process in MB, and the number of objects in it."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return f"{pages * resource.getpagesize() / 1e6:.1f}", f"{len(gc.get_objects()):,}"


if __name__ == "__main__":
    main()
