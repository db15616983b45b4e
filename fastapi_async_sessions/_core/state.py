"""The state of a request's session, from the load to the commit."""

import asyncio
import contextlib
from collections.abc import Coroutine, Generator
from datetime import timedelta
from enum import Enum
from typing import Any, Generic, NamedTuple

from ..errors import (
    SessionClosed,
    SessionConflict,
    SessionInvalid,
    SessionTooLarge,
    StoreUnavailable,
)
from ..events import logger
from ..lifetime import Lifetime
from .attempts import Attempts
from .commit import Change, Commit, Committed
from .completion import run_to_completion
from .data import SessionData
from .header import Header, Renewal
from .models import Model
from .repository import Absent, LoadedSession, Repository, SessionRecord
from .tokens import Token


class CookieAction(Enum):
    """The effect of the response on the browser's cookie."""

    KEEP = "leaves it as it is"
    RESIGN = "re-signs it with the next write, which confirms that its token is still good"
    SEND = "sends the token"
    REMOVE = "removes it"


class RequestCookie(NamedTuple):
    """A request's cookie that opened no session.

    Attributes:
        is_present: Whether there was one, so that ``destroy`` has a cookie to remove.
        has_ended: Whether it was well signed and its session is gone.
        is_detached: Whether the browser may hold a better cookie by now, which this request must
            not replace.
        outdated_key: The key of the session that an outdated token belongs to.
    """

    is_present: bool = False
    has_ended: bool = False
    is_detached: bool = False
    outdated_key: str | None = None


class _Due(Enum):
    """The write that a commit has to do."""

    NOTHING = "the session has not changed"
    CREATE = "it is new, and its data has changed or a user signs in"
    SAVE = "its data has changed, or it is renewed"
    EXTEND = "it was used, and an extension is due"


class SessionState(Generic[Model]):
    """The state behind a ``Session``.

    Attributes:
        began_at: When the request began, in microseconds since 1970.
        can_set_cookie: Whether this is an HTTP request.
        place: The path of the route, for the log.
        stored: The stored record; None until the session is stored.
        token: Opens the session; None if there is none yet, or it was opened by its key (``open``).
        data: The data that the route works on.
        is_new: Whether the request began without a live session, or has destroyed it.
        request_cookie: The request's cookie, if it opened no session.
        cookie_action: What the jar does for the cookie.
        exempt_from: The version of the revocation that this session survives.
    """

    __slots__ = (
        "_attempts",
        "_ended",
        "_lock",
        "_renewal",
        "_replaced",
        "_repository",
        "began_at",
        "can_set_cookie",
        "cookie_action",
        "data",
        "exempt_from",
        "is_new",
        "place",
        "request_cookie",
        "stored",
        "token",
    )

    def __init__(
        self,
        repository: Repository[Model],
        began_at: int,
        loaded: LoadedSession[Model] | None = None,
        token: Token | None = None,
        *,
        request_cookie: RequestCookie = RequestCookie(),  # noqa: B008  # immutable
        can_set_cookie: bool = True,
    ) -> None:
        self._repository = repository
        self.began_at = began_at
        self.can_set_cookie = can_set_cookie
        self.place: str | None = None
        self.token = token
        self.request_cookie = request_cookie
        self.cookie_action = CookieAction.KEEP
        self.exempt_from: str | None = None
        self.is_new = loaded is None
        self._ended: list[str] = []  # keys that destroy() has left to delete
        self._replaced: str | None = None  # the key of another user's session, to end at the commit
        self._renewal: Renewal | None = None
        # two tasks of one websocket may commit at the same time
        self._lock = asyncio.Lock()
        self._take(loaded)
        self._attempts = Attempts(self._version, began_at)

    @property
    def _version(self) -> str:
        return "" if self.stored is None else self.stored.record.version

    def _take(self, loaded: LoadedSession[Model] | None) -> None:
        self.stored: SessionRecord | None = None if loaded is None else loaded.stored
        contents = self._repository.new_contents if loaded is None else loaded.contents
        self.data = SessionData(self._repository.codec, contents)
        if loaded is not None and loaded.is_read:
            self.data.begin()

    # read by the route

    @property
    def provider(self) -> str:
        """The provider's name."""
        return self._repository.settings.name

    @property
    def subject(self) -> str | None:
        """The signed-in user, after a sign-in or sign-out by this request."""
        if self._renewal is not None and self._renewal.changes_subject:
            return self._renewal.subject
        return None if self.stored is None else self.stored.header.subject

    @property
    def header(self) -> Header:
        """The header that a commit would write now, apart from an extension."""
        settings = self._repository.settings
        if self.stored is None:
            header = Header.new(self.began_at, settings.lifetime, persistent=settings.persistent)
        elif self._renewal is None:
            return self.stored.header
        else:
            header = self.stored.header.extended(self.began_at)
        return header.renewed(self._renewal, settings.lifetime) if self._renewal else header

    @property
    def expires_at(self) -> int:
        """When the session expires unless it is used again."""
        return self.header.expires_at(self._repository.settings.lifetime)

    @property
    def is_detached(self) -> bool:
        """Whether what this request changes is not kept."""
        return self.request_cookie.is_detached

    @property
    def cookie_age(self) -> timedelta | None:
        """How long the browser keeps the cookie; None if it keeps it until it is closed."""
        if self.stored is None or not self.stored.header.persistent:
            return None
        # not the idle end, which each extension moves: the record decides about that
        ends_at = self.stored.header.ends_at
        if ends_at is None:
            return timedelta.max
        return timedelta(microseconds=ends_at - self._repository.settings.now())

    # requested by the route

    def assign(self, data: Model) -> None:
        """Replace the data by another object.

        Raises:
            TypeError: it is not of the provider's model.
        """
        model = self._repository.settings.model
        if not isinstance(data, model):
            raise TypeError(f"session.data takes a {model.__name__}, not a {type(data).__name__}")
        self.data.assign(data)

    def renew(self) -> None:
        """Give the session a new token at the commit; a sign-in or sign-out before this stands."""
        if self._renewal is None:
            self._renewal = Renewal(self._repository.settings.now(), changes_subject=False)

    def sign_in(self, subject: str, lifetime: Lifetime | None, persistent: bool | None) -> None:
        """Bind the session to a subject at the commit, with a new token.

        Where another subject was signed in, the data starts afresh and that session ends with the
        commit: its data is not for this user.
        """
        if any(other not in (None, subject) for other in self._subjects()):
            self._replaced = self.stored.key if self.stored else self._replaced
            self._take(None)
        settings = self._repository.settings
        persistent = settings.persistent if persistent is None else persistent
        self._renewal = Renewal(settings.now(), True, subject, lifetime, persistent)

    def _subjects(self) -> tuple[str | None, str | None]:
        """The subjects at the beginning of the request and now."""
        return self.stored.header.subject if self.stored else None, self.subject

    def sign_out(self) -> None:
        """Sign the user out at the commit, with a new token."""
        self._renewal = Renewal(self._repository.settings.now(), changes_subject=True)

    def destroy(self) -> "Deletion":
        """End the session. Awaiting the result, or the end of the request, deletes it."""
        cookie = self.request_cookie
        keys = self.stored.key if self.stored else cookie.outdated_key, self._replaced
        self._ended += filter(None, keys)
        if not self._ended and (cookie.is_present or cookie.is_detached):
            self.cookie_action = CookieAction.REMOVE
        self.request_cookie = RequestCookie(cookie.is_present)
        self._renewal = self._replaced = None
        self.is_new = True
        self._take(None)
        return Deletion(self)

    async def delete_ended(self) -> None:
        """Delete destroyed sessions; after a failure, the end of the request tries again."""
        async with self._lock:
            await self._delete_ended()

    async def reload(self) -> bool:
        """Load the stored data again; False if the session has ended or was never stored."""
        async with self._lock:
            stored, data, now = self.stored, self.data, self._repository.settings.now()
            if stored is None:
                self._take(None)
                return False
            hashes = stored.header.secret_hash, *self._attempts.secret_hashes
            loaded = await self._repository.load(stored.key, *(hashes if self.token else ()))
            if isinstance(loaded, Absent) or data is not self.data:
                return False
            self._take(loaded)
            self._attempts = self._attempts.reloaded(self._version, now)
            return True

    # the end of the request

    async def close(self) -> None:
        """Commit; afterwards the session can only be read."""
        self.data.is_closed = True
        await self.commit()

    async def roll_back(self) -> None:
        """Commit nothing; destroyed sessions are still deleted."""
        self.data.seal()
        await self.delete_ended()

    def report_late_change(self) -> None:
        """Log an error if the data was changed after the commit."""
        if self.data.was_changed_late():
            logger.error(
                "the data of a session (provider %r) was changed after the response had begun: "
                "that change is lost. Change the data before the route returns, or use "
                "get_session.open(key) in a stream or background task.",
                self.provider,
            )

    # the commit

    async def commit(self) -> None:
        """Store what has changed: with at most one write, unless another request wrote as well.

        Raises:
            SessionConflict, SessionInvalid, SessionTooLarge, StoreUnavailable: no cookie is sent.
        """
        async with self._lock:
            if self._ended:
                await self._delete_ended()
            try:
                if self.stored is None and self._renewal is not None:
                    await self._end_better_session(self._renewal)
                await self._commit()
            except (SessionInvalid, SessionTooLarge) as error:
                self._report_refusal(error)
                raise

    async def _commit(self) -> None:
        # of data that was not needed nothing has changed
        ours = self.data.dump() if self.data.has_begun else None
        now, stored = self._repository.settings.now(), self.stored
        due = self._due(ours, now)
        if due is _Due.NOTHING:
            return
        ours = self.data.base if ours is None else ours
        if due is _Due.SAVE and self._is_package_sign_in(ours):
            self.renew()
        match due:
            case _Due.CREATE:
                await self._create(self._change(ours, now))
            case _Due.SAVE if stored:
                await self._save(self._change(ours, now), stored)
            case _Due.EXTEND if stored:
                await self._extend(self._change(ours, now), stored)
            case _:
                pass

    async def _end_better_session(self, renewal: Renewal) -> None:
        """After a sign-out without a session to unbind, sign the browser out of the one that it may
        hold: like ``destroy``, end that session as far as it is known, and remove the cookie."""
        cookie = self.request_cookie
        is_better = cookie.outdated_key is not None or cookie.is_detached
        if not (renewal.is_sign_out and is_better):
            return
        self._ended += filter(None, [cookie.outdated_key])
        await self._delete_ended()
        self.cookie_action = CookieAction.REMOVE
        self.request_cookie = RequestCookie(is_present=True)

    def _report_refusal(self, error: SessionInvalid | SessionTooLarge) -> None:
        key = None if self.stored is None else self.stored.key
        facts = {"error": type(error).__name__, "reason": error.reason}
        if self.place is not None:
            facts["route"] = self.place
        self._repository.events.emit("refused", key, **facts)

    def _is_package_sign_in(self, ours: bytes) -> bool:
        """Whether a package may have signed a user in: it writes a key, and does not renew."""
        field = self._repository.settings.request_session
        return field is not None and self.can_set_cookie and self.data.adds_key(field, ours)

    async def create(self) -> None:
        """Store a new session, even if its data has not changed."""
        await self._create(self._change(self.data.dump(), self._repository.settings.now()))

    def _change(self, ours: bytes, now: int) -> Change:
        return Change(
            base=self.data.base,
            ours=ours,
            unread=self.data.unread,
            token=self.token,
            renewal=self._renewal,
            began_at=self.began_at,
            decided_at=now,
            exempt_from=self.exempt_from,
        )

    def _due(self, ours: bytes | None, now: int) -> _Due:
        is_changed = ours is not None and self.data.is_change(ours)
        if self.stored is None:
            if self.is_detached and self.subject is None:
                self._refuse_conflict(is_changed)
                return _Due.NOTHING
            # after a sign-out without a new user, the session of the old one ends as well
            is_due = is_changed or self.subject is not None or self._replaced is not None
            return _Due.CREATE if is_due else _Due.NOTHING
        # also if the route has undone a change whose reply was lost, for it may have been stored
        is_undone = ours is not None and self._attempts.may_have_stored_other(ours)
        if is_changed or is_undone or self._renewal is not None:
            return _Due.SAVE
        # a session that was opened by its key is not being used by its visitor
        is_used, lifetime = self.token is not None, self._repository.settings.lifetime
        if is_used and self.stored.header.is_extension_due(lifetime, now):
            return _Due.EXTEND
        return _Due.NOTHING

    def _refuse_conflict(self, is_changed: bool) -> None:
        is_outdated = self.request_cookie.outdated_key is not None
        if is_changed and is_outdated and self._repository.settings.on_conflict == "raise":
            raise SessionConflict("Another request has renewed the session.")

    async def _create(self, change: Change) -> None:
        if not self.can_set_cookie:
            raise SessionClosed(
                "a new session needs a cookie, which only an HTTP response can set: "
                "begin the session in an HTTP route"
            )
        commit, data = Commit(self._repository, change, self._attempts), self.data

        async def write() -> None:
            committed = await commit.create()
            if self._replaced is not None:
                await self._end_replaced(self._replaced, committed.stored.key)
            self._accept(committed, change, data)

        await self._complete(write(), commit)

    async def _end_replaced(self, replaced: str, created: str) -> None:
        """End the session of the user who was signed in before, or undo the sign-in."""
        try:
            await self._end(replaced)
        except StoreUnavailable:
            self._ended.append(created)
            raise
        self._replaced = None

    async def _save(self, change: Change, stored: SessionRecord) -> None:
        commit, data = Commit(self._repository, change, self._attempts), self.data

        async def write() -> None:
            committed = await commit.save(stored)
            if committed is None and data is self.data:
                self._note_end(change, stored)
                # a change is dropped with the session; a sign-in begins a new one
                if change.renewal and change.renewal.is_sign_in:
                    committed = await commit.create()
                elif change.renewal and change.renewal.is_sign_out:
                    self._end_unbound(stored)
            if committed is not None:
                self._accept(committed, change, data)

        await self._complete(write(), commit)
        await self._delete_ended()

    async def _extend(self, change: Change, stored: SessionRecord) -> None:
        commit, data = Commit(self._repository, change, self._attempts), self.data

        async def write() -> None:
            committed = await commit.extend(stored)
            if committed is not None:
                self._accept(committed, change, data)

        # without the extension the session expires a little sooner, but the request goes on
        with contextlib.suppress(SessionConflict, SessionTooLarge, StoreUnavailable):
            await self._complete(write(), commit)

    def _accept(
        self, committed: Committed[Model], change: Change, data: SessionData[Model]
    ) -> None:
        """Update the state to the result of a commit, and decide about the cookie."""
        stored = committed.stored
        if data is not self.data:
            self._ended.append(stored.key)  # another task destroyed it while it was written
            return
        before = self.stored.record.owner if self.stored else None
        if committed.merged is not None:
            data.accept_merge(committed.merged, change.ours)
        data.accept(committed.base)
        self.stored, self.token = stored, committed.token
        self._attempts = Attempts(self._version, change.decided_at)
        if self._renewal is change.renewal:
            self._renewal = None
        self._emit(committed, change, before)
        # the write has just confirmed the token: only now may a response carry it
        if committed.kind in ("created", "renewed") or self.cookie_action is CookieAction.RESIGN:
            self.cookie_action = CookieAction.SEND
            self.request_cookie = RequestCookie(is_present=True)

    def _emit(self, committed: Committed[Model], change: Change, before: str | None) -> None:
        emit, stored = self._repository.events.emit, committed.stored
        if committed.kind != "changed":
            emit(committed.kind, stored.key)
        owner = stored.record.owner
        if owner is not None and change.renewal is not None and change.renewal.is_sign_in:
            emit("signed_in", stored.key, owner=owner)
        elif before is not None and owner is None:
            emit("signed_out", stored.key, owner=before)

    def _note_end(self, change: Change, stored: SessionRecord) -> None:
        """Drop a change, because another request ended or renewed the session; keep the cookie."""
        self._repository.events.emit("ended_elsewhere", stored.key)
        self.cookie_action = CookieAction.KEEP
        self.data.accept(change.ours)
        self._attempts = Attempts(self._version, change.decided_at)

    def _end_unbound(self, stored: SessionRecord) -> None:
        """End a session that a sign-out could not unbind, because it has ended, or is another
        user's by now: the browser is signed out all the same."""
        self._ended.append(stored.key)
        self.stored = self._renewal = None
        self.is_new = True

    async def _delete_ended(self) -> None:
        while self._ended:
            await self._complete(self._end(self._ended[0]))
            if self._replaced is None:  # or else the cookie opens a session that has not ended
                self.cookie_action = CookieAction.REMOVE
            self._ended.pop(0)

    async def _end(self, key: str) -> None:
        """Delete a session, and remember for a few minutes that it was there."""
        store = self._repository.store
        if await store.delete(key):
            self._repository.events.emit("destroyed", key)
        # Also if it was gone: the reply of an earlier try may have been lost. Without the record a
        # request with the old token may replace the browser's newer cookie, and no more.
        with contextlib.suppress(StoreUnavailable):
            await store.create(key, self._repository.ended_record(key))

    async def _complete(
        self, work: Coroutine[Any, Any, None], commit: Commit[Model] | None = None
    ) -> None:
        limit = self._repository.settings.commit_timeout
        try:
            return await run_to_completion(work, limit)
        except TimeoutError:
            reason = f"the commit did not complete within {limit.total_seconds():g} seconds"
        if commit is not None and commit.is_contended and self._attempts.is_settled:
            raise SessionConflict("Too many requests changed the session at the same time.")
        key = self.stored.key if self.stored else None
        self._repository.events.emit("store_error", key, reason=reason)
        raise StoreUnavailable(reason)


class Deletion:
    """Returned by ``destroy``; the session ends whether this is awaited or not."""

    __slots__ = ("_state",)

    def __init__(self, state: SessionState[Any]) -> None:
        self._state = state

    def __await__(self) -> Generator[Any, None, None]:
        return self._state.delete_ended().__await__()
