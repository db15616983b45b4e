"""The contract of a store, and the translation of a driver's errors."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Any

from ..errors import ConfigurationError, SessionError
from ..records import Record, from_microseconds, new_version

_PAGE = 100


class Store(ABC):
    """Keeps records under keys: subclass it, write the four verbs, inherit ``StoreContract``.

    Keys are 64 lower-case hexadecimal digits. Every verb is one atomic step, whatever runs at the
    same time in this process or another. From its ``expires_at`` on, a record does not exist for
    any verb. Every verb raises ``StoreUnavailable`` when it cannot know what happened;
    ``translate_errors`` keeps the driver's own error out of it. A verb that is cancelled may say
    what it was waiting for, with ``add_note`` on the ``CancelledError``: if it was a provider's
    timeout, the reason repeats that note, so it must not hold a value or a password.
    """

    @abstractmethod
    async def create(self, key: str, record: Record) -> bool:
        """Store a record under a key that has none.

        False: the key exists and its record is unchanged. Also True if this very write, recognized
        by its version, has been done already: drivers repeat a write when its reply was lost.
        """

    @abstractmethod
    async def load(self, key: str) -> Record | None:
        """Return the record as it was stored, or None when it is missing or expired."""

    @abstractmethod
    async def save(self, key: str, record: Record, *, replaces: str) -> bool:
        """Store a record over the one whose version is ``replaces``, and over no other.

        False: the record is gone, expired or has another version, and nothing was written. A
        deleted or expired record never comes back. Also True if this very write has been done
        already.
        """

    @abstractmethod
    async def delete(self, key: str) -> bool:
        """Remove a record. False: there was none."""

    async def find(self, owner: str, limit: int = 100) -> list[tuple[str, Record]]:
        """Return the live records of an owner with their keys, the last to expire first.

        There are at most ``limit`` of them, which is at least 1.
        """
        raise ConfigurationError(
            f"{type(self).__name__} does not list sessions: write find(owner, limit) to use "
            "sessions() and revoke_all()"
        )

    async def delete_owned(self, owner: str, *, keep: str | None = None) -> int:
        """Remove some live records of an owner, all but ``keep``, and return their number.

        0: none is left. Each call removes a bounded number, so that it finishes in time; callers
        repeat it until it returns 0. The first to expire go first. Checking the owner of a record
        and removing it is one step: a record that gets another owner in the meantime stays.

        As inherited, it removes the records that ``find`` lists, the last to expire first. If a
        store can remove records without loading them, override it.
        """
        deleted = 0
        while not deleted:
            found = [each for each in await self.find(owner, _PAGE) if each[0] != keep]
            if not found:
                return 0
            for key, record in reversed(found):
                # only the version shows that the record still belongs to the owner, and only
                # save() compares it: the record is replaced by one that has expired
                expired = Record(b"", new_version(), None, from_microseconds(0))
                deleted += await self.save(key, expired, replaces=record.version)
        return deleted

    async def count(self) -> int:
        """Return the number of live records in the whole store; it may be approximate."""
        raise ConfigurationError(
            f"{type(self).__name__} does not count sessions: write count() to use it"
        )

    async def purge(self) -> int:
        """Remove expired records and return their number; 0 where the server removes them."""
        return 0

    async def count_expired(self) -> int | None:
        """Return the number of records that ``purge`` would remove; None if it is not known."""
        return None

    async def clear(self) -> None:
        """Remove every record of this store, and nothing else."""
        raise ConfigurationError(
            f"{type(self).__name__} cannot be cleared: write clear() to use it"
        )

    async def server_time(self) -> datetime | None:
        """Return the time of the server's clock, in UTC; None if the store has no such clock."""
        return None

    async def open(self) -> None:
        """Prepare for use; ``lifespan`` calls it once, before the first request."""

    async def aclose(self) -> None:
        """Release the connections and other resources that the store holds."""


class translate_errors:
    """Raises an error of this library in place of a driver's, with no reference to the driver's.

        with translate_errors(lambda error: StoreUnavailable(type(error).__name__)):
            return await client.get(key)

    The message and the frames of a driver's error may hold addresses, passwords and records, and
    error trackers report both. ``raise ... from None`` only hides it: it is still the new error's
    ``__context__``. Here ``__cause__`` and ``__context__`` are None.

    Errors of this library and cancellation pass unchanged. An instance keeps no state: make it
    once and use it for any number of blocks at the same time.

    Args:
        translate: Makes the error to raise from the one that was caught. Its message should name
            the type or code of that error and leave out its text.
        catch: The errors to translate, by default every ``Exception``.
    """

    def __init__(self, translate: Callable[[Any], SessionError], *catch: type[Exception]) -> None:
        self._translate = translate
        self._catch = catch or (Exception,)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not isinstance(error, self._catch) or isinstance(error, SessionError):
            return
        translated = self._translate(error)
        del error, traceback  # the traceback of the new error leads to this frame
        try:
            raise translated
        finally:
            # Python sets the context when an error is raised, so it is cleared afterwards
            translated.__context__ = None
