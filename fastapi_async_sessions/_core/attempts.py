"""The writes that a request has tried: which of them were done, although their replies were lost.

A version names the writes before it. As long as it reaches back to a version from before a write,
it shows whether that write was done.
"""

from datetime import timedelta
from typing import NamedTuple

from ..records import name_of_write

_MICROSECOND = timedelta(microseconds=1)
_MAX_WRITES = 2000  # about 1 MB


class RecentWrites:
    """The last writes of this process, which remember more than a version names."""

    def __init__(self) -> None:
        self._versions: dict[str, str] = {}

    def add(self, version: str) -> None:
        """Note a write that was done."""
        if len(self._versions) >= _MAX_WRITES:
            del self._versions[next(iter(self._versions))]
        self._versions[name_of_write(version)] = version

    def before(self, version: str, since: str) -> tuple[list[str], bool]:
        """Return the names of the writes up to a version, and whether they reach an earlier one."""
        names: list[str] = []
        oldest: str | None = version
        while oldest is not None:
            named = oldest.split(".")
            names += named
            if name_of_write(since) in named:
                return names, True
            known = map(self._versions.get, reversed(named[1:]))
            oldest = next(filter(None, known), None)
        return names, False


class Attempt(NamedTuple):
    """A write that was sent to the store.

    Attributes:
        version: The version that it writes.
        replaces: The version that it replaces.
        secret_hash: The hash of the secret that opens the session after it.
        ours: The dump of the data as the request had made them.
    """

    version: str
    replaces: str
    secret_hash: bytes
    ours: bytes

    def __repr__(self) -> str:
        return f"Attempt(version={self.version!r})"


class Attempts:
    """The writes that a request has tried since it loaded, or wrote, a version of its session.

    Attributes:
        done: The last of them that was done, as far as is known; None if none was.
        is_settled: Whether it is known of each of them whether it was done.
    """

    __slots__ = ("_at", "_sent", "_version", "done", "is_settled")

    def __init__(self, version: str, at: int) -> None:
        self._version = version
        self._at = at
        self._sent: list[Attempt] = []
        self.done: Attempt | None = None
        self.is_settled = True

    @property
    def secret_hashes(self) -> list[bytes]:
        """The hashes of the secrets that may open the session now."""
        return [each.secret_hash for each in self._all()]

    def may_have_stored_other(self, ours: bytes) -> bool:
        """Return whether a write of other data may have been done, or may still arrive."""
        return any(each.ours != ours for each in self._all())

    def _all(self) -> list[Attempt]:
        return self._sent if self.done is None else [*self._sent, self.done]

    def is_recent(self, now: int, limit: timedelta) -> bool:
        """Return whether the version was loaded within this time."""
        return now - self._at <= limit // _MICROSECOND

    def add(self, attempt: Attempt) -> None:
        """Note a write before it is sent."""
        self._sent.append(attempt)
        self.is_settled = False

    def settle(self, version: str, recent: RecentWrites) -> bool:
        """Find out from the stored version which writes were done; False if that is unknown."""
        names, is_complete = recent.before(version, self._version)
        done = [each for each in self._sent if name_of_write(each.version) in names]
        if self._sent and not done and not is_complete:
            return False
        self.done = done[-1] if done else self.done
        # a write that was not done can still arrive, until another version is there
        self._sent = [each for each in self._sent if each.replaces == version]
        self._version = version
        self.is_settled = True
        return True

    def reloaded(self, version: str, at: int) -> "Attempts":
        """Return the attempts whose outcome is still unknown after the session was loaded again."""
        rest = Attempts(version, at)
        rest._sent = [each for each in self._sent if each.replaces == version]
        return rest
