"""Half a millisecond of network each way between a client and a server, by a TCP proxy.

The proxy is this module in its own process: ``python -m benchmarks.distance PORT SECONDS CORE``
prints the port that it listens on. It is a plain loop over ``select``, whose timeouts are exact to
a fraction of a tenth of a millisecond; those of uvloop and of asyncio on Linux are whole
milliseconds.
"""

import os
import select
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from urllib.parse import urlsplit, urlunsplit

from .cpu import pin

ONE_WAY = 0.0005


@contextmanager
def at_a_distance(url: str, seconds: float = ONE_WAY) -> Iterator[str]:
    """Put a server that many seconds away; the block gets the URL at which it is reached."""
    parts = urlsplit(url)
    command = [sys.executable, "-m", "benchmarks.distance", str(parts.port), str(seconds)]
    with subprocess.Popen([*command, str(_core())], stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout
        try:
            port = int(proxy.stdout.readline())
            yield urlunsplit(parts._replace(netloc=f"127.0.0.1:{port}"))
        finally:
            proxy.terminate()


def _core() -> int:
    """A core that neither the application nor the client has, where there are three."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[-2] if len(usable) > 2 else usable[-1]


class Delay:
    """Passes on what is sent to a listener, and the replies, that many seconds later, in order."""

    def __init__(self, listener: socket.socket, port: int, seconds: float) -> None:
        self._listener = listener
        self._port = port
        self._seconds = seconds
        self._peers: dict[socket.socket, socket.socket] = {}
        # each piece waits equally long, so the first to come is the first to be due
        self._line: deque[tuple[float, socket.socket, bytes]] = deque()

    def run(self) -> None:
        while True:
            readable, _, _ = select.select([self._listener, *self._peers], [], [], self._patience())
            for each in readable:
                self._accept() if each is self._listener else self._take(each)
            while self._line and self._line[0][0] <= monotonic():
                _, receiver, data = self._line.popleft()
                self._pass_on(receiver, data)

    def _patience(self) -> float | None:
        return max(0.0, self._line[0][0] - monotonic()) if self._line else None

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        far = socket.create_connection(("127.0.0.1", self._port))
        for each in (near, far):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self._peers |= {near: far, far: near}

    def _take(self, sender: socket.socket) -> None:
        try:
            data = sender.recv(65536)
        except OSError:
            data = b""
        receiver = self._peers[sender]
        if not data:
            del self._peers[sender]
        self._line.append((monotonic() + self._seconds, receiver, data))

    def _pass_on(self, receiver: socket.socket, data: bytes) -> None:
        # an end that has hung up is seen by the other as an end of file
        with suppress(OSError):
            receiver.sendall(data) if data else receiver.shutdown(socket.SHUT_WR)


def main() -> None:
    port, seconds, core = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    pin(core)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        Delay(listener, port, seconds).run()


if __name__ == "__main__":
    main()
