"""TLS on Redis itself: an authority, a server with its certificate, and a client's certificate.

The servers in the wheels were built without TLS; that of Debian has it.
"""

import secrets
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from .packages import require
from .process import free_port
from .redis import RedisServer


@dataclass(frozen=True)
class Certificates:
    """Files in PEM: an authority that no machine knows, and what it signed for each end."""

    authority: Path
    server: Path
    client: Path

    @classmethod
    def make(cls, directory: Path) -> "Certificates":
        authority = trustme.CA()
        made = cls(directory / "authority.pem", directory / "server.pem", directory / "client.pem")
        authority.cert_pem.write_to_path(made.authority)
        # a key and its certificate in one file: that is what both ends read
        server = authority.issue_cert("127.0.0.1", "localhost")
        server.private_key_and_cert_chain_pem.write_to_path(made.server)
        client = authority.issue_cert("client@example.com")
        client.private_key_and_cert_chain_pem.write_to_path(made.client)
        return made

    def server_context(self) -> ssl.SSLContext:
        """For a server in Python."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server)
        return context


class TLSRedisServer(RedisServer):
    """``url`` leads to the port that speaks TLS alone; what a test asks of the server does not."""

    def __init__(self, directory: Path, certificates: Certificates, *options: str, mutual: bool):
        self.tls_port = free_port()
        tls: dict[str, object] = {
            "--tls-port": self.tls_port,
            "--tls-ca-cert-file": certificates.authority,
            "--tls-cert-file": certificates.server,
            "--tls-key-file": certificates.server,
            "--tls-auth-clients": "yes" if mutual else "no",
        }
        words = [str(word) for pair in tls.items() for word in pair]
        super().__init__(directory, *words, *options, program=require("redis-server"))

    @property
    def url(self) -> str:
        return f"rediss://127.0.0.1:{self.tls_port}/0"


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """For the whole run."""
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def start_tls_redis(
    certificates: Certificates, tmp_path: Path
) -> Iterator[Callable[..., TLSRedisServer]]:
    """Starts servers for one test; ``mutual=True`` asks clients for a certificate too."""
    with ExitStack() as stack:

        def start(*options: str, mutual: bool = False) -> TLSRedisServer:
            directory = tmp_path / secrets.token_hex(4)
            server = TLSRedisServer(directory, certificates, *options, mutual=mutual)
            stack.callback(server.stop)
            return server.start()

        yield start


@pytest.fixture(scope="session")
def tls_redis_server(
    certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TLSRedisServer]:
    """One server for all tests, that asks clients for a certificate too."""
    with ExitStack() as stack:
        directory = tmp_path_factory.mktemp("redis-tls")
        server = TLSRedisServer(directory, certificates, mutual=True)
        stack.callback(server.stop)
        yield server.start()
