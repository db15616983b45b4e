"""What FastAPI must not read from a request."""

from typing import NoReturn

from ..errors import ConfigurationError


class NotAParameter:
    """Marks what no request can bring, with the line to write instead.

    FastAPI asks for its schema only where ``Depends`` is missing or was given the wrong object.
    """

    def __init__(self, advice: str) -> None:
        self.advice = advice

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> NoReturn:
        raise ConfigurationError(self.advice)


NEEDS_DEPENDS = NotAParameter(
    "a Session comes from the SessionProvider that you made, and FastAPI can neither read nor send "
    "one: write session: Session[UserData] = Depends(get_session), and return session.data"
)
