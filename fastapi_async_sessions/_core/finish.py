"""Work that must come to its end, in time."""

import asyncio
import contextlib
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, TypeVar, cast

from anyio import CancelScope

Result = TypeVar("Result")


async def finish(work: Coroutine[Any, Any, Result], limit: timedelta) -> Result:
    """Run store work to its end, even if this task is cancelled: nothing is left half done.

    Raises:
        TimeoutError: it took longer; whether it was done is unknown.
    """
    task = asyncio.create_task(_bounded(work, limit))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        # anyio would cancel again in each turn of the loop
        with CancelScope(shield=True):
            while not task.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([task])
        raise


async def _bounded(work: Coroutine[Any, Any, Result], limit: timedelta) -> Result:
    with Deadline(limit):
        return await work


class Deadline:
    """``asyncio.timeout``, at half its cost: a read passes one, a commit two more.

    Raises:
        TimeoutError: the block took longer and was cancelled.
    """

    __slots__ = ("_cancelling", "_is_missed", "_limit", "_task", "_timer")

    def __init__(self, limit: timedelta) -> None:
        self._limit = limit
        self._is_missed = False

    def __enter__(self) -> None:
        task = self._task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._cancelling = task.cancelling()
        self._timer = task.get_loop().call_later(self._limit.total_seconds(), self._miss)

    def _miss(self) -> None:
        self._is_missed = self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._timer.cancel()
        # a cancellation by others counts for more
        is_ours = self._is_missed and self._task.uncancel() <= self._cancelling
        if is_ours and kind is asyncio.CancelledError:
            raise TimeoutError
