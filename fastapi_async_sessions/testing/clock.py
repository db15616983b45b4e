"""A clock for tests."""

from datetime import UTC, datetime, timedelta

from ..errors import ConfigurationError


class FrozenClock:
    """A clock that stands still until the test moves it with ``clock.advance(...)``.

    Attributes:
        now: The time it shows, an aware datetime in UTC; assign another one, even an earlier one,
            to set the clock.
    """

    def __init__(self, start: datetime | None = None) -> None:
        if start is None:
            start = datetime.now(UTC)
        if not isinstance(start, datetime) or start.utcoffset() is None:
            raise ConfigurationError(
                "FrozenClock(start) takes an aware datetime: write datetime(2026, 1, 1, tzinfo=UTC)"
            )
        self.now = start.astimezone(UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, by: timedelta) -> None:
        """Move the clock forward, or back by a negative duration.

        Raises:
            TypeError: this is not a ``timedelta``.
        """
        if not isinstance(by, timedelta):
            raise TypeError("advance() takes a timedelta: write clock.advance(timedelta(hours=1))")
        self.now += by
