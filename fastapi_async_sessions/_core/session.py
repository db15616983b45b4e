"""The session object that a route works with."""

from collections.abc import Awaitable
from datetime import datetime
from types import EllipsisType
from typing import TYPE_CHECKING, Annotated, Any, Generic, NoReturn

from ..errors import SessionClosed
from ..lifetime import Lifetime
from ..records import from_microseconds
from .models import Model
from .not_a_parameter import NEEDS_DEPENDS
from .not_the_data import NotTheData
from .repository import is_subject
from .state import SessionState


class Session(NotTheData, Generic[Model]):
    """A visitor's session during one request.

    Change ``data`` in any way, including nested values in place: all changes are stored when the
    route returns, before the response is sent. If the route raises, nothing is stored.
    """

    __slots__ = ("_state",)
    _state: SessionState[Model]

    def __init__(self, state: Annotated[SessionState[Model], NEEDS_DEPENDS]) -> None:
        object.__setattr__(self, "_state", state)  # without the checks of NotTheData

    @property
    def data(self) -> Model:
        """Your model. Once the route has returned, it can only be read: a change is lost."""
        return self._state.data.read()

    @data.setter
    def data(self, data: Model) -> None:
        self._open("assign data").assign(data)

    @property
    def subject(self) -> str | None:
        """The signed-in user, or None."""
        return self._state.subject

    @property
    def key(self) -> str | None:
        """A public identifier for lists of devices, not a secret; None until it is stored."""
        stored = self._state.stored
        return None if stored is None else stored.key

    @property
    def is_new(self) -> bool:
        """Whether this request began without a live session, or has destroyed it."""
        return self._state.is_new

    @property
    def is_detached(self) -> bool:
        """Whether the browser may hold a better cookie, so that the changes of this request are not
        stored: see "Late requests" in the guide, examples/README.md."""
        return self._state.is_detached

    @property
    def created_at(self) -> datetime:
        """When the session was first stored, or a new one's request began; in UTC."""
        return from_microseconds(self._state.header.created_at)

    @property
    def authenticated_at(self) -> datetime | None:
        """When the subject last signed in, in UTC; None without a sign-in."""
        state = self._state
        authenticated_at = None if state.subject is None else state.header.authenticated_at
        return None if authenticated_at is None else from_microseconds(authenticated_at)

    @property
    def expires_at(self) -> datetime:
        """When the session expires unless it is used again, in UTC."""
        return from_microseconds(self._state.expires_at)

    def renew(
        self,
        subject: str | EllipsisType | None = ...,
        *,
        lifetime: Lifetime | None = None,
        persistent: bool | None = None,
    ) -> None:
        """Give the session a new token at the commit, which invalidates the old one.

        Call it at every sign-in and every change of privilege: this prevents session fixation
        (OWASP Session Management Cheat Sheet, "Renew the Session ID After Any Privilege Level
        Change"). With a subject it signs that user in; with ``None`` it signs the user out and
        keeps the data. If the request does not have the browser's latest session (it is
        detached, or that session ends during the request), a sign-out removes the cookie, like
        ``destroy``.

        Args:
            subject: The user who has just been authenticated, 1 to 255 characters.
            lifetime: This sign-in's own lifetime, such as a longer one for "remember me".
            persistent: Whether the cookie survives closing the browser; by default it is as
                configured in the provider's ``CookieConfig``.

        Raises:
            SessionClosed: the request is over, or no cookie can be set (websockets, ``open``).
            TypeError: the subject, the lifetime or ``persistent`` is of another type.
            ValueError: the subject is too long or empty, or an option came without a sign-in.
        """
        state = self._open("renew")
        if not state.can_set_cookie:
            raise SessionClosed(
                "renew() needs a cookie, which only an HTTP response can set: "
                "sign in and out in an HTTP route"
            )
        _check_subject(subject)
        if not isinstance(lifetime, Lifetime | None):
            raise TypeError("lifetime=... takes a Lifetime: Lifetime(idle=..., absolute=...)")
        if not isinstance(persistent, bool | None):
            raise TypeError("persistent=... takes True or False")
        if not isinstance(subject, str) and (lifetime is not None or persistent is not None):
            raise ValueError("lifetime= and persistent= need a sign-in: write renew(subject=...)")
        if subject is ...:
            state.renew()
        elif subject is None:
            state.sign_out()
        else:
            state.sign_in(subject, lifetime, persistent)

    def destroy(self) -> Awaitable[None]:
        """End the session: ``await`` this to delete it now, or the end of the route deletes it.

        It is deleted even if the route raises. Afterwards this object is a new, empty session.

        Raises:
            SessionClosed: the request is over.
            StoreUnavailable: the store could not delete it (raised when this is awaited).
        """
        return self._open("destroy").destroy()

    async def commit(self) -> None:
        """Store the changes now, before the route returns.

        ``data`` stays the same object, unless the route assigned it and another request wrote too.

        Raises:
            SessionClosed: the request is over.
            SessionConflict, SessionInvalid, SessionTooLarge, StoreUnavailable: as when the route
                returns.
        """
        await self._open("commit").commit()

    async def reload(self) -> bool:
        """Load the session again and discard uncommitted changes; False if it has ended.

        Raises:
            SessionClosed: the request is over.
            StoreUnavailable: the store could not load it.
        """
        return await self._open("reload").reload()

    def _open(self, action: str) -> SessionState[Model]:
        if self._state.data.is_closed:
            raise SessionClosed(
                f"cannot {action}: the session was committed when the route returned. "
                "Do it before, or use get_session.open(key) in a stream or background task."
            )
        return self._state

    __get_pydantic_core_schema__ = NEEDS_DEPENDS.__get_pydantic_core_schema__

    def __repr__(self) -> str:
        # a cache that keys by the representation of arguments keeps users apart
        return f"<Session of {self._state.provider!r}, key {self.key!r}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a session cannot be pickled or copied: it belongs to one request")


class SignedInSession(Session[Model]):
    """A session with a user, for annotations: behind ``signed_in()`` the subject is a ``str``.

        session: SignedInSession[UserData] = Depends(get_session.signed_in())

    The object itself is a ``Session``.
    """

    __slots__ = ()

    if TYPE_CHECKING:

        @property
        def subject(self) -> str:
            """The signed-in user."""
            ...


def state_of(session: Session[Any]) -> SessionState[Any]:
    """Return the state of a session, for the rest of this package."""
    return session._state  # pyright: ignore[reportPrivateUsage]  # users see no state


def _check_subject(subject: str | EllipsisType | None) -> None:
    if subject is not ... and subject is not None and not is_subject(subject):
        raise ValueError("a subject has 1 to 255 characters, and no NUL or lone surrogate")
