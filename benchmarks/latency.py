"""Latency with Redis a millisecond away: ``python -m benchmarks.latency``.

A proxy (``distance``) holds back what the application and Redis send each other for half a
millisecond each way. Contenders take turns with 1, 8 and 32 requests in flight. A second table has
the round trips of a request that is alone, as another proxy counts them.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import NamedTuple

import uvloop
from redis import Redis

from tests.servers.proxy import Proxy

from .contenders import BASELINES, BY_HAND, OURS, Addresses
from .cpu import cores, pin, require_linux
from .distance import at_a_distance
from .results import SCENARIOS
from .rounds import Participant
from .servers import servers
from .tables import Table, as_json, print_table
from .wire import over_http
from .work import Send, ask, check, requests_with, sign_ins

WIDTHS = (1, 8, 32)
COMPARED = (*BASELINES, OURS)


class Percentiles(NamedTuple):
    """Of the latencies of a number of requests, in milliseconds."""

    half: float
    most: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Percentiles":
        hundredths = quantiles(seconds, n=100)
        return cls(1e3 * hundredths[49], 1e3 * hundredths[98])

    @classmethod
    def middle(cls, rounds: Sequence["Percentiles"]) -> "Percentiles":
        """The medians of several rounds."""
        return cls(*map(median, zip(*rounds, strict=True)))

    def __str__(self) -> str:
        return f"{self.half:.1f} / {self.most:.1f}"


Found = dict[tuple[int, str, str], list[Percentiles]]
"""Requests in flight, contender and scenario -> one entry for each round."""


def main() -> None:
    require_linux()
    options = _options()
    application_core, other_core = cores()
    pin(other_core)
    with servers() as (_, addresses):
        trips = uvloop.run(round_trips(addresses, application_core))
        with at_a_distance(addresses.redis) as there:
            pings = [ping(there), ping(addresses.redis)]
            far = replace(addresses, redis=there)
            found = uvloop.run(measure(far, application_core, options.rounds))
    captions = {"latency": _caption(*pings), "round trips": "Round trips of a request to Redis."}
    made = {"latency": _table(found), "round trips": trips}
    for title, table in made.items():
        print(f"\n## {title}\n{captions[title]}\n")
        print_table(table)
    if options.json:
        options.json.write_text(as_json(captions, made))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def ping(url: str, number: int = 1000) -> Percentiles:
    """How long a client waits for the shortest reply."""
    seconds = []
    with Redis.from_url(url) as redis:
        for _ in range(number):
            began = perf_counter()
            redis.ping()
            seconds.append(perf_counter() - began)
    return Percentiles.of(seconds)


async def measure(addresses: Addresses, core: int, rounds: int) -> Found:
    """All scenarios of all contenders with so many requests in flight, in turns."""
    found: Found = {}
    serve = partial(over_http, addresses=addresses, core=core, connections=max(WIDTHS))
    async with AsyncExitStack() as stack:
        participants = []
        for contender in COMPARED:
            send = await stack.enter_async_context(serve(contender))
            participants.append(Participant(contender, send))
            await participants[-1].begin(seconds=0)
        for number in range(rounds):
            print(f"round {number + 1} of {rounds} ...", file=sys.stderr, flush=True)
            await _round(participants, number, found)
    return found


async def _round(participants: Sequence[Participant], number: int, found: Found) -> None:
    first = number % len(participants)
    for width, scenario in product(WIDTHS, SCENARIOS):
        for each in (*participants[first:], *participants[:first]):
            run = await each.run(scenario, width=width)
            row = found.setdefault((width, each.contender.name, scenario), [])
            row.append(Percentiles.of(run.latencies))


async def round_trips(addresses: Addresses, core: int) -> Table:
    """Of one request by itself, when its connection to Redis is open."""
    rows = []
    for contender in (BY_HAND, OURS):
        async with Proxy(addresses.redis) as proxy:
            there = replace(addresses, redis=proxy.url)
            async with over_http(contender, there, core=core, connections=1) as send:
                rows.append([contender.name, *await _trips(send, proxy)])
    return [["", *SCENARIOS], *rows]


async def _trips(send: Send, proxy: Proxy) -> list[str]:
    await check(send, in_store=True)
    cookie = (await ask(send, "POST", "/sign-in/ada")).cookie()
    counts = []
    for scenario in SCENARIOS:
        requests = sign_ins(["ada"]) if scenario == "sign in" else requests_with([cookie], scenario)
        before = proxy.round_trips
        await send(requests, 1)
        counts.append(str(proxy.round_trips - before))
    return counts


def _caption(far: Percentiles, near: Percentiles) -> str:
    return (
        "Milliseconds from a request to its response over HTTP, with Redis a millisecond away: the "
        "median, and after the slash the 99th percentile. There a PING from the machine of the "
        f"application takes {far}; without the proxy, {near}."
    )


def _table(found: Found) -> Table:
    rows = [
        [
            f"{width} in flight: {name}",
            *(str(Percentiles.middle(found[width, name, scenario])) for scenario in SCENARIOS),
        ]
        for width, name in product(WIDTHS, (contender.name for contender in COMPARED))
    ]
    return [["", *SCENARIOS], *rows]


if __name__ == "__main__":
    main()
