"""Writes the figures into the pages and draws the chart: ``python -m benchmarks.report``.

They come from the JSON files beside this module. Every figure in a page stands between two
comments, which name what is written there:

    <!-- figures: CPU shares -->
    ...
    <!-- end of figures -->
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .chart import draw
from .results import RESULTS, Results
from .tables import ALONE, CAPTIONS, Table, tables

HERE = Path(__file__).parent
CHART = HERE / "chart.svg"
# file -> what the names of its tables begin with
TABLES = {"growth.json": "growth by ", "latency.json": "", "memory.json": ""}
PAGES = (HERE / "README.md", HERE.parent / "README.md")

BY_HAND = "redis-py by hand"
OURS = "this library, Redis"
LEAST = "this design without promises, Redis"

_REGION = re.compile(r"(?<=<!-- figures: )([^>]+)( -->\n).*?(?=<!-- end of figures -->)", re.S)


def main() -> None:
    results = Results.read(RESULTS)
    CHART.write_text(draw(results))
    pieces = pieces_of(results, measured_tables())
    for page in PAGES:
        page.write_text(fill(page.read_text(), pieces))


def measured_tables() -> dict[str, Any]:
    """The captions and tables of all files, by their names."""
    return {
        f"{prefix}{name}": part
        for file, prefix in TABLES.items()
        for name, part in json.loads((HERE / file).read_text()).items()
    }


def fill(page: str, pieces: Mapping[str, str]) -> str:
    """A page with its regions rewritten.

    Raises:
        KeyError: there is no piece of a region's name.
    """
    return _REGION.sub(lambda region: f"{region[1]}{region[2]}{pieces[region[1]]}\n", page)


def pieces_of(results: Results, others: Mapping[str, Any]) -> dict[str, str]:
    """The text of each region, by its name."""
    found = tables(results).items()
    pieces = {name: _with_caption(CAPTIONS[name], table) for name, table in found}
    for name, part in others.items():
        pieces[name] = _with_caption(part["caption"], part["table"])
    return pieces | {
        "summary": _summary(results),
        "conditions": _conditions(results.machine),
        "promises": _promises(results),
        "sizing": _sizing(others["growth by bytes stored"]["table"]),
    }


def _with_caption(caption: str, table: Table) -> str:
    head, *rows = table
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join([caption, "", *(f"| {' | '.join(line)} |" for line in lines)])


def _summary(results: Results) -> str:
    def times(name: str) -> list[str]:
        return [f"{results.times(each, name, ALONE):.1f}" for each in ("read", "change")]

    (read, change), by_hand = times(OURS), times(BY_HAND)
    return (
        f"With `RedisStore`, a request that reads its session takes {read} times the CPU time of "
        f"the same request in FastAPI without sessions, and one that changes it {change} times; "
        f"with `redis.get` and `redis.set` written by hand, unsigned and unchecked, it is "
        f"{by_hand[0]} and {by_hand[1]} times."
    )


def _conditions(machine: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return (
        f"The figures are from {machine['rounds']} rounds over {machine['connections']} "
        f"connections, on {machine['cores']} cores ({machine['processor']}) with "
        f"{machine['python']}, {machine['server']}, {versions}."
    )


def _promises(results: Results) -> str:
    def times(name: str) -> str:
        read, change = (results.times(each, name, ALONE) for each in ("read", "change"))
        return f"{read:.1f} and {change:.1f}"

    return (
        f"[least.py](least.py) is the same design without expiry, key rotation, time limits, safe "
        f"cancellation, merging, origin check and list of devices. A read and a change take "
        f"{times(LEAST)} times the CPU time of FastAPI alone there, {times(OURS)} times here."
    )


def _sizing(stored: Table) -> str:
    head, *rows = stored
    json_bytes, kilobytes = rows[1][0], int(rows[1][head.index("Redis")].replace(",", "")) / 1000
    return (
        f"A million sessions with {json_bytes} bytes of JSON take {kilobytes:.1f} GB of memory in "
        f"Redis, a billion {kilobytes:.1f} TB: the memory of a cluster."
    )


if __name__ == "__main__":
    main()
