"""The tree of this library's errors.

SessionError
├── ConfigurationError   a mistake in the program, raised as soon as it is made
├── SignInRequired       401  the request has no live session, or no user is signed in
├── SessionClosed        the session was used after its request, or no cookie can be set
├── SessionNotFound      no live session has this key (``open``)
├── SessionInvalid       500  the data does not fit the model
├── SessionConflict      409  another request changed the same session
├── SessionTooLarge      500  the session takes more than ``max_bytes``
└── StoreUnavailable     503  the store failed, or did not respond in time

Those with a status are also Starlette ``HTTPException``s: FastAPI's default handler responds with
that status, and an application can register a handler for each. A missing, expired, forged or
malformed cookie is not an error: the request gets a new session.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from starlette.exceptions import HTTPException

SignInReason = Literal["no_session", "ended", "anonymous", "too_old"]

_SIGN_IN: Mapping[SignInReason, str] = {
    "no_session": "No session.",
    "ended": "Your session has ended. Please sign in again.",
    "anonymous": "Not signed in.",
    "too_old": "Please sign in again.",
}


_GENERAL = "The session could not be used. Please contact the operators of this site."


class SessionError(Exception):
    """The root of this library's errors."""


class ConfigurationError(SessionError):
    """A mistake in the program or its configuration, which every request would meet."""


class SignInRequired(SessionError, HTTPException):
    """The route requires a live session or a recent sign-in, which the request does not have.

    Attributes:
        reason: ``"no_session"``; ``"ended"``: the cookie is well signed, but its session is gone;
            ``"anonymous"``: no user is signed in; ``"too_old"``: the sign-in was longer ago than
            the route allows.
    """

    def __init__(self, reason: SignInReason) -> None:
        if reason not in get_args(SignInReason):
            raise ValueError(f"SignInRequired(reason) takes one of {', '.join(_SIGN_IN)}")
        self.reason = reason
        HTTPException.__init__(self, 401, _SIGN_IN[reason], {"WWW-Authenticate": "APIKey"})


class SessionClosed(SessionError):
    """The session cannot do this: its request is over, or no cookie can be set here."""


class SessionNotFound(SessionError):
    """No live session has this key."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return f"no live session has the key {self.key!r}"


class SessionInvalid(SessionError, HTTPException):
    """The session's data does not fit its model, as it was stored or as the route left it.

    ``fields`` are dotted paths into the data. ``problems`` say more of each, such as
    ``"n: expected int, got str"``; neither includes values. ``reason`` has all of it, for the log:
    a visitor reads a general sentence.
    """

    def __init__(
        self, reason: str, fields: Sequence[str] = (), problems: Sequence[str] = ()
    ) -> None:
        self.fields = tuple(fields)
        self.problems = tuple(problems) or self.fields
        self.reason = _with_fields(reason, self.problems)
        HTTPException.__init__(self, 500, _GENERAL)

    def __str__(self) -> str:
        return f"500: {self.reason}"


class SessionConflict(SessionError, HTTPException):
    """Another request changed the same session, and the two changes cannot be combined.

    ``fields`` are dotted paths into the data; they are empty if no field is the cause.
    """

    def __init__(self, reason: str, fields: Sequence[str] = ()) -> None:
        self.fields = tuple(fields)
        HTTPException.__init__(self, 409, _with_fields(reason, self.fields))


class SessionTooLarge(SessionError, HTTPException):
    """The session takes ``size`` bytes, more than the ``limit``; nothing was stored.

    ``reason`` has the advice, for the log: a visitor reads a general sentence.
    """

    def __init__(self, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit
        self.reason = (
            f"The session takes {size} bytes, and the limit is {limit}: keep large data elsewhere "
            "and its key in the session, or raise max_bytes."
        )
        HTTPException.__init__(self, 500, _GENERAL)

    def __str__(self) -> str:
        return f"500: {self.reason}"


class StoreUnavailable(SessionError, HTTPException):
    """The store failed or did not respond in time; whether a write was done is unknown.

    ``reason`` is for operators and describes the driver's error without any values.
    ``retry_after`` is in seconds and is sent as ``Retry-After``; None sends none, because another
    try could do a write twice. The driver's own exception is not chained, because its text and its
    frames may contain addresses, passwords and records.
    """

    def __init__(self, reason: str, *, retry_after: int | None = 1) -> None:
        self.reason = reason
        self.retry_after = retry_after
        HTTPException.__init__(
            self,
            503,
            "The session store is unavailable. Please try again.",
            None if retry_after is None else {"Retry-After": str(retry_after)},
        )

    def __str__(self) -> str:
        return f"503: the session store is unavailable: {self.reason}"


def _with_fields(reason: str, fields: tuple[str, ...]) -> str:
    return f"{reason} ({', '.join(fields)})" if fields else reason
