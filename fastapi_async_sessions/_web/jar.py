"""The sessions of a request, and the headers that they add to its response."""

import time
from collections.abc import Awaitable, Iterable
from typing import Any, NamedTuple

from starlette.types import Message, Scope, Send

from .._core.admin import StoredSession
from .._core.session import Session
from .._core.state import CookieAction, SessionState
from ..errors import ConfigurationError
from .cookies import Cookie
from .dropped import warn_of_lost_cookies
from .headers import RawHeader, mark_as_personal, set_cookie
from .verifier import CookieVerifier

SCOPE_KEY = "fastapi_async_sessions.jar"


class Entry(NamedTuple):
    """A session with its cookie."""

    session: Session[Any]
    state: SessionState[Any]
    cookie: Cookie
    verifier: CookieVerifier

    def set_cookie(self) -> bytes | None:
        """Return the ``Set-Cookie`` value for the response; None if the cookie stays as it is."""
        state = self.state
        if state.cookie_action is CookieAction.REMOVE:
            return self.cookie.remove()
        if state.cookie_action is CookieAction.SEND and state.token and state.stored:
            return self.cookie.set(self.verifier.sign(state.token), state.cookie_age)
        return None


class Jar:
    """The sessions of a request, one per provider, kept in the ASGI scope.

    Attributes:
        entries: The sessions, in the order in which the request got them.
        peeked: The stored sessions that were only read.
        has_closer: Whether the route will close it; otherwise the middleware does.
        is_closed: Whether the sessions were committed or rolled back.
    """

    __slots__ = ("_began", "entries", "has_closer", "is_closed", "peeked")

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.entries: dict[object, Entry] = {}
        self.peeked: dict[object, StoredSession[Any] | None] = {}
        self.has_closer = False
        self.is_closed = False

    def began_at(self, now: int) -> int:
        """Return when the request began, which may be long before it needed a session.

        Both times are microseconds since 1970; the difference is measured with a monotonic clock.
        """
        return now - int(1_000_000 * (time.monotonic() - self._began))

    def put(self, provider: object, entry: Entry) -> Entry:
        """Keep a session for the rest of the request, and return the provider's first one."""
        for other in self.entries.values():
            if other.cookie is not entry.cookie and other.cookie.name == entry.cookie.name:
                raise shared_cookie(entry.cookie)
        if self.is_closed:
            entry.state.data.seal()  # an exception handler can read it, but it is not committed
        return self.entries.setdefault(provider, entry)

    async def close(self) -> None:
        """Commit the sessions in the order in which the request got them, unless it is closed."""
        if self.is_closed:
            return
        self.is_closed = True
        try:
            for entry in self.entries.values():
                await entry.state.close()
        except BaseException:
            await self._roll_back()
            raise

    async def roll_back(self) -> None:
        """Commit nothing, unless it is closed; destroyed sessions are still deleted."""
        if self.is_closed:
            return
        self.is_closed = True
        await self._roll_back()

    async def _roll_back(self) -> None:
        failure: BaseException | None = None
        for entry in self.entries.values():
            try:
                await entry.state.roll_back()
            except BaseException as error:  # even after a cancellation the others are rolled back
                failure = error
        if failure is not None:
            raise failure

    def report_late_changes(self) -> None:
        """Log an error for each session whose data was changed too late."""
        for entry in self.entries.values():
            entry.state.report_late_change()

    def sending(self, scope: Scope, send: Send) -> Send:
        """Return a ``send`` that adds the headers of the sessions to the response."""

        def send_with_headers(message: Message) -> Awaitable[None]:
            if (self.entries or self.peeked) and message["type"] == "http.response.start":
                headers = self.add_headers(message.get("headers", ()))
                message = {**message, "headers": headers}
                warn_of_lost_cookies(scope, headers)
            return send(message)

        return send_with_headers

    def add_headers(self, headers: Iterable[RawHeader]) -> list[RawHeader]:
        """Return a response's headers with those of the sessions added."""
        users = [entry.state.subject for entry in self.entries.values()]
        users += [session.subject for session in self.peeked.values() if session is not None]
        added = mark_as_personal(headers, is_signed_in=users.count(None) < len(users))
        for entry in self.entries.values():
            value = entry.set_cookie()
            if value is not None:
                added = set_cookie(added, entry.cookie, value)
        return added


def shared_cookie(cookie: Cookie) -> ConfigurationError:
    """Make the error for two providers with one cookie; if they share a store, it finds out."""
    return ConfigurationError(
        f"two providers use the cookie {cookie.name} and would overwrite each other's: give one of "
        'them another name, as in SessionProvider(..., name="staff")'
    )


def shared_with_starlette(cookie: Cookie) -> ConfigurationError:
    """Make the error for a ``SessionMiddleware`` of Starlette with the provider's cookie."""
    return ConfigurationError(
        f"Starlette's SessionMiddleware uses the cookie {cookie.name} as well, and each would end "
        'the sessions of the other: write SessionMiddleware(..., session_cookie="starlette")'
    )
