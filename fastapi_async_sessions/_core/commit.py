"""The commit: writes one request's change, merged with changes that other requests have stored."""

import asyncio
import random
from collections.abc import Iterator
from typing import Generic, Literal, NamedTuple

from ..errors import SessionConflict, SessionInvalid, StoreUnavailable
from .attempts import Attempt, Attempts
from .codec import read_json, write_json
from .data import MergedData
from .header import Header, Renewal
from .merge import JSON, merge, rebase
from .models import Model
from .repository import Absent, LoadedSession, Repository, SessionRecord
from .revocation import Revocations, revoke_beyond_limit
from .tokens import Token
from .unread import Unread, kept_parts


class Change(NamedTuple):
    """The change that one request commits.

    Attributes:
        base, ours: The dumps of the data before and after the change.
        unread: The parts of the change that this release cannot read, and did not assign.
        token: Opens the session; None if there is no cookie (``open``), or none yet.
        renewal: The renewal that the route requested, which may be a sign-in or sign-out.
        began_at: When the request began. If it is a sign-in, a later revocation applies to it.
        decided_at: When the commit found something to write; both times are in microseconds.
        exempt_from: The version of a revocation that does not apply to this session.
    """

    base: bytes
    ours: bytes
    unread: Unread
    token: Token | None
    renewal: Renewal | None
    began_at: int
    decided_at: int
    exempt_from: str | None

    def __repr__(self) -> str:
        return "Change(...)"


class Committed(NamedTuple, Generic[Model]):
    """The result of a commit.

    Attributes:
        base: The dump of the data as it is stored now.
        token: Opens the session from now on.
        merged: Our data merged with another request's; None if no other request had written.
    """

    stored: SessionRecord
    base: bytes
    token: Token | None
    kind: Literal["created", "renewed", "changed", "extended"]
    merged: MergedData[Model] | None = None

    def __repr__(self) -> str:
        return f"Committed({self.stored!r}, kind={self.kind!r})"


class Commit(Generic[Model]):
    """Writes one change.

    Attributes:
        is_contended: Whether another request has written first, so that this one has to merge.
    """

    def __init__(self, repository: Repository[Model], change: Change, attempts: Attempts) -> None:
        self._repository = repository
        self._change = change
        self._attempts = attempts
        self._new_token: Token | None = None
        self._sent = ""  # the version of the last write that was tried
        self.is_contended = False

    async def create(self) -> Committed[Model]:
        """Store a new session."""
        settings, ours = self._repository.settings, self._change.ours
        new = Header.new(self._change.decided_at, settings.lifetime, persistent=settings.persistent)
        owner = self._owner(None)
        for _ in range(3):
            token = Token.issue()
            header = self._renewed(new, token)
            stored = self._next(token.key(settings.name), header, ours, owner)
            if await self._repository.store.create(stored.key, stored.record):
                return await self._accepted(Committed(stored, ours, token, "created"))
        raise StoreUnavailable("create() reported that three random keys already exist")

    async def save(self, stored: SessionRecord) -> Committed[Model] | None:
        """Store a change, a renewal or both; None if another request ended or renewed it.

        Raises:
            StoreUnavailable: also if it is unknown whether an earlier write was done.
        """
        change, limit = self._change, self._repository.settings.store_timeout
        self._new_token = change.token.renewed() if change.token and change.renewal else None
        # So many may have written since a long request began that a version does not name them all:
        # if a reply is lost after them, it is unknown whether the write was done.
        if not self._attempts.is_recent(change.decided_at, limit):
            return await self._save_merged(stored, None)
        raw = self._rebased(change.ours, change.base, stored.raw)
        attempt = self._over(stored, raw, change.decided_at)
        if await self._is_written(attempt, stored, change.decided_at):
            return await self._saved(attempt, change.ours)
        latest = await self._latest(stored)
        if not isinstance(latest, LoadedSession):
            return latest
        self.is_contended = True
        return await self._save_merged(stored, latest)

    async def extend(self, stored: SessionRecord) -> Committed[Model] | None:
        """Extend a session that is used; None if another request has changed or ended it."""
        # the JSON as it is stored: an extension must not write the result of a migration
        change = self._change
        attempt = self._over(stored, stored.json, change.decided_at)
        if not await self._is_written(attempt, stored, change.decided_at):
            return None
        return Committed(attempt._replace(raw=stored.raw), change.base, change.token, "extended")

    async def _save_merged(
        self, stored: SessionRecord, theirs: LoadedSession[Model] | None
    ) -> Committed[Model] | None:
        """Save over what others have written; the commits of a session queue, so that each merges
        only once. ``theirs`` is None if it is not loaded yet."""
        queue = self._repository.queue(stored.key)
        if queue.locked():
            self.is_contended, theirs = True, None
        async with queue:
            for pause in _pauses():
                latest = theirs or await self._latest(stored)
                if not isinstance(latest, LoadedSession):
                    return latest
                if committed := await self._save_over(latest, stored):
                    return committed
                self.is_contended = True
                # at once, while the version still names the write just before
                latest = await self._latest(stored)
                if not isinstance(latest, LoadedSession):
                    return latest
                await asyncio.sleep(pause)
                theirs = None if pause else latest
        return None

    async def _save_over(
        self, theirs: LoadedSession[Model], stored: SessionRecord
    ) -> Committed[Model] | None:
        codec, now = self._repository.codec, self._repository.settings.now()
        merged, written = self._merged(theirs, stored)
        dump = codec.restored(codec.dump(merged.data), merged.unread)
        # as it was read back to our data, so that the next request reads the same
        raw = self._rebased(written, theirs.contents().base, theirs.stored.raw)
        attempt = self._over(theirs.stored, raw, now)
        is_written = await self._is_written(attempt, theirs.stored, now)
        return await self._saved(attempt, dump, merged) if is_written else None

    async def _latest(
        self, stored: SessionRecord
    ) -> LoadedSession[Model] | Committed[Model] | None:
        """Load what is stored now; None: the session was ended or renewed elsewhere.

        Returns the result of this commit if its write was done, and only the reply was lost.

        Raises:
            StoreUnavailable: a write may have been done, so another try could do it twice.
        """
        repository, attempts = self._repository, self._attempts
        hashes = stored.header.secret_hash, *attempts.secret_hashes
        theirs = await repository.load(stored.key, *(hashes if self._needs_token() else ()))
        if isinstance(theirs, Absent):
            self._report_renewal(theirs)
            return None
        if self._is_of_another_user(theirs.stored.header, stored.header, hashes):
            return None
        if not attempts.settle(theirs.stored.record.version, repository.writes):
            reason = "unknown whether a write was done: too many others followed it"
            repository.events.emit("store_error", stored.key, reason=reason)
            raise StoreUnavailable(reason, retry_after=None)
        if attempts.done is None or attempts.done.version != self._sent:
            return theirs
        data, base, unread = theirs.contents()
        merged = MergedData(data, self._change.ours, base, unread)
        return await self._saved(theirs.stored, base, merged)

    async def _saved(
        self, stored: SessionRecord, base: bytes, merged: MergedData[Model] | None = None
    ) -> Committed[Model]:
        kind: Literal["renewed", "changed"] = "renewed" if self._new_token else "changed"
        token = self._new_token or self._change.token
        return await self._accepted(Committed(stored, base, token, kind, merged))

    async def _accepted(self, committed: Committed[Model]) -> Committed[Model]:
        """Return the result, unless it is a sign-in of a subject whose sessions were revoked."""
        repository, change, key = self._repository, self._change, committed.stored.key
        if change.renewal is None or change.renewal.subject is None:
            return committed
        subject, began_at = change.renewal.subject, change.began_at
        revocations = Revocations(repository, repository.seal.owner(subject))
        if not await revocations.forbids(began_at, change.exempt_from):
            await revoke_beyond_limit(repository, subject, key)
            return committed
        await repository.store.delete(key)
        repository.events.emit("revoked", key, reason="revoked")
        raise SessionConflict(
            "All sessions of this user have just been ended. Please sign in again."
        )

    async def _is_written(self, attempt: SessionRecord, over: SessionRecord, now: int) -> bool:
        if over.header.expires_at(self._repository.settings.lifetime) <= now:
            return False  # it expired while the route ran, even if the store has a later expiry
        self._sent, replaces = attempt.record.version, over.record.version
        secret_hash, ours = attempt.header.secret_hash, self._change.ours
        self._attempts.add(Attempt(self._sent, replaces, secret_hash, ours))
        store, key, record = self._repository.store, attempt.key, attempt.record
        if not await store.save(key, record, replaces=replaces):
            return False
        self._repository.writes.add(record.version)
        return True

    def _over(self, stored: SessionRecord, raw: bytes, now: int) -> SessionRecord:
        """Make the record that replaces a stored one."""
        header, change = stored.header, self._change
        # only its visitor extends a session, not an administrator who opens it by its key
        if change.token is not None and (
            change.renewal or header.is_extension_due(self._repository.settings.lifetime, now)
        ):
            header = header.extended(now)
        header, record = self._renewed(header, self._new_token), stored.record
        return self._next(stored.key, header, raw, self._owner(record.owner), record.version)

    def _renewed(self, header: Header, token: Token | None) -> Header:
        """Return a header after the renewal, with the hash of the new token if there is one."""
        if self._change.renewal is not None:
            header = header.renewed(self._change.renewal, self._repository.settings.lifetime)
        return header if token is None else header._replace(secret_hash=token.secret_hash())

    def _owner(self, before: str | None) -> str | None:
        """Return the owner of the next record.

        It stays until the next sign-in, even if its secret is no longer the newest.
        """
        renewal = self._change.renewal
        if renewal is None or not renewal.changes_subject:
            return before
        return None if renewal.subject is None else self._repository.seal.owner(renewal.subject)

    def _next(
        self, key: str, header: Header, raw: bytes, owner: str | None, replaces: str = ""
    ) -> SessionRecord:
        record = self._repository.new_record(key, header, raw, owner, replaces)
        return SessionRecord(key, record, header, json=raw, raw=raw)

    def _merged(
        self, theirs: LoadedSession[Model], stored: SessionRecord
    ) -> tuple[MergedData[Model], bytes]:
        """Return the merge, and its JSON before it was read back."""
        codec, change = self._repository.codec, self._change
        # changes that an earlier commit of this request has stored are not changes of this one
        done = self._attempts.done
        before = change.base if done is None else done.ours
        found = theirs.contents()
        base, ours = self._as_read_back(before, stored)
        merged = merge(base, ours, read_json(found.base), codec.shape)
        if merged.conflicts:
            self._report_conflict(theirs.stored.key, codec.field_names(merged.conflicts))
        # what we assigned is readable, whatever it was
        unread = {**change.unread, **found.unread}
        kept = kept_parts(merged.value, unread)
        try:
            written = write_json(merged.value)
            data = codec.read_back(written, kept)
        except SessionInvalid as error:
            raise SessionConflict(
                "The merged changes of two requests do not fit the model.", error.fields
            ) from None
        return MergedData(data, before, found.base, kept), written

    def _as_read_back(self, base: bytes, stored: SessionRecord) -> tuple[JSON, JSON]:
        """Return the base and our data as a request would have them that read the base back.

        It may find the items of a set in another order. Where the shape does not say that they are
        a set, that would look like a change by the other request.
        """
        codec = self._repository.codec
        before, ours = read_json(base), read_json(self._change.ours)
        again = None if codec.is_plain else self._repository.dump_of(stored.raw)
        if again is None or again == base or not codec.reads_alike(base, again):
            return before, ours
        read_back = read_json(again)
        return read_back, rebase(before, ours, read_back, codec.shape)

    def _report_conflict(self, key: str, fields: list[str]) -> None:
        self._repository.events.emit("conflict", key, fields=", ".join(fields))
        if self._repository.settings.on_conflict == "raise":
            raise SessionConflict("Another request changed the same fields.", fields)

    def _needs_token(self) -> bool:
        """Return whether a renewal by another request ends the session for this one.

        It does not if the session was opened by its key, nor if the user signs out: as
        ``destroy``, this ends the sign-in whatever its token is by now.
        """
        renewal = self._change.renewal
        return self._change.token is not None and not (renewal and renewal.is_sign_out)

    def _is_of_another_user(
        self, theirs: Header, before: Header, hashes: tuple[bytes, ...]
    ) -> bool:
        """Return whether another request has signed another user in: a sign-out must then not get a
        token for the session, which holds that user's data."""
        is_renewed = self._change.token is not None and theirs.secret_hash not in hashes
        return is_renewed and theirs.subject != before.subject

    def _report_renewal(self, theirs: Absent) -> None:
        """Refuse to drop a change because another request has renewed the session, if asked to."""
        change, repository = self._change, self._repository
        if repository.settings.on_conflict != "raise" or theirs.reason != "outdated":
            return
        is_sign_in = change.renewal is not None and change.renewal.is_sign_in
        if not is_sign_in and repository.codec.differs(change.base, change.ours):
            raise SessionConflict("Another request has renewed the session.")

    def _rebased(self, ours: bytes, base: bytes, raw: bytes) -> bytes:
        """Add stored fields that this release does not know to our data."""
        if raw == base:
            return ours
        codec = self._repository.codec
        before, after, stored = map(read_json, (base, ours, raw))
        rebased = write_json(rebase(before, after, stored, codec.shape))
        # when this is read, a validator that turns old fields into new ones may undo our change
        return rebased if self._reads_as(ours, rebased) else ours

    def _reads_as(self, ours: bytes, rebased: bytes) -> bool:
        """Return whether the next request will read the same from both."""
        codec, dump_of = self._repository.codec, self._repository.dump_of
        again = dump_of(rebased)
        if again is None or codec.reads_alike(ours, again):
            return again is not None
        # validators may have normalized what the request has written
        normalized = dump_of(ours)
        return normalized is not None and codec.reads_alike(normalized, again)


def _pauses() -> Iterator[float]:
    """Seconds to wait before a commit tries again: random, so that processes do not collide.

    The first tries follow at once. After a pause, load the session again.
    """
    yield from (0.0, 0.0, 0.0)
    longest = 0.005
    while True:
        yield random.uniform(0, longest)  # noqa: S311  # no secret
        longest = min(2 * longest, 0.2)
