"""The comparison in the guide is what the libraries do."""

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from benchmarks.compared import LIBRARIES

ROOT = Path(__file__).parents[2]
SECTION = (
    (ROOT / "examples/README.md")
    .read_text()
    .partition("\n## Comparison\n")[2]
    .partition("\n## ")[0]
)
HEAD, _, *ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in SECTION.splitlines()
    if line.startswith("|")
]


def test_every_library_is_in_the_table() -> None:
    """In the order of the program, which prints it."""
    assert HEAD[1:] == list(LIBRARIES)


@pytest.mark.slow
@pytest.mark.parametrize("name", LIBRARIES)
def test_a_column_is_what_the_library_does(name: str) -> None:
    """Of the release that the guide names; another one may do something else."""
    _require_release(name)
    command = [sys.executable, "-m", "benchmarks.comparison", name]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    printed = re.findall(r"^\| (.*) \| (.*?) ?\|$", run.stdout, re.MULTILINE)
    place = HEAD.index(name)
    assert printed == [(row[0], row[place]) for row in ROWS]


def _require_release(name: str) -> None:
    if name == "this library":
        return
    try:
        installed = f"{name} {version(LIBRARIES[name].distribution)}"
    except PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    if installed not in re.sub(r"\s+", " ", SECTION):
        pytest.skip(f"the guide compares another release than {installed}")
