"""Work that must come to its end."""

import asyncio
import contextlib
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, TypeVar

from anyio import CancelScope

Result = TypeVar("Result")


async def finish(work: Coroutine[Any, Any, Result], within: timedelta) -> Result:
    """Run store work to its end, even if this task is cancelled: nothing is left half done.

    Raises:
        TimeoutError: it took longer; whether it was done is unknown.
    """
    task = asyncio.create_task(_bounded(work, within))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        # anyio would cancel again in each turn of the loop
        with CancelScope(shield=True):
            while not task.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([task])
        raise


async def _bounded(work: Coroutine[Any, Any, Result], within: timedelta) -> Result:
    async with asyncio.timeout(within.total_seconds()):
        return await work
