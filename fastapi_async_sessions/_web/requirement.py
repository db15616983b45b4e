"""The dependency that refuses a request without a session, or without a user."""

from collections.abc import Callable, Coroutine
from inspect import Parameter, Signature
from typing import Any, Generic, Self, TypeVar, overload

from fastapi import Depends
from fastapi.openapi.models import APIKey
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from .._core.not_a_parameter import NEEDS_DEPENDS
from .._core.session import Session
from ..errors import SignInReason, SignInRequired

Required = TypeVar("Required", bound=Session[Any])


class Requirement(SecurityBase, Generic[Required]):
    """A dependency on a session that responds with 401 if the session is refused.

    FastAPI shows it as a lock in OpenAPI. Calling it without a session returns it unchanged, so
    that ``Depends(get_session.required())`` works as well.
    """

    def __init__(
        self,
        provider: Callable[..., Any],
        refusal: Callable[[Session[Any]], SignInReason | None],
        *,
        name: str,
        cookie: str,
    ) -> None:
        self.provider = provider
        self._refusal = refusal
        # FastAPI reads these for the security scheme
        self.model = APIKey.model_validate({"in": "cookie", "name": cookie})
        self.scheme_name = name
        # and these two for the dependency: its parameters, and that it is async
        session = Parameter("session", Parameter.KEYWORD_ONLY, default=Depends(provider))
        self.__signature__ = Signature([session])
        vars(self)["__call__"] = self._check

    @overload
    def __call__(self) -> Self: ...

    @overload
    def __call__(self, session: Session[Any]) -> Coroutine[Any, Any, Required]: ...

    def __call__(self, session: Session[Any] | None = None) -> Any:
        """Return the session if it meets the requirement.

        Raises:
            SignInRequired: it does not.
        """
        return self if session is None else self._check(session)

    async def get(self, connection: HTTPConnection) -> Required:
        """Return the session of a request if it meets the requirement.

        Raises:
            SignInRequired: it does not.
        """
        checked: Required = await self._check(await self.provider(connection))
        return checked

    __get_pydantic_core_schema__ = NEEDS_DEPENDS.__get_pydantic_core_schema__

    async def _check(self, session: Any) -> Any:
        reason = self._refusal(session)
        if reason is not None:
            raise SignInRequired(reason)
        return session
