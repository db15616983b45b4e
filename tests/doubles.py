"""The one double of a store: it passes every call on to a real store, and a hook can intervene."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi_async_sessions import Record, Store, StoreUnavailable

VERBS = tuple(name for name, member in vars(Store).items() if inspect.iscoroutinefunction(member))
WRITES = ("create", "save", "delete")
WAIT_LIMIT = 120
"""The seconds after which a test stops waiting for something and fails."""
_SIGNATURES = {verb: inspect.signature(getattr(Store, verb)) for verb in VERBS}


@dataclass(frozen=True)
class StoreCall:
    """A call that a store has received and not yet carried out."""

    store: Store
    verb: str
    positional: tuple[Any, ...]
    named: dict[str, Any]

    async def pass_on(self) -> Any:
        """Carry the call out and return its result; a hook may do this twice, or not at all."""
        return await getattr(self.store, self.verb)(*self.positional, **self.named)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments under the names of ``Store``'s parameters."""
        bound = _SIGNATURES[self.verb].bind(self.store, *self.positional, **self.named)
        return {name: value for name, value in bound.arguments.items() if name != "self"}

    @property
    def key(self) -> str | None:
        return self.arguments.get("key")

    @property
    def record(self) -> Record | None:
        return self.arguments.get("record")


Hook = Callable[[StoreCall], Awaitable[Any]]


async def pass_on(call: StoreCall) -> Any:
    """The hook that does nothing else."""
    return await call.pass_on()


def _verb(name: str) -> Any:
    async def verb(self: "SpyStore", *positional: Any, **named: Any) -> Any:
        return await self.receive(StoreCall(self.inner, name, positional, named))

    verb.__name__ = name
    return verb


class SpyStore(Store):
    """Passes every call on to ``inner`` and records it.

    ``hook`` runs around each call: what it does before ``await call.pass_on()`` happens before the
    call, what it does afterwards happens before the caller has the result, and what it returns is
    the result. It may wait, write to the store meanwhile, or raise. Assign another at any time.

        async def hook(call):
            if call.verb == "save":
                await somebody_else_saves(call.key)
            return await call.pass_on()

    Attributes:
        calls: The verbs that were called, in order.
        keys: The keys that they were called with, in order.
    """

    def __init__(self, inner: Store, hook: Hook = pass_on) -> None:
        self.inner = inner
        self.hook = hook
        self.calls: list[str] = []
        self.keys: list[str] = []
        self._called = asyncio.Event()

    # taken from Store, so that a verb that it gains is passed on as well
    vars().update({name: _verb(name) for name in VERBS})

    async def receive(self, call: StoreCall) -> Any:
        self.calls.append(call.verb)
        self._called.set()
        if call.key is not None:
            self.keys.append(call.key)
        return await self.hook(call)

    async def until_called(self, verb: str, times: int = 1) -> None:
        """Wait until a verb has been called that many times."""
        async with asyncio.timeout(WAIT_LIMIT):
            while self.calls.count(verb) < times:
                self._called.clear()
                await self._called.wait()

    @property
    def writes(self) -> list[str]:
        """The calls that write a record or delete one."""
        return [verb for verb in self.calls if verb in WRITES]

    async def records(self) -> dict[str, Record]:
        """The live records under all keys that were ever used."""
        found = {key: await self.inner.load(key) for key in dict.fromkeys(self.keys)}
        return {key: record for key, record in found.items() if record is not None}


# hooks


def failing(*verbs: str, error: BaseException | None = None) -> Hook:
    """Raise an error, by default ``StoreUnavailable``, before these verbs do anything."""

    async def hook(call: StoreCall) -> Any:
        if call.verb in verbs:
            raise error or StoreUnavailable("told to fail")
        return await call.pass_on()

    return hook


def before(verb: str, action: Callable[[], Awaitable[Any]], *, nth: int = 1) -> Hook:
    """Run an action once, before the nth call of a verb from now on."""
    calls = 0

    async def hook(call: StoreCall) -> Any:
        nonlocal calls
        if call.verb == verb:
            calls += 1
            if calls == nth:
                await action()
        return await call.pass_on()

    return hook


class Gate:
    """A hook that holds the calls of some verbs until it is opened.

    Await ``reached.wait()`` to know that a call stands at it, and open it with ``open()``.
    """

    def __init__(self, *verbs: str) -> None:
        self.verbs = verbs
        self.reached = asyncio.Event()
        self._opened = asyncio.Event()

    async def __call__(self, call: StoreCall) -> Any:
        if call.verb in self.verbs:
            self.reached.set()
            await self._opened.wait()
        return await call.pass_on()

    def open(self) -> None:
        """Let all calls pass, those that wait and those to come."""
        self._opened.set()
