"""nginx before an ASGI application."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from .packages import require
from .process import ServerProcess, free_port, is_listening

_CONFIGURATION = """
daemon off;
master_process off;
pid {directory}/pid;
error_log stderr warn;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    scgi_temp_path {directory}/scgi;
    uwsgi_temp_path {directory}/uwsgi;
    proxy_cache_path {directory}/cache keys_zone=pages:1m;
    upstream application {{
        server 127.0.0.1:{upstream};
        keepalive 8;
    }}
    server {{
        listen 127.0.0.1:{port};
        client_max_body_size {body_limit};
        location / {{
            proxy_pass http://application;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            {location}
        }}
    }}
}}
"""


class Nginx(ServerProcess):
    """Passes requests on over connections that it keeps; what is unset is as nginx sets it."""

    def __init__(
        self, directory: Path, upstream: int, *, body_limit: str = "1m", location: str = ""
    ) -> None:
        super().__init__(directory)
        self.port = free_port()
        self._upstream = upstream
        self._body_limit = body_limit
        self._location = location

    def __str__(self) -> str:
        return f"nginx on port {self.port}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> "Nginx":
        self.directory.mkdir(parents=True, exist_ok=True)
        self._configuration.write_text(
            _CONFIGURATION.format(
                directory=self.directory,
                upstream=self._upstream,
                port=self.port,
                body_limit=self._body_limit,
                location=self._location,
            )
        )
        return super().start()

    @property
    def _configuration(self) -> Path:
        return self.directory / "nginx.conf"

    def _command(self) -> list[str]:
        # without -e it opens a log of the machine before it reads where ours is
        return [str(require("nginx")), "-e", "stderr", "-c", str(self._configuration)]

    def _is_ready(self) -> bool:
        return is_listening(self.port)


@pytest.fixture
def start_nginx(tmp_path: Path) -> Iterator[Callable[..., Nginx]]:
    """Starts one before a port for one test: ``start_nginx(8000, body_limit="64k")``."""
    with ExitStack() as stack:

        def start(upstream: int, **options: Any) -> Nginx:
            server = Nginx(tmp_path / f"nginx-{upstream}", upstream, **options)
            stack.callback(server.stop)
            return server.start()

        yield start
