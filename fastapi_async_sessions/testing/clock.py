"""A clock for tests."""

from datetime import UTC, datetime, timedelta

from ..errors import ConfigurationError


class FrozenClock:
    """Stands still until it is moved: ``clock = FrozenClock()``, ``clock.advance(...)``.

    Attributes:
        now: What it shows; assign to set it, back in time too.
    """

    def __init__(self, start: datetime | None = None) -> None:
        if start is not None and start.tzinfo is None:
            raise ConfigurationError("FrozenClock(start) takes an aware datetime")
        self.now = start or datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, by: timedelta) -> None:
        """Move it on, or back by a negative time."""
        self.now += by
