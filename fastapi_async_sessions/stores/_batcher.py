"""Requests that meet travel together."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from ..errors import StoreUnavailable

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")

_MOST = 100
_PATIENCE = 0.01
_GIVE_UP = 10


class Together(Generic[_Item, _Answer]):
    """Makes one message of the items that come while another message is on its way.

    An item that finds the road empty leaves at once, in its caller's own task. The next ones
    leave together as soon as an answer is back or ``_MOST`` of them wait, and after ``_PATIENCE``
    seconds in any case: a lost reply holds nobody up. Nothing joins a message that has left.
    Who stops waiting stops nobody else. Belongs to one event loop.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        send: Callable[[list[_Item]], Awaitable[list[_Answer]]],
    ) -> None:
        self._loop = loop
        self._send = send
        self._under_way = 0
        self._waiting: list[tuple[_Item, asyncio.Future[_Answer]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, item: _Item) -> _Answer:
        """Send an item, alone or with others, and give its own answer."""
        if self._under_way:
            return await self._join(item)
        self._under_way += 1
        try:
            (answer,) = await self._send([item])
        finally:
            self._arrived()
        return answer

    async def settle(self) -> None:
        """Wait until nothing is on its way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _join(self, item: _Item) -> asyncio.Future[_Answer]:
        answer: asyncio.Future[_Answer] = self._loop.create_future()
        self._waiting.append((item, answer))
        if len(self._waiting) == 1:
            self._timer = self._loop.call_later(_PATIENCE, self._leave)
        elif len(self._waiting) == _MOST:
            self._leave()
        return answer

    def _leave(self) -> None:
        self._timer.cancel()
        # an answer that is done already was cancelled: its caller is gone
        group = [(item, answer) for item, answer in self._waiting if not answer.done()]
        self._waiting = []
        if group:
            self._under_way += 1
            task = self._loop.create_task(self._carry(group))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, group: list[tuple[_Item, asyncio.Future[_Answer]]]) -> None:
        try:
            async with asyncio.timeout(_GIVE_UP):
                found = await self._send([item for item, _ in group])
        except (StoreUnavailable, TimeoutError) as error:
            reason = getattr(error, "reason", "no answer in time")
            for _, answer in group:
                if not answer.done():
                    # one exception each: a shared one would collect every caller's traceback
                    answer.set_exception(StoreUnavailable(reason))
        else:
            for (_, answer), value in zip(group, found, strict=True):
                if not answer.done():
                    answer.set_result(value)
        finally:
            for _, answer in group:
                answer.cancel()
            self._arrived()

    def _arrived(self) -> None:
        self._under_way -= 1
        if self._waiting:
            self._leave()
