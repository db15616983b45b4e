"""The dependency: cookie -> verifier -> store -> session -> your route -> commit -> cookie."""

# no postponed annotations here: FastAPI 0.121 does not resolve those of a callable object

from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Annotated, Any, Literal, get_origin
from weakref import WeakValueDictionary

import fastapi.routing
from fastapi import Depends, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.models import APIKey
from fastapi.routing import APIRoute
from fastapi.security.base import SecurityBase
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from .._core.admin import SessionAdmin
from .._core.codec import Codec, Migration, Model
from .._core.session import COMES_BY_DEPENDS, NotAParameter, Session
from .._core.upkeep import Upkeep
from .._core.vault import OnConflict, Vault, is_plain, require
from .._core.visit import Visit
from ..errors import ConfigurationError, SessionError
from ..events import Events, SessionEvent, logger
from ..lifetime import Clock, Lifetime, utc_now
from ..stores.base import Store
from .cookies import Cookie, CookieConfig
from .jar import SCOPE_KEY, Entry, Jar, one_cookie_for_two
from .origin import OriginCheck
from .verifier import CookieVerifier, Rejected, Secret, Verified

# since FastAPI keeps included routers apart this walks them; before, an app listed all its routes
_iter_route_contexts: Callable[[Sequence[Any]], Iterable[Any]] = getattr(
    fastapi.routing, "iter_route_contexts", iter
)

Requirement = Callable[..., Coroutine[Any, Any, Session[Model]]]

# FastAPI would take the parameter from the query and the method for an answer: nobody is asked
_WITH_PARENTHESES = NotAParameter(
    "get_session.signed_in is no dependency, what it returns is one: write "
    "Depends(get_session.signed_in()), with parentheses"
)


class SessionProvider(SessionAdmin[Model], SecurityBase):
    """Gives routes their session: ``session: Session[UserData] = Depends(get_session)``.

    Each provider has a model, a cookie and a namespace in a store of its own. What every argument
    is for stands in the README; each has a default but the model, the store and the secret.

    Args:
        model: A Pydantic model that can be made without arguments.
        store: Where sessions are kept.
        secret_key: At least 32 bytes, or up to five such secrets, newest first: the first signs,
            all verify.
        name: Names the cookie and the namespace; 1 to 64 of ``[A-Za-z0-9_-]``.
        max_bytes: The largest session that is stored, at most 1 MiB.
        store_timeout: How long one call of the store may take.
        commit_timeout: How long a commit with all its calls may take.

    Raises:
        ConfigurationError: anything here is wrong; nothing is left to fail at the first request.
    """

    def __init__(
        self,
        model: type[Model],
        *,
        store: Annotated[Store, COMES_BY_DEPENDS],
        secret_key: Secret | Sequence[Secret],
        name: str = "session",
        cookie: CookieConfig = CookieConfig(),  # noqa: B008  # frozen
        lifetime: Lifetime = Lifetime(),  # noqa: B008  # frozen
        on_conflict: OnConflict = "overwrite",
        on_invalid: Literal["discard", "raise"] | Migration[Model] = "discard",
        max_bytes: int = 65536,
        store_timeout: timedelta = timedelta(seconds=2),
        commit_timeout: timedelta = timedelta(seconds=5),
        trusted_origins: Iterable[str] = (),
        check_origin: bool = True,
        on_event: Callable[[SessionEvent], None] | None = None,
        clock: Clock = utc_now,
    ) -> None:
        require(isinstance(cookie, CookieConfig), "cookie=... takes a CookieConfig")
        require(
            on_event is None or is_plain(on_event), "on_event=... is a plain function, not async"
        )
        super().__init__(
            Vault(
                name=name,
                codec=Codec(model),
                store=store,
                lifetime=lifetime,
                clock=clock,
                events=Events(name, on_event),
                on_invalid=on_invalid,
                on_conflict=on_conflict,
                max_bytes=max_bytes,
                store_timeout=store_timeout,
                commit_timeout=commit_timeout,
                persistent=cookie.persistent,
                queues=WeakValueDictionary(),
            )
        )
        self.cookie = Cookie(name, cookie)
        self.verifier = CookieVerifier(secret_key, audience=(name, self.cookie.name))
        self._origin = OriginCheck(trusted_origins) if check_origin else None
        # what FastAPI reads to put the lock into OpenAPI
        self.model = APIKey.model_validate({"in": "cookie", "name": self.cookie.name})
        self.scheme_name = name
        self.required = self._requirement(lambda session: not session.is_new, "No session.")
        self._signed_in: dict[timedelta | None, Requirement[Model]] = {}
        store.claim(name)

    async def __call__(self, connection: HTTPConnection) -> Session[Model]:
        """The session of this request: the one that its cookie opens, or a new one."""
        jar: Jar | None = connection.scope.get(SCOPE_KEY)
        if jar is None:
            jar = self._websocket_jar(connection)
        session = jar.get(self)
        if session is not None:
            return session
        self._refuse_cross_origin(connection)
        visit = await self._visit(connection, jar)
        return jar.put(self, Entry(Session(visit), visit, self.cookie, self.verifier))

    def signed_in(
        self, within: Annotated[timedelta | None, _WITH_PARENTHESES] = None
    ) -> Requirement[Model]:
        """A dependency that answers 401 unless somebody is signed in, and has signed in
        ``within`` this time (ASVS 7.5.3: sensitive actions ask for the password again)."""
        require(isinstance(within, timedelta | None), "signed_in(within=...) takes a timedelta")

        def is_met(session: Session[Model]) -> bool:
            if session.subject is None or session.authenticated_at is None:
                return False
            return within is None or self.vault.clock() - session.authenticated_at <= within

        detail = "Not signed in." if within is None else "Please sign in again."
        return self._signed_in.setdefault(within, self._requirement(is_met, detail))

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncGenerator[None]:
        """For ``FastAPI(lifespan=get_session.lifespan)``, or inside a lifespan of your own.

        Opens the store, purges expired sessions every few minutes, and closes the store.

        Raises:
            ConfigurationError: a route asks for this session and is no ``SessionRoute``, a
                route depends on ``Session`` itself, or another provider has the same cookie.
        """
        self._check_routes(app)
        async with Upkeep.of(self.vault.store).running():
            yield

    def _requirement(
        self, is_met: Callable[[Session[Model]], bool], detail: str
    ) -> Requirement[Model]:
        async def requirement(session: Session[Model] = Depends(self)) -> Session[Model]:
            if not is_met(session):
                raise HTTPException(401, detail, {"WWW-Authenticate": "APIKey"})
            return session

        return requirement

    async def _visit(self, connection: HTTPConnection, jar: Jar) -> Visit[Model]:
        vault = self.vault
        can_carry = connection.scope["type"] == "http"
        began_at = jar.began_at(vault.clock())
        verified = self._verified(connection)
        if verified is None:
            return Visit(vault, began_at, can_carry=can_carry)
        token = verified.token
        stored = await vault.load(token.key(vault.name), token.secret_hash())
        if stored is None:
            return Visit(vault, began_at, can_carry=can_carry)
        return Visit(
            vault, began_at, stored, token, is_stale=verified.is_stale, can_carry=can_carry
        )

    def _verified(self, connection: HTTPConnection) -> Verified | None:
        candidates = self.cookie.candidates(connection.scope["headers"])
        if candidates == []:
            return None
        verified = Rejected.AMBIGUOUS if candidates is None else self.verifier.verify(candidates)
        if isinstance(verified, Rejected):
            self.vault.events.tell(verified.value)
            return None
        return verified

    def _refuse_cross_origin(self, connection: HTTPConnection) -> None:
        if self._origin is None:
            return
        # a websocket handshake is a GET that browsers let every page make
        method = connection.scope.get("method", "WEBSOCKET")
        if not self._origin.allows(method, connection.scope["headers"]):
            self.vault.events.tell("origin_rejected", method=method)
            raise HTTPException(
                403,
                "Cross-origin request refused. If this origin is yours, add it to "
                "SessionProvider(trusted_origins=...).",
            )

    def _websocket_jar(self, connection: HTTPConnection) -> Jar:
        scope = connection.scope
        if not isinstance(connection, WebSocket):
            raise ConfigurationError(_no_session_route(scope.get("route")))
        stack = scope.get("fastapi_function_astack")
        if not isinstance(stack, AsyncExitStack):
            raise ConfigurationError(
                "this FastAPI keeps no exit stack for websockets: take the session with "
                "get_session.open(key), which commits by itself"
            )
        jar: Jar = scope.setdefault(SCOPE_KEY, Jar())
        stack.push_async_exit(partial(_close_websocket, connection, jar))
        return jar

    def _check_routes(self, app: FastAPI) -> None:
        for route, dependant in _api_routes(app.routes):
            for call in _calls(dependant):
                if get_origin(call) is Session:
                    raise ConfigurationError(COMES_BY_DEPENDS.advice)
                if not isinstance(call, SessionProvider):
                    continue
                if call is not self and call.cookie.identity == self.cookie.identity:
                    raise one_cookie_for_two(self.cookie)
                if call is self and not getattr(route, "closes_sessions", False):
                    raise ConfigurationError(_no_session_route(route))

    def __repr__(self) -> str:
        # a traceback with locals may show one that could not be built
        return f"<SessionProvider {getattr(self, 'scheme_name', None)!r}>"


async def _close_websocket(
    websocket: WebSocket,
    jar: Jar,
    _exc_type: type[BaseException] | None,
    error: BaseException | None,
    _traceback: TracebackType | None,
) -> bool:
    """Commit when the handler has ended; a client that went away is a normal end."""
    if error is not None and not isinstance(error, WebSocketDisconnect):
        await jar.roll_back()
        return False
    try:
        await jar.close()
    except SessionError:
        if websocket.application_state is WebSocketState.CONNECTING:
            raise  # the handshake can still be refused with the error's status
        logger.exception("a session could not be committed at the end of a websocket")
        if websocket.application_state is websocket.client_state is WebSocketState.CONNECTED:
            await websocket.close(1011)
    return False


def _api_routes(routes: Sequence[Any]) -> Iterator[tuple[APIRoute, Dependant]]:
    """Every API route with all its dependencies, those of included routers and mounts too."""
    for context in _iter_route_contexts(routes):
        route = getattr(context, "original_route", context)
        if isinstance(route, APIRoute):
            yield route, context.dependant
        else:
            yield from _api_routes(getattr(route, "routes", None) or ())


def _calls(dependant: Dependant) -> Iterator[Any]:
    """What a route's dependencies depend on, all the way down."""
    for dependency in dependant.dependencies:
        yield dependency.call
        yield from _calls(dependency)


def _no_session_route(route: Any) -> str:
    path, endpoint = getattr(route, "path", "?"), getattr(route, "endpoint", None)
    return (
        f"the route {path} ({getattr(endpoint, '__qualname__', 'unknown')}) asks for a session and "
        "is no SessionRoute: write APIRouter(route_class=SessionRoute), or for routes of the "
        "application itself app.router.route_class = SessionRoute before they are added"
    )
