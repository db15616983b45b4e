"""Tables of medians, spreads and ratios."""

from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any

from .contenders import BY_HAND, FASTAPI
from .rounds import CONTENDED, SCENARIOS, Figures

Cell = Callable[[str, str], str]


def ratios(figures: Figures, scenario: str, name: str, base: str) -> list[float]:
    """How much of another contender's requests per second, round by round."""
    seconds = figures.seconds.get(scenario, {})
    pairs = zip(seconds.get(base, ()), seconds.get(name, ()), strict=False)
    return [theirs / ours for theirs, ours in pairs]


def show(title: str, figures: Figures) -> None:
    """Print everything that one way of calling gave."""
    names = list(figures.seconds[SCENARIOS[0]])
    columns = [*SCENARIOS, *([CONTENDED] if CONTENDED in figures.seconds else [])]

    def time(scenario: str, name: str) -> str:
        values = figures.seconds[scenario].get(name)
        if not values:
            return ""
        low, high = min(values) * 1e6, max(values) * 1e6
        return f"{median(values) * 1e6:.0f} [{low:.0f}-{high:.0f}]"

    def share(base: str) -> Cell:
        return lambda scenario, name: _spread(ratios(figures, scenario, name, base))

    def slowest(scenario: str, name: str) -> str:
        values = figures.p99[scenario].get(name)
        return f"{median(values) * 1e3:.1f}" if values else ""

    print(f"\n## {title}")
    _table("us a request: median [min-max]", names, columns, time)
    _table(
        f"requests per second, as a share of {FASTAPI.name}", names, SCENARIOS, share(FASTAPI.name)
    )
    _table(f"requests per second, against {BY_HAND.name}", names, columns, share(BY_HAND.name))
    _table("p99 of a request, ms", names, columns, slowest)
    if figures.commands:
        _table(
            "Redis commands a request",
            list(figures.commands),
            SCENARIOS,
            lambda scenario, name: _listed(figures.commands[name][scenario]),
        )
    for name, kept in figures.kept.items():
        print(f"of the contended changes that it confirmed {name} kept {kept:.0%}")
    for name, reason in figures.skipped.items():
        print(f"not timed: {name}: {reason}")


def as_json(figures: Figures) -> dict[str, Any]:
    """All rounds, with what the tables show of them."""
    return {
        "seconds_per_request": figures.seconds,
        "p99_seconds": figures.p99,
        "share_of_fastapi": _medians(figures, FASTAPI.name),
        "against_by_hand": _medians(figures, BY_HAND.name),
        "redis_commands_per_request": figures.commands,
        "contended_changes_kept": figures.kept,
        "not_timed": figures.skipped,
    }


def _medians(figures: Figures, base: str) -> dict[str, dict[str, float]]:
    return {
        scenario: {
            name: median(shares)
            for name in by_name
            if (shares := ratios(figures, scenario, name, base))
        }
        for scenario, by_name in figures.seconds.items()
    }


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{median(values):.2f} [{min(values):.2f}-{max(values):.2f}]"


def _listed(commands: dict[str, float]) -> str:
    return " ".join(f"{calls:.2g} {name}" for name, calls in commands.items()) or "0"


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Columns side by side; the first row names them."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print()
    for row in rows:
        print(
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        )


def _table(title: str, names: Iterable[str], columns: Sequence[str], cell: Cell) -> None:
    print_table(
        [[title, *columns], *([name, *(cell(each, name) for each in columns)] for name in names)]
    )
