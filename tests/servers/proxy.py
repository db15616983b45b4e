"""A TCP proxy that makes a network as bad as a test needs it."""

import asyncio
import contextlib
import ssl
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit


class Proxy:
    """Stands between a client and a server, in the event loop of the test.

    ``async with Proxy("http://127.0.0.1:8000") as proxy`` listens on ``proxy.port``, and
    ``proxy.url`` is the same URL with that port. Meanwhile:

    - ``proxy.delay = 0.001`` brings each piece of traffic, either way, that many seconds later
    - ``proxy.pause()`` lets nothing through, either way, until ``proxy.resume()``
    - ``proxy.lose_replies = 1`` lets the next request through and cuts where its reply comes;
      ``proxy.spare_replies = 2`` lets two replies through before that
    - ``proxy.refuse = True`` cuts each new connection at once
    - ``proxy.cut()`` cuts all connections that are open

    ``proxy.open`` is the number of connections at the moment. ``proxy.round_trips`` counts how
    often clients had to wait for the server: what they send without a reply in between is one round
    trip.
    """

    def __init__(self, url: str, *, tls: ssl.SSLContext | None = None) -> None:
        self._parts = urlsplit(url)
        self._tls = tls  # clients speak TLS to it
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.delay = 0.0
        self.lose_replies = 0
        self.spare_replies = 0
        self.refuse = False
        self.connections = 0
        self.requests = 0
        self.round_trips = 0
        self._is_answered = True

    @property
    def url(self) -> str:
        user, at, _ = self._parts.netloc.rpartition("@")
        return urlunsplit(self._parts._replace(netloc=f"{user}{at}127.0.0.1:{self.port}"))

    @property
    def open(self) -> int:
        return len(self._writers) // 2

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()
        self.refuse = True
        self.resume()
        self.cut()
        await asyncio.gather(*self._tasks)
        await self._server.wait_closed()

    def pause(self) -> None:
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        self.connections += 1
        with contextlib.suppress(OSError):
            await self._join(reader, writer)
        writer.transport.abort()
        self._tasks.discard(task)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse:
            return
        far_reader, far_writer = await asyncio.open_connection(
            self._parts.hostname, self._parts.port
        )
        both = {writer, far_writer}
        self._writers |= both
        if self.refuse:
            self.cut()
        await asyncio.gather(
            self._pump(reader, far_writer, replies=False),
            self._pump(far_reader, writer, replies=True),
        )
        self._writers -= both

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool
    ) -> None:
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        await asyncio.gather(self._take(reader, line), self._pass_on(line, writer, replies=replies))

    async def _take(
        self, reader: asyncio.StreamReader, line: "asyncio.Queue[tuple[float, bytes]]"
    ) -> None:
        """Read on while earlier pieces are held back: a delay costs time, not throughput."""
        data = b"?"
        while data:
            data = b""
            with contextlib.suppress(OSError):
                data = await reader.read(65536)
            line.put_nowait((asyncio.get_running_loop().time() + self.delay, data))
            await self._flowing.wait()

    async def _pass_on(
        self,
        line: "asyncio.Queue[tuple[float, bytes]]",
        writer: asyncio.StreamWriter,
        *,
        replies: bool,
    ) -> None:
        with contextlib.suppress(OSError):
            while True:
                due, data = await line.get()
                await asyncio.sleep(due - asyncio.get_running_loop().time())
                await self._flowing.wait()
                if not data or (replies and self._loses_this()):
                    break
                self._count(replies)
                writer.write(data)
                await writer.drain()
        # one end is gone: so is the other, or a half-open pair would wait for ever
        writer.transport.abort()

    def _count(self, replies: bool) -> None:
        if not replies:
            self.requests += 1
            self.round_trips += self._is_answered
        self._is_answered = replies

    def _loses_this(self) -> bool:
        if not self.lose_replies:
            return False
        if self.spare_replies:
            self.spare_replies -= 1
            return False
        self.lose_replies -= 1
        return True
