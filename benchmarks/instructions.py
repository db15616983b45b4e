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
from typing import Annotated, Any

from fastapi import Depends, FastAPI

from tests.servers.redis import RedisServer

from .direct import in_process
from .work import SECRET, Basket, Request, new_basket

USERS = 50
REQUESTS = 200
NAMES = ("FastAPI alone", "with sessions, memory", "with sessions, Redis")
STEPS = ("no session", "subject", "read", "change", "sign in")

# callgrind writes what it has counted, and begins again at zero, whenever this function is entered
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
    """The package of that tree, and nothing else of it, is what is imported from now on."""
    sys.path.insert(0, str(tree.resolve()))
    package = importlib.import_module("fastapi_async_sessions")
    sys.path.pop(0)
    return Path(package.__path__[0])


def _counted(output: Path, tree: Path, redis: str) -> list[int]:
    """The counts of all steps of all applications, in their order."""
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
    # what lies between two steps is not asked for
    return totals[1::2]


async def _run_all(redis: str) -> None:
    gc.disable()
    for app in _applications(redis):
        async with in_process(app) as send:
            signed_in = (await send(_requests("sign in", [""] * USERS), 1)).answers
            cookies = [answer.cookie("stranger=1") for answer in signed_in]
            for step in STEPS:
                await send(_requests(step, cookies), 1)
                requests = _requests(step, cookies * (REQUESTS // USERS))
                _MARK(0)
                run = await send(requests, 1)
                _MARK(0)
                if any(answer.status != 200 for answer in run.answers):
                    raise SystemExit(f"{step}: a request failed")
            gc.collect()


def _requests(step: str, cookies: list[str]) -> list[Request]:
    if step == "sign in":
        return [Request("POST", f"/sign-in/user-{number}") for number in range(len(cookies))]
    method = "POST" if step == "change" else "GET"
    return [Request(method, f"/{step.replace(' ', '-')}", cookie) for cookie in cookies]


def _applications(redis: str) -> Iterator[FastAPI]:
    from fastapi_async_sessions import MemoryStore
    from fastapi_async_sessions.stores.redis import RedisStore

    yield _without_sessions()
    yield _with_sessions(MemoryStore())
    yield _with_sessions(RedisStore.from_url(redis))


def _without_sessions() -> FastAPI:
    app = FastAPI(openapi_url=None)

    async def answer() -> dict[str, int]:
        return {"count": 0}

    async def answer_user(user: str) -> dict[str, int]:
        return {"count": 0}

    for path in ("/no-session", "/subject", "/read"):
        app.get(path)(answer)
    app.post("/change")(answer)
    app.post("/sign-in/{user}")(answer_user)
    return app


def _with_sessions(store: Any) -> FastAPI:
    from fastapi_async_sessions import Session, SessionProvider, SessionRoute

    provider = SessionProvider(Basket, store=store, secret_key=SECRET)
    app = FastAPI(openapi_url=None, lifespan=provider.lifespan)
    app.router.route_class = SessionRoute
    UserSession = Annotated[Session[Basket], Depends(provider)]

    @app.get("/no-session")
    async def no_session() -> dict[str, int]:
        return {"count": 0}

    @app.get("/subject")
    async def subject(session: UserSession) -> dict[str, int]:
        if session.subject is None:
            raise RuntimeError("nobody is signed in")
        return {"count": 0}

    @app.get("/read")
    async def read(session: UserSession) -> dict[str, int]:
        return {"count": session.data.count}

    @app.post("/change")
    async def change(session: UserSession) -> dict[str, int]:
        session.data.count += 1
        return {"count": session.data.count}

    @app.post("/sign-in/{user}")
    async def sign_in(user: str, session: UserSession) -> dict[str, int]:
        session.data = Basket.model_validate(new_basket(user))
        session.renew(subject=user)
        return {"count": 0}

    return app


def _show(counts: list[int]) -> None:
    """One table: thousands of instructions a request, and what is beyond FastAPI alone."""
    alone = counts[: len(STEPS)]
    print("thousands of instructions a request (beyond FastAPI alone)")
    print("".join(f"{text:>22}" for text in ("", *STEPS)))
    for number, name in enumerate(NAMES):
        row = counts[number * len(STEPS) : (number + 1) * len(STEPS)]
        print("".join(f"{text:>22}" for text in (name, *_cells(row, alone))))


def _cells(row: list[int], alone: list[int]) -> Iterator[str]:
    for count, least in zip(row, alone, strict=True):
        beyond = "" if row == alone else f" (+{(count - least) / REQUESTS / 1000:.1f})"
        yield f"{count / REQUESTS / 1000:.1f}{beyond}"


if __name__ == "__main__":
    main()
