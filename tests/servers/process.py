"""A server process on loopback, which a test can stop, kill, pause and start again."""

import random
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, Self, TypeVar

from .waits import until

_STOP_WITHIN = 30.0


class ServerProcess(ABC):
    """One process with a directory of its own, in which the file ``log`` takes what it prints.

    A subclass says which command starts it and when it is ready. The process is only ever ended
    by its own id; leaving a test without ``stop`` leaves it running, so fixtures register that
    first.
    """

    start_within = 120.0
    stop_signal = signal.SIGTERM
    user: str | None = None
    environment: Mapping[str, str] | None = None

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.is_paused = False

    @abstractmethod
    def _command(self) -> list[str]:
        """The program and its arguments."""

    @abstractmethod
    def _is_ready(self) -> bool:
        """Whether it answers."""

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start it, and wait until it answers.

        Raises:
            RuntimeError: it ended; the message holds its log.
            TimeoutError: it does not answer.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self.user,
            )
        try:
            until(self._has_started, within=self.start_within, what=f"{self} answers")
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """Ask it to end, and wait; it may have been paused or killed before."""
        if self._process is None:
            return
        self.resume()
        self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(_STOP_WITHIN)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """End it as a crash does: nothing is saved, connections break."""
        process = self._running()
        process.kill()
        process.wait(_STOP_WITHIN)

    def restart(self) -> None:
        """Start it again on the same port."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Let it hang: connections stay open, nothing is answered."""
        self._running().send_signal(signal.SIGSTOP)
        self.is_paused = True

    def resume(self) -> None:
        self._running().send_signal(signal.SIGCONT)
        self.is_paused = False

    def _running(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None, f"{self} was not started"
        return self._process

    def _has_started(self) -> bool:
        if not self.is_running:
            raise RuntimeError(f"{self} ended:\n{self.log}")
        return self._is_ready()


class _Startable(Protocol):
    def start(self) -> Self: ...

    def stop(self) -> None: ...


_Server = TypeVar("_Server", bound=_Startable)


@contextmanager
def running(server: _Server) -> Iterator[_Server]:
    """Start a server, or a group of them, for as long as the block runs."""
    try:
        yield server.start()
    finally:
        server.stop()


def free_port(offset: int = 0) -> int:
    """A port that is free, and so is the one ``offset`` above it; it is not handed out again.

    Below the ephemeral ports: no client takes it while its server is down.
    """
    while True:
        port = random.randrange(12000, 22000)
        if is_free(port) and is_free(port + offset) and _reserve(port):
            return port


def _reserve(port: int) -> bool:
    """Keep it for this process by a UDP socket, which a TCP server on it does not notice."""
    reservation = socket.socket(type=socket.SOCK_DGRAM)
    try:
        reservation.bind(("127.0.0.1", port))
    except OSError:  # by this run of the tests, or by another one
        reservation.close()
        return False
    reservation.detach()  # it stays open until the process ends
    return True


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        # as servers do: a connection that has just ended keeps nobody from listening
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except OSError:
        return False
    return True
