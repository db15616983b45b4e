"""Sends requests over HTTP to an application under uvicorn, in its own process.

That process is this module: ``python -m benchmarks.wire NAME FD CORE`` and the addresses.
"""

import asyncio
import gc
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import astuple
from time import perf_counter
from typing import cast

from .contenders import CONTENDERS, Addresses, Contender
from .cpu import cpu_seconds, pin
from .work import Answer, Request, Run, Send


@asynccontextmanager
async def over_http(
    contender: Contender, addresses: Addresses, *, core: int, connections: int
) -> AsyncIterator[Send]:
    """Serve a contender on a core, and connect to it that many times."""
    loop = asyncio.get_running_loop()
    pool: list[Connection] = []

    async def send(requests: Sequence[Request], width: int) -> Run:
        work = Work(loop.create_future(), len(requests))
        raw = [_bytes(request) for request in requests]
        began, cpu_began = perf_counter(), cpu_seconds(worker.pid)
        for number, connection in enumerate(pool[:width]):
            connection.take(work, raw[number::width])
        await asyncio.wait_for(work.done, 300)
        seconds, cpu = perf_counter() - began, cpu_seconds(worker.pid) - cpu_began
        return Run(seconds, cpu, work.latencies, work.answers())

    with _served(contender, addresses, core) as (worker, port):
        for _ in range(connections):
            made = await loop.create_connection(Connection, "127.0.0.1", port)
            pool.append(made[1])
        yield send
        for connection in pool:
            connection.transport.abort()


@contextmanager
def _served(
    contender: Contender, addresses: Addresses, core: int
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    # connections wait in the listener's backlog until the worker accepts them
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        fd, port = listener.fileno(), listener.getsockname()[1]
        command = [sys.executable, "-m", "benchmarks.wire", contender.name, str(fd), str(core)]
        worker = subprocess.Popen([*command, *astuple(addresses)], pass_fds=[fd])
        try:
            yield worker, port
        finally:
            worker.terminate()
            worker.wait(timeout=30)


class Work:
    """The replies to one run of requests."""

    def __init__(self, done: asyncio.Future[None], wanted: int) -> None:
        self.done = done
        self.latencies: list[float] = []
        self._wanted = wanted
        self._replies: list[bytes] = []

    def add(self, reply: bytes, seconds: float) -> None:
        self._replies.append(reply)
        self.latencies.append(seconds)
        if len(self._replies) == self._wanted:
            self.done.set_result(None)

    def answers(self) -> list[Answer]:
        return [_answer(reply) for reply in self._replies]


class Connection(asyncio.Protocol):
    """A connection that is kept alive and sends its next request when the last was answered."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not subclasses of asyncio's
        self.transport = cast(asyncio.Transport, transport)
        self._reply = b""

    def take(self, work: Work, requests: Sequence[bytes]) -> None:
        self._work = work
        self._todo = iter(requests)
        self._next()

    def data_received(self, data: bytes) -> None:
        self._reply += data
        if not _is_whole(self._reply):
            return
        reply, self._reply = self._reply, b""
        self._work.add(reply, perf_counter() - self._began)
        self._next()

    def connection_lost(self, error: Exception | None) -> None:
        if hasattr(self, "_work") and not self._work.done.done():
            self._work.done.set_exception(ConnectionError(f"the server hung up: {error}"))

    def _next(self) -> None:
        request = next(self._todo, None)
        if request is not None:
            self._began = perf_counter()
            self.transport.write(request)


def _bytes(request: Request) -> bytes:
    lines = [
        f"{request.method} {request.path} HTTP/1.1",
        "Host: 127.0.0.1",
        "User-Agent: benchmarks",
        "Accept: */*",
        "Sec-Fetch-Site: same-origin",
    ]
    if request.cookie:
        lines.append(f"Cookie: {request.cookie}")
    if request.method == "POST":
        lines.append("Content-Length: 0")
    return "\r\n".join([*lines, "", ""]).encode()


def _is_whole(reply: bytes) -> bool:
    head, end, body = reply.partition(b"\r\n\r\n")
    if not end:
        return False
    start = head.lower().index(b"content-length:") + len(b"content-length:")
    return len(body) >= int(head[start:].partition(b"\r\n")[0])


def _answer(reply: bytes) -> Answer:
    head, _, body = reply.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    pairs = [line.partition(b":") for line in lines]
    return Answer(int(status[9:12]), [(name, value.strip()) for name, _, value in pairs], body)


def serve(name: str, listener: int, core: int, addresses: Addresses) -> None:
    """One worker of uvicorn on one core."""
    import uvicorn

    pin(core)
    (contender,) = [each for each in CONTENDERS if each.name == name]
    config = uvicorn.Config(
        contender.make(addresses),
        loop="uvloop",
        http="httptools",
        log_level="critical",
        access_log=False,
        # a connection is idle while the other contenders have their turns
        timeout_keep_alive=3600,
    )
    # the garbage collector does not look through imported modules again and again
    gc.collect()
    gc.freeze()
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=listener)])


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Addresses(*sys.argv[4:]))
