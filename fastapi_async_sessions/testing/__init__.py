"""Helpers for your tests: sessions, a clock that you set, and the contract of a store."""

from .clients import sign_in, sign_out
from .clock import FrozenClock
from .contract import StoreContract
from .standins import override_session, session_cookies

__all__ = [
    "FrozenClock",
    "StoreContract",
    "override_session",
    "session_cookies",
    "sign_in",
    "sign_out",
]
