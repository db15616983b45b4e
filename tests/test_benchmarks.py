"""What is written about speed is what was measured."""

import os
import re
import sys
import threading
import time
from pathlib import Path

import pytest
from redis import Redis

from benchmarks import report
from benchmarks.chart import SHOWN, draw
from benchmarks.cpu import cpu_seconds, require_linux
from benchmarks.distance import at_a_distance
from benchmarks.results import RESULTS, Results
from benchmarks.tables import tables

RESULT = Results.read(RESULTS)
PIECES = report.pieces_of(RESULT, report.measured_tables())

_REGION = re.compile(r"<!-- figures: ([^>]+) -->\n(.*?)<!-- end of figures -->", re.DOTALL)
# 0.41, 12 us, 3 %, 5 times
_FIGURE = re.compile(r"\b\d+\.\d+\b(?!\.)|\b\d[\d,]* ?(?:us|µs|ms|%|times|microseconds)")


each_page = pytest.mark.parametrize("page", report.PAGES, ids=["benchmarks/README.md", "README.md"])


def speed_text(page: Path) -> str:
    """The page about speed, or the section about it."""
    text = page.read_text()
    if page.parent.name == "benchmarks":
        return text
    return text.partition("\n## Speed and reliability\n")[2].partition("\n## ")[0]


@each_page
def test_a_page_says_what_was_measured(page: Path) -> None:
    """``python -m benchmarks.report`` would write every figure as it is."""
    assert report.fill(page.read_text(), PIECES) == page.read_text()


@each_page
def test_no_figure_is_written_by_hand(page: Path) -> None:
    """Outside of the regions that are written from the results there is no measured figure."""
    assert _FIGURE.findall(_REGION.sub("", speed_text(page))) == []


def test_every_piece_is_written_somewhere() -> None:
    """All tables and sentences are in one of the pages, each once."""
    regions = [name for page in report.PAGES for name, _ in _REGION.findall(page.read_text())]
    assert sorted(regions) == sorted(PIECES)


def test_the_chart_shows_what_was_measured() -> None:
    """It is the drawing of the committed results."""
    assert report.CHART.read_text() == draw(RESULT)


def test_table_and_chart_agree() -> None:
    """The bars of a contender have the shares of its row in the table."""
    columns, *rows = tables(RESULT)["CPU shares"]
    chart = re.findall(r">([^<>]+)</text>", report.CHART.read_text())
    for name, *shares in rows[1:]:
        shown = [
            share for column, share in zip(columns[1:], shares, strict=True) if column in SHOWN
        ]
        start = chart.index(name) + 1
        assert chart[start : start + len(SHOWN)] == shown


def test_a_region_without_a_piece_is_an_error() -> None:
    """A misspelt name is noticed when the pages are written."""
    with pytest.raises(KeyError, match="no such table"):
        report.fill("<!-- figures: no such table -->\n<!-- end of figures -->", PIECES)


def test_everything_else_on_a_page_stays() -> None:
    """Only what stands between the two comments is replaced."""
    page = "before\n<!-- figures: a -->\nold\n<!-- end of figures -->\nafter\n"
    assert report.fill(page, {"a": "new"}) == page.replace("old", "new")


def test_every_contender_was_measured_in_every_scenario() -> None:
    """The committed run is a whole one: nothing was skipped, no round is missing."""
    assert RESULT.skipped == {}
    for scenario in RESULT.rounds:
        for name in RESULT.rounds[scenario]:
            for figure in ("cpu_us", "time_us", "p99_ms"):
                assert len(RESULT.values(scenario, name, figure)) == RESULT.machine["rounds"]


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    """Nothing is lost between two runs of the report."""
    RESULT.write(tmp_path / "results.json")

    assert Results.read(tmp_path / "results.json") == RESULT
    assert (tmp_path / "results.json").read_text() == RESULTS.read_text()


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks run on Linux only")


@on_linux
def test_a_distant_server_answers_later_and_in_order(redis_url: str) -> None:
    """Each piece of traffic comes later by the delay, in both directions; none is lost."""
    with at_a_distance(redis_url, seconds=0.02) as there, Redis.from_url(there) as redis:
        redis.ping()  # connects
        began = time.monotonic()
        redis.ping()
        assert time.monotonic() - began >= 0.04
        pipeline = redis.pipeline(transaction=False)
        texts = [str(number).encode() * 100 for number in range(1000)]
        for text in texts:
            pipeline.echo(text)
        assert pipeline.execute() == texts


@on_linux
def test_the_cpu_time_of_a_process_includes_threads_that_have_ended() -> None:
    """A worker's pool of threads shrinks between two rounds."""

    def work() -> None:
        while time.thread_time() < 0.05:
            pass

    before = cpu_seconds(os.getpid())
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(timeout=60)

    assert cpu_seconds(os.getpid()) - before >= 0.05


def test_other_systems_are_told_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU time of another process is read on Linux only."""
    monkeypatch.setattr(sys, "platform", "darwin")

    with pytest.raises(SystemExit, match="on Linux only"):
        require_linux()
