"""A clock for tests."""

from datetime import UTC, datetime, timedelta

from ..errors import ConfigurationError


class FrozenClock:
    """Stands still until the test moves it: ``clock = FrozenClock()``, ``clock.advance(...)``.

    Attributes:
        now: The time it shows, an aware datetime; assign another, even an earlier one, to set it.
    """

    def __init__(self, start: datetime | None = None) -> None:
        if start is not None and start.tzinfo is None:
            raise ConfigurationError("FrozenClock(start) takes an aware datetime")
        self.now = start or datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, by: timedelta) -> None:
        """Move the clock forward, or back by a negative duration."""
        self.now += by
