"""For your tests: sessions to stand in for real ones, a clock to set, the contract of a store."""

from ..standins import override_session, session_cookies
from .clock import FrozenClock
from .contract import StoreContract

__all__ = ["FrozenClock", "StoreContract", "override_session", "session_cookies"]
