"""Waiting, for a bounded time."""

import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


def until(condition: Callable[[], _T], *, within: float, what: str) -> _T:
    """Ask again and again until the answer is true, and give it.

    In a coroutine write ``await asyncio.to_thread(until, ...)``, which leaves the loop free.

    Raises:
        TimeoutError: it was not true ``within`` so many seconds; the message names ``what``.
    """
    deadline = time.monotonic() + within
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within:g} seconds: {what}")
        time.sleep(0.01)
    return answer
