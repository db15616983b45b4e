"""Mutation tests of one module, by mutmut: ``python -m tests.mutants _web/cookies``.

mutmut has one selection of tests for all modules, so this runs it in a copy of the repository, with
the tests that ``[tool.mutants]`` in ``pyproject.toml`` names for the module. It prints the change
of every mutant that they do not notice, and fails if there is one.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "fastapi_async_sessions"
NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "mutants", "build", "dist")


def main() -> None:
    settings = (ROOT / "pyproject.toml").read_text()
    tests_of = tomllib.loads(settings)["tool"]["mutants"]
    if len(sys.argv) != 2 or sys.argv[1] not in tests_of:
        sys.exit(f"name one of these modules: {', '.join(tests_of)}")
    module = sys.argv[1]
    chosen = (
        f"only_mutate = {json.dumps([f'{PACKAGE}/{module}.py'])}\n"
        f"pytest_add_cli_args_test_selection = {json.dumps(tests_of[module])}\n"
    )
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "copy"
        shutil.copytree(ROOT, copy, ignore=NOT_COPIED)
        (copy / "pyproject.toml").write_text(
            settings.replace("[tool.mutmut]\n", f"[tool.mutmut]\n{chosen}")
        )
        mutmut(copy, "run", f"{PACKAGE}.{module.replace('/', '.')}.*", shown=True)
        survivors = list(unnoticed(copy))
        for name in survivors:
            print(mutmut(copy, "show", name))
    print(f"{len(survivors)} mutants of {module} were not noticed")
    sys.exit(bool(survivors))


def unnoticed(copy: Path) -> Iterator[str]:
    """The names of the mutants that no test failed for, or that no test runs."""
    for line in mutmut(copy, "results").splitlines():
        name, _, result = line.strip().partition(": ")
        if result and result not in ("killed", "timeout"):
            yield name


def mutmut(copy: Path, *arguments: str, shown: bool = False) -> str:
    """What the command prints, or, where it is shown, nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "mutmut", *arguments],
        cwd=copy,
        env={"HYPOTHESIS_PROFILE": "full", **os.environ},
        stdout=None if shown else subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout or ""


if __name__ == "__main__":
    main()
