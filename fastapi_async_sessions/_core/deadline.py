"""A limit on how long a call may take."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


async def within(
    seconds: float,
    function: Callable[_Arguments, Awaitable[_Result]],
    *arguments: _Arguments.args,
    **named: _Arguments.kwargs,
) -> _Result:
    """Call a function, await the result, and cancel it if it takes longer.

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
    try:
        return await function(*arguments, **named)
    except asyncio.CancelledError as error:
        if not has_expired:
            raise
        has_expired = False
        # unless somebody else has cancelled the task as well
        if task.uncancel() > before:
            raise
        raise TimeoutError from error
    finally:
        timer.cancel()
        if has_expired:
            task.uncancel()
