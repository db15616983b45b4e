"""The revocation of all sessions of a subject, including sign-ins in flight.

First, a record with a key of its own is written: it says when the sessions were revoked, and that
they are being deleted. Then they are deleted, page by page, and the record is written again: they
are no longer being deleted. A sign-in first writes its session and then loads that record. If the
revocation is not older than the request, or sessions are being deleted, the sign-in deletes its
session again and fails.

A page can therefore delete every session that it finds: none of them is of a sign-in that has
succeeded after the revocation. Either it loaded the record before the revocation was written, and
is older, or it loaded it after the last page. The record says until when that page has come at the
latest, for a process that dies before it.
"""

from datetime import timedelta
from typing import Any, NamedTuple

from ..errors import StoreUnavailable
from ..records import Record, from_microseconds, includes_write, new_version
from .repository import Repository
from .tokens import store_key

# longer than any request: no sign-in that began before the revocation is still in flight
_KEPT_FOR = timedelta(days=1)
_MAX_TRIES = 10
_MICROSECOND = timedelta(microseconds=1)


class Revocation(NamedTuple):
    """A revocation of all sessions of a subject; times are microseconds.

    Attributes:
        at: When the sessions were revoked. A request that did not begin later signs nobody in.
        running: The number of calls that are deleting sessions.
        until: When all of them have ended, also those that did not say so.
        version: The version of the record.
        before: The revocation that this one replaced, if there was one.
    """

    at: int
    running: int
    until: int
    version: str
    before: "Revocation | None" = None

    @classmethod
    def read(cls, record: Record) -> "Revocation":
        """Read a record."""
        at, running, until = map(int, record.body.split())
        return cls(at, running, until, record.version)

    def record(self, now: int) -> Record:
        """Return the record to write at this time."""
        body = b"%d %d %d" % (self.at, self.running, self.until)
        return Record(body, self.version, None, from_microseconds(now) + _KEPT_FOR)

    def is_running(self, now: int) -> bool:
        """Return whether sessions may still be deleted at this time."""
        return self.running > 0 and now < self.until

    def ends(self, since: int, now: int) -> bool:
        """Return whether a sign-in fails now, if its request began at ``since``."""
        return self.at >= since or self.is_running(now)

    def exempts(self, since: int) -> bool:
        """Return whether the session to keep, of a request that began at ``since``, may sign in.

        It may not if an earlier revocation ends it too.
        """
        return self.before is None or not self.before.ends(since, self.at)


async def begin_revocation(repository: Repository[Any], subject: str) -> Revocation:
    """Write the record that all sessions of a subject are revoked now and being deleted."""
    store, key = repository.store, _key(repository, subject)
    before: Record | None = None
    for _ in range(_MAX_TRIES):
        now = repository.settings.now()
        revocation = _next(repository, now, None if before is None else Revocation.read(before))
        record = revocation.record(now)
        if before is None:
            is_written = await store.create(key, record)
        else:
            is_written = await store.save(key, record, replaces=before.version)
        if is_written:
            return revocation
        before = await store.load(key)
    raise StoreUnavailable("the revocation of a subject's sessions could not be written")


async def end_revocation(repository: Repository[Any], subject: str, revocation: Revocation) -> None:
    """Write the record that the sessions are deleted, so that the subject can sign in again."""
    store, key = repository.store, _key(repository, subject)
    for _ in range(_MAX_TRIES):
        # the version includes the one before it, so that an exempt session stays exempt
        version, running = new_version(revocation.version), revocation.running - 1
        done = revocation._replace(version=version, running=running)
        record = done.record(repository.settings.now())
        if await store.save(key, record, replaces=revocation.version):
            return
        current = await store.load(key)
        if current is None:
            return
        revocation = Revocation.read(current)


async def is_revoked(
    repository: Repository[Any], subject: str, since: int, exempt_from: str | None
) -> bool:
    """Return whether a sign-in fails, if its request began at ``since`` (microseconds).

    ``exempt_from`` is the version of a revocation that does not count.
    """
    record = await repository.store.load(_key(repository, subject))
    if record is None or (exempt_from and includes_write(record.version, exempt_from)):
        return False
    return Revocation.read(record).ends(since, repository.settings.now())


def _next(repository: Repository[Any], now: int, before: Revocation | None) -> Revocation:
    settings = repository.settings
    # the last page may be asked for at the end of the one, and take as long as the other
    until = now + (settings.commit_timeout + settings.store_timeout) // _MICROSECOND
    if before is None:
        return Revocation(now, 1, until, new_version())
    # of two concurrent revocations the later times count, whichever is written last
    running = before.running + 1 if before.is_running(now) else 1
    at, until = max(now, before.at), max(until, before.until)
    return Revocation(at, running, until, new_version(), before)


def _key(repository: Repository[Any], subject: str) -> str:
    return store_key("revoked", repository.settings.name, subject.encode())
