"""Shows a run, and writes its figures into the pages: ``python -m benchmarks.report``.

Every figure in a page stands between two comments, which name what is written there:

    <!-- figures: CPU shares -->
    ...
    <!-- end of figures -->

``results.json`` and ``growth.json`` are what is written from.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from .chart import draw
from .results import CONTENDED, RESULTS, SCENARIOS, Figure, Results

HERE = Path(__file__).parent
CHART = HERE / "chart.svg"
GROWTH = HERE / "growth.json"
PAGES = (HERE / "README.md", HERE.parent / "README.md")

ALONE = "FastAPI alone"
BY_HAND = "redis-py by hand"
OURS = "this library, Redis"
LEAST = "this design without promises, Redis"

Table = Sequence[Sequence[str]]
"""Rows of cells; the first row has the names of the columns."""

Cell = Callable[[str, str], str]
"""The text of a table for a scenario and a contender."""

CAPTIONS = {
    "CPU shares": "The CPU time of a request in FastAPI alone, divided by the CPU time of the same "
    "request with sessions: 0.50 means twice the work.",
    "CPU times": "Microseconds of the worker's CPU time for a request: the median of all rounds, "
    "and in brackets the lowest and the highest.",
    "rates": "Requests per second, as a share of those of FastAPI alone. Other programs on the "
    "machine change these figures.",
    "latencies": "The 99th percentile of the latencies, in milliseconds. Other programs on the "
    "machine change these figures even more.",
    "contended": "The CPU time of a request when all connections change one session at the same "
    "time, and which of the changes that were answered with 200 were there afterwards.",
    "commands": "Commands that a request sends to Redis; less than one where requests share them.",
}

_REGION = re.compile(r"(?<=<!-- figures: )([^>]+)( -->\n).*?(?=<!-- end of figures -->)", re.S)


def main() -> None:
    results = Results.read(RESULTS)
    CHART.write_text(draw(results))
    pieces = pieces_of(results, json.loads(GROWTH.read_text()))
    for page in PAGES:
        page.write_text(fill(page.read_text(), pieces))


def fill(page: str, pieces: Mapping[str, str]) -> str:
    """A page with its regions written anew.

    Raises:
        KeyError: there is no piece of a region's name.
    """
    return _REGION.sub(lambda region: f"{region[1]}{region[2]}{pieces[region[1]]}\n", page)


def pieces_of(results: Results, growth: Mapping[str, Table]) -> dict[str, str]:
    """The text of each region, by its name."""
    found = tables(results).items()
    pieces = {name: f"{CAPTIONS[name]}\n\n{_markdown(table)}" for name, table in found}
    pieces |= {f"growth by {name}": _markdown(table) for name, table in growth.items()}
    return pieces | {
        "summary": _summary(results),
        "conditions": _conditions(results.machine),
        "promises": _promises(results),
        "sizing": _sizing(growth["bytes stored"]),
    }


def show(results: Results) -> None:
    """Print all tables, and which contenders were not measured."""
    for name, table in tables(results).items():
        print(f"\n## {name}\n{CAPTIONS[name]}\n")
        print_table(table)
    for name, reason in results.skipped.items():
        print(f"not measured: {name}: {reason}")


def tables(results: Results) -> dict[str, Table]:
    """All tables of a run, by their names."""

    def share(figure: Figure) -> Cell:
        return lambda scenario, name: _median(results.ratios(scenario, ALONE, name, figure))

    def spread(figure: Figure, form: str) -> Cell:
        return lambda scenario, name: _spread(results.values(scenario, name, figure), form)

    def commands(scenario: str, name: str) -> str:
        sent = results.commands[name][scenario]
        return ", ".join(f"{calls:.2g} {command}" for command, calls in sent.items()) or "none"

    names = results.contenders()
    return {
        "CPU shares": _table(SCENARIOS, names, share("cpu_us")),
        "CPU times": _table(SCENARIOS, names, spread("cpu_us", ".0f")),
        "rates": _table(SCENARIOS, names, share("time_us")),
        "latencies": _table(SCENARIOS, names, spread("p99_ms", ".1f")),
        "contended": _contended(results),
        "commands": _table(SCENARIOS, list(results.commands), commands),
    }


def _contended(results: Results) -> Table:
    head = ["", "microseconds", "confirmed changes that were kept"]
    rows = [
        [name, _spread(results.values(CONTENDED, name, "cpu_us"), ".0f"), f"{share:.1%}"]
        for name, share in results.kept.items()
    ]
    return [head, *rows]


def _table(columns: Sequence[str], names: Sequence[str], cell: Cell) -> Table:
    return [["", *columns], *([name, *(cell(each, name) for each in columns)] for name in names)]


def print_table(table: Table) -> None:
    """Columns side by side."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def _markdown(table: Table) -> str:
    head, *rows = table
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _median(values: Sequence[float]) -> str:
    return f"{median(values):.2f}" if values else ""


def _spread(values: Sequence[float], form: str) -> str:
    if not values:
        return ""
    return f"{median(values):{form}} [{min(values):{form}}-{max(values):{form}}]"


def _summary(results: Results) -> str:
    def times(name: str) -> list[str]:
        scenarios = ("read", "change", "sign in", "subject")
        return [f"{results.times(each, name, ALONE):.1f}" for each in scenarios]

    read, change, sign_in, subject = times(OURS)
    hand = times(BY_HAND)
    return (
        f"With `RedisStore`, a request that reads its session takes {read} times the CPU time of "
        f"the same request in FastAPI without sessions, one that changes it {change} times, a "
        f"sign-in {sign_in} times, and a request that only asks who is signed in {subject} times. "
        f"With `redis.get` and `redis.set` written by hand, unsigned and unchecked, it is "
        f"{hand[0]}, {hand[1]}, {hand[2]} and {hand[3]} times."
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
        return f"a read takes {read:.1f} times the CPU time of FastAPI alone, a change {change:.1f}"

    return (
        f"[least.py](least.py) is the same design without expiry, key rotation, time limits, safe "
        f"cancellation, merging, origin check and list of devices. There {times(LEAST)} times; in "
        f"this library {times(OURS)} times."
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
