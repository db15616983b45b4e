"""The sessions of a provider outside of a request: list, revoke, change."""

import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import EllipsisType
from typing import Any, Generic

from ..errors import SessionNotFound
from ..records import Record, new_version
from .codec import Model
from .session import Session, visit_of
from .tokens import is_key, store_key
from .vault import Vault
from .visit import Visit


@dataclass(frozen=True, slots=True)
class StoredSession(Generic[Model]):
    """One line of a list of devices.

    Attributes:
        key: For ``revoke`` and ``open``; safe to show, and no cookie.
        data: Your model.
        subject: Who is signed in.
        created_at, authenticated_at, seen_at, expires_at: Aware, UTC; ``seen_at`` is the last
            extension, at most a tenth of the idle time behind the last request.
    """

    key: str
    data: Model = field(repr=False)
    subject: str | None
    created_at: datetime
    authenticated_at: datetime | None
    seen_at: datetime
    expires_at: datetime


class SessionAdmin(Generic[Model]):
    """What a provider can do with stored sessions. All of it may raise ``StoreUnavailable``."""

    def __init__(self, vault: Vault[Model]) -> None:
        self.vault = vault

    async def sessions(self, subject: str | None) -> list[StoredSession[Model]]:
        """The live sessions of a subject, the latest sign-in first; of nobody (None): none."""
        vault = self.vault
        if not vault.is_subject(subject):
            return []
        found = await vault.ask(vault.store.find(vault.owner(subject)))
        stored = [vault.read(key, record) for key, record in found]
        listed = [
            StoredSession(
                each.key,
                each.data,
                subject,
                each.facts.created_at,
                each.facts.authenticated_at,
                each.facts.seen_at,
                each.facts.expires_at(vault.lifetime),
            )
            for each in stored
            if each is not None
        ]
        return sorted(listed, key=_began_at, reverse=True)

    async def revoke(self, key: str, subject: str | EllipsisType | None = ...) -> bool:
        """End the session with this key; False: there is none.

        Give the ``subject`` where the key comes from a user's form: a session of somebody else is
        then left alone, and the answer is False. With None, as ``session.subject`` is while nobody
        is signed in, no session is anybody's.
        """
        vault = self.vault
        if not is_key(key):
            return False
        if subject is not ...:
            if not vault.is_subject(subject):
                return False
            record = await vault.ask(vault.store.load(key), key)
            if record is None or record.subject != vault.owner(subject):
                return False
        if not await vault.ask(vault.store.delete(key), key):
            return False
        vault.events.tell("revoked", key)
        return True

    async def revoke_all(self, subject: str | None, *, keep: Session[Any] | None = None) -> int:
        """End all sessions of a subject but ``keep``, and say how many; of nobody (None): 0.

        Sign-ins of that subject that are under way at this moment end as well, with a
        ``SessionConflict``: call it after the password has changed. Which ones these are is told by
        the clock; a test that holds it still must move it before the next sign-in.
        """
        vault = self.vault
        if not vault.is_subject(subject):
            return 0
        if keep is None:
            await vault.mark_revoked(subject)
        else:
            visit = visit_of(keep)
            visit.exempt_mark = await vault.mark_revoked(subject, visit.began_at)
        keys = [key for key, _ in await vault.ask(vault.store.find(vault.owner(subject)))]
        revoked = [await self.revoke(key) for key in keys if keep is None or key != keep.key]
        return sum(revoked)

    @asynccontextmanager
    async def open(self, key: str) -> AsyncGenerator[Session[Model]]:
        """A stored session to read and change outside of a request; committed at the end.

        It is no visit of its user: the idle time runs on.
        Nothing is committed when the block raises. There is no cookie here, so that ``renew``
        raises ``SessionClosed``.

        Raises:
            SessionNotFound: no live session has this key.
        """
        vault = self.vault
        stored = await vault.load(key) if is_key(key) else None
        if stored is None:
            raise SessionNotFound(key)
        visit = Visit(vault, vault.clock(), stored, can_carry=False)
        try:
            yield Session(visit)
        except BaseException:
            await visit.roll_back()
            raise
        await visit.close()

    async def check(self) -> None:
        """Write and delete a probe, for a readiness check.

        Raises:
            StoreUnavailable: requests would fail; ``reason`` says why.
        """
        vault = self.vault
        key = store_key("probe", vault.name, secrets.token_bytes(16))
        probe = Record(b"", new_version(), None, vault.clock() + timedelta(minutes=1))
        await vault.ask(vault.store.create(key, probe))
        await vault.ask(vault.store.delete(key))


def _began_at(session: StoredSession[Any]) -> datetime:
    return session.authenticated_at or session.created_at
