"""A provider's sessions outside of a request: list, revoke, change."""

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import EllipsisType
from typing import Annotated, Any, Generic

from ..errors import SessionNotFound, StoreUnavailable
from ..lifetime import Lifetime
from ..records import Record, from_microseconds, new_version
from .event_loop import require_asyncio
from .models import Model
from .not_a_parameter import NOT_A_DEPENDENCY
from .repository import Absent, Repository, SessionRecord, is_subject
from .revocation import Revocations
from .session import Session, state_of
from .state import SessionState
from .tokens import is_key, store_key

# more than a store can hold, and a number that every database understands
_MOST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class StoredSession(Generic[Model]):
    """A stored session, for a list of devices.

    Attributes:
        key: Identifies the session for ``revoke`` and ``open``; safe to show, not a secret.
        data: Your model.
        subject: The signed-in user.
        created_at, authenticated_at, seen_at, expires_at: Aware datetimes in UTC; ``seen_at`` is
            the last extension, at most a tenth of the idle timeout before the last request.
    """

    key: str
    data: Model = field(repr=False)
    subject: str | None
    created_at: datetime
    authenticated_at: datetime | None
    seen_at: datetime
    expires_at: datetime


class SessionAdmin(Generic[Model]):
    """The provider's methods for stored sessions; each of them may raise ``StoreUnavailable``."""

    def __init__(self, repository: Repository[Model]) -> None:
        self.repository = repository

    async def sessions(self, subject: str | None, limit: int = 100) -> list[StoredSession[Model]]:
        """Return the live sessions of a subject, the latest sign-in first; none for None.

        If there are more than ``limit``, these are the ones that expire last.

        Raises:
            TypeError: the subject is not text, or the limit not a whole number.
        """
        repository = self.repository
        if type(limit) is not int:
            raise TypeError(f"limit=... takes a whole number, not {type(limit).__name__}")
        limit = min(limit, _MOST)
        if not is_subject(subject) or limit < 1:
            return []
        read = [
            repository.read(key, record)
            for owner in repository.seal.owners(subject)
            for key, record in await repository.store.find(owner, limit)
        ]
        lifetime = repository.settings.lifetime
        listed = [
            stored_session(loaded.stored, loaded.contents().data, lifetime)
            for loaded in read
            if not isinstance(loaded, Absent)
        ]
        return sorted(listed, key=_began_at, reverse=True)[:limit]

    async def revoke(self, key: str, subject: str | EllipsisType | None = ...) -> bool:
        """End the session with this key; False if there is none.

        Pass the ``subject`` if the key comes from a user's form: the session of another user is
        then not ended, and the result is False. If the subject is None, as ``session.subject`` is
        without a sign-in, the result is always False.
        """
        repository = self.repository
        if not is_key(key) or (subject is not ... and not is_subject(subject)):
            return False
        record = await repository.store.load(key)
        header = None if record is None else repository.header(key, record)
        # keep a record that is not one of our sessions, or only marks one as ended
        if header is None or subject not in (..., header.subject):
            return False
        if not await repository.store.delete(key):
            return False
        repository.events.emit("revoked", key, reason="revoked")
        return True

    async def revoke_all(self, subject: str | None, *, keep: Session[Any] | None = None) -> int:
        """End all sessions of a subject except ``keep``, and return their number; for None, 0.

        A sign-in of that subject that is in flight ends as well, with a ``SessionConflict``, and so
        does one that is made while this call runs; so call it after a change of the password. A
        sign-in that succeeds after it stays. By the clock, a request that did not begin later than
        this call is in flight: so a test with a frozen clock must move it before the next
        sign-in.

        Raises:
            StoreUnavailable: the store failed, or ``commit_timeout`` was too short. The sessions
                that have been ended stay ended, and another call ends the others. Until then
                sign-ins may fail for ``commit_timeout`` and ``store_timeout`` together.
        """
        repository = self.repository
        if not isinstance(keep, Session | None):
            raise TypeError(f"keep=... takes the session of a request, not {type(keep).__name__}")
        if not is_subject(subject):
            return 0
        require_asyncio()
        limit = repository.settings.commit_timeout.total_seconds()
        try:
            async with asyncio.timeout(limit) as bound:
                return await self._revoke_all(subject, keep, bound)
        except TimeoutError:
            reason = f"not all sessions of the subject were deleted within {limit:g} seconds"
        repository.events.emit("store_error", reason=reason)
        raise StoreUnavailable(reason)

    async def _revoke_all(
        self, subject: str, keep: Session[Any] | None, bound: asyncio.Timeout
    ) -> int:
        repository = self.repository
        owners = repository.seal.owners(subject)
        written = [Revocations(repository, owner, age) for age, owner in enumerate(owners)]
        begun = [await revocations.begin() for revocations in written]
        if keep is not None:
            # a sign-in of this request is one under the newest secret
            state, newest = state_of(keep), begun[0]
            state.exempt_from = newest.version if newest.exempts(state.began_at) else None
        kept, count = keep.key if keep else None, 0
        try:
            async for page in self._delete_owned(owners, kept, bound):
                count += page
        finally:
            if count:
                repository.events.emit("revoked", reason="revoked", count=str(count))
        for revocations, revocation in zip(written, begun, strict=True):
            await revocations.end(revocation)
        return count

    async def _delete_owned(
        self, owners: list[str], kept: str | None, bound: asyncio.Timeout
    ) -> AsyncGenerator[int]:
        """Delete the sessions of these owners but one, and yield the number on each page."""
        for owner in owners:
            while page := await self.repository.store.delete_owned(owner, keep=kept):
                yield page
                # a driver may lose a cancellation: on Python 3.11 asyncio.wait_for() does
                if asyncio.get_running_loop().time() >= (bound.when() or 0):
                    raise TimeoutError

    @asynccontextmanager
    async def open(self, key: Annotated[str, NOT_A_DEPENDENCY]) -> AsyncGenerator[Session[Model]]:
        """Open a stored session outside of a request, and commit it at the end of the block.

        This does not count as a request of the user, so it does not extend the session. If the
        block raises, nothing is committed. There is no cookie, so ``renew`` raises
        ``SessionClosed``.

        Raises:
            SessionNotFound: no live session has this key.
        """
        repository = self.repository
        loaded = await repository.load(key) if is_key(key) else Absent("missing")
        if isinstance(loaded, Absent):
            raise SessionNotFound(key)
        state = SessionState(repository, repository.settings.now(), loaded, can_set_cookie=False)
        try:
            yield Session(state)
        except BaseException:
            await state.roll_back()
            raise
        await state.close()

    async def check(self) -> None:
        """Write, read and delete a probe, for a readiness check.

        Raises:
            StoreUnavailable: the store does not work, so requests would fail; see ``reason``.
        """
        settings, store = self.repository.settings, self.repository.store
        key = store_key("probe", settings.name, secrets.token_bytes(16))
        # the session of an owner, so that the index of one is written too
        record = Record(b"", new_version(), key, settings.clock() + timedelta(minutes=1))
        await store.create(key, record)
        await store.load(key)
        await store.delete(key)


def stored_session(stored: SessionRecord, data: Model, lifetime: Lifetime) -> StoredSession[Model]:
    """Return what is shown of a session."""
    header = stored.header
    signed_in = header.authenticated_at if header.subject is not None else None
    return StoredSession(
        key=stored.key,
        data=data,
        subject=header.subject,
        created_at=from_microseconds(header.created_at),
        authenticated_at=None if signed_in is None else from_microseconds(signed_in),
        seen_at=from_microseconds(header.seen_at),
        expires_at=from_microseconds(header.expires_at(lifetime)),
    )


def _began_at(session: StoredSession[Any]) -> datetime:
    return session.authenticated_at or session.created_at
