"""The example of a custom store keeps the contract, between processes too."""

import asyncio
import multiprocessing
from datetime import UTC, datetime, timedelta

import pytest
from fastapi.testclient import TestClient

from examples import custom_store
from examples.custom_store import FileStore
from fastapi_async_sessions import Record, StoreUnavailable
from fastapi_async_sessions.records import new_version
from fastapi_async_sessions.testing import StoreContract

KEYS = [f"{number:064x}" for number in range(50)]


class TestFileStore(StoreContract):
    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path):
        self.directory = tmp_path / "sessions"

    def make_store(self, clock):
        return FileStore(self.directory, clock=clock)


def a_record(version=None):
    expires_at = datetime.now(UTC) + timedelta(hours=1)
    return Record(b"body", version or new_version(), "user:42", expires_at)


def create_all(directory):
    """Create each key; runs in a process of its own."""
    return asyncio.run(
        all_of(FileStore(directory), lambda store, key: store.create(key, a_record()))
    )


def save_all(directory):
    """Replace the first version of each key; runs in a process of its own."""
    return asyncio.run(
        all_of(
            FileStore(directory),
            lambda store, key: store.save(key, a_record(), replaces="first"),
        )
    )


async def all_of(store, call):
    return [await call(store, key) for key in KEYS]


@pytest.fixture(scope="module")
def processes():
    """Three processes for all tests, which share neither memory nor locks with each other."""
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        yield pool
        pool.close()
        pool.join()


@pytest.mark.slow
def test_one_of_several_processes_creates_a_key(tmp_path, processes):
    """Reading and writing are one atomic step between processes too."""
    created = processes.map(create_all, [tmp_path] * 3, chunksize=1)
    assert [sum(each) for each in zip(*created, strict=True)] == [1] * len(KEYS)


@pytest.mark.slow
def test_one_of_several_processes_replaces_a_version(tmp_path, processes):
    """Otherwise a change would be lost."""
    store = FileStore(tmp_path)
    asyncio.run(all_of(store, lambda store, key: store.create(key, a_record("first"))))
    saved = processes.map(save_all, [tmp_path] * 3, chunksize=1)
    assert [sum(each) for each in zip(*saved, strict=True)] == [1] * len(KEYS)


async def test_a_file_left_by_a_crash_is_not_a_session(tmp_path):
    """A new file gets its final name only when it is complete."""
    store = FileStore(tmp_path)
    (tmp_path / f"{KEYS[0]}.new").write_bytes(b"{")
    assert await store.find("user:42") == []
    assert await store.create(KEYS[0], a_record())
    assert await store.load(KEYS[0])


async def test_an_invalid_key_does_not_become_a_path(tmp_path):
    """Nothing outside the directory is read, written or locked."""
    for key in ("../secret", "/etc/passwd", "AB" * 32, KEYS[0] + "\n"):
        for call in (FileStore(tmp_path).load, FileStore(tmp_path).delete):
            with pytest.raises(ValueError, match="64 hexadecimal digits"):
                await call(key)
    assert list(tmp_path.iterdir()) == []


async def test_a_failing_disk_is_an_unavailable_store(tmp_path):
    """The error does not name the file."""
    store = FileStore(tmp_path / "gone")
    with pytest.raises(StoreUnavailable) as raised:
        await store.create(KEYS[0], a_record())
    assert raised.value.reason == "FileNotFoundError: No such file or directory"
    assert (raised.value.__cause__, raised.value.__context__) == (None, None)


def test_the_application_counts_visits(tmp_path, monkeypatch):
    """It goes on counting after a restart."""
    monkeypatch.setattr(custom_store.store, "_directory", tmp_path)
    cookies = None
    for expected in (1, 2):
        with TestClient(custom_store.app, base_url="https://testserver", cookies=cookies) as client:
            assert client.get("/").json() == {"count": expected}
            cookies = client.cookies
