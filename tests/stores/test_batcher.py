"""Batcher: what is batched, and that the callers of a batch do not affect each other."""

import asyncio

import pytest

from fastapi_async_sessions.errors import StoreUnavailable
from fastapi_async_sessions.stores import _batcher
from fastapi_async_sessions.stores._batcher import Batcher


class Server:
    """Records each batch it is sent, and replies when the test says so."""

    def __init__(self):
        self.batches = []
        self.sizes = []
        self.replies = []
        self.was_sent_a_batch = asyncio.Event()
        self.batcher = Batcher(asyncio.get_running_loop(), self.receive, self.sizes.append)

    async def receive(self, items):
        reply = asyncio.get_running_loop().create_future()
        self.batches.append(items)
        self.replies.append(reply)
        self.was_sent_a_batch.set()
        await reply
        return [f"answer to {item}" for item in items]

    async def request(self, *items):
        tasks = [asyncio.create_task(self.batcher(item)) for item in items]
        await run_what_can_run()
        return tasks

    async def reply(self, number, error=None):
        if error is None:
            self.replies[number].set_result(None)
        else:
            self.replies[number].set_exception(error)
        await run_what_can_run()


async def run_what_can_run():
    """Let every task run as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
async def server(monkeypatch):
    """It decides when batches are sent: by itself none is, however slow the machine is."""
    monkeypatch.setattr(_batcher, "_MAX_DELAY", 3600)
    return Server()


async def test_the_first_item_is_sent_at_once_and_the_next_ones_in_a_batch(server):
    """The batch is sent when the first reply is back, in the order of the calls."""
    tasks = await server.request("a", "b", "c")
    assert server.batches == [["a"]]
    await server.reply(0)
    assert server.batches == [["a"], ["b", "c"]]
    assert server.sizes == [2]
    await server.reply(1)
    assert [task.result() for task in tasks] == ["answer to a", "answer to b", "answer to c"]


async def test_no_item_joins_a_batch_that_is_in_flight(server):
    """Even an equal item is sent again: its answer may be newer."""
    await server.request("a", "b")
    await server.reply(0)
    late = await server.request("b")
    assert server.batches == [["a"], ["b"]]
    await server.reply(1)
    assert server.batches == [["a"], ["b"], ["b"]]
    await server.reply(2)
    assert late[0].result() == "answer to b"


async def test_a_lost_reply_does_not_hold_up_the_next_batch(server, monkeypatch):
    """It is sent after a short delay all the same."""
    monkeypatch.setattr(_batcher, "_MAX_DELAY", 0.01)
    tasks = await server.request("a", "b", "c")
    async with asyncio.timeout(60):
        while len(server.batches) < 2:
            server.was_sent_a_batch.clear()
            await server.was_sent_a_batch.wait()
    assert server.batches == [["a"], ["b", "c"]]
    await server.reply(1)
    assert [task.done() for task in tasks] == [False, True, True]
    await server.reply(0)


async def test_a_batch_has_a_maximum_size(server):
    """A crowd is sent in several batches."""
    tasks = await server.request("first", *range(250))
    assert [len(batch) for batch in server.batches] == [1, 100, 100]
    for number in range(3):
        await server.reply(number)
    await server.reply(3)
    assert [len(batch) for batch in server.batches] == [1, 100, 100, 50]
    assert all(task.done() for task in tasks)


async def test_an_item_cancelled_before_its_batch_is_not_sent(server):
    """The other items of the batch are."""
    tasks = await server.request("a", "b", "c")
    tasks[1].cancel()
    await server.reply(0)
    assert server.batches == [["a"], ["c"]]
    await server.reply(1)
    assert tasks[2].result() == "answer to c"


async def test_a_caller_cancelled_in_flight_does_not_affect_the_others(server):
    """A lone request ends and the next batch is sent; a batch goes on without the caller."""
    tasks = await server.request("a", "b", "c")
    tasks[0].cancel()
    await run_what_can_run()
    assert server.batches == [["a"], ["b", "c"]]
    tasks[1].cancel()
    await server.reply(1)
    assert [task.cancelled() for task in tasks] == [True, True, False]
    assert tasks[2].result() == "answer to c"


async def test_a_batch_whose_callers_were_all_cancelled_is_not_sent(server):
    """The next item is sent at once again."""
    tasks = await server.request("a", "b")
    tasks[1].cancel()
    await server.reply(0)
    assert server.batches == [["a"]]
    await server.request("c")
    assert server.batches == [["a"], ["c"]]
    await server.reply(1)


async def test_a_failure_reaches_the_callers_of_its_batch_and_no_others(server):
    """Each gets an exception of its own, and the next batch is sent."""
    tasks = await server.request("a", "b", "c")
    await server.reply(0)
    later = await server.request("d")
    await server.reply(1, StoreUnavailable("down"))
    errors = [task.exception() for task in tasks[1:]]
    assert [error.reason for error in errors] == ["down", "down"]
    assert errors[0] is not errors[1]
    assert [(error.__cause__, error.__context__) for error in errors] == [(None, None)] * 2
    await server.reply(2)
    assert later[0].result() == "answer to d"


async def test_a_failure_does_not_reach_a_cancelled_caller(server):
    """No exception is left that nobody retrieves."""
    tasks = await server.request("a", "b", "c")
    await server.reply(0)
    tasks[1].cancel()
    await server.reply(1, StoreUnavailable("down"))
    assert tasks[1].cancelled()
    assert isinstance(tasks[2].exception(), StoreUnavailable)


async def test_a_failure_of_the_first_item_is_its_own(server):
    """The next batch is sent."""
    tasks = await server.request("a", "b")
    await server.reply(0, StoreUnavailable("down"))
    await server.reply(1)
    assert isinstance(tasks[0].exception(), StoreUnavailable)
    assert tasks[1].result() == "answer to b"


async def test_a_batch_without_a_reply_times_out(server, monkeypatch):
    """Connections do not pile up, even if the client has no timeout of its own."""
    monkeypatch.setattr(_batcher, "_TIMEOUT", 0.01)
    tasks = await server.request("a", "b")
    await server.reply(0)
    with pytest.raises(StoreUnavailable, match="no answer in time"):
        await tasks[1]
    assert server.replies[1].cancelled()


async def test_draining_waits_for_the_batches_in_flight(server):
    """As when a store closes."""
    await server.request("a", "b")
    await server.reply(0)
    draining = asyncio.create_task(server.batcher.drain())
    await run_what_can_run()
    assert not draining.done()
    await server.reply(1)
    assert draining.done()
    await server.batcher.drain()


async def test_no_caller_is_left_waiting_when_the_loop_ends(server):
    """asyncio.run() cancels the tasks that are still running, and so does this test."""
    tasks = await server.request("a", "b", "c")
    await server.reply(0)
    for task in asyncio.all_tasks() - {asyncio.current_task(), *tasks}:
        task.cancel()
    await run_what_can_run()
    assert [task.cancelled() for task in tasks] == [False, True, True]
