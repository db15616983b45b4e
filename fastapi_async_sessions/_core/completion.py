"""Store work that runs to completion even if its caller is cancelled."""

import asyncio
import contextlib
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, TypeVar

from anyio import CancelScope

from .deadline import within

_Result = TypeVar("_Result")


async def run_to_completion(work: Coroutine[Any, Any, _Result], limit: timedelta) -> _Result:
    """Run store work to completion, even if the calling task is cancelled.

    Raises:
        TimeoutError: it took longer than ``limit``; whether it was done is unknown.
    """
    task = asyncio.create_task(within(limit.total_seconds(), lambda: work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        # without this scope, anyio would cancel again in each turn of the event loop
        with CancelScope(shield=True):
            while not task.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # or asyncio would log that it was lost
        raise
