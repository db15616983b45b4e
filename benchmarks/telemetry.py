"""Counts what telemetry adds to a read, in instructions: ``python -m benchmarks.telemetry``.

The applications are not instrumented, instrumented without an SDK, and instrumented with one that
records every span and every measurement and exports neither. The store is in memory, which makes
the shares as large as they can be. Needs Linux and valgrind.
"""

import asyncio
import gc
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from fastapi import Depends, FastAPI
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from fastapi_async_sessions import MemoryStore, Session, SessionProvider, SessionRoute
from fastapi_async_sessions.telemetry import instrument

from .direct import in_process
from .work import SECRET, Basket, Request

READS = 100

# callgrind writes its count and begins again at zero whenever this function is entered
_MARK = os.getpgid


def main() -> None:
    if "--inside" in sys.argv:
        asyncio.run(_run_all())
        return
    plain, no_sdk, recording = _counted()
    print(f"a read without telemetry: {plain / READS / 1000:.1f} thousand instructions")
    for name, count in (("without an SDK", no_sdk), ("recording", recording)):
        print(f"{name}: {count / plain - 1:+.1%}")


def _counted() -> list[int]:
    with tempfile.TemporaryDirectory(prefix="telemetry-") as home:
        output = Path(home) / "counts"
        valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={output}"]
        valgrind += ["--combine-dumps=yes", f"--dump-before={_MARK.__name__}"]
        inside = [sys.executable, "-m", "benchmarks.telemetry", "--inside"]
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        subprocess.run([*valgrind, *inside], env=environment, capture_output=True, check=True)
        totals = [int(each) for each in re.findall(r"^totals: (\d+)", output.read_text(), re.M)]
    # every other one is of what happens between two applications
    return totals[1::2]


async def _run_all() -> None:
    gc.disable()
    for app in (_app(), _app(instrumented=True), _app(instrumented=True, recording=True)):
        async with in_process(app) as send:
            run = await send([Request("POST", "/")], 1)
            reads = [Request("GET", "/", run.answers[0].cookie())] * READS
            await send(reads, 1)
            _MARK(0)
            run = await send(reads, 1)
            _MARK(0)
            if any(answer.status != 200 for answer in run.answers):
                raise SystemExit("a request failed")
        gc.collect()


def _app(*, instrumented: bool = False, recording: bool = False) -> FastAPI:
    get_session = SessionProvider(Basket, store=MemoryStore(), secret_key=SECRET)
    if instrumented:
        tracers = TracerProvider(shutdown_on_exit=False) if recording else None
        meters = MeterProvider([InMemoryMetricReader()]) if recording else None
        instrument(get_session, tracers, meters)
    app = FastAPI(openapi_url=None)
    app.router.route_class = SessionRoute

    @app.get("/")
    async def read(session: Session[Basket] = Depends(get_session)) -> dict[str, int]:
        return {"count": session.data.count}

    @app.post("/")
    async def change(session: Session[Basket] = Depends(get_session)) -> dict[str, int]:
        session.data.count += 1
        return {"count": session.data.count}

    return app


if __name__ == "__main__":
    main()
