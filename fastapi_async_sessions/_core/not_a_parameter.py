"""Errors for parameters that FastAPI must not read from a request."""

from typing import NoReturn

from ..errors import ConfigurationError


class NotAParameter:
    """Annotates a parameter that cannot come from a request, with the line to write instead.

    FastAPI needs the parameter's schema only if ``Depends`` is missing or has the wrong argument;
    making the schema raises ``ConfigurationError``.
    """

    def __init__(self, advice: str) -> None:
        self.advice = advice

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> NoReturn:
        raise ConfigurationError(self.advice)


NOT_A_DEPENDENCY = NotAParameter(
    "open and peek are no dependencies: write async with get_session.open(key) as session, or "
    "await get_session.peek(request), in the route"
)

NEEDS_DEPENDS = NotAParameter(
    "FastAPI cannot read a Session from a request or send one in a response; it comes from your "
    "SessionProvider: write session: Session[UserData] = Depends(get_session), and return "
    "session.data"
)
