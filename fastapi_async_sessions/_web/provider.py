"""The dependency: cookie -> verifier -> store -> session -> your route -> commit -> cookie."""

# no postponed annotations here: FastAPI 0.121 does not resolve them in a callable object

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, get_args, get_origin

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.types import Scope
from starlette.websockets import WebSocket

from .._core.admin import SessionAdmin, StoredSession, stored_session
from .._core.codec import Migration
from .._core.event_loop import require_asyncio
from .._core.keys import Keyring, Secret
from .._core.models import Model
from .._core.not_a_parameter import NEEDS_DEPENDS, NOT_A_DEPENDENCY, NotAParameter
from .._core.repository import GRACE_PERIOD, Absent, Repository, SessionRecord
from .._core.session import Session, SignedInSession, state_of
from .._core.settings import OnConflict, OnInvalid, Settings, require
from .._core.state import CookieAction, RequestCookie, SessionState
from .._core.upkeep import Upkeep
from ..errors import ConfigurationError, SignInReason
from ..events import SessionEvent
from ..lifetime import Clock, Lifetime, utc_now
from ..stores.base import Store
from .bridge import provide_request_session
from .closing import close_with_route, websocket_jar
from .cookies import MAX_COOKIE_AGE, Cookie, CookieConfig, SameSite
from .jar import SCOPE_KEY, Entry, Jar, shared_cookie, shared_with_starlette
from .origin import OriginCheck, seen_headers
from .requirement import Requirement
from .verifier import CookieVerifier, Rejected, Verified
from .wiring import applications, need_session_routes, no_session_here
from .withheld import is_withheld

# Without the parentheses FastAPI reads ``within`` from the query string and injects the returned
# function, so that the route is left unprotected.
_WITH_PARENTHESES = NotAParameter(
    "get_session.signed_in is not a dependency, it returns one: write "
    "Depends(get_session.signed_in()), with parentheses"
)


_NEEDS_CONNECTION = (
    "get_session takes a request or a websocket: write session: Session[UserData] = "
    "Depends(get_session) in a route, await get_session(request) elsewhere, and "
    "FastAPI(lifespan=get_session.lifespan) for an application"
)

_SIGNATURE = Signature(
    [Parameter("connection", Parameter.POSITIONAL_OR_KEYWORD, annotation=HTTPConnection)]
)


class SessionProvider(SessionAdmin[Model]):
    """Provides the session of a request: ``session: Session[UserData] = Depends(get_session)``.

    Each provider has its own model, cookie and namespace in the store. The guide,
    examples/README.md, explains every argument.

    Args:
        model: A Pydantic model that can be made without arguments.
        store: Where sessions are kept.
        secret_key: At least 32 bytes, or up to five such secrets, newest first: the first signs,
            all verify.
        encrypt: Whether to encrypt subjects, times and data in the store; needs the extra
            ``encryption``.
        max_sessions_per_subject: From 1 to 50: a sign-in beyond it revokes the oldest ones.
        name: Names the cookie and the namespace; 1 to 64 of ``[A-Za-z0-9_-]``.
        max_bytes: The largest session that is stored, at most 1 MiB.
        store_timeout: How long one call to the store may take.
        commit_timeout: How long a commit with all its calls may take.

    Raises:
        ConfigurationError: an argument is not valid.
    """

    def __init__(
        self,
        model: type[Model],
        *,
        store: Annotated[Store, NEEDS_DEPENDS],
        secret_key: Secret | Sequence[Secret],
        name: str = "session",
        cookie: CookieConfig = CookieConfig(),  # noqa: B008  # frozen
        lifetime: Lifetime = Lifetime(),  # noqa: B008  # frozen
        encrypt: bool = False,
        max_sessions_per_subject: int | None = None,
        request_session: str | None = None,
        on_conflict: OnConflict = "overwrite",
        on_invalid: OnInvalid | Migration[Model] = "fallback",
        max_bytes: int = 65536,
        store_timeout: timedelta = timedelta(seconds=2),
        commit_timeout: timedelta = timedelta(seconds=5),
        trusted_origins: Iterable[str] = (),
        check_origin: bool = True,
        on_event: Callable[[SessionEvent], None] | None = None,
        clock: Clock = utc_now,
    ) -> None:
        require(isinstance(cookie, CookieConfig), "cookie=... takes a CookieConfig")
        require(isinstance(check_origin, bool), "check_origin=... takes True or False")
        keyring = Keyring(secret_key)
        settings = Settings(
            name=name,
            model=model,
            store=store,
            keyring=keyring,
            lifetime=lifetime,
            persistent=cookie.persistent,
            encrypt=encrypt,
            max_sessions_per_subject=max_sessions_per_subject,
            request_session=request_session,
            on_invalid=on_invalid,
            on_conflict=on_conflict,
            max_bytes=max_bytes,
            store_timeout=store_timeout,
            commit_timeout=commit_timeout,
            on_event=on_event,
            clock=clock,
        )
        require(
            not cookie.persistent or (lifetime.absolute or timedelta(0)) <= MAX_COOKIE_AGE,
            "browsers keep a cookie for at most 400 days, so one with persistent=True needs "
            "Lifetime(absolute=...) of no more than that",
        )
        super().__init__(Repository(settings))
        self.request_session = request_session
        self.cookie = Cookie(name, cookie)
        self.verifier = CookieVerifier(keyring, audience=self.cookie.audience)
        self._samesite: SameSite = cookie.samesite
        origin = OriginCheck(trusted_origins)
        self._origin = origin if check_origin else None
        self.required: Requirement[Session[Model]] = self._requirement(_absence)
        self._signed_in: dict[timedelta | None, Requirement[SignedInSession[Model]]] = {}
        if type(self).__call__ is vars(SessionProvider)["__call__"]:  # not one of a derived class
            # FastAPI reads these: the parameter, and that the dependency is async
            self.__signature__ = _SIGNATURE
            vars(self)["__call__"] = self._session_of
        self.repository.claim_name()

    if TYPE_CHECKING:

        async def __call__(self, connection: HTTPConnection) -> Session[Model]:
            """Return the session that the request's cookie opens, or a new one."""
            ...

    else:

        def __call__(self, connection=None):
            """Return the session that the request's cookie opens, or a new one.

            Raises:
                TypeError: this is not a request or a websocket.
            """
            # the first comparison spares nearly all requests the second, which is slow
            if type(connection) is not Request and not isinstance(connection, HTTPConnection):
                raise TypeError(_NEEDS_CONNECTION)
            return self._session_of(connection)

    async def _session_of(self, connection: HTTPConnection) -> Session[Model]:
        jar = _jar(connection)
        entry = jar.entries.get(self)
        if entry is None:
            self._refuse_cross_origin(connection)
            state = await self._load(connection, jar)
            state.place = getattr(connection.scope.get("route"), "path", None)
            entry = jar.put(self, Entry(Session(state), state, self.cookie, self.verifier))
        session: Session[Model] = entry.session
        if self.request_session is not None:
            provide_request_session(connection.scope, session, self.request_session)
        return session

    def signed_in(
        self, within: Annotated[timedelta | None, _WITH_PARENTHESES] = None
    ) -> Requirement[SignedInSession[Model]]:
        """Return a dependency that responds with 401 unless a user has signed in, at most
        ``within`` ago (ASVS 7.5.3: authenticate again before sensitive actions)."""
        require(isinstance(within, timedelta | None), "signed_in(within=...) takes a timedelta")
        require(within is None or within > timedelta(0), "signed_in(within=...) must be positive")

        def refusal(session: Session[Model]) -> SignInReason | None:
            if session.subject is None or session.authenticated_at is None:
                return _absence(session) or "anonymous"
            age = self.repository.settings.clock() - session.authenticated_at
            return "too_old" if within is not None and age > within else None

        return self._signed_in.setdefault(within, self._requirement(refusal))

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncGenerator[None]:
        """Open the store, purge expired sessions every few minutes, and close the store.

        Use it as ``FastAPI(lifespan=get_session.lifespan)``, or inside a lifespan of your own.

        Raises:
            ConfigurationError: a route uses this session but is not a ``SessionRoute``, or names
                another model in its annotation; a route depends on ``Session`` itself; or another
                provider has the same cookie.
        """
        self._check_routes(app)
        async with Upkeep.of(self.repository.settings.store).running():
            yield

    async def peek(
        self, connection: Annotated[HTTPConnection | Scope, NOT_A_DEPENDENCY]
    ) -> StoredSession[Model] | None:
        """Return the stored session of a request or a handshake, for reading.

        Takes any connection or ASGI scope, for websockets of other libraries, middleware and logs.
        None without a live session, or if the origin check refuses the request. The session is
        neither extended nor committed. If the request already has its session, this is its state,
        and no store is called. A response that a ``SessionRoute`` or ``SessionRouteMiddleware``
        sends has the same headers for caches as if its route had used the session.

        Raises:
            StoreUnavailable: the store could not load it.
        """
        if not isinstance(connection, HTTPConnection):
            connection = HTTPConnection(connection)
        jar: Jar | None = connection.scope.get(SCOPE_KEY)
        if jar is None:
            return await self._peek(connection)
        entry = jar.entries.get(self)
        if entry is not None:
            state: SessionState[Model] = entry.state
            return state.stored and self._shown(state.stored, state.data.read())
        # a websocket, or the body of a response, may ask much later whether the session still lives
        is_before_response = connection.scope["type"] == "http" and not jar.is_closed
        if not is_before_response or self not in jar.peeked:
            jar.peeked[self] = await self._peek(connection)
        return jar.peeked[self]

    def _shown(self, stored: SessionRecord, data: Model) -> StoredSession[Model]:
        return stored_session(stored, data, self.repository.settings.lifetime)

    async def _peek(self, connection: HTTPConnection) -> StoredSession[Model] | None:
        if not self._is_origin_allowed(connection):
            return None
        verified = self._verified(connection)
        if isinstance(verified, RequestCookie):
            return None
        key = verified[0].token.key(self.repository.settings.name)
        loaded = await self.repository.load(key, *(each.token.secret_hash() for each in verified))
        if isinstance(loaded, Absent):
            return None
        return self._shown(loaded.stored, loaded.contents().data)

    def _requirement(self, refusal: Callable[[Session[Any]], SignInReason | None]) -> Any:
        name = self.repository.settings.name
        return Requirement[Any](self, refusal, name=name, cookie=self.cookie.name)

    async def _load(self, connection: HTTPConnection, jar: Jar) -> SessionState[Model]:
        require_asyncio()
        repository = self.repository
        began_at = jar.began_at(repository.settings.now())
        is_http = connection.scope["type"] == "http"
        verified = self._verified(connection)
        if isinstance(verified, RequestCookie):
            return SessionState(
                repository, began_at, request_cookie=verified, can_set_cookie=is_http
            )
        key = verified[0].token.key(repository.settings.name)
        hashes = {each.token.secret_hash(): each for each in verified}
        loaded = await repository.load(key, *hashes)
        if isinstance(loaded, Absent):
            cookie = self._without_session(key, loaded, began_at)
            return SessionState(repository, began_at, request_cookie=cookie, can_set_cookie=is_http)
        live = hashes[loaded.stored.header.secret_hash]
        state = SessionState(
            repository,
            began_at,
            loaded,
            live.token,
            request_cookie=RequestCookie(is_present=True),
            can_set_cookie=is_http,
        )
        if live.needs_resigning:
            state.cookie_action = CookieAction.RESIGN
        return state

    def _verified(self, connection: HTTPConnection) -> list[Verified] | RequestCookie:
        """Return the tokens of the request's session, or a cookie that opens none."""
        headers, emit = connection.scope["headers"], self.repository.events.emit
        candidates = self.cookie.candidates(headers)
        if candidates == []:
            if not is_withheld(self._samesite, _method(connection), headers):
                return RequestCookie()
            emit("cookie_withheld")
            return RequestCookie(is_detached=True)
        verified = Rejected.AMBIGUOUS if candidates is None else self.verifier.verify(candidates)
        if isinstance(verified, Rejected):
            emit(verified.value)
            return RequestCookie(True, is_detached=verified is Rejected.AMBIGUOUS)
        return verified

    def _without_session(self, key: str, absent: Absent, began_at: int) -> RequestCookie:
        """Classify a well-signed cookie that opens no session, and emit the event for it."""
        emit, cookie = self.repository.events.emit, RequestCookie(is_present=True, has_ended=True)
        match absent.reason:
            case "outdated":
                emit("outdated_token", key)
                renewed_at = absent.renewed_at or 0
                is_recent = renewed_at > began_at - GRACE_PERIOD
                return cookie._replace(is_detached=is_recent, outdated_key=key)
            case "ended":
                emit("ended_elsewhere", key)
                return cookie._replace(is_detached=True)
            case "missing":
                emit("missing", key)
            case "corrupt" | "unreadable":
                pass  # the repository has told
        return cookie

    @property
    def checks_origin(self) -> bool:
        """Whether a request of another origin is refused."""
        return self._origin is not None

    def _refuse_cross_origin(self, connection: HTTPConnection) -> None:
        if not self._is_origin_allowed(connection):
            raise HTTPException(403, "Cross-origin request rejected.")

    def _is_origin_allowed(self, connection: HTTPConnection) -> bool:
        if self._origin is None:
            return True
        method, headers = _method(connection), connection.scope["headers"]
        is_allowed = self._origin.allows(method, headers)
        if not is_allowed:
            self.repository.events.emit("origin_rejected", method=method, **seen_headers(headers))
        return is_allowed

    def _check_routes(self, app: FastAPI) -> None:
        without: dict[str, None] = {}
        for application in applications(app):
            for cls, arguments in application.middleware:
                if cls is SessionMiddleware and self.cookie.name == arguments.get(
                    "session_cookie", "session"
                ):
                    raise shared_with_starlette(self.cookie)
            for name, call, annotation, can_have_session in application.dependencies():
                self._check_dependency(call)
                self._check_annotation(name, call, annotation)
                if call is self and not can_have_session:
                    without[name] = None
        if without:
            raise ConfigurationError(need_session_routes(list(without)))

    def _check_dependency(self, call: Any) -> None:
        if get_origin(call) in (Session, SignedInSession):
            raise ConfigurationError(NEEDS_DEPENDS.advice)
        if not isinstance(call, SessionProvider) or call is self:
            return
        if call.cookie.identity == self.cookie.identity:
            raise shared_cookie(self.cookie)

    def _check_annotation(self, name: str, call: Any, annotation: Any) -> None:
        model = self.repository.settings.model
        wanted = _annotated_model(annotation)
        is_ours = call is self or (isinstance(call, Requirement) and call.provider is self)
        if is_ours and wanted is not None and not issubclass(model, wanted):
            raise ConfigurationError(
                f"the route {name} declares a Session[{wanted.__name__}] but depends on the "
                f"provider of {model.__name__}: write Session[{model.__name__}], or Depends(...) "
                f"with the provider of {wanted.__name__}"
            )

    __get_pydantic_core_schema__ = NEEDS_DEPENDS.__get_pydantic_core_schema__

    def __repr__(self) -> str:
        # a traceback that shows locals may contain a provider whose __init__ raised
        repository: Repository[Model] | None = getattr(self, "repository", None)
        return f"<SessionProvider {None if repository is None else repository.settings.name!r}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a provider cannot be pickled or copied: it holds secrets")


def _absence(session: Session[Any]) -> SignInReason | None:
    if not session.is_new:
        return None
    return "ended" if state_of(session).request_cookie.has_ended else "no_session"


def _annotated_model(annotation: Any) -> type[Any] | None:
    """Return the model that an annotation such as ``Session[UserData]`` names, if any."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) not in (Session, SignedInSession):
        return None
    (model,) = get_args(annotation)
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return None
    # to Pydantic a Page[int] is no Page[Any], but it is a Page
    generic: Any = getattr(model, "__pydantic_generic_metadata__", None)
    return generic["origin"] if generic and Any in generic["args"] else model


def _method(connection: HTTPConnection) -> str:
    # a websocket handshake is a GET, which a browser lets every page send
    method: str = connection.scope["method"] if connection.scope["type"] == "http" else "WEBSOCKET"
    return method


def _jar(connection: HTTPConnection) -> Jar:
    """Return the jar of a request; some part of the application will close it."""
    jar: Jar | None = connection.scope.get(SCOPE_KEY)
    if jar is None:
        if not isinstance(connection, WebSocket):
            raise ConfigurationError(no_session_here(connection.scope))
        jar = websocket_jar(connection)
    if not jar.has_closer:
        close_with_route(connection, jar)
    return jar
