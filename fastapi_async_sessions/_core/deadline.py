"""A limit on how long a call may take."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

_Result = TypeVar("_Result")


async def within(seconds: float, call: Awaitable[_Result]) -> _Result:
    """Await a call, and cancel it if it takes longer.

    It does what ``asyncio.timeout`` does, with a third of the work: a request that changes its
    session needs three of them.

    Raises:
        TimeoutError: it took longer.
    """
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("only a task can wait")
    before, has_expired = task.cancelling(), False

    def expire() -> None:
        nonlocal has_expired
        has_expired = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(seconds, expire)
    cancelled: asyncio.CancelledError | None = None
    try:
        return await call
    except asyncio.CancelledError as error:
        cancelled = error
        raise
    finally:
        timer.cancel()
        # unless somebody else has cancelled the task as well
        if has_expired and task.uncancel() <= before and cancelled is not None:
            raise TimeoutError from cancelled
