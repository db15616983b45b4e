"""A store while an application runs: opened, purged now and then, closed."""

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from .errors import StoreUnavailable
from .events import logger
from .stores.base import Store


class Upkeep:
    """One store's opening, purging and closing, shared by the providers that use it."""

    def __init__(self, store: Store, every: timedelta = timedelta(minutes=5)) -> None:
        self._store = store
        self._every = every
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
        await self._store.aclose()

    async def _open(self) -> None:
        try:
            await self._store.open()
            self._is_open = True
        except StoreUnavailable as error:
            # the application starts all the same: its routes without sessions work, and check()
            # tells the readiness probe
            logger.error("the session store could not be opened, trying again: %s", error.reason)

    async def _keep(self) -> None:
        while True:
            # jitter, so that the workers of one service do not purge in step
            await asyncio.sleep(self._every.total_seconds() * random.uniform(0.5, 1.5))  # noqa: S311
            try:
                if not self._is_open:
                    await self._open()
                purged = await self._store.purge()
                logger.debug("purged %d expired sessions", purged)
            except Exception:
                # one failed purge is no reason to end them all
                logger.exception("purging expired sessions failed, trying again")
