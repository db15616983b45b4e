"""The commit: what one request changed, against what others have stored meanwhile."""

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Literal, NamedTuple

from ..errors import SessionConflict, SessionInvalid, StoreUnavailable
from ..lifetime import Lifetime
from ..records import includes_write
from .codec import FACTS_SIZE, Facts, Model, read_json, write_json
from .merge import lay_over, merge
from .tokens import Token
from .vault import Stored, Vault


class Renewal(NamedTuple):
    """A new token, and where the subject changes a sign-in, or with None a sign-out."""

    at: datetime
    changes_subject: bool
    subject: str | None
    lifetime: Lifetime | None
    persistent: bool


def next_facts(
    vault: Vault[Model],
    stored: Stored[Model] | None,
    renewal: Renewal | None,
    now: datetime,
    *,
    is_visited: bool = True,
) -> Facts:
    """The facts of a session's next record, but for the hash of its secret.

    Only a visit extends a session: an administrator who opens it does not.
    """
    if stored is None:
        ends_at = vault.lifetime.ends_at(now)
        facts = Facts(b"", now, None, now, ends_at, None, vault.persistent)
    else:
        facts = stored.facts
        if is_visited and (renewal or facts.is_extension_due(vault.lifetime, now)):
            facts = facts._replace(seen_at=max(now, facts.seen_at))
    if renewal is None or renewal.subject is None:
        return facts  # signing out moves no end: the last sign-in still counts for it
    return facts._replace(
        authenticated_at=renewal.at,
        ends_at=(renewal.lifetime or vault.lifetime).ends_at(renewal.at),
        lifetime=renewal.lifetime,
        persistent=renewal.persistent,
    )


class Written(NamedTuple, Generic[Model]):
    """What a commit has left in the store, and the token that opens it.

    ``merged`` is what our data was merged from and over, as dumps; None: there was nobody else.
    """

    stored: Stored[Model]
    token: Token | None
    kind: Literal["created", "renewed", "changed", "extended"]
    merged: tuple[bytes, bytes] | None = None

    def __repr__(self) -> str:
        return f"Written({self.stored!r}, kind={self.kind!r})"


@dataclass(slots=True, repr=False)
class Commit(Generic[Model]):
    """One request's change, ready to be written.

    Attributes:
        data, ours, base: What the request made of the session, its dump, and the dump before.
        token: What the cookie holds; None where there is none (``open``) or none yet.
        subject: Who is signed in afterwards.
        began_at, exempt_mark: Since when a revocation of all sessions counts, and which does not.
        generation: Which life of the visit this is; ``destroy`` begins another.
        is_contended: Whether another request has written meanwhile.
    """

    vault: Vault[Model]
    data: Model
    ours: bytes
    base: bytes
    token: Token | None
    subject: str | None
    renewal: Renewal | None
    began_at: datetime
    exempt_mark: str | None
    generation: int
    is_contended: bool = False

    async def create(self) -> Written[Model]:
        """Store a new session."""
        vault = self.vault
        for _ in range(3):
            token = Token.issue()
            facts = next_facts(vault, None, self.renewal, vault.clock())
            facts = facts._replace(secret_hash=token.secret_hash())
            key = token.key(vault.name)
            record = vault.record(key, facts, self.ours, self.subject)
            if await vault.ask(vault.store.create(key, record), key):
                stored = Stored(key, record, facts, self.data, self.ours, self.ours)
                return await self._accepted(Written(stored, token, "created"))
        raise StoreUnavailable("create() said of three random keys that they exist")

    async def save(self, stored: Stored[Model]) -> Written[Model] | None:
        """Store a change, a renewal or both; None: the session ended or was renewed elsewhere."""
        renewed = self.token.renewed() if self.token and self.renewal else None
        attempt = self._attempt(stored, renewed, self.ours, self._lay_over(stored, self.ours))
        if await self._is_written(attempt, stored):
            return await self._saved(attempt, renewed)
        # from here on commits of this session wait for each other, so that each merges once
        self.is_contended = True
        async with self.vault.queue(stored.key):
            return await self._save_merged(stored, attempt, renewed)

    async def extend(self, stored: Stored[Model]) -> Written[Model] | None:
        """Stamp a session that is used; None: somebody else has written, or ended it."""
        # the data as it was stored: a stamp must not write a migration
        attempt = self._attempt(stored, None, stored.base, stored.record.body[FACTS_SIZE:])
        if not await self._is_written(attempt, stored):
            return None
        return Written(attempt._replace(raw=stored.raw), self.token, "extended")

    async def _save_merged(
        self, stored: Stored[Model], attempt: Stored[Model], renewed: Token | None
    ) -> Written[Model] | None:
        hashes = (stored.facts.secret_hash, attempt.facts.secret_hash)
        for pause in _pauses():
            theirs = await self.vault.load(stored.key, *hashes)
            if theirs is None:
                return None
            if includes_write(theirs.record.version, attempt.record.version):
                # our write was done and its reply lost: nothing is left to add
                return await self._saved(theirs, renewed, (self.ours, theirs.base))
            attempt = self._merged(theirs, renewed)
            if await self._is_written(attempt, theirs):
                return await self._saved(attempt, renewed, (self.base, theirs.base))
            await asyncio.sleep(pause)
        return None

    async def _saved(
        self,
        stored: Stored[Model],
        renewed: Token | None,
        merged: tuple[bytes, bytes] | None = None,
    ) -> Written[Model]:
        kind: Literal["renewed", "changed"] = "renewed" if renewed else "changed"
        return await self._accepted(Written(stored, renewed or self.token, kind, merged))

    async def _accepted(self, written: Written[Model]) -> Written[Model]:
        """A sign-in is done when no revocation of all sessions came after its request began."""
        vault, key = self.vault, written.stored.key
        subject = self.renewal.subject if self.renewal else None
        if subject is None:
            return written
        if not await vault.is_revoked(subject, self.began_at, self.exempt_mark):
            return written
        await vault.ask(vault.store.delete(key), key)
        vault.events.tell("revoked", key)
        raise SessionConflict("All sessions of this user were ended meanwhile: sign in again.")

    async def _is_written(self, attempt: Stored[Model], over: Stored[Model]) -> bool:
        vault = self.vault
        if over.facts.expires_at(vault.lifetime) <= vault.clock():
            return False  # while the route ran; the store may know a later end than we do
        call = vault.store.save(attempt.key, attempt.record, replaces=over.record.version)
        return await vault.ask(call, attempt.key)

    def _attempt(
        self, over: Stored[Model], renewed: Token | None, base: bytes, raw: bytes
    ) -> Stored[Model]:
        vault = self.vault
        is_visited = self.token is not None
        facts = next_facts(vault, over, self.renewal, vault.clock(), is_visited=is_visited)
        if renewed is not None:
            facts = facts._replace(secret_hash=renewed.secret_hash())
        record = vault.record(over.key, facts, raw, self.subject, over.record.version)
        return Stored(over.key, record, facts, self.data, base, raw)

    def _merged(self, theirs: Stored[Model], renewed: Token | None) -> Stored[Model]:
        codec = self.vault.codec
        merged = merge(*map(codec.values, (self.base, self.ours, theirs.base)))
        if merged.conflicts:
            fields = codec.field_names(merged.conflicts)
            self.vault.events.tell("conflict", theirs.key, fields=", ".join(fields))
            if self.vault.on_conflict == "raise":
                raise SessionConflict("Another request changed the same fields.", fields)
        try:
            data = codec.check(write_json(merged.value))
        except SessionInvalid as error:
            raise SessionConflict(
                "Two requests' changes do not fit the model together.", error.fields
            ) from None
        base = codec.dump(data)
        attempt = self._attempt(theirs, renewed, base, self._lay_over(theirs, base))
        return attempt._replace(data=data)

    def _lay_over(self, stored: Stored[Model], ours: bytes) -> bytes:
        """Our data with the stored fields that this release does not know."""
        if stored.raw == stored.base:
            return ours
        codec = self.vault.codec
        base, changed = codec.values(stored.base), codec.values(ours)
        laid = write_json(lay_over(base, changed, read_json(stored.raw)))
        # a validator that turns old fields into new ones may read our change away again
        try:
            is_lost = codec.is_change(ours, codec.dump(codec.check(laid)))
        except SessionInvalid:
            is_lost = True
        return ours if is_lost else laid


def _pauses() -> Iterator[float]:
    """Seconds to wait between tries against other processes: random, so that they part."""
    longest = 0.005
    while True:
        yield random.uniform(0, longest)  # noqa: S311  # no secret
        longest = min(2 * longest, 0.2)
