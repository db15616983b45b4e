"""How long a session lives."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from inspect import iscoroutinefunction
from typing import ClassVar

from .errors import ConfigurationError

Clock = Callable[[], datetime]
"""Returns the current time as an aware datetime in UTC."""


def utc_now() -> datetime:
    """Return the current time of this machine's clock."""
    return datetime.now(UTC)


def checked_clock(clock: Clock, place: str) -> Clock:
    """Return the clock if it returns aware datetimes in UTC, of the years 1970 to 9799.

    Raises:
        ConfigurationError: it does not; ``place`` names its owner, such as "MemoryStore".
    """
    is_async, now = iscoroutinefunction(clock), None
    # an error that the clock raises gets the same message
    with suppress(Exception):
        now = None if is_async else clock()
    is_utc = isinstance(now, datetime) and now.utcoffset() == timedelta(0)
    if now is None or not is_utc or not 1970 <= now.year < 9800:
        raise ConfigurationError(
            f"{place}: clock=... takes a function that returns aware datetimes in UTC, of the "
            "years 1970 to 9799, such as lambda: datetime.now(UTC)"
        )
    return clock


@dataclass(frozen=True, slots=True)
class Lifetime:
    """The idle and the absolute timeout of a session.

    A session expires after ``idle`` without a request, and at the latest ``absolute``
    after it was created. A sign-in restarts the absolute timeout; nothing else does. ``None``
    disables one of the two. The presets have the figures of NIST SP 800-63B-4 (2.1.3, 2.2.3, 2.3.3)
    and of the OWASP Session Management Cheat Sheet.

    Raises:
        ConfigurationError: both are ``None``, one is not positive, or idle exceeds absolute.
    """

    idle: timedelta | None = timedelta(hours=1)
    absolute: timedelta | None = timedelta(hours=24)

    NIST_AAL1: ClassVar["Lifetime"]
    NIST_AAL2: ClassVar["Lifetime"]
    NIST_AAL3: ClassVar["Lifetime"]
    OWASP_HIGH: ClassVar["Lifetime"]
    OWASP_LOW: ClassVar["Lifetime"]

    def __post_init__(self) -> None:
        if self.idle is None and self.absolute is None:
            raise ConfigurationError("a Lifetime needs idle or absolute: one may be None, not both")
        for name in ("idle", "absolute"):
            limit = getattr(self, name)
            if limit is None:
                continue
            if not isinstance(limit, timedelta):
                raise ConfigurationError(
                    f"Lifetime({name}=...) takes a timedelta or None: write timedelta(minutes=30)"
                )
            if not timedelta(0) < limit <= _LONGEST:
                raise ConfigurationError(
                    f"Lifetime({name}=...) must be positive, at most 100 years"
                )
        if self.idle and self.absolute and self.idle > self.absolute:
            raise ConfigurationError(
                "Lifetime: idle is longer than absolute and would never apply; to have only "
                "absolute, write Lifetime(idle=None, absolute=...)"
            )


_LONGEST = timedelta(days=36525)

Lifetime.NIST_AAL1 = Lifetime(idle=None, absolute=timedelta(days=30))
Lifetime.NIST_AAL2 = Lifetime(idle=timedelta(hours=1), absolute=timedelta(hours=24))
Lifetime.NIST_AAL3 = Lifetime(idle=timedelta(minutes=15), absolute=timedelta(hours=12))
Lifetime.OWASP_HIGH = Lifetime(idle=timedelta(minutes=5), absolute=timedelta(hours=4))
Lifetime.OWASP_LOW = Lifetime(idle=timedelta(minutes=30), absolute=timedelta(hours=8))
