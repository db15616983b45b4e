"""Calls of a redis-py client, and what redis-py needs help with while many are in flight."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

# redis-py refuses calls beyond 100 connections, of which the application may need some as well
_AT_ONCE = 64


class Calls:
    """Makes calls of a client: as many at once as it has connections for, while others wait."""

    def __init__(self, max_connections: int) -> None:
        self._at_once = min(_AT_ONCE, max_connections)
        self._turns = asyncio.Semaphore(self._at_once)
        self._draining = asyncio.Lock()

    async def __call__(self, call: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """Wait for a turn, and give the answer of ``call(*arguments)``."""
        async with self._turns:
            return await self._make(call, *arguments)

    async def drain(self) -> None:
        """Wait until no call is in flight: take every turn."""
        # one at a time, since two would wait for each other's turns
        async with self._draining, AsyncExitStack() as turns:
            for _ in range(self._at_once):
                await turns.enter_async_context(self._turns)

    async def _make(self, call: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        task = asyncio.current_task()
        cancellations = task.cancelling() if task else 0
        answer = await call(*arguments)
        # asyncio.wait_for() of Python 3.11, in which redis-py sends, may lose a cancellation, and
        # with it the end of a timeout
        if task and task.cancelling() > cancellations:
            raise asyncio.CancelledError
        return answer


class ClusterCalls(Calls):
    """Makes calls of a ``RedisCluster``, which under load does not recover by itself.

    Seen in redis-py 5.1 to 8.1: whenever its map of the slots is out of date, ``RedisCluster`` has
    no default node for a moment, and ``execute_command`` then sends a script to any node. It is
    answered with MOVED, and each fifth of those (``reinitialize_steps``) closes the connections of
    all other calls and discards the map, which makes more calls fail. So there must be a map
    before a call begins, and MOVED only corrects it.

    A node that hangs is noticed by the ``socket_timeout`` of the client. Where the caller gives up
    before that, the map is read again for the next call.
    """

    def __init__(self, client: Any) -> None:
        super().__init__(client.connection_kwargs["max_connections"])
        self._client = client
        self._client.reinitialize_steps = 0
        # the client's own lock would belong to the first event loop in which calls wait for it
        self._starting = asyncio.Lock()
        self._is_in_doubt = False

    async def _make(self, call: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        async with self._starting:
            await self._client.initialize()
        if self._is_in_doubt:
            self._is_in_doubt = False
            await self._client.nodes_manager.initialize()
        try:
            return await super()._make(call, *arguments)
        except asyncio.CancelledError:
            self._is_in_doubt = True
            raise
