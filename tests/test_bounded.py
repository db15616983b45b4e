"""Store calls that end in time, and work that is run to completion."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from fastapi_async_sessions import MemoryStore, Record, StoreUnavailable
from fastapi_async_sessions._core.bounded import BoundedStore
from fastapi_async_sessions._core.completion import run_to_completion
from fastapi_async_sessions.events import Events

AT_ONCE, NEVER = timedelta(0), timedelta(hours=1)
KEY = "0" * 64


async def forever() -> None:
    await asyncio.Event().wait()


class Loading(MemoryStore):
    """Does what a test says when a session is loaded."""

    def __init__(self, load: Callable[[], Awaitable[Any]]) -> None:
        super().__init__()
        self._load = load

    async def load(self, key: str) -> Record | None:
        await self._load()
        return None


def bounded(load: Callable[[], Awaitable[Any]], limit: timedelta) -> BoundedStore:
    return BoundedStore(Loading(load), limit, Events("session", None))


async def test_a_call_that_is_late_fails_and_leaves_no_cancellation() -> None:
    """What runs afterwards in the same task is not cancelled."""
    task = asyncio.current_task()
    assert task is not None
    with pytest.raises(StoreUnavailable, match="no answer within 0 seconds"):
        await bounded(forever, AT_ONCE).load(KEY)
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_a_call_that_is_done_is_not_cancelled_later() -> None:
    """Its timer ends with it."""

    async def answer() -> None:
        pass

    assert await bounded(answer, AT_ONCE).load(KEY) is None
    for _ in range(3):
        await asyncio.sleep(0)


async def test_an_exception_of_a_late_call_s_own_is_reported() -> None:
    """Only a cancellation becomes a timeout, and none is left behind."""
    task = asyncio.current_task()
    assert task is not None

    async def stumble() -> None:
        try:
            await forever()
        finally:
            raise KeyError

    with pytest.raises(StoreUnavailable, match="raised KeyError"):
        await bounded(stumble, AT_ONCE).load(KEY)
    assert task.cancelling() == 0


async def test_a_cancellation_from_outside_is_no_timeout() -> None:
    """Also where the call is late as well."""

    async def cancel_own_task() -> None:
        try:
            await forever()
        finally:
            own = asyncio.current_task()
            assert own is not None
            own.cancel()
            await asyncio.sleep(0)

    task = asyncio.create_task(bounded(cancel_own_task, AT_ONCE).load(KEY))
    await asyncio.wait([task])
    assert task.cancelled()


@pytest.mark.parametrize(("outer", "inner"), [(AT_ONCE, NEVER), (NEVER, AT_ONCE)])
async def test_the_nearer_of_two_limits_counts(outer: timedelta, inner: timedelta) -> None:
    """That of the commit, or that of one call in it."""
    met: list[type[BaseException]] = []

    async def load() -> None:
        try:
            await bounded(forever, inner).load(KEY)
        except BaseException as error:
            met.append(type(error))
            raise

    expected = StoreUnavailable if inner == AT_ONCE else TimeoutError
    with pytest.raises(expected):
        await run_to_completion(load(), outer)
    assert met == [StoreUnavailable if inner == AT_ONCE else asyncio.CancelledError]


async def test_work_that_is_run_to_completion_has_a_limit() -> None:
    """A commit that hangs does not hang its request."""
    with pytest.raises(TimeoutError):
        await run_to_completion(forever(), AT_ONCE)
