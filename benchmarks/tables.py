"""The tables of a run."""

import json
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from .results import CONTENDED, SCENARIOS, Figure, Results

ALONE = "FastAPI alone"

Table = Sequence[Sequence[str]]
"""Rows of cells; the first row has the names of the columns."""

Cell = Callable[[str, str], str]
"""The text of a table for a scenario and a contender."""

CAPTIONS = {
    "CPU shares": "The CPU time of a request in FastAPI alone, divided by the CPU time of the same "
    "request with sessions: 0.50 means twice the work.",
    "CPU times": "Microseconds of the worker's CPU time for a request: the median of all rounds, "
    "and in brackets the lowest and the highest figure.",
    "rates": "Requests per second, and their share of those of FastAPI alone: medians. Other "
    "programs on the machine change these figures.",
    "latencies": "The 99th percentile of the latencies in milliseconds: medians. Other programs on "
    "the machine change these figures even more.",
    "contended": "The CPU time of a request when all connections change one session at the same "
    "time, and which of the changes that were answered with 200 were there afterwards.",
    "commands": "Commands that a request sends to Redis; less than one where requests share them.",
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
        return lambda scenario, name: f"{median(results.ratios(scenario, ALONE, name, figure)):.2f}"

    def time(scenario: str, name: str) -> str:
        return _spread(results.values(scenario, name, "cpu_us"))

    def rate(scenario: str, name: str) -> str:
        own = results.values(scenario, name, "time_us")
        return f"{1e6 / median(own):.0f} ({share('time_us')(scenario, name)})"

    def latency(scenario: str, name: str) -> str:
        return f"{median(results.values(scenario, name, 'p99_ms')):.0f}"

    def commands(scenario: str, name: str) -> str:
        sent = results.commands[name][scenario]
        return ", ".join(f"{calls:.2g} {command}" for command, calls in sent.items()) or "none"

    names = results.contenders()
    return {
        "CPU shares": _table(SCENARIOS, names, share("cpu_us")),
        "CPU times": _table(SCENARIOS, names, time),
        "rates": _table(SCENARIOS, names, rate),
        "latencies": _table(SCENARIOS, names, latency),
        "contended": _contended(results),
        "commands": _table(SCENARIOS, list(results.commands), commands),
    }


def _contended(results: Results) -> Table:
    head = ["", "microseconds", "confirmed changes that were kept"]
    rows = [
        [name, _spread(results.values(CONTENDED, name, "cpu_us")), f"{share:.1%}"]
        for name, share in results.kept.items()
    ]
    return [head, *rows]


def _table(columns: Sequence[str], names: Sequence[str], cell: Cell) -> Table:
    return [["", *columns], *([name, *(cell(each, name) for each in columns)] for name in names)]


def as_json(captions: Mapping[str, str], tables: Mapping[str, Table]) -> str:
    """Captions and tables, with one row on each line."""
    parts = []
    for name, table in tables.items():
        rows = ",\n".join(f"   {json.dumps(row)}" for row in table)
        caption = json.dumps(captions[name])
        parts.append(f' "{name}": {{\n  "caption": {caption},\n  "table": [\n{rows}\n  ]\n }}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def print_table(table: Table) -> None:
    """Columns side by side."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.0f} [{min(values):.0f}-{max(values):.0f}]"
