"""The sessions of one request, and what they lay on its response."""

import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from .._core.session import Session
from .._core.visit import Carry, Visit
from ..errors import ConfigurationError
from .cookies import Cookie
from .verifier import CookieVerifier

Header = tuple[bytes, bytes]

SCOPE_KEY = "fastapi_async_sessions.jar"


class Entry(NamedTuple):
    """A session, and how its cookie is written."""

    session: Session[Any]
    visit: Visit[Any]
    cookie: Cookie
    verifier: CookieVerifier

    def set_cookie(self) -> bytes | None:
        """What the response tells the browser; None: nothing."""
        visit = self.visit
        if visit.carry is Carry.REMOVE:
            return self.cookie.remove()
        if visit.carry is Carry.SEND and visit.token and visit.stored:
            return self.cookie.set(self.verifier.sign(visit.token), self._max_age())
        return None

    def _max_age(self) -> timedelta | None:
        stored, vault = self.visit.stored, self.visit.vault
        if stored is None or not stored.facts.persistent:
            return None
        return stored.facts.expires_at(vault.lifetime) - vault.clock()


class Jar:
    """Lies in the ASGI scope while a request runs; holds one session of each provider."""

    __slots__ = ("_began", "_is_closed", "entries")

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.entries: dict[object, Entry] = {}
        self._is_closed = False

    def began_at(self, now: datetime) -> datetime:
        """When the request began: what ran before the session was asked for counts."""
        return now - timedelta(seconds=time.monotonic() - self._began)

    def get(self, provider: object) -> Session[Any] | None:
        """The session of a provider, when the request has one already."""
        entry = self.entries.get(provider)
        return None if entry is None else entry.session

    def put(self, provider: object, entry: Entry) -> Session[Any]:
        """Keep a session to the end of the request; the first one of a provider stays."""
        for other in self.entries.values():
            if other.cookie is not entry.cookie and other.cookie.name == entry.cookie.name:
                raise one_cookie_for_two(entry.cookie)
        if self._is_closed:
            entry.visit.seal()  # an exception handler may read it; nobody would commit it
        return self.entries.setdefault(provider, entry).session

    async def close(self) -> None:
        """Commit each session, in the order in which they were asked for."""
        self._is_closed = True
        try:
            for entry in self.entries.values():
                await entry.visit.close()
        except BaseException:
            await self.roll_back()
            raise

    async def roll_back(self) -> None:
        """Commit nothing; what was destroyed and not awaited is deleted all the same."""
        self._is_closed = True
        failure: BaseException | None = None
        for entry in self.entries.values():
            try:
                await entry.visit.roll_back()
            except BaseException as error:  # a cancellation too: the others end all the same
                failure = error
        if failure is not None:
            raise failure

    def report_lost_changes(self) -> None:
        """Log an error for each session whose data was changed too late."""
        for entry in self.entries.values():
            entry.visit.report_lost_change()

    def lay_on(self, headers: Iterable[Header]) -> list[Header]:
        """A response's headers with what the sessions add: a new list, for a response object may
        be shared between requests."""
        laid = _varying_by_cookie(headers)
        for entry in self.entries.values():
            set_cookie = entry.set_cookie()
            if set_cookie is not None:
                laid = [header for header in laid if not _is_replaced(header, entry.cookie)]
                laid += [(b"set-cookie", set_cookie), (b"cache-control", b"no-store")]
        return laid


def one_cookie_for_two(cookie: Cookie) -> ConfigurationError:
    """Where they have a store each, ``Store.claim`` does not see it."""
    return ConfigurationError(
        f"two providers use the cookie {cookie.name}, so that each overwrites the other's: give "
        'one of them another name, as in SessionProvider(..., name="staff")'
    )


def _is_replaced(header: Header, cookie: Cookie) -> bool:
    name, value = header[0].lower(), header[1]
    return name == b"cache-control" or (name == b"set-cookie" and cookie.is_set_by(value))


def _varying_by_cookie(headers: Iterable[Header]) -> list[Header]:
    # a cache must not give one visitor's page to another (CVE-2023-30861)
    varies: list[bytes] = []
    others: list[Header] = []
    for header in headers:
        if header[0].lower() == b"vary":
            varies += filter(None, map(bytes.strip, header[1].split(b",")))
        else:
            others.append(header)
    if b"*" not in varies and b"cookie" not in map(bytes.lower, varies):
        varies.append(b"Cookie")
    return [*others, (b"vary", b", ".join(varies))]
