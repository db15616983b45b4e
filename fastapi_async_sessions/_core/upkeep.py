"""A store while an application runs: opened, purged now and then, closed."""

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from ..errors import ConfigurationError, StoreUnavailable
from ..events import logger
from ..stores.base import Store


class Upkeep:
    """One store's opening, purging and closing, shared by the providers that use it."""

    def __init__(
        self,
        store: Store,
        every: timedelta = timedelta(minutes=5),
        patience: timedelta = timedelta(seconds=10),
    ) -> None:
        self._store = store
        self._every = every
        self._patience = patience
        self._users = 0
        self._is_open = False
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, store: Store) -> "Upkeep":
        """The one upkeep of a store."""
        attributes: dict[str, Any] = vars(store)
        upkeep: Upkeep = attributes.setdefault("_upkeep", cls(store))
        return upkeep

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Hold the store open; the first one opens it, the last one closes it."""
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
        await self._try("closed", self._store.aclose(), self._patience)

    async def _open(self) -> None:
        self._is_open = await self._try("opened", self._store.open(), self._patience)

    async def _keep(self) -> None:
        while True:
            # a store that was away at the start is tried again sooner; the jitter keeps the workers
            # of one service from purging at the same moment
            pause = self._every if self._is_open else self._every / 60
            await asyncio.sleep(pause.total_seconds() * random.uniform(0.5, 1.5))  # noqa: S311
            if not self._is_open:
                await self._open()
            if self._is_open:
                await self._try("purged", self._store.purge(), self._every)

    async def _try(self, action: str, work: Coroutine[Any, Any, object], within: timedelta) -> bool:
        """Whether it worked. Without its store an application still starts, runs and stops: routes
        without sessions work, and ``check()`` fails the readiness probe."""
        try:
            async with asyncio.timeout(within.total_seconds()):
                await work
        except Exception as error:
            if isinstance(error, ConfigurationError) and self._task is None:
                raise  # a mistake in the program is reported at its start
            # no traceback: what a driver says may hold a password
            reason = error.reason if isinstance(error, StoreUnavailable) else type(error).__name__
            logger.error("the session store could not be %s: %s", action, reason)
            return False
        return True
