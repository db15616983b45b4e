"""Together: what meets travels together, and nobody pays for another."""

import asyncio

import pytest

from fastapi_async_sessions.errors import StoreUnavailable
from fastapi_async_sessions.stores._batcher import Together


class Road:
    """Where messages go: shows each one, and lets it arrive when the test says so."""

    def __init__(self):
        self.messages = []
        self.arrivals = []
        self.left = asyncio.Event()
        self.together = Together(asyncio.get_running_loop(), self.send)

    async def send(self, items):
        arrival = asyncio.get_running_loop().create_future()
        self.messages.append(items)
        self.arrivals.append(arrival)
        self.left.set()
        await arrival
        return [f"answer to {item}" for item in items]

    async def start(self, *items):
        tasks = [asyncio.create_task(self.together(item)) for item in items]
        await settle()
        return tasks

    async def arrive(self, number, error=None):
        if error is None:
            self.arrivals[number].set_result(None)
        else:
            self.arrivals[number].set_exception(error)
        await settle()


async def settle():
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
async def road():
    return Road()


async def test_the_first_leaves_at_once_and_the_next_ones_together(road):
    """When it is back, and in the order in which they came."""
    tasks = await road.start("a", "b", "c")
    assert road.messages == [["a"]]
    await road.arrive(0)
    assert road.messages == [["a"], ["b", "c"]]
    await road.arrive(1)
    assert [task.result() for task in tasks] == ["answer to a", "answer to b", "answer to c"]


async def test_nothing_joins_a_message_that_has_left(road):
    """The same item too is sent again: its answer may be newer."""
    await road.start("a", "b")
    await road.arrive(0)
    late = await road.start("b")
    assert road.messages == [["a"], ["b"]]
    await road.arrive(1)
    assert road.messages == [["a"], ["b"], ["b"]]
    await road.arrive(2)
    assert late[0].result() == "answer to b"


async def test_a_lost_answer_holds_nobody_up(road):
    """The others leave after a short while without it."""
    tasks = await road.start("a", "b", "c")
    road.left.clear()
    async with asyncio.timeout(2):
        await road.left.wait()
    assert road.messages == [["a"], ["b", "c"]]
    await road.arrive(1)
    assert [task.done() for task in tasks] == [False, True, True]
    await road.arrive(0)


async def test_a_message_has_a_largest_size(road):
    """A crowd leaves in several."""
    tasks = await road.start("first", *range(250))
    assert [len(message) for message in road.messages] == [1, 100, 100]
    for number in range(3):
        await road.arrive(number)
    await road.arrive(3)
    assert [len(message) for message in road.messages] == [1, 100, 100, 50]
    assert all(task.done() for task in tasks)


async def test_who_gives_up_before_leaving_does_not_travel(road):
    """The others do."""
    tasks = await road.start("a", "b", "c")
    tasks[1].cancel()
    await road.arrive(0)
    assert road.messages == [["a"], ["c"]]
    await road.arrive(1)
    assert tasks[2].result() == "answer to c"


async def test_who_gives_up_on_the_way_disturbs_nobody(road):
    """The first one ends its own message and lets the next leave; a later one leaves a message."""
    tasks = await road.start("a", "b", "c")
    tasks[0].cancel()
    await settle()
    assert road.messages == [["a"], ["b", "c"]]
    tasks[1].cancel()
    await road.arrive(1)
    assert [task.cancelled() for task in tasks] == [True, True, False]
    assert tasks[2].result() == "answer to c"


async def test_nobody_left_to_travel_is_no_message(road):
    """And the road is free again."""
    tasks = await road.start("a", "b")
    tasks[1].cancel()
    await road.arrive(0)
    assert road.messages == [["a"]]
    await road.start("c")
    assert road.messages == [["a"], ["c"]]
    await road.arrive(1)


async def test_a_failure_reaches_those_who_travelled_and_no_one_else(road):
    """Each gets an exception of its own, and the next message leaves."""
    tasks = await road.start("a", "b", "c")
    await road.arrive(0)
    later = await road.start("d")
    await road.arrive(1, StoreUnavailable("down"))
    errors = [task.exception() for task in tasks[1:]]
    assert [error.reason for error in errors] == ["down", "down"]
    assert errors[0] is not errors[1]
    assert [(error.__cause__, error.__context__) for error in errors] == [(None, None)] * 2
    await road.arrive(2)
    assert later[0].result() == "answer to d"


async def test_a_failure_does_not_reach_who_has_given_up(road):
    """And nobody is told about an exception that nobody takes."""
    tasks = await road.start("a", "b", "c")
    await road.arrive(0)
    tasks[1].cancel()
    await road.arrive(1, StoreUnavailable("down"))
    assert tasks[1].cancelled()
    assert isinstance(tasks[2].exception(), StoreUnavailable)


async def test_the_first_ones_failure_is_its_own(road):
    """The next message leaves."""
    tasks = await road.start("a", "b")
    await road.arrive(0, StoreUnavailable("down"))
    await road.arrive(1)
    assert isinstance(tasks[0].exception(), StoreUnavailable)
    assert tasks[1].result() == "answer to b"


async def test_a_message_without_an_end_is_given_up(road, monkeypatch):
    """Where the client has no timeout of its own, connections do not pile up."""
    monkeypatch.setattr("fastapi_async_sessions.stores._batcher._GIVE_UP", 0.01)
    tasks = await road.start("a", "b")
    await road.arrive(0)
    with pytest.raises(StoreUnavailable, match="no answer in time"):
        await tasks[1]
    assert road.arrivals[1].cancelled()


async def test_settling_waits_for_what_is_on_its_way(road):
    """As when a store closes."""
    await road.start("a", "b")
    await road.arrive(0)
    settling = asyncio.create_task(road.together.settle())
    await settle()
    assert not settling.done()
    await road.arrive(1)
    assert settling.done()
    await road.together.settle()


async def test_nobody_is_left_waiting_when_the_loop_ends(road):
    """As asyncio.run() does, which cancels what still runs."""
    tasks = await road.start("a", "b", "c")
    await road.arrive(0)
    for task in asyncio.all_tasks() - {asyncio.current_task(), *tasks}:
        task.cancel()
    await settle()
    assert [task.cancelled() for task in tasks] == [False, True, True]
