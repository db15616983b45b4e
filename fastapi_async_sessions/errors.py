"""What can go wrong, as one tree.

SessionError
├── ConfigurationError   a mistake in the program, raised where it is written
├── SignInRequired       401  ``required`` or ``signed_in()`` found nobody
├── SessionClosed        the session was used after its request
├── SessionNotFound      no live session has this key (``open``)
├── SessionInvalid       500  data that its model refuses
├── SessionConflict      409  another request changed the session too
├── SessionTooLarge      500  more than ``max_bytes``
└── StoreUnavailable     503  the store failed, or did not answer in time

The ones with a status are Starlette ``HTTPException``s as well: FastAPI's default handler answers
with that status, and an application may register its own handler for each. A missing, expired,
forged or malformed cookie is none of these: it is a new session.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from starlette.exceptions import HTTPException

SignInReason = Literal["no_session", "ended", "anonymous", "too_old"]

_SIGN_IN: Mapping[SignInReason, str] = {
    "no_session": "No session.",
    "ended": "Your session has ended. Please sign in again.",
    "anonymous": "Not signed in.",
    "too_old": "Please sign in again.",
}


class SessionError(Exception):
    """The root of this library's errors."""


class ConfigurationError(SessionError):
    """The program is wrong in a way that no request can mend."""


class SignInRequired(SessionError, HTTPException):
    """A route asked for a session or a user, and the request brings none.

    ``reason`` says why: ``"no_session"``; ``"ended"``, the request carried a well-signed cookie
    whose session is gone; ``"anonymous"``, nobody is signed in; ``"too_old"``, the sign-in was
    longer ago than the route allows.
    """

    def __init__(self, reason: SignInReason) -> None:
        self.reason = reason
        HTTPException.__init__(self, 401, _SIGN_IN[reason], {"WWW-Authenticate": "APIKey"})


class SessionClosed(SessionError):
    """The session can no longer do this: its request is over, or no cookie can leave."""


class SessionNotFound(SessionError):
    """No live session has this key."""

    def __init__(self, key: str) -> None:
        super().__init__(f"no live session has the key {key!r}")
        self.key = key


class SessionInvalid(SessionError, HTTPException):
    """The session's data does not fit its model: what was stored, or what the route made of it.

    ``fields`` are dotted paths into the data; the values are never shown.
    """

    def __init__(self, reason: str, fields: Sequence[str] = ()) -> None:
        self.fields = tuple(fields)
        HTTPException.__init__(self, 500, _with_fields(reason, self.fields))


class SessionConflict(SessionError, HTTPException):
    """Another request changed the same session, and the two changes do not go together.

    ``fields`` are dotted paths into the data, empty when no field is to blame.
    """

    def __init__(self, reason: str, fields: Sequence[str] = ()) -> None:
        self.fields = tuple(fields)
        HTTPException.__init__(self, 409, _with_fields(reason, self.fields))


class SessionTooLarge(SessionError, HTTPException):
    """The session takes ``size`` bytes and may take ``limit``; nothing was stored."""

    def __init__(self, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit
        HTTPException.__init__(
            self,
            500,
            f"The session takes {size} bytes and may take {limit}: keep large data elsewhere "
            "and its key in the session, or raise max_bytes.",
        )


class StoreUnavailable(SessionError, HTTPException):
    """The store failed or did not answer in time; whether a write was done is unknown.

    ``reason`` is for operators: what the driver said, without values. ``retry_after`` is in
    seconds and goes out as ``Retry-After``. The driver's own exception is not chained: its text
    and its frames may hold addresses, passwords and records.
    """

    def __init__(self, reason: str, *, retry_after: int = 1) -> None:
        self.reason = reason
        self.retry_after = retry_after
        HTTPException.__init__(
            self,
            503,
            "The session store is unavailable. Please try again.",
            {"Retry-After": str(retry_after)},
        )

    def __str__(self) -> str:
        return f"503: the session store is unavailable: {self.reason}"


def _with_fields(reason: str, fields: tuple[str, ...]) -> str:
    return f"{reason} ({', '.join(fields)})" if fields else reason
