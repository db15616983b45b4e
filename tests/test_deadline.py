"""The limit of a call, compared with ``asyncio.timeout`` of the standard library."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import pytest

from fastapi_async_sessions._core.deadline import within

NEVER, TURNS = 3600.0, 6
Call = Callable[[], Awaitable[str]]
Limit = Callable[[float, Call], Awaitable[str]]


async def standard(seconds: float, call: Call) -> str:
    async with asyncio.timeout(seconds):
        return await call()


async def answer() -> str:
    return "answer"


async def forever() -> str:
    await asyncio.Event().wait()
    return "never"


async def failing() -> str:
    await asyncio.sleep(0)
    raise ValueError


async def stubborn() -> str:
    """Survives a cancellation, as drivers may."""
    try:
        return await forever()
    except asyncio.CancelledError:
        return "late answer"


async def failing_when_cancelled() -> str:
    try:
        return await forever()
    except asyncio.CancelledError:
        raise ValueError from None


async def cancelling_itself() -> str:
    raise asyncio.CancelledError


CALLS = [answer, forever, failing, stubborn, failing_when_cancelled, cancelling_itself]


async def outcome(
    limit: Limit, call: Call, cancel_at: int, expire_at: int, patch: pytest.MonkeyPatch
) -> str:
    """What a task gets, and is left with, that is cancelled in one turn of the event loop, and
    whose time is up in another."""
    loop = asyncio.get_running_loop()
    now, left = loop.time(), -1

    async def run() -> str:
        nonlocal left
        try:
            return await limit(NEVER, call)
        finally:
            left = current().cancelling()

    with patch.context() as context:
        context.setattr(loop, "time", lambda: now)
        task = asyncio.create_task(run())
        for turn in range(TURNS):
            await asyncio.sleep(0)
            if turn == cancel_at:
                task.cancel()
            if turn == expire_at:
                now += 2 * NEVER
        if not task.done():
            task.cancel()
        (result,) = await asyncio.gather(task, return_exceptions=True)
    cause = result.__cause__ if isinstance(result, BaseException) else None
    return f"{type(result).__name__} {result} because of {type(cause).__name__}, {left} left"


def current() -> asyncio.Task[str]:
    task: asyncio.Task[str] | None = asyncio.current_task()
    assert task is not None
    return task


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("cancel_at", range(TURNS))
async def test_it_does_the_same_as_the_standard_library(
    call: Call, cancel_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the call ends, fails or goes on, and whenever the task is cancelled as well."""
    for expire_at in range(TURNS):
        ours = await outcome(within, call, cancel_at, expire_at, monkeypatch)
        theirs = await outcome(standard, call, cancel_at, expire_at, monkeypatch)
        assert ours == theirs, expire_at


@pytest.mark.parametrize("outer", [within, standard])
@pytest.mark.parametrize("inner", [within, standard])
async def test_of_two_limits_the_one_that_has_passed_is_reported(
    outer: Limit, inner: Limit
) -> None:
    """Ours and the standard library's, one inside the other."""
    with pytest.raises(TimeoutError):
        await outer(0.0, partial(inner, NEVER, forever))
    with pytest.raises(TimeoutError):
        await outer(NEVER, partial(inner, 0.0, forever))
    assert current().cancelling() == 0


@pytest.mark.parametrize("limit", [standard, within])
async def test_outside_of_a_task_nothing_can_be_limited(limit: Limit) -> None:
    """There is no task to cancel; the call does not begin."""
    loop = asyncio.get_running_loop()
    raised: asyncio.Future[BaseException | None] = loop.create_future()

    def begin() -> None:
        waiting = limit(NEVER, answer)
        try:
            waiting.send(None)
            raised.set_result(None)
        except BaseException as error:
            raised.set_result(error)

    loop.call_soon(begin)
    assert isinstance(await raised, RuntimeError)


async def test_a_call_that_ends_in_time_leaves_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task is not cancelled after its limit."""
    assert await within(NEVER, answer) == "answer"
    loop = asyncio.get_running_loop()
    later = loop.time() + 2 * NEVER
    with monkeypatch.context() as context:
        context.setattr(loop, "time", lambda: later)
        for _ in range(TURNS):
            await asyncio.sleep(0)


@pytest.mark.parametrize("limit", [standard, within])
async def test_nothing_is_kept_of_a_call_that_was_cancelled(limit: Limit) -> None:
    """Not even until the garbage collector runs: its frames hold a record, or a whole request."""

    class Request:
        pass

    async def call(_: Request) -> str:
        return await forever()

    gc.disable()
    try:
        request = Request()
        kept = weakref.ref(request)
        with suppress(TimeoutError):
            await limit(0, partial(call, request))
        await asyncio.sleep(0)
        del request
        assert kept() is None
    finally:
        gc.enable()
