"""The types of the library: mypy and pyright accept right programs and reject wrong ones."""

import json
import re
import subprocess
import sys
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RIGHT = ROOT / "tests/typing_checks.py"
WRONG = ROOT / "tests/typing_errors.py"

Errors = dict[Path, set[int]]


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["mypy", "pyright"])
def errors(request) -> Errors:
    """The lines with errors in each file, found with the configuration of the project."""
    if find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return {"mypy": mypy_errors, "pyright": pyright_errors}[request.param]()


def mypy_errors() -> Errors:
    output = run("mypy", "--no-pretty", "--show-absolute-path")
    found: Errors = defaultdict(set)
    for path, line in re.findall(r"^(.+?):(\d+): error: ", output, re.MULTILINE):
        found[Path(path)].add(int(line))
    return found


def pyright_errors() -> Errors:
    output = run("pyright", "--pythonpath", sys.executable, "--outputjson")
    found: Errors = defaultdict(set)
    for each in json.loads(output)["generalDiagnostics"]:
        if each["severity"] == "error":
            found[Path(each["file"])].add(each["range"]["start"]["line"] + 1)
    return found


def run(checker: str, *options: str) -> str:
    command = [sys.executable, "-m", checker, *options, str(RIGHT), str(WRONG)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def test_right_programs_have_no_error(errors):
    """They are checked with the strict settings of the project."""
    assert errors[RIGHT] == set()


def test_wrong_programs_have_an_error_at_each_marked_line(errors):
    """No marked line lacks an error, and no other line or file has one."""
    lines = WRONG.read_text().splitlines()
    marked = {number for number, line in enumerate(lines, 1) if "  # error" in line}
    assert len(marked) > 40
    assert errors[WRONG] == marked
    assert set(errors) <= {RIGHT, WRONG}
