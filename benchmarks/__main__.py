"""Measures this library beside FastAPI alone, redis-py by hand, and its peers, over HTTP."""

import argparse
import os
import platform
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import uvloop

from .contenders import chosen
from .cpu import cores, pin, require_linux
from .results import Results
from .rounds import WIDTH, measure
from .servers import servers
from .tables import show

PACKAGES = (
    *("fastapi", "starlette", "pydantic", "redis", "hiredis", "uvicorn", "uvloop", "httptools"),
    *("fastapi-redis-sdk", "starsessions", "litestar", "fastapi-sessions", "sqlalchemy"),
    *("aiosqlite", "asyncpg"),
)


def main() -> None:
    require_linux()
    versions = _versions()
    options = _options()
    application_core, other_core = cores()
    # the peers' deprecation warnings are not about this run
    warnings.simplefilter("ignore")
    pin(other_core)
    with servers() as (redis, addresses):
        results = Results(_machine(options, versions, redis.info("server")))
        uvloop.run(
            measure(
                chosen(options.only),
                addresses,
                results,
                core=application_core,
                rounds=options.rounds,
                seconds=options.seconds,
                redis=redis,
            )
        )
    show(results)
    if options.json:
        results.write(options.json)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.3, help="for each measurement")
    parser.add_argument("--quick", action="store_true", help="3 rounds of a tenth of a second")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="part of it")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 3, 0.1
    return options


def _versions() -> dict[str, str]:
    try:
        return {name: version(name) for name in PACKAGES}
    except PackageNotFoundError as error:
        raise SystemExit(f'{error.name} is missing: pip install -e ".[benchmarks]"') from error


def _machine(
    options: argparse.Namespace, versions: dict[str, str], server: dict[str, Any]
) -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "server": f"Valkey {server['valkey_version']}",
        "versions": versions,
        "rounds": options.rounds,
        "connections": WIDTH,
    }


if __name__ == "__main__":
    main()
