"""Prints for people, as tables, or for programs, as JSON lines."""

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime
from typing import Any, NoReturn

from .errors import ConfigurationError

try:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Table
    from rich.text import Text
except ImportError:
    raise ConfigurationError(
        'the command line needs rich: pip install "fastapi_async_sessions[cli]"'
    ) from None

Facts = Mapping[str, Any]

_KEY_AND_TIMES = 64 + 3 * 22
"""The width of the widest table. A narrower terminal wraps its lines, so that keys stay whole."""


class Terminal:
    """Prints what a command has found: to stdout, and everything else to stderr.

    rich leaves out colours where the output is not a terminal, or where ``NO_COLOR`` is set.
    """

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self._out = Console(highlight=False)
        self._err = Console(stderr=True, highlight=False)

    def rows(self, rows: Sequence[Facts], columns: Mapping[str, str]) -> None:
        """Print a table, or an object for each row; ``columns`` are the titles of some facts."""
        if self.as_json:
            for row in rows:
                self.object(row)
            return
        table = Table(box=None, pad_edge=False, show_header=any(columns.values()))
        for title in columns.values():
            table.add_column(title)
        for row in rows:
            table.add_row(*(_cell(row[name]) for name in columns))
        self._out.width = max(self._out.width, _KEY_AND_TIMES)
        self._out.print(table)

    def facts(self, facts: Facts) -> None:
        """Print one object, or a line for each of its facts."""
        if self.as_json:
            self.object(facts)
            return
        width = max(map(len, facts))
        for name, value in facts.items():
            line = Text.assemble((name.ljust(width), "bold"), "  ", _cell(value))
            self._out.print(line, soft_wrap=True)

    def result(self, facts: Facts, sentence: str) -> None:
        """Print one object, or a sentence that says the same."""
        if self.as_json:
            self.object(facts)
        else:
            self._out.print(Text(sentence), soft_wrap=True)

    def object(self, facts: Facts) -> None:
        """Print an object on one line of ASCII."""
        self._out.file.write(json.dumps(facts, default=datetime.isoformat) + "\n")

    def note(self, text: str) -> None:
        """Print a remark, which programs do not read."""
        self._err.print(Text(text), soft_wrap=True)

    def fail(self, code: int, text: str) -> NoReturn:
        """Print an error on one line, and exit with a code."""
        self._err.print(Text(" ".join(_printable(text).split()), "red"), soft_wrap=True)
        raise SystemExit(code)

    @contextmanager
    def progress(self, what: str, total: int | None) -> Generator[Callable[[int], None]]:
        """Show a bar with rate and remaining time if stderr is a terminal; yields what moves it."""
        columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn()]
        if total is not None:
            columns += [MofNCompleteColumn(), _RateColumn(), TimeRemainingColumn()]
        progress = Progress(*columns, TimeElapsedColumn(), console=self._err)
        task = progress.add_task(what, total=total)
        with progress if self._err.is_terminal else nullcontext():
            yield lambda done: progress.update(task, completed=done)


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s", "progress.data.speed")


def _cell(value: Any) -> Text:
    match value:
        case None:
            return Text("-", "dim")
        case True:
            return Text("ok", "green")
        case False:
            return Text("failed", "bold red")
        case datetime():
            return Text(f"{value:%Y-%m-%d %H:%M:%S}Z")
        case str():
            return Text(_printable(value))
        case _:
            return Text(_printable(json.dumps(value, indent=2, ensure_ascii=False)))


def _printable(text: str) -> str:
    """Escape control characters, with which a stored text could command the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
