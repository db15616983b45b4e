"""``python -m benchmarks``: this library beside FastAPI alone, redis-py by hand, and its peers."""

import argparse
import json
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvloop

from .chart import draw_results
from .contenders import Contender, Places, chosen
from .direct import in_process
from .report import as_json, show
from .rounds import Figures, Opener, measure
from .servers import servers
from .wire import cores, over_http, pin

WIDTH = 32


def main() -> None:
    options = _options()
    application_core, other_core = cores()
    # a peer's deprecations are not ours to show
    warnings.simplefilter("ignore")
    pin(other_core)
    results: dict[str, Any] = {"machine": _machine(), "options": vars(options), "figures": {}}
    contenders = list(chosen(options.only))
    with servers() as (redis, places):
        for title, opened, width, core in _ways(places, application_core, other_core):
            print(f"measuring {title} ...", file=sys.stderr, flush=True)
            pin(core)
            how_long = {"rounds": options.rounds, "seconds": options.seconds}
            work = measure(contenders, opened, width=width, redis=redis, **how_long)
            figures: Figures = uvloop.run(work)
            show(title, figures)
            results["figures"][title] = as_json(figures)
            contenders = [each for each in contenders if each.name not in figures.skipped]
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1))
    if options.svg:
        Path(options.svg).write_text(draw_results(results))


def _ways(
    places: Places, application_core: int, other_core: int
) -> Iterator[tuple[str, Opener, int, int]]:
    def direct(contender: Contender) -> Any:
        return in_process(contender.make(places))

    http = partial(over_http, places=places, core=application_core, connections=WIDTH)
    yield "in one process, one request at a time", direct, 1, application_core
    yield f"in one process, {WIDTH} requests in flight", direct, WIDTH, application_core
    yield f"over HTTP, {WIDTH} connections, one worker", http, WIDTH, other_core


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="for each measurement")
    parser.add_argument("--quick", action="store_true", help="3 rounds of a tenth of a second")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="part of it")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--svg", metavar="FILE")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 3, 0.1
    return options


def _machine() -> dict[str, Any]:
    names = ("fastapi", "starlette", "pydantic", "redis", "hiredis", "uvicorn", "uvloop")
    return {
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": {name: version(name) for name in names},
    }


if __name__ == "__main__":
    main()
