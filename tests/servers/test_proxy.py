"""The proxy is as bad as it is told to be, and no worse."""

import asyncio
from contextlib import asynccontextmanager, suppress

import pytest

from .proxy import Proxy


@asynccontextmanager
async def echo(*, together=1):
    """A proxy before a server that sends back what it gets, and a client of it.

    The server waits until so many clients have sent something.
    """
    barrier = asyncio.Barrier(together)

    async def answer(reader, writer):
        with suppress(OSError):
            while data := await reader.read(65536):
                await barrier.wait()
                writer.write(data)
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with (
            asyncio.timeout(60),
            Proxy(f"tcp://127.0.0.1:{port}") as proxy,
            connected(proxy) as ask,
        ):
            yield proxy, ask


@asynccontextmanager
async def connected(proxy):
    """Sends something, and gives as much of what comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)

    async def ask(data):
        writer.write(data)
        try:
            return await reader.readexactly(len(data))
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError from error

    try:
        yield ask
    finally:
        writer.transport.abort()


async def test_it_passes_on_both_ways():
    """Whatever the size."""
    async with echo() as (proxy, ask):
        assert await ask(b"x") == b"x"
        assert await ask(b"x" * 1_000_000) == b"x" * 1_000_000
        assert proxy.connections == 1


async def test_a_delay_is_added_each_way():
    """A millisecond there, and one back."""
    async with echo() as (proxy, ask):
        proxy.delay = 0.001
        started = asyncio.get_running_loop().time()
        for _ in range(10):
            await ask(b"x")
        assert asyncio.get_running_loop().time() - started >= 0.020
        assert proxy.round_trips == 10


async def test_a_delay_costs_no_throughput():
    """What was sent meanwhile comes as much later, not after it."""
    async with echo() as (proxy, ask):
        proxy.delay = 0.2
        started = asyncio.get_running_loop().time()
        await ask(b"x" * 4_000_000)  # 61 pieces at least
        assert asyncio.get_running_loop().time() - started < 61 * 0.2


async def test_it_counts_round_trips():
    """What is sent without a reply in between is one."""
    async with echo(together=2) as (proxy, ask), connected(proxy) as ask_elsewhere:
        for _ in range(3):
            await asyncio.gather(ask(b"x"), ask_elsewhere(b"y"))
        assert (proxy.requests, proxy.round_trips) == (6, 3)


async def test_while_it_is_paused_nothing_comes_through():
    """Afterwards all of it does."""
    async with echo() as (proxy, ask):
        proxy.pause()
        answer = asyncio.create_task(ask(b"x"))
        await asyncio.wait({answer}, timeout=0.05)
        assert not answer.done()
        proxy.resume()
        assert await answer == b"x"


async def test_a_reply_that_is_lost_ends_its_connection():
    """Its request came through; the next connection is whole."""
    async with echo() as (proxy, ask):
        proxy.lose_replies = 1
        with pytest.raises(OSError):
            await ask(b"x")
        assert (proxy.requests, proxy.lose_replies) == (1, 0)
        async with connected(proxy) as ask_again:
            assert await ask_again(b"x") == b"x"


async def test_connections_can_be_cut_and_refused():
    """Those that are open, and new ones."""
    async with echo() as (proxy, ask):
        await ask(b"x")
        proxy.cut()
        with pytest.raises(OSError):
            await ask(b"x")
        proxy.refuse = True
        with pytest.raises(OSError):
            async with connected(proxy) as ask_again:
                await ask_again(b"x")
