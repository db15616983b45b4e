"""What is in the repository, and what is built from it."""

import re
import subprocess
import tomllib
from importlib.metadata import metadata
from importlib.resources import files
from pathlib import Path

import pytest

NAME = "fastapi_async_sessions"
ROOT = Path(__file__).parents[1]

TOP_LEVEL = {
    *(NAME, "tests", "examples", "benchmarks"),
    *("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE"),
}


def test_the_top_level_holds_what_a_reader_expects() -> None:
    """The package, its tests, its examples, its benchmarks, four files, and dot-files."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone: what is under version control is not known")
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    tops = {path.split("/")[0] for path in listed.stdout.split("\0") if path}
    assert {top for top in tops if not top.startswith(".")} == TOP_LEVEL


def test_type_checkers_read_the_types_of_the_package() -> None:
    """An installed package without this marker counts as untyped (PEP 561)."""
    assert (files(NAME) / "py.typed").is_file()


def test_the_metadata_names_license_and_python() -> None:
    """What an index shows, and what pip looks at before it installs."""
    about = metadata(NAME)
    assert about["License-Expression"] == "MIT"
    assert about["License-File"] == "LICENSE"
    assert about["Requires-Python"] == ">=3.11"


def test_every_python_that_is_promised_is_tested() -> None:
    """The classifiers, the workflow and the script that it stands for name the same Pythons."""
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    promised = [line.split(" :: ")[-1] for line in classifiers if ":: Python :: 3." in line]
    (matrix,) = re.findall(r"^ +python: \[(.+)\]$", text_of(".github/workflows/tests.yml"), re.M)
    (script,) = re.findall(r"^pythons=\((.+)\)$", text_of(".ci/run"), re.M)
    assert re.findall(r"3\.\d+", matrix) == script.split() == promised


def text_of(path: str) -> str:
    return (ROOT / path).read_text()
