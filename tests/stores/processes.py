"""A crowd in each of several processes, which share nothing but the database."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from fastapi_async_sessions.stores.sql import SQLStore

from .crowd import Crowd

_REPOSITORY = Path(__file__).parents[2]
_END_WITHIN = 300.0


async def run_crowds(
    url: str, *, processes: int, calls: int, checked_at: str | None = None
) -> list[dict[str, Any]]:
    """Let each process make as many ``calls``, and return what they report.

    ``refused`` counts the calls that failed, by their reason, and ``mistakes`` are those that were
    answered wrongly; the end is looked at through the URL ``checked_at`` if one is given.
    """
    command = (sys.executable, "-m", __name__, url, checked_at or url, str(calls))
    running = [
        await asyncio.create_subprocess_exec(
            *command, cwd=_REPOSITORY, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(processes)
    ]
    async with asyncio.timeout(_END_WITHIN):
        outputs = [await process.communicate() for process in running]
    return [json.loads(output) for output, _ in outputs]


async def _main(url: str, checked_at: str, calls: int) -> None:
    store, checked = SQLStore.from_url(url), SQLStore.from_url(checked_at)
    crowd = Crowd(store, 4)
    async with crowd.at_work():
        await crowd.do(calls)
    crowd.store = checked
    report = {"mistakes": await crowd.mistakes(), "refused": crowd.refused_since(0)}
    print(json.dumps(report))  # noqa: T201
    await store.aclose()
    await checked.aclose()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
