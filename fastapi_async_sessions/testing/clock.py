"""A clock for tests."""

from datetime import UTC, datetime, timedelta

from ..errors import ConfigurationError


class FrozenClock:
    """A clock that stands still until the test moves it with ``clock.advance(...)``.

    Attributes:
        now: The time it shows, an aware datetime; assign another one, even an earlier one, to set
            the clock.
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
