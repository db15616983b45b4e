"""The helpers of every store: errors that do not lead to the driver's, and exact times."""

import asyncio
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_async_sessions.errors import (
    ConfigurationError,
    SessionConflict,
    SessionError,
    StoreUnavailable,
)
from fastapi_async_sessions.records import from_microseconds, to_microseconds
from fastapi_async_sessions.stores.base import Store, translate_errors
from fastapi_async_sessions.stores.memory import MemoryStore


def name_only(error):
    return StoreUnavailable(type(error).__name__)


async def fail(error):
    """Raise an error with a cause and a context, after a switch of tasks."""
    await asyncio.sleep(0)
    try:
        raise KeyError("password")
    except KeyError as context:
        raise error from context


@contextmanager
def a_translated_error(kind=StoreUnavailable):
    """The block raises an error of this library, from which nothing leads to the driver's."""
    with pytest.raises(kind) as caught:
        yield caught
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


async def test_a_drivers_error_is_translated():
    """The new error has neither a cause nor a context."""
    with a_translated_error() as caught, translate_errors(name_only):
        await fail(OSError("redis://:password@host"))
    assert caught.value.reason == "OSError"


async def test_the_traceback_of_the_new_error_does_not_hold_the_drivers():
    """Error trackers report the local variables of its frames."""
    secret = OSError("redis://:password@host")

    async def call():
        with translate_errors(name_only):
            await fail(secret)

    with a_translated_error() as caught:
        await call()
    frames, traceback = [], caught.value.__traceback__
    while traceback is not None:
        frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    inner = [frame for frame in frames if frame.f_code.co_filename != __file__]
    assert [frame.f_code.co_name for frame in inner] == ["__exit__"]
    assert not any(isinstance(local, OSError) for local in inner[0].f_locals.values())


async def test_a_timeout_inside_is_translated():
    """It is an error like another, and its context is a cancellation."""
    with a_translated_error() as caught, translate_errors(name_only):
        async with asyncio.timeout(0):
            await asyncio.sleep(60)
    assert caught.value.reason == "TimeoutError"


async def test_a_cancellation_passes():
    """The task is cancelled and no error takes the place of that."""

    async def wait():
        with translate_errors(name_only):
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel("stop")
    with pytest.raises(asyncio.CancelledError, match="stop"):
        await task


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_ends_the_program_passes(kind):
    """Only an ``Exception`` is a driver's."""
    with pytest.raises(kind), translate_errors(name_only):
        raise kind


@pytest.mark.parametrize(
    "error",
    [StoreUnavailable("busy", retry_after=9), ConfigurationError("x"), SessionConflict("x")],
)
async def test_an_error_of_this_library_passes_unchanged(error):
    """The very same object, with its attributes."""
    with pytest.raises(SessionError) as caught, translate_errors(name_only):
        raise error
    assert caught.value is error


async def test_only_the_errors_named_are_translated():
    """A mistake in the program is not taken for an outage."""
    translate = translate_errors(name_only, OSError, LookupError)
    with a_translated_error(), translate:
        raise ConnectionRefusedError
    with a_translated_error(), translate:
        raise KeyError
    with pytest.raises(ZeroDivisionError), translate:
        raise ZeroDivisionError


async def test_the_new_error_may_be_of_another_kind():
    """As for a URL with a password, which is refused when the store is made."""
    with (
        a_translated_error(ConfigurationError),
        translate_errors(lambda _: ConfigurationError("not a URL"), ValueError),
    ):
        raise ValueError("redis://:password@host")


async def test_no_context_comes_from_where_it_is_called():
    """A store that is asked again after a failure raises an error that stands alone too."""
    with a_translated_error():
        try:
            raise OSError("redis://:password@host")
        except OSError:
            with translate_errors(name_only):
                await fail(OSError("redis://:password@host"))


async def test_one_instance_serves_blocks_that_overlap():
    """It keeps no state of a block."""
    translate = translate_errors(name_only)

    async def call(error):
        with translate:
            await fail(error)

    results = await asyncio.gather(
        call(OSError()), call(StoreUnavailable("own")), call(ValueError()), return_exceptions=True
    )
    assert [error.reason for error in results] == ["OSError", "own", "ValueError"]


def test_a_block_that_succeeds_is_left_alone():
    """Its value is returned as usual."""

    def call():
        with translate_errors(name_only):
            return 42

    assert call() == 42


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_moment_survives_microseconds(moment):
    """Every moment comes back exactly, also one before 1970."""
    assert from_microseconds(to_microseconds(moment)) == moment


def test_microseconds_count_from_1970_in_utc():
    """The time zone of the moment does not matter."""
    assert to_microseconds(datetime(1970, 1, 1, tzinfo=UTC)) == 0
    there = datetime(1970, 1, 1, 2, 0, 0, 1, tzinfo=timezone(timedelta(hours=2)))
    assert to_microseconds(there) == 1
    assert from_microseconds(1).utcoffset() == timedelta(0)


def test_microseconds_beyond_the_calendar_overflow():
    """A store takes such a record for missing."""
    with pytest.raises(OverflowError):
        from_microseconds(10**30)


async def test_a_store_that_cannot_be_cleared_says_so():
    """``clear()`` is optional for a store of one's own."""

    class Shelf(MemoryStore):
        clear = Store.clear

    with pytest.raises(ConfigurationError, match=r"Shelf cannot be cleared: write clear\(\)"):
        await Shelf().clear()


def test_a_datetime_of_a_derived_class_is_counted():
    """The difference of two may be of a class that has no division, as with Pendulum."""

    class Span(timedelta):
        def __floordiv__(self, other):
            raise AttributeError

    class Moment(datetime):
        def __sub__(self, other):
            return Span(seconds=super().__sub__(other).total_seconds())

    assert to_microseconds(Moment(1970, 1, 1, 0, 0, 1, tzinfo=UTC)) == 1_000_000
