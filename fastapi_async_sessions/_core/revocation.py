"""The revocation of all sessions of a subject, and of those beyond a limit.

First, a record is written under its own key: it says when the sessions were revoked, and that
they are being deleted. Then they are deleted, page by page, and the record is written again: they
are no longer being deleted. A sign-in first writes its session and then loads that record. If the
revocation is not older than the request, or sessions are being deleted, the sign-in deletes its
session again and fails.

So a page can delete every session that it finds: none of them is of a sign-in that has
succeeded after the revocation. Either it loaded the record before the revocation was written, and
is older, or it loaded it after the last page. The record says until when that page has come at the
latest, for a process that dies before it.
"""

import asyncio
from contextlib import suppress
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
    """A revocation of all sessions of an owner; times are microseconds.

    Attributes:
        at: When the sessions were revoked. A request that did not begin later cannot sign in.
        running: The number of calls that are deleting sessions.
        until: When all of them have ended at the latest, even those of a process that died.
        version: The version of the record.
        before: The revocation that this one replaced, if there was one.
    """

    at: int
    running: int
    until: int
    version: str
    before: "Revocation | None" = None

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


class Revocations:
    """The revocations of one owner, sealed with the secret of that owner.

    Args:
        age: Which secret that is: 0 is the newest.
    """

    def __init__(self, repository: Repository[Any], owner: str, age: int = 0) -> None:
        self._repository = repository
        self._key = store_key("revoked", repository.settings.name, owner.encode())
        self._age = age

    async def begin(self) -> Revocation:
        """Write the record that all sessions are revoked now and being deleted."""
        store, settings = self._repository.store, self._repository.settings
        before: Record | None = None
        for _ in range(_MAX_TRIES):
            now = settings.now()
            revocation = self._next(now, None if before is None else self._read(before))
            record = self._record(revocation, now)
            if before is None:
                is_written = await store.create(self._key, record)
            else:
                is_written = await store.save(self._key, record, replaces=before.version)
            if is_written:
                return revocation
            before = await store.load(self._key)
        raise StoreUnavailable("the revocation of a subject's sessions could not be written")

    async def end(self, revocation: Revocation) -> None:
        """Write the record that the sessions are deleted, so that the owner can sign in again."""
        store, settings = self._repository.store, self._repository.settings
        for _ in range(_MAX_TRIES):
            # the version includes the one before it, so that an exempt session stays exempt
            version, running = new_version(revocation.version), revocation.running - 1
            done = self._record(
                revocation._replace(version=version, running=running), settings.now()
            )
            if await store.save(self._key, done, replaces=revocation.version):
                return
            record = await store.load(self._key)
            current = None if record is None else self._read(record)
            if current is None:
                return
            revocation = current

    async def forbids(self, since: int, exempt_from: str | None) -> bool:
        """Return whether a sign-in fails, if its request began at ``since`` (microseconds).

        ``exempt_from`` is the version of a revocation that does not count.
        """
        record = await self._repository.store.load(self._key)
        if record is None or (exempt_from and includes_write(record.version, exempt_from)):
            return False
        revocation = self._read(record)
        return revocation is not None and revocation.ends(since, self._repository.settings.now())

    def _next(self, now: int, before: Revocation | None) -> Revocation:
        settings = self._repository.settings
        # the last page may be asked for at the end of the one, and take as long as the other
        until = now + (settings.commit_timeout + settings.store_timeout) // _MICROSECOND
        if before is None:
            return Revocation(now, 1, until, new_version())
        # of two concurrent revocations the later times count, whichever is written last
        running = before.running + 1 if before.is_running(now) else 1
        at, until = max(now, before.at), max(until, before.until)
        return Revocation(at, running, until, new_version(), before)

    def _record(self, revocation: Revocation, now: int) -> Record:
        content = b"%d %d %d" % (revocation.at, revocation.running, revocation.until)
        body = self._repository.seal.close(self._key, None, content, age=self._age)
        return Record(body, revocation.version, None, from_microseconds(now) + _KEPT_FOR)

    def _read(self, record: Record) -> Revocation | None:
        """Return the revocation that a record holds; None if it was not sealed here."""
        content = self._repository.seal.open(self._key, None, record.body)
        if content is None:
            return None
        at, running, until = map(int, content.split())
        return Revocation(at, running, until, record.version)


async def revoke_beyond_limit(repository: Repository[Any], subject: str, newest: str) -> None:
    """Revoke the sessions with the oldest sign-ins of a subject beyond the limit; never ``newest``.

    Of many sign-ins at once the last one to be written sees all the others. If the store fails or
    is slow, the sign-in succeeds all the same, and the next one keeps the limit.
    """
    settings = repository.settings
    if settings.max_sessions_per_subject is None:
        return
    with suppress(StoreUnavailable, TimeoutError):
        async with asyncio.timeout(settings.store_timeout.total_seconds()):
            await _revoke_oldest(repository, subject, newest, settings.max_sessions_per_subject)


async def _revoke_oldest(
    repository: Repository[Any], subject: str, newest: str, limit: int
) -> None:
    signed_in: list[tuple[int, str]] = []
    for owner in repository.seal.owners(subject):
        for key, record in await repository.store.find(owner):
            header = repository.header(key, record)
            if header is not None and key != newest:
                signed_in.append((header.authenticated_at or header.created_at, key))
    for _, key in sorted(signed_in, reverse=True)[limit - 1 :]:
        if await repository.store.delete(key):
            repository.events.emit("revoked", key, reason="limit")
