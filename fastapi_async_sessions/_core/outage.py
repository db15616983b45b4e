"""Outages of a store: one line in the log when it begins, and one when it is over."""

import time
from collections.abc import Callable
from typing import Any

from ..events import logger
from ..stores.base import Store

_QUIET_SECONDS = 5.0


class Outage:
    """The failed calls of a store in this process since it last worked.

    A store of which only a part is down fails now and then, so an outage is over when a call works
    and none has failed for five seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last_failure = 0.0
        self.failures = 0

    @classmethod
    def of(cls, store: Store) -> "Outage":
        """Return the outage of a store, which its providers share."""
        attributes: dict[str, Any] = vars(store)
        outage: Outage = attributes.setdefault("_outage", cls())
        return outage

    def begin(self) -> bool:
        """Count a failed call; False if the outage has begun before."""
        self.failures += 1
        self._last_failure = self._clock()
        return self.failures == 1

    def end(self) -> None:
        """Log that the store works again, if a call has just worked and it has been down."""
        if self.failures and self._clock() - self._last_failure >= _QUIET_SECONDS:
            logger.warning("the session store works again; failed calls: %s", self.failures)
            self.failures = 0
