"""The revocation of all sessions of a subject, including sign-ins in flight.

First, a record with a key of its own is written: it says when the sessions were revoked. Then the
sessions are found and deleted. A sign-in first writes its session and then loads that record. If
the revocation is not older than the request, the sign-in deletes its session again.
"""

from datetime import timedelta
from typing import Any

from ..errors import StoreUnavailable
from ..records import Record, from_microseconds, new_version
from .repository import Repository
from .tokens import store_key

# longer than any request: no sign-in that began before the revocation is still in flight
_KEPT_FOR = timedelta(days=1)
_MAX_TRIES = 10


async def record_revocation(
    repository: Repository[Any], subject: str, since: int | None = None
) -> str | None:
    """Write the record that all sessions of a subject are revoked now.

    Returns:
        The version of that record, for a session that is exempt from the revocation. None if the
        record replaced a revocation at or after ``since`` (microseconds): a request that began then
        is not exempt from that one.
    """
    store, key = repository.store, _key(repository, subject)
    before: Record | None = None
    for _ in range(_MAX_TRIES):
        revocation = _revocation(repository.settings.now(), before)
        if before is None:
            is_written = await store.create(key, revocation)
        else:
            is_written = await store.save(key, revocation, replaces=before.version)
        if is_written:
            is_first = before is None or since is None or _revoked_at(before) < since
            return revocation.version if is_first else None
        before = await store.load(key)
    raise StoreUnavailable("the revocation of a subject's sessions could not be written")


async def is_revoked(
    repository: Repository[Any], subject: str, since: int, exempt_from: str | None
) -> bool:
    """Return whether all sessions of a subject were revoked at or after ``since`` (microseconds).

    ``exempt_from`` is the version of a revocation that does not count.
    """
    revocation = await repository.store.load(_key(repository, subject))
    if revocation is None or revocation.version == exempt_from:
        return False
    return _revoked_at(revocation) >= since


def _revocation(now: int, before: Record | None) -> Record:
    # of two concurrent revocations the later time counts, whichever is written last
    at = now if before is None else max(now, _revoked_at(before))
    return Record(b"%d" % at, new_version(), None, from_microseconds(now) + _KEPT_FOR)


def _revoked_at(revocation: Record) -> int:
    return int(revocation.body)


def _key(repository: Repository[Any], subject: str) -> str:
    return store_key("revoked", repository.settings.name, subject.encode())
