"""A store of your own: one file for each session, safe for many processes on one machine.

    export SESSION_SECRET=...
    uvicorn examples.custom_store:app --workers 2

Subclass ``Store``, write the four verbs, and inherit ``StoreContract`` to test that each of them is
one atomic step, as in ``tests/examples/test_custom_store.py``. The others are optional: ``find``,
``delete_owned``, ``count``, ``purge`` and ``clear``.
"""

import asyncio
import fcntl
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, ParamSpec, TypeVar

from fastapi import Depends, FastAPI
from pydantic import BaseModel

from fastapi_async_sessions import (
    Record,
    Session,
    SessionProvider,
    SessionRoute,
    Store,
    StoreUnavailable,
)
from fastapi_async_sessions.lifetime import Clock, utc_now
from fastapi_async_sessions.stores.base import translate_errors

PAGE = 100

P = ParamSpec("P")
T = TypeVar("T")


class FileStore(Store):
    """Keeps each record in its own file, in a directory that only this user can read.

    A file is replaced as a whole, so reading needs no lock. A writer holds the lock of the key
    while it reads the old record and writes the new one. Keys share 256 lock files: a lock file
    for each key could not be removed without a race.
    """

    def __init__(self, directory: str | os.PathLike[str], *, clock: Clock = utc_now) -> None:
        self._directory = Path(directory)
        self._clock = clock

    async def open(self) -> None:
        await in_a_thread(self._directory.mkdir, mode=0o700, parents=True, exist_ok=True)

    async def create(self, key: str, record: Record) -> bool:
        return await in_a_thread(self._create, key, record)

    async def load(self, key: str) -> Record | None:
        return await in_a_thread(self._read, key)

    async def save(self, key: str, record: Record, *, replaces: str) -> bool:
        return await in_a_thread(self._save, key, record, replaces)

    async def delete(self, key: str) -> bool:
        return await in_a_thread(self._delete, key)

    async def find(self, owner: str, limit: int = 100) -> list[tuple[str, Record]]:
        found = await in_a_thread(self._all)
        mine = [(key, record) for key, record in found if record.owner == owner]
        return sorted(mine, key=lambda each: each[1].expires_at, reverse=True)[:limit]

    async def delete_owned(self, owner: str, *, keep: str | None = None) -> int:
        return await in_a_thread(self._delete_owned, owner, keep)

    async def count(self) -> int:
        return len(await in_a_thread(self._all))

    async def purge(self) -> int:
        return await in_a_thread(self._purge)

    # the methods below block, and run in threads

    def _create(self, key: str, record: Record) -> bool:
        with self._locked(key):
            existing = self._read(key)
            if existing is not None:
                return existing.version == record.version
            self._write(key, record)
            return True

    def _save(self, key: str, record: Record, replaces: str) -> bool:
        with self._locked(key):
            existing = self._read(key)
            if existing is None or existing.version not in (replaces, record.version):
                return False
            self._write(key, record)
            return True

    def _delete(self, key: str) -> bool:
        with self._locked(key):
            existed = self._read(key) is not None
            self._path(key).unlink(missing_ok=True)
            return existed

    def _delete_owned(self, owner: str, keep: str | None) -> int:
        found = ((record.expires_at, key) for key, record in self._all() if record.owner == owner)
        deleted = 0
        for _, key in sorted(found):
            if key != keep and self._delete_if_owned(key, owner):
                deleted += 1
            if deleted == PAGE:
                break
        return deleted

    def _delete_if_owned(self, key: str, owner: str) -> bool:
        with self._locked(key):
            record = self._read(key)
            if record is None or record.owner != owner:
                return False
            self._path(key).unlink()
            return True

    def _purge(self) -> int:
        purged = 0
        for key in self._keys():
            with self._locked(key):
                if self._path(key).exists() and self._read(key) is None:
                    self._path(key).unlink()
                    purged += 1
        return purged

    def _all(self) -> list[tuple[str, Record]]:
        records = ((key, self._read(key)) for key in self._keys())
        return [(key, record) for key, record in records if record is not None]

    def _keys(self) -> list[str]:
        return [path.stem for path in self._directory.glob("*.session")]

    def _read(self, key: str) -> Record | None:
        try:
            head, body = self._path(key).read_bytes().split(b"\n", 1)
        except FileNotFoundError:
            return None
        header = json.loads(head)
        expires_at = datetime.fromisoformat(header["expires_at"])
        record = Record(body, header["version"], header["owner"], expires_at)
        return record if record.expires_at > self._clock() else None

    def _write(self, key: str, record: Record) -> None:
        header = {
            "version": record.version,
            "owner": record.owner,
            "expires_at": record.expires_at.isoformat(),
        }
        new = self._path(key).with_suffix(".new")
        with new.open("wb") as file:
            file.write(json.dumps(header).encode() + b"\n" + record.body)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self._path(key))
        self._sync_directory()  # otherwise the old file could be back after a power failure

    def _sync_directory(self) -> None:
        directory = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        with (self._directory / f"{self._path(key).name[:2]}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed
            yield

    def _path(self, key: str) -> Path:
        if not re.fullmatch("[0-9a-f]{64}", key):
            raise ValueError("a key is 64 hexadecimal digits: nothing else becomes a path")
        return self._directory / f"{key}.session"


async def in_a_thread(step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a step that reads or writes files, so that the event loop does not wait for the disk."""
    with translate_errors(unavailable, OSError):
        return await asyncio.to_thread(step, *args, **kwargs)


def unavailable(error: OSError) -> StoreUnavailable:
    """Say what failed without the name of the file."""
    return StoreUnavailable(f"{type(error).__name__}: {error.strerror}")


class Visits(BaseModel):
    count: int = 0


store = FileStore(os.environ.get("SESSION_DIRECTORY", "sessions"))

get_session = SessionProvider(
    Visits,
    store=store,
    secret_key=os.environ.get("SESSION_SECRET") or secrets.token_urlsafe(32),
)

app = FastAPI(lifespan=get_session.lifespan)
app.router.route_class = SessionRoute


@app.get("/")
async def home(session: Annotated[Session[Visits], Depends(get_session)]) -> Visits:
    session.data.count += 1
    return session.data
