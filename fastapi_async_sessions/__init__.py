"""Typed, server-side sessions for FastAPI, as dependencies instead of middleware.

    request  -> cookie -> verifier -> store.load -> codec -> Session -> your route
    response <- cookie <- verifier <- store.create|save|delete <- codec <- commit at teardown

Read the files in that order: ``provider`` asks ``cookies`` and ``verifier`` for the token, the
``vault`` loads what it opens, a ``visit`` keeps what the route changes, a ``commit`` writes it
against what others have written, and the ``jar`` lays the cookie on the response that ``route``
sends.
"""

from ._core.session import Session
from ._web.cookies import CookieConfig
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
    StoreUnavailable,
)
from .events import SessionEvent
from .lifetime import Lifetime
from .records import Record
from .stores.base import Store
from .stores.memory import MemoryStore

__version__ = "0.1.0"

__all__ = [
    "ConfigurationError",
    "CookieConfig",
    "Lifetime",
    "MemoryStore",
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
    "SessionTooLarge",
    "Store",
    "StoreUnavailable",
]
