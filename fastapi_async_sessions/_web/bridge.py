"""``request.session``, for packages that keep their own data there."""

from collections.abc import Iterator, MutableMapping
from typing import Any

from starlette.types import Scope

from .._core.session import Session
from ..errors import ConfigurationError

_KEY = "session"  # of Starlette, in the ASGI scope


class RequestSession(MutableMapping[str, Any]):
    """One field of a session's data, whatever object it is at the moment: after ``destroy`` or a
    new ``session.data`` it is that of the new data."""

    def __init__(self, session: Session[Any], field: str) -> None:
        self.session = session
        self._field = field

    @property
    def _values(self) -> dict[str, Any]:
        values: dict[str, Any] = getattr(self.session.data, self._field)
        return values

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._values[key] = value

    def __delitem__(self, key: str) -> None:
        del self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<request.session of {self.session!r}>"


def provide_request_session(scope: Scope, session: Session[Any], field: str) -> None:
    """Let ``request.session`` be a field of this session's data.

    Raises:
        ConfigurationError: it is another one already. Starlette's ``SessionMiddleware`` would write
            the data into its own cookie.
    """
    present: Any = scope.get(_KEY)
    if present is None:
        scope[_KEY] = RequestSession(session, field)
    elif not isinstance(present, RequestSession) or present.session is not session:
        raise ConfigurationError(
            "request.session is already that of a SessionMiddleware or of another provider: remove "
            "the middleware, or write SessionProvider(...) without request_session="
        )
