"""Sessions in the memory of one process."""

import asyncio
import logging
import os
import re
import sys
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from datetime import datetime
from multiprocessing import parent_process
from pathlib import Path
from threading import Lock

from ..errors import ConfigurationError
from ..lifetime import Clock, checked_clock, utc_now
from ..records import Record
from .base import Store

logger = logging.getLogger("fastapi_async_sessions")

_PURGE_EVERY = 1024
_PAGE = 1000
_WORKERS = re.compile(r" (?:--workers|-w)[ =]?(\d+)")


class MemoryStore(Store):
    """For one process: development, tests, small services. A restart ends every session.

    Holds at most ``max_sessions``: when it is full, the least recently used one is evicted.
    """

    def __init__(self, max_sessions: int = 100_000, *, clock: Clock = utc_now) -> None:
        if type(max_sessions) is not int or max_sessions < 1:
            raise ConfigurationError(
                "MemoryStore(max_sessions=...) takes a whole number of at least 1"
            )
        self._max_sessions = max_sessions
        self._clock = checked_clock(clock, "MemoryStore")
        self._records: OrderedDict[str, Record] = OrderedDict()
        # of each owner, the first to expire first
        self._entries: dict[str, list[tuple[datetime, str]]] = {}
        self._creates_until_purge = _PURGE_EVERY
        self._lock = Lock()  # each thread may have an event loop
        self._is_in_use = False  # by an application, as far as this store knows

    async def open(self) -> None:
        """Warn if this process is one of several workers, as far as it can know."""
        self._is_in_use = True
        workers = max(_workers_asked_for(), _workers_running())
        if workers > 1:
            logger.warning(
                "MemoryStore is for one process: each of the %s workers has its own sessions, so "
                "users are signed out at random. Run one worker, or use RedisStore or SQLStore.",
                workers,
            )

    async def create(self, key: str, record: Record) -> bool:
        with self._lock:
            existing = self._live(key)
            if existing is not None:
                return existing.version == record.version
            self._make_room()
            self._drop(key)
            self._put(key, record)
            return True

    async def load(self, key: str) -> Record | None:
        with self._lock:
            record = self._live(key)
            if record is not None:
                self._records.move_to_end(key)
            return record

    async def save(self, key: str, record: Record, *, replaces: str) -> bool:
        with self._lock:
            existing = self._live(key)
            if existing is None or existing.version not in (replaces, record.version):
                return False
            self._drop(key)
            self._put(key, record)
            return True

    async def delete(self, key: str) -> bool:
        with self._lock:
            existed = self._live(key) is not None
            self._drop(key)
            return existed

    async def find(self, owner: str, limit: int = 100) -> list[tuple[str, Record]]:
        with self._lock:
            latest = self._live_entries(owner)[: -limit - 1 : -1]
            return [(key, self._records[key]) for _, key in latest]

    async def delete_owned(self, owner: str, *, keep: str | None = None) -> int:
        with self._lock:
            entries = self._live_entries(owner)[: _PAGE + 1]
            page = [key for _, key in entries if key != keep][:_PAGE]
            for key in page:
                self._drop(key)
        await asyncio.sleep(0)  # other tasks run between the calls of one that repeats this
        return len(page)

    async def count(self) -> int:
        with self._lock:
            return self._count()

    async def purge(self) -> int:
        with self._lock:
            return self._purge()

    async def count_expired(self) -> int:
        with self._lock:
            return len(self._records) - self._count()

    async def clear(self) -> None:
        with self._lock:
            self._records.clear()
            self._entries.clear()

    def _live(self, key: str) -> Record | None:
        record = self._records.get(key)
        return record if record is not None and record.expires_at > self._clock() else None

    def _live_entries(self, owner: str) -> list[tuple[datetime, str]]:
        if not self._is_in_use:
            self._warn_of_another_process()
        entries = self._entries.get(owner, [])
        return entries[bisect_right(entries, self._clock(), key=lambda entry: entry[0]) :]

    def _warn_of_another_process(self) -> None:
        """Say once what a job finds here, where no application runs and no user has signed in."""
        self._is_in_use = True
        logger.warning(
            "MemoryStore holds the sessions of its own process, and no user has signed in to this "
            "one. A job, a script or a worker of a task queue finds the sessions of an application "
            "in RedisStore or SQLStore."
        )

    def _put(self, key: str, record: Record) -> None:
        self._records[key] = record
        if record.owner is not None:
            self._is_in_use = True
            insort(self._entries.setdefault(record.owner, []), (record.expires_at, key))

    def _drop(self, key: str) -> None:
        record = self._records.pop(key, None)
        if record is not None and record.owner is not None:
            entries = self._entries[record.owner]
            del entries[bisect_left(entries, (record.expires_at, key))]
            if not entries:
                del self._entries[record.owner]

    def _make_room(self) -> None:
        # purging once for as many creates as there are records is O(1) per create, amortized
        self._creates_until_purge -= 1
        if self._creates_until_purge <= 0:
            self._purge()
            self._creates_until_purge = max(_PURGE_EVERY, len(self._records))
        if len(self._records) >= self._max_sessions:
            self._drop(next(iter(self._records)))

    def _count(self) -> int:
        now = self._clock()
        return sum(record.expires_at > now for record in self._records.values())

    def _purge(self) -> int:
        now = self._clock()
        expired = [key for key, record in self._records.items() if record.expires_at <= now]
        for key in expired:
            self._drop(key)
        return len(expired)


def _workers_asked_for() -> int:
    """Return the number of workers in the command line or in the environment."""
    arguments = f" {os.getenv('GUNICORN_CMD_ARGS', '')} {' '.join(sys.argv)}"
    asked = _WORKERS.findall(arguments) or [os.getenv("WEB_CONCURRENCY", "")]
    return int(asked[-1]) if asked[-1].isdecimal() else 1


def _workers_running() -> int:
    """Return the number of processes like this one, if gunicorn or multiprocessing started it.

    Only Linux says which processes a parent has started. The first of several workers does not see
    the others yet.
    """
    is_worker = parent_process() is not None or "gunicorn" in os.getenv("SERVER_SOFTWARE", "")
    if not is_worker:
        return 1
    parent, ours = os.getppid(), _command(os.getpid())
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    except OSError:
        return 1
    return sum(_command(int(child)) == ours for child in children)


def _command(process: int) -> bytes:
    """Return the command line of a process without the numbers in which workers differ."""
    try:
        return re.sub(rb"\d+", b"", Path(f"/proc/{process}/cmdline").read_bytes())
    except OSError:
        return b""
