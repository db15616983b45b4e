"""Sends requests over HTTP to an application under uvicorn, in a process of its own.

Run as a module it is that process: ``python -m benchmarks.wire NAME FD CORE`` and the places.
"""

import asyncio
import gc
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import astuple
from time import perf_counter
from typing import cast

from .contenders import CONTENDERS, Contender, Places
from .work import Answer, Request, Run, Send


def pin(core: int) -> None:
    """Stay on one core, where the system can do that."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def cores() -> tuple[int, int]:
    """One core for the application, and another one for everything else where there is one."""
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    return usable[0], usable[-1]


@asynccontextmanager
async def over_http(
    contender: Contender, places: Places, *, core: int, connections: int
) -> AsyncIterator[Send]:
    """Serve a contender on a core; what is given sends over that many connections."""
    loop = asyncio.get_running_loop()
    pool: list[Connection] = []

    async def send(requests: Sequence[Request], width: int) -> Run:
        work = Work(loop.create_future(), len(requests))
        raw = [_bytes(request) for request in requests]
        began = perf_counter()
        for number, connection in enumerate(pool[:width]):
            connection.take(work, raw[number::width])
        await asyncio.wait_for(work.done, 300)
        return Run(perf_counter() - began, work.latencies, work.answers())

    with _served(contender, places, core) as port:
        for _ in range(connections):
            made = await loop.create_connection(Connection, "127.0.0.1", port)
            pool.append(made[1])
        yield send
        for connection in pool:
            connection.transport.abort()


@contextmanager
def _served(contender: Contender, places: Places, core: int) -> Iterator[int]:
    # the listener is ours: who connects waits in its backlog until the server is there
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        fd, port = listener.fileno(), listener.getsockname()[1]
        command = [sys.executable, "-m", "benchmarks.wire", contender.name, str(fd), str(core)]
        server = subprocess.Popen([*command, *astuple(places)], pass_fds=[fd])
        try:
            yield port
        finally:
            server.terminate()
            server.wait(timeout=30)


class Work:
    """What comes back of one run."""

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
    """One browser's connection, kept alive: sends a request when the last one was answered."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass
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


def serve(name: str, listener: int, core: int, places: Places) -> None:
    """One worker of uvicorn on one core."""
    import uvicorn

    pin(core)
    (contender,) = [each for each in CONTENDERS if each.name == name]
    config = uvicorn.Config(
        contender.make(places),
        loop="uvloop",
        http="httptools",
        log_level="critical",
        access_log=False,
        # between two rounds the others have their turns
        timeout_keep_alive=3600,
    )
    # as in one process: nobody pays for the modules that were imported
    gc.collect()
    gc.freeze()
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=listener)])


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Places(*sys.argv[4:]))
