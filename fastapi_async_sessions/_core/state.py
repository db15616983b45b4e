"""The state of a request's session, from the load to the commit."""

import asyncio
import contextlib
from collections.abc import Coroutine, Generator
from datetime import timedelta
from enum import Enum
from typing import Any, Generic

from ..errors import SessionClosed, SessionConflict, SessionTooLarge, StoreUnavailable
from ..events import logger
from ..lifetime import Lifetime
from .commit import Change, Commit, Committed
from .completion import run_to_completion
from .data import SessionData
from .header import Header, Renewal
from .models import Model
from .repository import LoadedSession, Repository, SessionRecord
from .tokens import Token


class CookieAction(Enum):
    """The effect of the response on the browser's cookie."""

    KEEP = "leaves it as it is"
    RESIGN = "sends it signed anew, once the commit has succeeded"
    SEND = "sends the token"
    REMOVE = "removes it"


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
        stored: The stored record; None until the session is stored.
        token: Opens the session; None if there is none yet, or it was opened by its key (``open``).
        data: The data that the route works on.
        is_new: Whether the request began without a live session, or has destroyed it.
        cookie_action: The effect of the response on the cookie.
        exempt_from: The version of a revocation that does not apply to this session.
    """

    __slots__ = (
        "_ended",
        "_lock",
        "_renewal",
        "_repository",
        "began_at",
        "can_set_cookie",
        "cookie_action",
        "data",
        "exempt_from",
        "is_new",
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
        can_set_cookie: bool = True,
    ) -> None:
        self._repository = repository
        self.began_at = began_at
        self.can_set_cookie = can_set_cookie
        self.token = token
        self.cookie_action = CookieAction.KEEP
        self.exempt_from: str | None = None
        self.is_new = loaded is None
        self._ended: list[str] = []  # keys of destroyed sessions that are still to be deleted
        self._renewal: Renewal | None = None
        # two tasks of one websocket may commit at the same time
        self._lock = asyncio.Lock()
        self._take(loaded)

    def _take(self, loaded: LoadedSession[Model] | None) -> None:
        codec = self._repository.codec
        self.stored: SessionRecord | None = None if loaded is None else loaded.stored
        if loaded is None:
            new = codec.new()
            self.data = SessionData(codec, new, codec.dump(new))
        else:
            self.data = SessionData(codec, loaded.data, loaded.base, loaded.unread)

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
        return None if self.stored is None else self._repository.subject(self.stored.record)

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
    def cookie_age(self) -> timedelta | None:
        """How long the browser keeps the cookie; None if it keeps it until it is closed."""
        if self.stored is None or not self.stored.header.persistent:
            return None
        settings = self._repository.settings
        rest = self.stored.header.expires_at(settings.lifetime) - settings.now()
        return timedelta(microseconds=rest)

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
        """Bind the session to a subject at the commit, with a new token."""
        settings = self._repository.settings
        persistent = settings.persistent if persistent is None else persistent
        self._renewal = Renewal(settings.now(), True, subject, lifetime, persistent)

    def sign_out(self) -> None:
        """Sign the user out at the commit, with a new token."""
        self._renewal = Renewal(self._repository.settings.now(), changes_subject=True)

    def destroy(self) -> "Deletion":
        """End the session; it is deleted when the result is awaited or the request ends."""
        if self.stored is not None:
            self._ended.append(self.stored.key)
        self._renewal = None
        self._withhold_resigned_cookie()
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
            stored, data = self.stored, self.data
            if stored is None:
                self._take(None)
                return False
            loaded = await self._repository.load(stored.key, stored.header.secret_hash)
            if loaded is None or data is not self.data:
                return False
            self._take(loaded)
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
            ours, now, stored = self.data.dump(), self._repository.settings.now(), self.stored
            match self._due(ours, now):
                case _Due.CREATE:
                    await self._create(self._change(ours, now))
                case _Due.SAVE if stored:
                    await self._save(self._change(ours, now), stored)
                case _Due.EXTEND if stored:
                    await self._extend(self._change(ours, now), stored)
                case _:
                    pass
            if self.cookie_action is CookieAction.RESIGN:
                self.cookie_action = CookieAction.SEND

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
            subject=self.subject,
            began_at=self.began_at,
            decided_at=now,
            exempt_from=self.exempt_from,
        )

    def _due(self, ours: bytes, now: int) -> _Due:
        is_changed = self.data.is_change(ours)
        if self.stored is None:
            return _Due.CREATE if is_changed or self.subject is not None else _Due.NOTHING
        if is_changed or self._renewal is not None:
            return _Due.SAVE
        # a session that was opened by its key is not being used by its visitor
        is_used, lifetime = self.token is not None, self._repository.settings.lifetime
        if is_used and self.stored.header.is_extension_due(lifetime, now):
            return _Due.EXTEND
        return _Due.NOTHING

    async def _create(self, change: Change) -> None:
        if not self.can_set_cookie:
            raise SessionClosed(
                "a new session needs a cookie, which only an HTTP response can set: "
                "begin the session in an HTTP route"
            )
        commit, data = Commit(self._repository, change), self.data

        async def write() -> None:
            self._accept(await commit.create(), change, data)

        await self._complete(write(), commit)

    async def _save(self, change: Change, stored: SessionRecord) -> None:
        commit, data = Commit(self._repository, change), self.data

        async def write() -> None:
            committed = await commit.save(stored)
            if committed is None and data is self.data:
                self._note_end(change, stored)
                # a change is dropped with the session; a sign-in begins a new one
                if change.renewal and change.renewal.is_sign_in:
                    committed = await commit.create()
            if committed is not None:
                self._accept(committed, change, data)

        await self._complete(write(), commit)

    async def _extend(self, change: Change, stored: SessionRecord) -> None:
        commit, data = Commit(self._repository, change), self.data

        async def write() -> None:
            committed = await commit.extend(stored)
            if committed is not None:
                self._accept(committed, change, data)
            else:
                self._withhold_resigned_cookie()  # the session may have ended

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
        was_seen_at = self.stored.header.seen_at if self.stored else None
        if committed.merged is not None:
            data.accept_merge(committed.merged, change.ours)
        data.accept(committed.base)
        self.stored, self.token = stored, committed.token
        if self._renewal is change.renewal:
            self._renewal = None
        if committed.kind != "changed":
            self._repository.events.emit(committed.kind, stored.key)
        is_prolonged = stored.header.persistent and stored.header.seen_at != was_seen_at
        if committed.kind in ("created", "renewed") or is_prolonged:
            self.cookie_action = CookieAction.SEND

    def _note_end(self, change: Change, stored: SessionRecord) -> None:
        """Drop a change, because another request ended or renewed the session; keep the cookie."""
        self._repository.events.emit("ended_elsewhere", stored.key)
        self.cookie_action = CookieAction.KEEP
        self.data.base = change.ours

    def _withhold_resigned_cookie(self) -> None:
        if self.cookie_action is CookieAction.RESIGN:
            self.cookie_action = CookieAction.KEEP

    async def _delete_ended(self) -> None:
        while self._ended:
            await self._complete(self._delete(self._ended[0]))
            self.cookie_action = CookieAction.REMOVE
            self._ended.pop(0)

    async def _delete(self, key: str) -> None:
        if await self._repository.store.delete(key):
            self._repository.events.emit("destroyed", key)

    async def _complete(
        self, work: Coroutine[Any, Any, None], commit: Commit[Model] | None = None
    ) -> None:
        limit = self._repository.settings.commit_timeout
        try:
            return await run_to_completion(work, limit)
        except TimeoutError:
            reason = f"the commit did not complete within {limit.total_seconds():g} seconds"
        if commit is not None and commit.is_contended:
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
