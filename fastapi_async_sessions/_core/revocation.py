"""The revocation of all sessions of a subject, and of those beyond a limit.

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
    """A revocation of all sessions of an owner; times are microseconds.

    Attributes:
        at: What began at this moment or before ends.
        deleting_until: Until this moment sessions may still be deleted.
        version: That of the record.
        before: The revocation that it replaced.
    """

    at: int
    deleting_until: int
    version: str = ""
    before: "Revocation | None" = None

    def exempts(self, since: int) -> bool:
        """Whether a request that began at a moment may sign in, as far as others are concerned."""
        return self.before is None or not self.before.ends(since, self.at)

    def ends(self, since: int, now: int) -> bool:
        """Whether a sign-in of a request that began at a moment fails."""
        return self.at >= since or now < self.deleting_until


class Revocations:
    """The revocations of one owner, sealed with the secret of that owner.

    Args:
        age: Which secret that is: 0 the newest.
    """

    def __init__(self, repository: Repository[Any], owner: str, age: int = 0) -> None:
        self._repository = repository
        self._key = store_key("revoked", repository.settings.name, owner.encode())
        self._age = age

    async def begin(self) -> Revocation:
        """Write down that all sessions end now, and that sign-ins fail until ``end``."""
        store, settings = self._repository.store, self._repository.settings
        before: Record | None = None
        for _ in range(_MAX_TRIES):
            now = settings.now()
            revocation = self._next(now, before)
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
        """Let the owner sign in again, once all sessions are deleted."""
        before = revocation.before
        if before is not None and revocation.at < before.deleting_until:
            return  # another process may still be deleting: sign-ins wait until its time is over
        # its version names the one before it, so that the exempt session stays exempt
        done = Revocation(revocation.at, 0, new_version(revocation.version))
        record = self._record(done, self._repository.settings.now())
        await self._repository.store.save(self._key, record, replaces=revocation.version)

    async def forbids(self, since: int, exempt_from: str | None) -> bool:
        """Whether a sign-in fails whose request began at a moment.

        ``exempt_from`` is the version of a revocation that does not count.
        """
        record = await self._repository.store.load(self._key)
        if record is None or (exempt_from and includes_write(record.version, exempt_from)):
            return False
        revocation = self._read(record)
        return revocation is not None and revocation.ends(since, self._repository.settings.now())

    def _next(self, now: int, record: Record | None) -> Revocation:
        settings = self._repository.settings
        # the last call may be sent at the end of the one and take all of the other
        longest = (settings.commit_timeout + settings.store_timeout) // _MICROSECOND
        before = None if record is None else self._read(record)
        at, deleting_until = now, now + longest
        if before is not None:
            # of two revocations at once the later moments count, whichever is written last
            at, deleting_until = max(at, before.at), max(deleting_until, before.deleting_until)
        return Revocation(at, deleting_until, new_version(), before)

    def _record(self, revocation: Revocation, now: int) -> Record:
        content = b"%d %d" % (revocation.at, revocation.deleting_until)
        body = self._repository.seal.close(self._key, None, content, age=self._age)
        return Record(body, revocation.version, None, from_microseconds(now) + _KEPT_FOR)

    def _read(self, record: Record) -> Revocation | None:
        """The revocation that a record holds; None: it was not sealed here, and does not count."""
        content = self._repository.seal.open(self._key, None, record.body)
        if content is None:
            return None
        at, deleting_until = map(int, content.split())
        return Revocation(at, deleting_until, record.version)


async def revoke_beyond_limit(repository: Repository[Any], subject: str, newest: str) -> None:
    """Revoke the sessions with the oldest sign-ins of a subject beyond the limit; never ``newest``.

    Of many sign-ins at once the last one to be written sees all the others.
    """
    limit = repository.settings.max_sessions_per_subject
    if limit is None:
        return
    signed_in: list[tuple[int, str]] = []
    for owner in repository.seal.owners(subject):
        for key, record in await repository.store.find(owner):
            header = repository.header(key, record)
            if header is not None and key != newest:
                signed_in.append((header.authenticated_at or header.created_at, key))
    for _, key in sorted(signed_in, reverse=True)[limit - 1 :]:
        if await repository.store.delete(key):
            repository.events.emit("revoked", key, reason="limit")
