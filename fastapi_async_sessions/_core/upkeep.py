"""Opening, purging and closing a store while an application runs."""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from weakref import WeakKeyDictionary

from ..errors import ConfigurationError, StoreUnavailable
from ..events import logger
from ..stores.base import Store
from .event_loop import require_asyncio
from .outage import Outage


class Upkeep:
    """Opens, purges and closes a store, once for all providers that use it in an event loop."""

    def __init__(
        self,
        store: Store,
        every: timedelta = timedelta(minutes=5),
        patience: timedelta = timedelta(seconds=10),
    ) -> None:
        self._store = store
        self._outage = Outage.of(store)
        self._every = every
        self._patience = patience
        self._users = 0
        self._is_open = False
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, store: Store) -> "Upkeep":
        """Return the store's upkeep in this event loop, which its providers share."""
        require_asyncio()
        loops: WeakKeyDictionary[asyncio.AbstractEventLoop, Upkeep]
        loops = vars(store).setdefault("_upkeep", WeakKeyDictionary())
        return loops.setdefault(asyncio.get_running_loop(), cls(store))

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Keep the store open; the first user opens it, and the last one closes it."""
        self._users += 1
        try:
            if self._users == 1:
                await self._start()
            yield
        finally:
            self._users -= 1
            if self._users == 0:
                await self._stop()

    async def _start(self) -> None:
        await self._open()
        self._task = asyncio.create_task(self._keep())

    async def _stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._is_open = False
        await self._try("closed", self._store.aclose, self._patience)

    async def _open(self) -> None:
        self._is_open = await self._try("opened", self._store.open, self._patience)

    async def _keep(self) -> None:
        while True:
            # If the store could not be opened, try again sooner. The jitter keeps the workers of a
            # service from purging all at the same time.
            pause = self._every if self._is_open else self._every / 60
            await asyncio.sleep(pause.total_seconds() * random.uniform(0.5, 1.5))  # noqa: S311
            if not self._is_open:
                await self._open()
            if self._is_open:
                await self._try("purged", self._store.purge, self._every)

    async def _try(
        self, action: str, method: Callable[[], Awaitable[object]], within: timedelta
    ) -> bool:
        """Return whether it worked. Without its store an application still starts, runs and stops:
        routes without sessions work, and ``check()`` fails the readiness probe."""
        try:
            async with asyncio.timeout(within.total_seconds()):
                await method()
        except Exception as error:
            if isinstance(error, ConfigurationError) and self._task is None:
                raise  # a mistake in the program is reported at startup
            # without a traceback, because a driver's message may contain a password
            reason = error.reason if isinstance(error, StoreUnavailable) else type(error).__name__
            is_news = self._outage.begin() or isinstance(error, ConfigurationError)
            level = logging.ERROR if is_news else logging.DEBUG
            logger.log(level, "the session store could not be %s: %s", action, reason)
            return False
        self._outage.end()
        return True
