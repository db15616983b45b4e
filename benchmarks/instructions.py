"""Counts the machine instructions that a request takes: ``python -m benchmarks.instructions``.

A busy machine does not change a count, so that two versions can be compared within one percent.
``--tree DIRECTORY`` counts with the package of another checkout. Only its public names are used.
Needs Linux and valgrind.
"""

import argparse
import asyncio
import gc
import importlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fastapi import FastAPI

from tests.servers.redis import RedisServer

from .direct import in_process
from .work import Request, requests_with, sign_ins

USERS = 50
REQUESTS = 200
NAMES = ("FastAPI alone", "this library, memory", "this library, Redis")
COUNTED = ("no session", "subject", "read", "change", "sign in")

# callgrind writes its count and begins again at zero whenever this function is entered
_MARK = os.getpgid


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    parser.add_argument("--tree", type=Path, default=Path(), help="whose package; here: .")
    parser.add_argument("--inside", metavar="REDIS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    package = _import_package(options.tree)
    if options.inside:
        asyncio.run(_run_all(options.inside))
        return
    print(f"package: {package}")
    with tempfile.TemporaryDirectory(prefix="instructions-") as home:
        redis = RedisServer(Path(home) / "redis").start()
        try:
            _show(_counted(Path(home) / "counts", options.tree, redis.url))
        finally:
            redis.stop()


def _import_package(tree: Path) -> Path:
    """Import the package of a tree, and nothing else of it, whichever is imported later."""
    sys.path.insert(0, str(tree.resolve()))
    package = importlib.import_module("fastapi_async_sessions")
    sys.path.pop(0)
    return Path(package.__path__[0])


def _counted(output: Path, tree: Path, redis: str) -> list[int]:
    """The counts of all scenarios of all applications, in their order."""
    valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={output}"]
    valgrind += ["--combine-dumps=yes", f"--dump-before={_MARK.__name__}"]
    inside = ["-m", "benchmarks.instructions", "--tree", str(tree), "--inside", redis]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    run = subprocess.run(
        [*valgrind, sys.executable, *inside], env=environment, capture_output=True, text=True
    )
    if run.returncode:
        raise SystemExit(run.stderr)
    totals = [int(each) for each in re.findall(r"^totals: (\d+)", output.read_text(), re.M)]
    # every other one is of what happens between two scenarios
    return totals[1::2]


async def _run_all(redis: str) -> None:
    gc.disable()
    for app in _applications(redis):
        async with in_process(app) as send:
            signed_in = (await send(sign_ins(range(USERS)), 1)).answers
            cookies = [answer.cookie("stranger=1") for answer in signed_in]
            for scenario in COUNTED:
                await send(_requests(scenario, cookies), 1)
                requests = _requests(scenario, cookies * (REQUESTS // USERS))
                _MARK(0)
                run = await send(requests, 1)
                _MARK(0)
                if any(answer.status != 200 for answer in run.answers):
                    raise SystemExit(f"{scenario}: a request failed")
            gc.collect()


def _requests(scenario: str, cookies: list[str]) -> list[Request]:
    if scenario == "sign in":
        return sign_ins(range(len(cookies)))
    return requests_with(cookies, scenario)


def _applications(redis: str) -> Iterator[FastAPI]:
    # imported late: they take the package that has been imported by then
    from .contenders import CONTENDERS, Addresses

    makers = {contender.name: contender.make for contender in CONTENDERS}
    for name in NAMES:
        yield makers[name](Addresses(redis, "", ""))


def _show(counts: list[int]) -> None:
    """One table: thousands of instructions a request, and what is beyond FastAPI alone."""
    alone = counts[: len(COUNTED)]
    print("thousands of instructions a request (beyond FastAPI alone)")
    print("".join(f"{text:>22}" for text in ("", *COUNTED)))
    for number, name in enumerate(NAMES):
        row = counts[number * len(COUNTED) : (number + 1) * len(COUNTED)]
        print("".join(f"{text:>22}" for text in (name, *_cells(row, alone))))


def _cells(row: list[int], alone: list[int]) -> Iterator[str]:
    for count, least in zip(row, alone, strict=True):
        beyond = "" if row == alone else f" (+{(count - least) / REQUESTS / 1000:.1f})"
        yield f"{count / REQUESTS / 1000:.1f}{beyond}"


if __name__ == "__main__":
    main()
