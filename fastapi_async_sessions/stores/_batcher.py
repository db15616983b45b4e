"""Concurrent requests to a server are sent in batches."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from ..errors import StoreUnavailable

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")

_MAX_SIZE = 100
_MAX_DELAY = 0.01
_TIMEOUT = 10


class Batcher(Generic[_Item, _Answer]):
    """Sends the items that come in while a request is in flight as one batch.

    When nothing is in flight, an item is sent at once, in its caller's own task. The items that
    follow are sent together as soon as a request completes or ``_MAX_SIZE`` of them are waiting,
    and after ``_MAX_DELAY`` seconds at the latest, so that a lost reply does not hold them up. An
    item never joins a batch that is already in flight. A cancelled caller does not affect the
    others. A batcher belongs to one event loop.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        send: Callable[[list[_Item]], Awaitable[list[_Answer]]],
        on_batch: Callable[[int], None],
    ) -> None:
        self._loop = loop
        self._send = send
        self._on_batch = on_batch
        self._in_flight = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._waiting: list[tuple[_Item, asyncio.Future[_Answer]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, item: _Item) -> _Answer:
        """Send an item, alone or in a batch, and return its own answer."""
        if self._in_flight:
            return await self._enqueue(item)
        self._in_flight += 1
        self._is_idle.clear()
        try:
            (answer,) = await self._send([item])
        finally:
            self._completed()
        return answer

    async def drain(self) -> None:
        """Wait until no item is in flight, or waiting for those that are."""
        await self._is_idle.wait()

    def _enqueue(self, item: _Item) -> asyncio.Future[_Answer]:
        answer: asyncio.Future[_Answer] = self._loop.create_future()
        self._waiting.append((item, answer))
        if len(self._waiting) == 1:
            self._timer = self._loop.call_later(_MAX_DELAY, self._flush)
        elif len(self._waiting) == _MAX_SIZE:
            self._flush()
        return answer

    def _flush(self) -> None:
        self._timer.cancel()
        # an answer that is done by now was cancelled along with its caller
        batch = [(item, answer) for item, answer in self._waiting if not answer.done()]
        self._waiting = []
        if batch:
            self._on_batch(len(batch))
            self._in_flight += 1
            task = self._loop.create_task(self._send_batch(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _send_batch(self, batch: list[tuple[_Item, asyncio.Future[_Answer]]]) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT):
                values = await self._send([item for item, _ in batch])
        except (StoreUnavailable, TimeoutError) as error:
            reason = getattr(error, "reason", "no answer in time")
            for _, answer in batch:
                if not answer.done():
                    # one exception each: a shared one would collect the tracebacks of all callers
                    answer.set_exception(StoreUnavailable(reason))
        else:
            for (_, answer), value in zip(batch, values, strict=True):
                if not answer.done():
                    answer.set_result(value)
        finally:
            for _, answer in batch:
                answer.cancel()
            self._completed()

    def _completed(self) -> None:
        self._in_flight -= 1
        if self._waiting:
            self._flush()
        if not self._in_flight:
            self._is_idle.set()
