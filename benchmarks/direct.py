"""Calls an application in this process, without a server."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from time import perf_counter, process_time
from typing import Any

from .work import Answer, Request, Run, Send


@asynccontextmanager
async def in_process(app: Any) -> AsyncIterator[Send]:
    """Run an application's lifespan around the block, which gets a function that sends requests."""

    async def send(requests: Sequence[Request], width: int) -> Run:
        return await _run(app, requests, width)

    async with _lifespan(app):
        yield send


async def _run(app: Any, requests: Sequence[Request], width: int) -> Run:
    latencies: list[float] = []
    answers: list[Answer] = []

    async def work(number: int) -> None:
        for request in requests[number::width]:
            began = perf_counter()
            answers.append(await _call(app, _scope(request)))
            latencies.append(perf_counter() - began)

    began, cpu_began = perf_counter(), process_time()
    await asyncio.gather(*(work(number) for number in range(width)))
    return Run(perf_counter() - began, process_time() - cpu_began, latencies, answers)


async def _call(app: Any, scope: dict[str, Any]) -> Answer:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, _receive, send)
    # answers are kept until the end, where they make work for the garbage collector: only cookies
    cookies = [header for header in sent[0]["headers"] if header[0] == b"set-cookie"]
    return Answer(sent[0]["status"], cookies, sent[1]["body"])


async def _receive() -> Any:
    return {"type": "http.request", "body": b"", "more_body": False}


def _scope(request: Request) -> dict[str, Any]:
    headers = [
        (b"host", b"127.0.0.1"),
        (b"user-agent", b"benchmarks"),
        (b"accept", b"*/*"),
        (b"sec-fetch-site", b"same-origin"),
    ]
    if request.cookie:
        headers.append((b"cookie", request.cookie.encode()))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "https",
        "path": request.path,
        "raw_path": request.path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 443),
        "state": {},
    }


@asynccontextmanager
async def _lifespan(app: Any) -> AsyncIterator[None]:
    received: asyncio.Queue[Any] = asyncio.Queue()
    sent: asyncio.Queue[Any] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    task = asyncio.create_task(app(scope, received.get, sent.put))
    for phase in ("startup", "shutdown"):
        await received.put({"type": f"lifespan.{phase}"})
        message = await sent.get()
        if message["type"] != f"lifespan.{phase}.complete":
            raise RuntimeError(message)
        if phase == "startup":
            yield
    await task
