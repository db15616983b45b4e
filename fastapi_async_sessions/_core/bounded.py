"""A wrapper around a store, with a timeout and a single kind of error for every call."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import ParamSpec, TypeVar

from ..errors import SessionError, StoreUnavailable
from ..events import Events
from ..records import Record
from ..stores.base import Store
from .deadline import within
from .event_loop import require_asyncio
from .outage import Outage

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class BoundedStore(Store):
    """Wraps the store of a provider.

    Every call ends within ``timeout``. Every failure of the store raises ``StoreUnavailable`` and
    emits a ``store_error`` event, of which the log shows the first in an outage. If the caller is
    cancelled, so is the call.
    """

    def __init__(self, store: Store, timeout: timedelta, events: Events) -> None:
        self._store = store
        self._seconds = timeout.total_seconds()
        self._events = events
        self._outage = Outage.of(store)

    async def create(self, key: str, record: Record) -> bool:
        return await self._bounded(key, self._store.create, key, record)

    async def load(self, key: str) -> Record | None:
        return await self._bounded(key, self._store.load, key)

    async def save(self, key: str, record: Record, *, replaces: str) -> bool:
        return await self._bounded(key, self._store.save, key, record, replaces=replaces)

    async def delete(self, key: str) -> bool:
        return await self._bounded(key, self._store.delete, key)

    async def find(self, owner: str, limit: int = 100) -> list[tuple[str, Record]]:
        return await self._bounded(None, self._store.find, owner, limit)

    async def delete_owned(self, owner: str, *, keep: str | None = None) -> int:
        return await self._bounded(None, self._store.delete_owned, owner, keep=keep)

    async def _bounded(
        self,
        key: str | None,
        method: Callable[_Arguments, Awaitable[_Result]],
        *arguments: _Arguments.args,
        **named: _Arguments.kwargs,
    ) -> _Result:
        try:
            result = await within(self._seconds, method, *arguments, **named)
            if self._outage.failures:
                self._outage.end()
            return result
        except TimeoutError as error:
            reason = f"no answer within {self._seconds:g} seconds{_note(error)}"
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            reason = "the store cancelled the call"  # it cancelled its own task, not this one
        except StoreUnavailable as error:
            self._report(key, error.reason)
            raise
        except SessionError:
            raise
        except Exception as error:
            require_asyncio()
            # from a store that users wrote themselves: the error's text may contain a record
            reason = f"the store raised {type(error).__name__}"
        self._report(key, reason)
        # raised outside of the except block, so that the driver's error is not its context
        raise StoreUnavailable(reason)

    def _report(self, key: str | None, reason: str) -> None:
        self._events.emit("store_error", key, self._outage.begin(), reason=reason)


def _note(error: TimeoutError) -> str:
    """Return what the store said that it was waiting for when it was cancelled, if it knew."""
    notes = getattr(error.__cause__, "__notes__", [])
    return f": {notes[0]}" if notes and isinstance(error.__cause__, asyncio.CancelledError) else ""
