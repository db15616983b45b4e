"""An ASGI application in several worker processes, under any server."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx

from .process import ServerProcess, free_port

_REPOSITORY = Path(__file__).parents[2]


class Workers(ServerProcess):
    """Two processes, or as many as ``count`` says, that serve ``app`` ("module:name") on a port.

    ``settings`` are environment variables for the application; ``options`` are the server's own.
    """

    def __init__(
        self,
        directory: Path,
        app: str,
        *options: str,
        under: str,
        count: int = 2,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(directory)
        self.port = free_port()
        self.environment = {**os.environ, "PYTHONPATH": str(_REPOSITORY), **(settings or {})}
        self._arguments = [*_SERVERS[under](self.port, count), *options, app]
        self._name = f"{app} under {under}"

    def __str__(self) -> str:
        return f"{self._name} on port {self.port}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _command(self) -> list[str]:
        return [sys.executable, "-m", *self._arguments]

    def _is_ready(self) -> bool:
        try:
            httpx.get(self.url, timeout=10, trust_env=False)
        except httpx.TransportError:
            return False
        return True


# a worker that starts on a busy machine does not answer for a while, and would be replaced
_PATIENCE = "120"


def _uvicorn(port: int, count: int) -> list[str]:
    options = ("--log-level", "warning", "--timeout-worker-healthcheck", _PATIENCE)
    return ["uvicorn", "--port", str(port), "--workers", str(count), *options]


def _gunicorn(port: int, count: int) -> list[str]:
    options = ("--worker-class", "uvicorn_worker.UvicornWorker", "--timeout", _PATIENCE)
    return ["gunicorn", "--bind", f"127.0.0.1:{port}", "--workers", str(count), *options]


def _hypercorn(port: int, count: int) -> list[str]:
    return ["hypercorn", "--bind", f"127.0.0.1:{port}", "--workers", str(count)]


def _granian(port: int, count: int) -> list[str]:
    return ["granian", "--interface", "asgi", "--port", str(port), "--workers", str(count)]


_SERVERS = {
    "uvicorn": _uvicorn,
    "gunicorn": _gunicorn,
    "hypercorn": _hypercorn,
    "granian": _granian,
}
