"""The figures of a run, round by round, as they are kept in ``results.json``."""

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Literal

from .work import Run

RESULTS = Path(__file__).with_name("results.json")

SCENARIOS = ("no session", "subject", "read", "change", "sign in", "sign out")
CONTENDED = "one contended session"

Figure = Literal["cpu_us", "time_us", "p99_ms"]


@dataclass
class Results:
    """A run of all contenders.

    Attributes:
        rounds: scenario -> contender -> figure -> one value for each round: the worker's CPU time
            and the elapsed time of a request in microseconds, and the 99th percentile of the
            latencies in milliseconds.
        commands: contender -> scenario -> Redis command -> how often it is sent for a request.
        kept: contender -> the share of the confirmed changes to a contended session that is there.
        skipped: contender -> why it was not measured.
    """

    machine: dict[str, Any]
    rounds: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)
    commands: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    kept: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def add(self, scenario: str, name: str, run: Run) -> None:
        """Keep the figures of one round."""
        figures = self.rounds.setdefault(scenario, {}).setdefault(name, {})
        number = len(run.answers)
        for figure, value in (
            ("cpu_us", 1e6 * run.cpu_seconds / number),
            ("time_us", 1e6 * run.seconds / number),
            ("p99_ms", 1e3 * quantiles(run.latencies, n=100)[-1]),
        ):
            figures.setdefault(figure, []).append(round(value, 1))

    def contenders(self) -> list[str]:
        """The names of those that were measured, in their order."""
        return list(self.rounds[SCENARIOS[0]])

    def values(self, scenario: str, name: str, figure: Figure) -> list[float]:
        """One value for each round."""
        return self.rounds[scenario][name][figure]

    def ratios(self, scenario: str, name: str, base: str, figure: Figure) -> list[float]:
        """How many times the figure of another contender, round by round."""
        own, others = self.values(scenario, name, figure), self.values(scenario, base, figure)
        return [mine / theirs for mine, theirs in zip(own, others, strict=True)]

    def times(self, scenario: str, name: str, base: str) -> float:
        """How many times the CPU time of another contender a request takes: the median."""
        return median(self.ratios(scenario, name, base, "cpu_us"))

    def write(self, path: Path) -> None:
        """As JSON, with the values of all rounds on one line."""
        text = json.dumps(asdict(self), indent=1)
        path.write_text(re.sub(r"\[[^\[\]{}]*\]", lambda found: _one_line(found[0]), text) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Results":
        return cls(**json.loads(path.read_text()))


def _one_line(numbers: str) -> str:
    return json.dumps(json.loads(numbers))
