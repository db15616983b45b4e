"""Deterministic concurrency: runs tasks in every order in which their store calls can fall.

A ``Scheduler`` lets one task at a time go on, up to its next ``pause``. With the hooks
``pause_before_calls`` and ``pause_around_calls`` a store pauses at its calls; ``PausingRedis``
pauses at its commands. ``every_interleaving`` runs a scenario until every order has been run.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from redis.asyncio import Redis

from fastapi_async_sessions import Record
from fastapi_async_sessions.testing import FrozenClock

from .doubles import WAIT_LIMIT, StoreCall

_current: ContextVar["tuple[Scheduler, str] | None"] = ContextVar("current", default=None)
_IDLE_TURNS = 25

Step = tuple[str, str]
"""What a task is about to do: a verb and the key that it applies to."""


@dataclass
class Choice:
    """A moment at which one of several tasks could go on."""

    waiting: dict[str, Step]
    asleep: set[str]
    tried: list[str]
    taken: str

    def take_next(self) -> bool:
        """Take a task that has not been tried yet; False if there is none."""
        self.tried.append(self.taken)
        left = [name for name in self.waiting if name not in {*self.tried, *self.asleep}]
        self.taken = left[0] if left else ""
        return bool(left)


class Redundant(Exception):
    """Every order that begins like this one is equivalent to one that has been run."""


class Scheduler:
    """Runs tasks one step at a time; a step ends at the next pause."""

    def __init__(self, clock: FrozenClock, choices: list[Choice], *, prunes: bool) -> None:
        self._clock = clock
        self._choices = choices
        self._prunes = prunes
        self._place = 0
        self._paused: dict[str, asyncio.Future[None]] = {}
        self._steps: dict[str, Step] = {}
        self._changes = 0
        self._calls = 0
        self._returned = asyncio.Event()
        self._is_over = False
        self.log: list[str] = []

    async def run(self, **tasks: Callable[[], Awaitable[Any]]) -> dict[str, Any]:
        """Run all tasks to their ends, in the order of the choices, and return their results."""
        running = {name: asyncio.create_task(self._run(name, task)) for name, task in tasks.items()}
        try:
            await self._until_idle(running)
            while not all(task.done() for task in running.values()):
                self._clock.advance(timedelta(seconds=1))
                self._paused.pop(self._choose()).set_result(None)
                await self._until_idle(running)
        finally:
            await self._cancel(running)
        return {name: task.result() for name, task in running.items()}

    async def pause(self, name: str, verb: str, key: str = "") -> None:
        """Wait until it is this task's turn."""
        if self._is_over:
            raise asyncio.CancelledError
        while name in self._paused:  # a task that does several things at once: each has its turn
            name += "'"
        turn = self._paused[name] = asyncio.get_running_loop().create_future()
        self._steps[name] = (verb, key)
        self._changes += 1
        await turn
        self.log.append(f"{name}: {verb}")

    async def alone(self, call: Coroutine[Any, Any, Any]) -> Any:
        """Await a call of a task's store before any other task may go on."""
        self._calls += 1
        try:
            return await call
        finally:
            self._calls -= 1
            self._changes += 1
            self._returned.set()

    def _choose(self) -> str:
        assert self._paused, f"deadlock: {self.log}"
        waiting = {name: self._steps[name] for name in sorted(self._paused)}
        if self._place == len(self._choices):
            self._choices.append(self._new_choice(waiting))
        choice = self._choices[self._place]
        assert choice.waiting.keys() == waiting.keys(), "the scenario is not deterministic"
        self._place += 1
        return choice.taken

    def _new_choice(self, waiting: dict[str, Step]) -> Choice:
        asleep: set[str] = set()
        if self._prunes and self._choices:
            before = self._choices[-1]
            taken = before.waiting[before.taken]
            # it was tried before, and trying it now gives the same if the two steps commute
            asleep = {
                name
                for name in {*before.asleep, *before.tried}
                if name in waiting and _commute(before.waiting[name], taken)
            }
        awake = [name for name in waiting if name not in asleep]
        if not awake:
            raise Redundant
        return Choice(waiting, asleep, [], awake[0])

    async def _run(self, name: str, task: Callable[[], Awaitable[Any]]) -> Any:
        _current.set((self, name))
        await self.pause(name, "begins")
        try:
            return await task()
        finally:
            self._changes += 1
            self.log.append(f"{name}: ends")

    async def _until_idle(self, tasks: dict[str, "asyncio.Task[Any]"]) -> None:
        """Wait until each task has ended, is paused, or waits for another task."""
        idle = 0
        async with asyncio.timeout(WAIT_LIMIT):
            while idle < _IDLE_TURNS:
                if all(task.done() or name in self._paused for name, task in tasks.items()):
                    return
                changes = self._changes
                if self._calls:
                    self._returned.clear()
                    await self._returned.wait()
                await asyncio.sleep(0)
                idle = idle + 1 if changes == self._changes else 0

    async def _cancel(self, tasks: dict[str, "asyncio.Task[Any]"]) -> None:
        self._is_over = True
        for waiting in [*self._paused.values(), *tasks.values()]:
            waiting.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)


def _commute(one: Step, other: Step) -> bool:
    """Whether two steps have the same effect in either order."""
    verbs = {one[0], other[0]}
    if "time" in verbs:
        return False
    if "begins" in verbs:
        return len(verbs) > 1  # a revocation depends on which of two tasks began first
    if "delete_owned" in verbs:
        return False  # it may touch any key
    if "find" in verbs:
        return not verbs & {"create", "save", "delete"}
    return one[1] != other[1] or verbs == {"load"}


# where tasks pause


async def pause(verb: str) -> None:
    """Pause the task that runs this; code that no scheduler runs goes straight on."""
    if current := _current.get():
        scheduler, name = current
        await scheduler.pause(name, verb)


async def pause_before_calls(call: StoreCall) -> Any:
    """Hook of a ``SpyStore``: a pause before each call."""
    current = _current.get()
    if current is None:
        return await call.pass_on()
    scheduler, name = current
    await scheduler.pause(name, call.verb, call.key or "")
    return await scheduler.alone(call.pass_on())


async def pause_around_calls(call: StoreCall) -> Any:
    """Hook of a ``SpyStore``: a pause before each call, and one before its result is returned."""
    result = await pause_before_calls(call)
    shown = type(result).__name__ if isinstance(result, Record | list) else result
    await pause(f"{call.verb} returned {shown}")
    return result


class PausingRedis(Redis):
    """A client that pauses before each command, so that a store's own steps interleave."""

    async def execute_command(self, *words: Any, **options: Any) -> Any:
        call = super().execute_command(*words, **options)
        current = _current.get()
        if current is None:
            return await call
        scheduler, name = current
        try:
            await scheduler.pause(name, str(words[0]))
        except asyncio.CancelledError:
            call.close()
            raise
        return await scheduler.alone(call)


async def every_interleaving(
    scenario: Callable[[Scheduler], Awaitable[None]],
    clock: FrozenClock,
    *,
    prunes: bool = False,
    at_most: int = 20_000,
) -> int:
    """Run a scenario in every order of its pauses, and return how many there were.

    With ``prunes``, of the orders that differ only in steps that commute (two loads, calls of
    different keys) a single one is run: the method is known as "sleep sets".
    """
    choices: list[Choice] = []
    start, runs = clock.now, 0
    while runs < at_most:
        clock.now = start
        scheduler = Scheduler(clock, choices, prunes=prunes)
        try:
            await scenario(scheduler)
            runs += 1
        except Redundant:
            pass
        except BaseException as error:
            error.add_note("\n".join(["the order was:", *scheduler.log]))
            raise
        while choices and not choices[-1].take_next():
            choices.pop()
        if not choices:
            return runs
    raise AssertionError(f"more than {at_most} interleavings")
