"""An ASGI application on a real socket."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn


@contextlib.contextmanager
def serve(app: Any, **config: Any) -> Iterator[str]:
    """Run ``app`` under uvicorn in a thread with an event loop of its own; gives its base URL.

    Leaving the block waits until the application's lifespan has ended. ``config`` goes to
    ``uvicorn.Config``; ``ws="auto"`` for websockets, which warn in older versions.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    settings = {"log_config": None, "timeout_graceful_shutdown": 5, "ws": "none", **config}
    server = uvicorn.Server(uvicorn.Config(app, **settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        _wait_until_started(server, thread)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=60)
        listener.close()
        assert not thread.is_alive(), "the server did not stop"


def _wait_until_started(server: uvicorn.Server, thread: threading.Thread) -> None:
    deadline = time.monotonic() + 60
    while not server.started:
        assert thread.is_alive(), "the server did not start: see the log"
        assert time.monotonic() < deadline, "the server did not start in time"
        time.sleep(0.005)
