"""The revocation of all sessions of a subject.

It wins against sign-ins in flight, and ends none that is accepted after it. First a record under a
key of its own says when the sessions were revoked and until when they are being deleted, then they
are deleted page by page, then that record says that this is done. A sign-in writes its session,
then loads that record. If the sessions were revoked after the sign-in's request began, or are being
deleted at this moment, it deletes its session again and fails. So each page may delete whatever it
finds: a session whose sign-in succeeded is older than the revocation, or is written after the last
page.

The record has an end by itself, for a process that dies before it has said that it is done.
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
        at: A request that began at this moment or before signs nobody in.
        running: How many calls are deleting sessions.
        until: When they have ended, whether they have said so or not.
        version: That of the record.
        before: The revocation that this one replaced.
    """

    at: int
    running: int
    until: int
    version: str
    before: "Revocation | None" = None

    @classmethod
    def read(cls, record: Record) -> "Revocation":
        """The revocation that a record holds."""
        return cls(*map(int, record.body.split()), record.version)

    def record(self, now: int) -> Record:
        """The record that holds the revocation."""
        body = b"%d %d %d" % (self.at, self.running, self.until)
        return Record(body, self.version, None, from_microseconds(now) + _KEPT_FOR)

    def is_running(self, now: int) -> bool:
        """Whether sessions may still be deleted at a moment."""
        return self.running > 0 and now < self.until

    def ends(self, since: int, now: int) -> bool:
        """Whether a sign-in fails now, whose request began at a moment."""
        return self.at >= since or self.is_running(now)

    def exempts(self, since: int) -> bool:
        """Whether the sign-in of a request that is kept succeeds: no other revocation ends it."""
        return self.before is None or not self.before.ends(since, self.at)


async def begin_revocation(repository: Repository[Any], subject: str) -> Revocation:
    """Write down that all sessions of a subject end now, before they are deleted."""
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
    """Write down that all sessions are deleted, so that the subject can sign in again."""
    store, key = repository.store, _key(repository, subject)
    for _ in range(_MAX_TRIES):
        # under a version that names the one before it, so that a session that is exempt stays so
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
    """Whether a sign-in fails whose request began at a moment, in microseconds.

    ``exempt_from`` is the version of a revocation that does not count.
    """
    record = await repository.store.load(_key(repository, subject))
    if record is None or (exempt_from and includes_write(record.version, exempt_from)):
        return False
    return Revocation.read(record).ends(since, repository.settings.now())


def _next(repository: Repository[Any], now: int, before: Revocation | None) -> Revocation:
    settings = repository.settings
    # the last call may be sent at the end of the one and take all of the other
    until = now + (settings.commit_timeout + settings.store_timeout) // _MICROSECOND
    if before is None:
        return Revocation(now, 1, until, new_version())
    # of two revocations at once the later moments count, whichever is written last
    running = before.running + 1 if before.is_running(now) else 1
    at, until = max(now, before.at), max(until, before.until)
    return Revocation(at, running, until, new_version(), before)


def _key(repository: Repository[Any], subject: str) -> str:
    return store_key("revoked", repository.settings.name, subject.encode())
