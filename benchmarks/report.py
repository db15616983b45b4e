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
        KeyError: a region has a name that there is no piece for.
    """
    return _REGION.sub(lambda region: f"{region[1]}{region[2]}{pieces[region[1]]}\n", page)


def pieces_of(results: Results, growth: Mapping[str, Table]) -> dict[str, str]:
    """What is written into the pages, by the names of the regions."""
    pieces = {name: _markdown(table) for name, table in tables(results).items()}
    pieces |= {f"growth by {name}": _markdown(table) for name, table in growth.items()}
    return pieces | {
        "in a sentence": _in_a_sentence(results),
        "conditions": _conditions(results.machine),
        "promises": _promises(results),
        "contended": _contended(results),
    }


def show(results: Results) -> None:
    """Print all tables, and which contenders were not measured."""
    for title, table in tables(results).items():
        print(f"\n## {title}")
        print_table(table)
    for name, reason in results.skipped.items():
        print(f"not measured: {name}: {reason}")


def tables(results: Results) -> dict[str, Table]:
    """Everything that a run found, in tables, by their titles."""

    def share(figure: Figure) -> Callable[[str, str], str]:
        return lambda scenario, name: _median(results.ratios(scenario, ALONE, name, figure), "4.2f")

    def spread(figure: Figure, form: str) -> Callable[[str, str], str]:
        return lambda scenario, name: _spread(results.values(scenario, name, figure), form)

    def commands(scenario: str, name: str) -> str:
        sent = results.commands[name][scenario]
        return ", ".join(f"{calls:.2g} {command}" for command, calls in sent.items()) or "none"

    everybody, by_redis = results.contenders(), list(results.commands)
    return {
        "CPU shares": _table(SCENARIOS, everybody, share("cpu_us")),
        "CPU times": _table((*SCENARIOS, CONTENDED), everybody, spread("cpu_us", ".0f")),
        "rates": _table(SCENARIOS, everybody, share("time_us")),
        "latencies": _table(SCENARIOS, everybody, spread("p99_ms", ".1f")),
        "commands": _table(SCENARIOS, by_redis, commands),
    }


def _table(
    columns: Sequence[str], names: Sequence[str], cell: Callable[[str, str], str]
) -> list[list[str]]:
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


def _median(values: Sequence[float], form: str) -> str:
    return f"{median(values):{form}}" if values else ""


def _spread(values: Sequence[float], form: str) -> str:
    if not values:
        return ""
    return f"{median(values):{form}} [{min(values):{form}}-{max(values):{form}}]"


def _in_a_sentence(results: Results) -> str:
    times = {each: f"{results.times(each, OURS, ALONE):.1f}" for each in SCENARIOS}
    hand = {each: f"{results.times(each, BY_HAND, ALONE):.1f}" for each in SCENARIOS}
    return (
        f"With `RedisStore`, a request that reads takes {times['read']} times the CPU time of the "
        f"same route in FastAPI without sessions, one that changes data {times['change']} times, "
        f"a sign-in {times['sign in']} times. With an unsigned, unchecked `redis.get` and `set` "
        f"written by hand these are {hand['read']}, {hand['change']} and {hand['sign in']}."
    )


def _conditions(machine: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return (
        f"Medians of {machine['rounds']} rounds over {machine['connections']} connections, on "
        f"{machine['cores']} cores ({machine['processor']}) with {machine['python']}, "
        f"{machine['server']}, {versions}."
    )


def _promises(results: Results) -> str:
    ours, least = (
        " and ".join(
            f"{results.times(scenario, name, ALONE):.1f} for a {scenario}"
            for scenario in ("read", "change")
        )
        for name in (OURS, LEAST)
    )
    return (
        f"- The promises have a price. [least.py](least.py) is the same design without expiry, key "
        f"rotation, time limits, safe cancellation, merging, origin check and list of devices. It "
        f"takes {least} times the CPU time of FastAPI alone, this library {ours} times."
    )


def _contended(results: Results) -> str:
    """Which changes of one session survive, by contender."""
    kept = ", ".join(f"{name}: {share:.1%}" for name, share in results.kept.items())
    return (
        f"- When {results.machine['connections']} connections change one session at the same time, "
        f"this library merges the changes. Of those that were answered with 200, these were there "
        f"afterwards: {kept}."
    )


if __name__ == "__main__":
    main()
