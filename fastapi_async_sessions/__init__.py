"""Typed, server-side sessions for FastAPI, as dependencies instead of middleware.

    request  -> cookie -> verifier -> store.load -> codec -> Session -> your route
    response <- cookie <- verifier <- store.create|save|delete <- codec <- commit at teardown

Read the files in that order. In ``_web``, the ``provider`` gets the token from ``cookies`` and
``verifier``. In ``_core``, the ``repository`` loads the token's session, the ``state`` holds the
changes of the route, and the ``commit`` writes them, merged with those of other requests. Then the
``jar`` adds the cookie to the response that the ``route`` sends.
"""

from ._core.admin import StoredSession
from ._core.codec import Migration
from ._core.session import Session, SignedInSession
from ._core.shapes import Additive
from ._web.cookies import CookieConfig
from ._web.middleware import SessionRouteMiddleware
from ._web.provider import SessionProvider
from ._web.route import SessionRoute
from .errors import (
    ConfigurationError,
    SessionClosed,
    SessionConflict,
    SessionError,
    SessionInvalid,
    SessionNotFound,
    SessionTooLarge,
    SignInRequired,
    StoreUnavailable,
)
from .events import SessionEvent
from .lifetime import Clock, Lifetime, utc_now
from .records import Record
from .stores.base import Store
from .stores.memory import MemoryStore

__version__ = "0.2.0"

__all__ = [
    "Additive",
    "Clock",
    "ConfigurationError",
    "CookieConfig",
    "Lifetime",
    "MemoryStore",
    "Migration",
    "Record",
    "Session",
    "SessionClosed",
    "SessionConflict",
    "SessionError",
    "SessionEvent",
    "SessionInvalid",
    "SessionNotFound",
    "SessionProvider",
    "SessionRoute",
    "SessionRouteMiddleware",
    "SessionTooLarge",
    "SignInRequired",
    "SignedInSession",
    "Store",
    "StoreUnavailable",
    "StoredSession",
    "utc_now",
]
