"""What a route holds."""

from collections.abc import Awaitable
from datetime import datetime
from types import EllipsisType
from typing import Annotated, Any, Generic, NoReturn, TypeVar

from pydantic import BaseModel

from ..errors import ConfigurationError, SessionClosed
from ..lifetime import Lifetime
from .commit import Renewal
from .visit import Visit

Model = TypeVar("Model", bound=BaseModel)


class NotAParameter:
    """Marks what no request brings. FastAPI reads it only where ``Depends`` is missing or has got
    the wrong thing, and is told the right one."""

    def __init__(self, advice: str) -> None:
        self.advice = advice

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> NoReturn:
        raise ConfigurationError(self.advice)


COMES_BY_DEPENDS = NotAParameter(
    "a Session comes from the SessionProvider that you made, and FastAPI can neither read nor send "
    "one: write session: Session[UserData] = Depends(get_session), and return session.data"
)


class Session(Generic[Model]):
    """One visitor's session, for the time of one request.

    Change ``data`` in any way, nested and in place too: what differs when the route returns is
    stored before the response leaves. When the route raises nothing is.
    """

    __slots__ = ("_visit",)

    def __init__(self, visit: Annotated[Visit[Model], COMES_BY_DEPENDS]) -> None:
        self._visit = visit

    @property
    def data(self) -> Model:
        """Your model. After the response has begun it can still be read; changes are lost."""
        visit = self._visit
        visit.is_shown = True
        if not visit.is_open:
            visit.is_touched = True
        return visit.data

    @data.setter
    def data(self, data: Model) -> None:
        model = self._visit.vault.codec.model
        if not isinstance(data, model):
            raise TypeError(f"session.data takes a {model.__name__}, not a {type(data).__name__}")
        self._open("assign data").assign(data)

    @property
    def subject(self) -> str | None:
        """Who is signed in; None: nobody."""
        return self._visit.subject

    @property
    def key(self) -> str | None:
        """The public handle, for lists of devices; None until stored. It is no cookie."""
        stored = self._visit.stored
        return None if stored is None else stored.key

    @property
    def is_new(self) -> bool:
        """Whether this request began without a live session; only ``destroy`` makes it one."""
        return self._visit.is_new

    @property
    def created_at(self) -> datetime:
        """When the session was first stored (a new one: when the request began), in UTC."""
        return self._visit.facts.created_at

    @property
    def authenticated_at(self) -> datetime | None:
        """When the subject last signed in, in UTC; None: nobody is signed in."""
        visit = self._visit
        return None if visit.subject is None else visit.facts.authenticated_at

    @property
    def expires_at(self) -> datetime:
        """When the session ends if nobody comes back, in UTC."""
        return self._visit.facts.expires_at(self._visit.vault.lifetime)

    def renew(
        self,
        subject: str | EllipsisType | None = ...,
        *,
        lifetime: Lifetime | None = None,
        persistent: bool | None = None,
    ) -> None:
        """Ask for a new token at the commit; the old one is dead from then on.

        Call it at each sign-in and each change of privilege: it is what stops session fixation
        (OWASP Session Management Cheat Sheet, "Renew the Session ID After Any Privilege Level
        Change"). With a subject it signs that user in, with ``None`` it signs the user out but
        keeps the data.

        Args:
            subject: Who has just proven who they are, 1 to 255 characters.
            lifetime: This sign-in's own lifetime, such as a longer one for "remember me".
            persistent: Whether the cookie outlives the browser; None: as the provider's cookies.

        Raises:
            SessionClosed: the request is over, or no cookie can leave (websockets, ``open``).
            TypeError: the subject is no text, or the lifetime no ``Lifetime``.
            ValueError: the subject is too long or empty, or an option came without a sign-in.
        """
        visit = self._open("renew")
        if not visit.can_carry:
            raise SessionClosed(
                "renew() needs a cookie, which only an HTTP response can set: "
                "sign in and out in an HTTP route"
            )
        if not isinstance(subject, str | EllipsisType | None):
            raise TypeError(f"a subject is a str, not {type(subject).__name__}: str(user.id)")
        if isinstance(subject, str) and not visit.vault.is_subject(subject):
            raise ValueError("a subject has 1 to 255 characters, no NUL or lone surrogate")
        if not isinstance(lifetime, Lifetime | None):
            raise TypeError("lifetime=... takes a Lifetime: Lifetime(idle=..., absolute=...)")
        if not isinstance(subject, str) and (lifetime is not None or persistent is not None):
            raise ValueError("lifetime= and persistent= go with renew(subject=...), a sign-in")
        visit.renew(
            Renewal(
                at=visit.vault.clock(),
                changes_subject=subject is not ...,
                subject=None if subject is ... else subject,
                lifetime=lifetime,
                persistent=visit.vault.persistent if persistent is None else persistent,
            )
        )

    def destroy(self) -> Awaitable[None]:
        """End the session: ``await`` it to delete it at once, else it goes when the route ends.

        It goes also when the route raises. Afterwards this object is a fresh new session.

        Raises:
            SessionClosed: the request is over.
            StoreUnavailable: the store could not delete it (when awaited).
        """
        return self._open("destroy").destroy()

    async def commit(self) -> None:
        """Store what has changed now, before the route returns; ``data`` stays the same object.

        Raises:
            SessionClosed: the request is over.
            SessionConflict, SessionInvalid, SessionTooLarge, StoreUnavailable: as at the end.
        """
        await self._open("commit").commit()

    async def reload(self) -> bool:
        """Take the stored data again, dropping what was not committed. False: it has ended.

        Raises:
            SessionClosed: the request is over.
            StoreUnavailable: the store could not tell.
        """
        return await self._open("reload").reload()

    def _open(self, wish: str) -> Visit[Model]:
        if not self._visit.is_open:
            raise SessionClosed(
                f"cannot {wish}: the session was committed when the route returned. "
                "Do it before, or use get_session.open(key) in a stream or background task."
            )
        return self._visit

    __get_pydantic_core_schema__ = COMES_BY_DEPENDS.__get_pydantic_core_schema__

    def __repr__(self) -> str:
        return f"<Session of {self._visit.vault.name!r}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a session cannot be pickled or copied: it belongs to one request")


def visit_of(session: Session[Any]) -> Visit[Any]:
    """The state behind a session, for the rest of this package."""
    return session._visit  # pyright: ignore[reportPrivateUsage]  # keeps Session's shelf clean
