"""One client per event loop, because a connection works only in the loop that made it."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Generic, NamedTuple, TypeVar
from weakref import ref

_Client = TypeVar("_Client")

CLOSE_SECONDS = 5


class _Held(NamedTuple, Generic[_Client]):
    client: _Client
    end: AsyncGenerator[None]


class PerLoop(Generic[_Client]):
    """Makes a client in each event loop that uses it, and closes it when that loop ends.

    So a script may call ``asyncio.run()`` repeatedly, and each thread may have its own loop. At its
    end, a loop finishes the asynchronous generators that began in it (``shutdown_asyncgens``, which
    ``asyncio.run()``, anyio, uvloop, servers and test clients call). Each client is closed by such
    a generator. If a loop was closed without that step, its client is dropped without being closed.

    The garbage collector also finishes a generator once the store is no longer used. In that case
    the client is closed only if it is ``ours``: the application may still use its own elsewhere.
    """

    def __init__(
        self,
        make: Callable[[], _Client],
        close: Callable[[_Client], Awaitable[object]],
        *,
        ours: bool = True,
    ) -> None:
        self._make = make
        self._close = close
        self._is_ours = ours
        self._held: dict[asyncio.AbstractEventLoop, _Held[_Client]] = {}

    def here(self) -> _Client:
        """Return the client of this event loop, made at the first call."""
        loop = asyncio.get_running_loop()
        held = self._held.get(loop)
        return self._begin(loop) if held is None else held.client

    async def close(self) -> None:
        """Close the client of this event loop, if it has one; the next call makes another."""
        held = self._held.pop(asyncio.get_running_loop(), None)
        if held is not None:
            await held.end.aclose()

    def _begin(self, loop: asyncio.AbstractEventLoop) -> _Client:
        for other in list(self._held):
            if other.is_closed():
                self._held.pop(other, None)
        client = self._make()
        end = self._closed_at_the_end(loop, client)
        # run it up to its yield: the first step registers the generator with the loop
        with suppress(StopIteration):
            end.__anext__().send(None)
        self._held[loop] = _Held(client, end)
        return client

    async def _closed_at_the_end(
        self, loop: asyncio.AbstractEventLoop, client: _Client
    ) -> AsyncGenerator[None]:
        used = ref(self)  # cleared before the garbage collector finishes this generator
        try:
            yield
        finally:
            self._held.pop(loop, None)
            if self._is_ours or used() is not None:
                with suppress(Exception):
                    async with asyncio.timeout(CLOSE_SECONDS):
                        await self._close(client)
