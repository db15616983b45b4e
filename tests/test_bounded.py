"""Time limits of store calls and of work that is run to completion."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fastapi_async_sessions import MemoryStore, Record, SessionEvent, StoreUnavailable
from fastapi_async_sessions._core.bounded import BoundedStore
from fastapi_async_sessions._core.completion import run_to_completion
from fastapi_async_sessions.events import Events
from fastapi_async_sessions.records import new_version

from .doubles import WAIT_LIMIT, SpyStore, before

AT_ONCE, NEVER = timedelta(0), timedelta(hours=1)
KEY = "0" * 64


async def forever() -> None:
    await asyncio.Event().wait()


def bounded(load: Callable[[], Awaitable[None]], limit: timedelta) -> BoundedStore:
    """A bounded store in front of one that does this when a session is loaded."""
    return BoundedStore(
        SpyStore(MemoryStore(), before("load", load)), limit, Events("session", None)
    )


async def test_a_call_that_takes_too_long_fails_and_leaves_no_cancellation() -> None:
    """The task goes on, and is not cancelled later."""
    task = asyncio.current_task()
    assert task is not None
    with pytest.raises(StoreUnavailable, match="no answer within 0 seconds"):
        await bounded(forever, AT_ONCE).load(KEY)
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_a_store_says_what_a_call_that_took_too_long_was_waiting_for() -> None:
    """By a note on the cancellation, which becomes a part of the reason."""

    async def wait_for_a_lock() -> None:
        try:
            await forever()
        except asyncio.CancelledError as error:
            error.add_note("it waited for a lock")
            raise

    with pytest.raises(StoreUnavailable) as raised:
        await bounded(wait_for_a_lock, AT_ONCE).load(KEY)
    assert raised.value.reason == "no answer within 0 seconds: it waited for a lock"


async def test_a_call_that_returned_in_time_causes_no_cancellation_later() -> None:
    """The timer is cancelled when the call returns."""

    async def answer() -> None:
        pass

    assert await bounded(answer, AT_ONCE).load(KEY) is None
    for _ in range(3):
        await asyncio.sleep(0)


async def test_an_exception_raised_by_a_late_call_is_reported() -> None:
    """The call was cancelled and raised something else: that is the reason."""
    task = asyncio.current_task()
    assert task is not None

    async def fail_when_cancelled() -> None:
        try:
            await forever()
        finally:
            raise KeyError

    with pytest.raises(StoreUnavailable, match="raised KeyError"):
        await bounded(fail_when_cancelled, AT_ONCE).load(KEY)
    assert task.cancelling() == 0


async def test_a_cancellation_from_outside_is_not_reported_as_a_timeout() -> None:
    """Even if the call has taken too long as well."""

    async def cancel_own_task() -> None:
        try:
            await forever()
        finally:
            own = asyncio.current_task()
            assert own is not None
            own.cancel()
            await asyncio.sleep(0)

    task = asyncio.create_task(bounded(cancel_own_task, AT_ONCE).load(KEY))
    await asyncio.wait([task], timeout=WAIT_LIMIT)
    assert task.cancelled()


@pytest.mark.parametrize("wrap", [asyncio.ensure_future, asyncio.shield])
async def test_a_store_may_return_any_awaitable(wrap: Callable[..., Awaitable[None]]) -> None:
    """A method that is no ``async def`` fails as one that is."""

    async def fail() -> None:
        raise OSError

    class Wrapping(MemoryStore):
        def load(self, _: str) -> Any:  # type: ignore[override]
            return wrap(fail())

    store = BoundedStore(Wrapping(), timedelta(seconds=10), Events("session", None))
    with pytest.raises(StoreUnavailable, match="the store raised OSError"):
        await store.load(KEY)


RECORD = Record(b"", new_version(), None, datetime(2100, 1, 1, tzinfo=UTC))
CALLS: dict[str, Callable[[BoundedStore], Awaitable[Any]]] = {
    "create": lambda store: store.create(KEY, RECORD),
    "load": lambda store: store.load(KEY),
    "save": lambda store: store.save(KEY, RECORD, replaces=RECORD.version),
    "delete": lambda store: store.delete(KEY),
    "find": lambda store: store.find("owner"),
    "delete_owned": lambda store: store.delete_owned("owner"),
}


@pytest.mark.parametrize(("verb", "call"), CALLS.items(), ids=CALLS)
async def test_a_method_that_raises_before_it_returns_an_awaitable_fails_like_the_others(
    verb: str, call: Callable[[BoundedStore], Awaitable[Any]]
) -> None:
    """A store of users may have a plain ``def`` that checks its connection first."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError

    store = MemoryStore()
    setattr(store, verb, refuse)
    events: list[SessionEvent] = []
    bounded_store = BoundedStore(store, NEVER, Events("session", events.append))
    with pytest.raises(StoreUnavailable, match="the store raised OSError"):
        await call(bounded_store)
    assert [event.kind for event in events] == ["store_error"]


@pytest.mark.parametrize(("outer", "inner"), [(AT_ONCE, NEVER), (NEVER, AT_ONCE)])
async def test_the_shorter_of_two_limits_applies(outer: timedelta, inner: timedelta) -> None:
    """The limit of the commit or that of a call in it."""
    raised: list[type[BaseException]] = []

    async def load() -> None:
        try:
            await bounded(forever, inner).load(KEY)
        except BaseException as error:
            raised.append(type(error))
            raise

    expected = StoreUnavailable if inner == AT_ONCE else TimeoutError
    with pytest.raises(expected):
        await run_to_completion(load(), outer)
    assert raised == [StoreUnavailable if inner == AT_ONCE else asyncio.CancelledError]


async def test_work_that_is_run_to_completion_has_a_limit() -> None:
    """A commit that hangs does not block its request for ever."""
    with pytest.raises(TimeoutError):
        await run_to_completion(forever(), AT_ONCE)
