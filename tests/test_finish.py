"""Deadlines and shielded work, beside ``asyncio``'s own."""

import asyncio
from datetime import timedelta

import pytest

from fastapi_async_sessions._core.finish import Deadline, finish

AT_ONCE, NEVER = timedelta(0), timedelta(hours=1)


async def forever() -> None:
    await asyncio.Event().wait()


async def test_a_block_that_is_late_times_out_and_leaves_no_cancellation() -> None:
    """What runs afterwards in the same task is not cancelled."""
    task = asyncio.current_task()
    assert task is not None
    with pytest.raises(TimeoutError), Deadline(AT_ONCE):
        await forever()
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_a_block_that_is_done_is_not_cancelled_later() -> None:
    """Its timer ends with it."""
    with Deadline(AT_ONCE):
        pass
    for _ in range(3):
        await asyncio.sleep(0)


async def test_an_exception_of_a_late_block_s_own_stays() -> None:
    """Only a cancellation becomes a timeout, and none is left behind."""
    task = asyncio.current_task()
    assert task is not None

    async def stumble() -> None:
        try:
            await forever()
        finally:
            raise KeyError

    with pytest.raises(KeyError), Deadline(AT_ONCE):
        await stumble()
    assert task.cancelling() == 0


async def test_a_cancellation_from_outside_is_no_timeout() -> None:
    """Also where the deadline has passed as well."""

    async def work() -> None:
        with Deadline(AT_ONCE):
            try:
                await forever()
            finally:
                own = asyncio.current_task()
                assert own is not None
                own.cancel()
                await asyncio.sleep(0)

    task = asyncio.create_task(work())
    await asyncio.wait([task])
    assert task.cancelled()


@pytest.mark.parametrize(("outer", "inner"), [(AT_ONCE, NEVER), (NEVER, AT_ONCE)])
async def test_the_nearer_of_two_deadlines_counts(outer: timedelta, inner: timedelta) -> None:
    """The other one goes on."""
    met: list[type[BaseException]] = []

    async def wait() -> None:
        try:
            with Deadline(inner):
                await forever()
        except BaseException as error:
            met.append(type(error))
            raise

    with pytest.raises(TimeoutError), Deadline(outer):
        await wait()
    assert met == [TimeoutError if inner == AT_ONCE else asyncio.CancelledError]


async def test_work_that_must_finish_has_a_limit() -> None:
    """A commit that hangs does not hang its request."""
    with pytest.raises(TimeoutError):
        await finish(forever(), AT_ONCE)
