"""Checks of a provider from outside: its settings, its store, and the clock of the store."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Iterator
from datetime import timedelta
from time import perf_counter
from typing import Any, TypeVar

from ._core.settings import Settings
from ._core.tokens import store_key
from ._terminal import Facts
from ._web.provider import SessionProvider
from .errors import ConfigurationError, StoreUnavailable
from .records import Record, new_version
from .stores.base import translate_errors
from .stores.memory import MemoryStore

IN_MEMORY = (
    "MemoryStore: the sessions are in the memory of the application's process, which no other "
    "process can read; RedisStore and SQLStore keep them where this command finds them"
)
CLOCK = "clock"

_MAX_SKEW = timedelta(seconds=10)

_Result = TypeVar("_Result")
_translated = translate_errors(lambda e: StoreUnavailable(f"the store raised {type(e).__name__}"))


async def checks(provider: SessionProvider[Any]) -> AsyncIterator[Facts]:
    """Check the settings, and the store if other processes can use it.

    Raises:
        StoreUnavailable: the store is down, so that no check of it would say anything else.
    """
    settings = provider.repository.settings
    for row in _checked_settings(provider):
        yield row
    if isinstance(settings.store, MemoryStore):
        return
    await reach(settings)
    async for row in _checked_store(settings):
        yield row
    yield await _checked_clock(settings)


async def reach(settings: Settings[Any]) -> None:
    """Read from the store what is not there.

    Raises:
        StoreUnavailable: the store is down.
    """
    await answer(settings.store.load(_probe_key(settings)))


async def answer(call: Awaitable[_Result]) -> _Result:
    """Await a call to a store, which may be one of the application's and raise any error."""
    with _translated:
        return await call


def _checked_settings(provider: SessionProvider[Any]) -> Iterator[Facts]:
    settings = provider.repository.settings
    idle, absolute = settings.lifetime.idle, settings.lifetime.absolute
    yield _passed("provider", f"{settings.name}, of {settings.model.__name__}")
    yield _passed("cookie", provider.cookie.name)
    yield _passed("lifetime", f"idle {idle}, absolute {absolute}")
    store = type(settings.store).__name__
    yield _passed("store", IN_MEMORY if isinstance(settings.store, MemoryStore) else store)


async def _checked_store(settings: Settings[Any]) -> AsyncIterator[Facts]:
    """Do what requests do with a store, and what revocations do."""
    store, key, owner = settings.store, _probe_key(settings), secrets.token_hex(16)
    expires_at = settings.clock() + timedelta(minutes=1)
    record = Record(b"", new_version(), owner, expires_at)
    again = Record(b"", new_version(record.version), owner, expires_at)
    yield await _checked("create", store.create(key, record))
    yield await _checked("load", store.load(key))
    yield await _checked("save", store.save(key, again, replaces=record.version))
    yield await _checked("find", store.find(owner))
    yield await _checked("delete_owned", store.delete_owned(owner))
    yield await _checked("delete", store.delete(key))


async def _checked(verb: str, call: Awaitable[Any]) -> Facts:
    began = perf_counter()
    try:
        await answer(call)
    except StoreUnavailable as error:
        return {"check": verb, "ok": False, "detail": error.reason}
    except ConfigurationError as error:
        return _passed(verb, str(error))  # it is optional
    return _passed(verb, f"{(perf_counter() - began) * 1000:.1f} ms")


async def _checked_clock(settings: Settings[Any]) -> Facts:
    before = settings.clock()
    try:
        theirs = await answer(settings.store.server_time())
    except StoreUnavailable as error:
        return _passed(CLOCK, f"not known: {error.reason}")
    if theirs is None:
        return _passed(CLOCK, "the store does not have one")
    # a slow answer is no difference: theirs was read between our two readings
    ahead = theirs - sorted([before, theirs, settings.clock()])[1]
    side = "ahead of" if ahead > timedelta(0) else "behind"
    detail = f"the store's is {abs(ahead.total_seconds()):.1f} s {side} this machine's"
    return {"check": CLOCK, "ok": abs(ahead) <= _MAX_SKEW, "detail": detail}


def _passed(check: str, detail: str) -> Facts:
    return {"check": check, "ok": True, "detail": detail}


def _probe_key(settings: Settings[Any]) -> str:
    return store_key("probe", settings.name, secrets.token_bytes(16))
