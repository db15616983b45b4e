"""StoreContract catches what it says: each wrong store below fails the tests named beside it."""

import asyncio
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from fnmatch import fnmatchcase

import pytest

from fastapi_async_sessions.errors import ConfigurationError
from fastapi_async_sessions.records import Record
from fastapi_async_sessions.stores.base import Store
from fastapi_async_sessions.testing import FrozenClock, StoreContract


class Right(Store):
    """The contract in a dictionary, in pieces that can each be wrong."""

    def __init__(self, clock):
        self.clock = clock
        self.records = {}

    def is_live(self, record):
        return record.expires_at > self.clock()

    def is_version(self, stored, named):
        return stored == named

    def is_subject(self, stored, named):
        return stored == named

    def keep(self, record):
        return record

    def live(self, key):
        record = self.records.get(key)
        return record if record is not None and self.is_live(record) else None

    async def create(self, key, record):
        existing = self.live(key)
        if existing is not None:
            return existing.version == record.version
        self.records[key] = self.keep(record)
        return True

    async def load(self, key):
        return self.live(key)

    async def save(self, key, record, *, replaces):
        existing = self.live(key)
        if existing is None:
            return False
        if existing.version != record.version and not self.is_version(existing.version, replaces):
            return False
        self.records[key] = self.keep(record)
        return True

    async def delete(self, key):
        existed = self.live(key) is not None
        self.records.pop(key, None)
        return existed

    async def find(self, subject):
        found = [
            (key, record)
            for key, record in self.records.items()
            if self.is_live(record) and self.is_subject(record.subject, subject)
        ]
        return sorted(found, key=lambda item: item[1].expires_at, reverse=True)

    async def purge(self):
        expired = [key for key, record in self.records.items() if not self.is_live(record)]
        for key in expired:
            del self.records[key]
        return len(expired)

    async def clear(self):
        self.records.clear()


class TestRight(StoreContract):
    """What every wrong store below is derived from is right."""

    def make_store(self, clock):
        return Right(clock)


WRONG = []


def fails(*names):
    """Note which tests a wrong store fails."""

    def note(store):
        WRONG.append((store, names))
        return store

    return note


@fails("test_create_never_overwrites", "test_of_many_creates_of_one_key_one_wins")
class CreateOverwrites(Right):
    async def create(self, key, record):
        self.records[key] = record
        return True


@fails("test_the_same_create_again_is_done")
class CreateForgetsItself(Right):
    async def create(self, key, record):
        return self.live(key) is None and await super().create(key, record)


@fails("test_of_many_creates_of_one_key_one_wins")
class CreateLooksThenWrites(Right):
    async def create(self, key, record):
        existing = self.live(key)
        await asyncio.sleep(0)
        if existing is not None:
            return existing.version == record.version
        self.records[key] = record
        return True


@fails("test_save_leaves_another_version_alone", "test_a_version_is_replaced_once")
class SaveIgnoresVersions(Right):
    def is_version(self, stored, named):
        return True


@fails("test_save_leaves_another_version_alone")
class SaveComparesBeginnings(Right):
    def is_version(self, stored, named):
        return stored.startswith(named)


@fails("test_save_leaves_another_version_alone")
class SaveComparesEnds(Right):
    def is_version(self, stored, named):
        return named.endswith(stored)


@fails("test_save_leaves_another_version_alone")
class SaveFoldsCase(Right):
    def is_version(self, stored, named):
        return stored.casefold() == named.casefold()


@fails("test_the_same_save_again_is_done")
class SaveForgetsItself(Right):
    async def save(self, key, record, *, replaces):
        existing = self.live(key)
        if existing is None or existing.version != replaces:
            return False
        return await super().save(key, record, replaces=replaces)


@fails("test_of_many_saves_over_one_version_one_wins", "test_a_save_that_meets_a_delete_never_wins")
class SaveLooksThenWrites(Right):
    async def save(self, key, record, *, replaces):
        existing = self.live(key)
        await asyncio.sleep(0)
        if existing is None or existing.version != replaces:
            return False
        self.records[key] = record
        return True


@fails("test_save_never_brings_a_deleted_record_back", "test_a_key_that_nobody_made_is_missing")
class SaveRevives(Right):
    async def save(self, key, record, *, replaces):
        if self.live(key) is None:
            return await self.create(key, record)
        return await super().save(key, record, replaces=replaces)


@fails("test_no_verb_sees_an_expired_record")
class SaveRevivesWhatExpired(Right):
    async def save(self, key, record, *, replaces):
        existing = self.records.get(key)
        if existing is None or existing.version not in (replaces, record.version):
            return False
        self.records[key] = record
        return True


@fails("test_save_replaces_the_version_it_names")
class SaveSaysTrueAndWritesNothing(Right):
    async def save(self, key, record, *, replaces):
        existing = self.live(key)
        return existing is not None and existing.version in (replaces, record.version)


@fails("test_an_extended_record_lives_longer", "test_save_replaces_the_version_it_names")
class SaveKeepsTheFirstEnd(Right):
    async def save(self, key, record, *, replaces):
        existing = self.live(key)
        if existing is not None:
            record = replace(record, expires_at=existing.expires_at)
        return await super().save(key, record, replaces=replaces)


@fails("test_save_replaces_the_version_it_names", "test_find_follows_a_change_of_subject")
class SaveKeepsTheFirstSubject(Right):
    async def save(self, key, record, *, replaces):
        existing = self.live(key)
        if existing is not None:
            record = replace(record, subject=existing.subject)
        return await super().save(key, record, replaces=replaces)


@fails("test_a_deleted_record_is_gone", "test_a_key_that_nobody_made_is_missing")
class DeleteSaysTrue(Right):
    async def delete(self, key):
        self.records.pop(key, None)
        return True


@fails("test_a_deleted_record_is_gone", "test_save_never_brings_a_deleted_record_back")
class DeleteDoesNothing(Right):
    async def delete(self, key):
        return self.live(key) is not None


@fails("test_no_verb_sees_an_expired_record")
class DeleteSeesWhatExpired(Right):
    async def delete(self, key):
        return self.records.pop(key, None) is not None


@fails("test_of_many_deletes_one_says_true")
class DeleteLooksThenRemoves(Right):
    async def delete(self, key):
        existed = self.live(key) is not None
        await asyncio.sleep(0)
        self.records.pop(key, None)
        return existed


@fails("test_a_deleted_key_can_be_created_again")
class DeleteLeavesAMark(Right):
    async def delete(self, key):
        existed = await super().delete(key)
        if existed:
            self.marks = {*getattr(self, "marks", ()), key}
        return existed

    async def create(self, key, record):
        return key not in getattr(self, "marks", ()) and await super().create(key, record)


@fails("test_a_record_lives_until_its_expiry")
class ServesWhatExpired(Right):
    def is_live(self, record):
        return True


@fails("test_a_record_lives_until_its_expiry")
class EndsTooLate(Right):
    def is_live(self, record):
        return record.expires_at >= self.clock()


@fails("test_a_record_lives_until_its_expiry", "test_an_extended_record_lives_longer")
class EndsTooEarly(Right):
    def is_live(self, record):
        return record.expires_at.replace(microsecond=0) > self.clock()


@fails("test_a_record_lives_until_its_expiry")
class TellsItsOwnTime(Right):
    def is_live(self, record):
        return record.expires_at > datetime.now(UTC)


@fails("test_an_expired_key_can_be_created_again")
class ExpiredKeysAreTaken(Right):
    async def create(self, key, record):
        if key in self.records:
            return self.records[key].version == record.version
        return await super().create(key, record)


@fails("test_a_record_that_has_expired_is_stored_as_nothing")
class RefusesThePast(Right):
    def keep(self, record):
        if not self.is_live(record):
            raise ValueError("invalid expire time")
        return record


@fails("test_a_record_that_has_expired_is_stored_as_nothing")
class KeepsThePastForGood(Right):
    def keep(self, record):
        return (
            record
            if self.is_live(record)
            else replace(record, expires_at=datetime.max.replace(tzinfo=UTC))
        )


@fails("test_a_body_is_any_bytes")
class KeepsText(Right):
    def keep(self, record):
        return replace(record, body=record.body.decode(errors="replace").encode())


@fails("test_a_body_is_any_bytes")
class StripsBodies(Right):
    def keep(self, record):
        return replace(record, body=record.body.strip())


@fails("test_a_body_is_any_bytes")
class KeepsLittle(Right):
    def keep(self, record):
        return replace(record, body=record.body[:65535])


@fails("test_a_body_is_any_bytes")
class GivesMemory(Right):
    def keep(self, record):
        return replace(record, body=memoryview(record.body))


@fails("test_a_created_record_is_loaded_as_it_was", "test_find_lists_the_sessions_of_one_subject")
class ForgetsSubjects(Right):
    def keep(self, record):
        return replace(record, subject=None)


@fails("test_a_record_without_a_subject_has_none")
class NobodyIsEmpty(Right):
    def keep(self, record):
        return replace(record, subject=record.subject or "")


@fails("test_an_expiry_is_kept_to_the_microsecond")
class KeepsMilliseconds(Right):
    def keep(self, record):
        microsecond = record.expires_at.microsecond // 1000 * 1000
        return replace(record, expires_at=record.expires_at.replace(microsecond=microsecond))


@fails("test_an_expiry_is_kept_to_the_microsecond")
class KeepsFloats(Right):
    def keep(self, record):
        seconds = round(record.expires_at.timestamp(), 4)
        return replace(record, expires_at=datetime.fromtimestamp(seconds, UTC))


@fails("test_an_expiry_is_kept_to_the_microsecond")
class GivesLocalTimes(Right):
    def keep(self, record):
        there = timezone(timedelta(hours=2))
        return replace(record, expires_at=record.expires_at.astimezone(there))


@fails("test_a_loaded_record_is_a_snapshot")
class ChangesWhatItGave(Right):
    async def save(self, key, record, *, replaces):
        existing = self.live(key)
        if existing is None or existing.version not in (replaces, record.version):
            return False
        for name in ("body", "version", "subject", "expires_at"):
            object.__setattr__(existing, name, getattr(record, name))
        return True


@fails("test_a_loaded_record_is_a_snapshot")
class GivesWhatCanBeChanged(Right):
    class Loose(Record):
        __setattr__ = object.__setattr__

        def __eq__(self, other):
            return self.version == other.version

        __hash__ = None

    def keep(self, record):
        return self.Loose(record.body, record.version, record.subject, record.expires_at)


@fails("test_keys_do_not_touch_each_other")
class CutsKeys(Right):
    def __init__(self, clock):
        super().__init__(clock)
        self.records = self.Cut()

    class Cut(dict):
        def __setitem__(self, key, value):
            super().__setitem__(key[:63], value)

        def get(self, key):
            return super().get(key[:63])


@fails("test_find_lists_the_sessions_of_one_subject")
class FindListsEverybody(Right):
    def is_subject(self, stored, named):
        return True


@fails("test_a_subject_is_any_text")
class FindFoldsCase(Right):
    def is_subject(self, stored, named):
        return (stored or "").casefold() == named.casefold()


@fails("test_a_subject_is_any_text")
class FindStrips(Right):
    def is_subject(self, stored, named):
        return (stored or "").strip() == named.strip()


@fails("test_a_subject_is_any_text")
class FindMatchesPatterns(Right):
    def is_subject(self, stored, named):
        return fnmatchcase(stored or "", named)


@fails("test_a_subject_is_any_text")
class FindComparesBeginnings(Right):
    def is_subject(self, stored, named):
        return (stored or "")[:255] == named[:255] and len(stored or "") < 256


@fails("test_find_lists_the_one_that_expires_last_first")
class FindListsInOrderOfMaking(Right):
    async def find(self, subject):
        found = dict(await super().find(subject))
        return [(key, found[key]) for key in self.records if key in found]


@fails("test_find_lists_no_session_that_has_ended")
class FindListsWhatExpired(Right):
    async def find(self, subject):
        found = [(key, record) for key, record in self.records.items() if record.subject == subject]
        return sorted(found, key=lambda item: item[1].expires_at, reverse=True)


class Indexed(Right):
    """Keeps its own list of keys for each subject, as a store without queries must."""

    def __init__(self, clock):
        super().__init__(clock)
        self.index = {}

    async def listed(self, key, record):
        self.index.setdefault(record.subject, {})[key] = record

    async def create(self, key, record):
        created = await super().create(key, record)
        if created:
            await self.listed(key, record)
        return created


@fails("test_find_lists_no_session_that_has_ended", "test_clear_removes_every_record")
class FindTrustsItsList(Indexed):
    async def find(self, subject):
        live = [item for item in self.index.get(subject, {}).items() if self.is_live(item[1])]
        return sorted(live, key=lambda item: item[1].expires_at, reverse=True)


@fails("test_find_follows_a_change_of_subject")
class FindKnowsTheFirstSubjectOnly(Indexed):
    async def find(self, subject):
        found = [(key, self.live(key)) for key in self.index.get(subject, ())]
        found = [(key, record) for key, record in found if record and record.subject == subject]
        return sorted(found, key=lambda item: item[1].expires_at, reverse=True)


@fails("test_find_shows_what_was_saved_last")
class FindShowsTheFirstRecord(Indexed):
    async def find(self, subject):
        return [
            (key, self.index.get(subject, {}).get(key, record))
            for key, record in await super().find(subject)
        ]


@fails("test_find_still_lists_an_extended_session")
class FindForgetsAtTheFirstEnd(Indexed):
    async def find(self, subject):
        ended = {k for k, record in self.index.get(subject, {}).items() if not self.is_live(record)}
        return [(key, record) for key, record in await super().find(subject) if key not in ended]


@fails("test_find_misses_none_of_many")
class ListsAreReadThenWritten(Indexed):
    async def listed(self, key, record):
        keys = dict(self.index.get(record.subject, {}))
        await asyncio.sleep(0)
        self.index[record.subject] = {**keys, key: record}

    async def find(self, subject):
        keys = self.index.get(subject, {})
        return [(key, record) for key, record in await super().find(subject) if key in keys]


@fails("test_purge_removes_what_has_expired_and_nothing_else")
class PurgeTakesAll(Right):
    async def purge(self):
        count = len(self.records)
        self.records.clear()
        return count


@fails("test_purge_removes_what_has_expired_and_nothing_else")
class PurgeSaysNothing(Right):
    async def purge(self):
        await super().purge()


@fails("test_purge_removes_what_has_expired_and_nothing_else")
class PurgeOnlyCounts(Right):
    async def purge(self):
        return sum(not self.is_live(record) for record in self.records.values())


@fails("test_clear_removes_every_record")
class ClearForgetsNothing(Right):
    async def clear(self):
        pass


@fails("test_a_body_is_any_bytes", "test_a_created_record_is_loaded_as_it_was")
class KeepsNothing(Right):
    async def load(self, key):
        return None


def contract_of(store):
    """The contract over a store, to run by hand."""

    class Contract(StoreContract):
        def make_store(self, clock):
            return store(clock)

    return Contract()


@pytest.mark.parametrize(
    ("store", "name"), [(store, name) for store, names in WRONG for name in names]
)
def test_a_wrong_store_is_caught(store, name):
    """The test that is meant for its fault fails."""
    # whatever it raises: a wrong store may also break on its way
    with pytest.raises((AssertionError, ValueError)):
        getattr(contract_of(store), name)()


def test_each_part_of_the_contract_catches_something():
    """A test that no wrong store fails would promise nothing."""
    names = {name for name in dir(StoreContract) if name.startswith("test_")}
    assert {name for _, names in WRONG for name in names} == names
    assert all(getattr(StoreContract, name).__doc__ for name in names)


class Smallest(Store):
    """The four verbs and no more."""

    def __init__(self, clock):
        inner = Right(clock)
        self.inner = inner

    async def create(self, key, record):
        return await self.inner.create(key, record)

    async def load(self, key):
        return await self.inner.load(key)

    async def save(self, key, record, *, replaces):
        return await self.inner.save(key, record, replaces=replaces)

    async def delete(self, key):
        return await self.inner.delete(key)


def test_what_a_store_does_not_write_is_skipped():
    """Listing and clearing are optional: their tests say why they did not run."""
    contract = contract_of(Smallest)
    skipped = {}
    for name in dir(contract):
        if name.startswith("test_"):
            try:
                getattr(contract, name)()
            except pytest.skip.Exception as reason:
                skipped[name] = str(reason)
    finds = {name for name in dir(contract) if name.startswith("test_find")}
    finds.add("test_a_subject_is_any_text")
    assert skipped == {
        **dict.fromkeys(finds, "Smallest does not write find()"),
        "test_clear_removes_every_record": "Smallest does not write clear()",
    }


def test_a_store_that_clears_and_does_not_list_is_right():
    """One optional verb does not ask for the other."""

    class Clearing(Smallest):
        async def clear(self):
            await self.inner.clear()

    contract_of(Clearing).test_clear_removes_every_record()


def test_a_store_may_be_made_by_a_coroutine_and_is_closed():
    """Opened before, closed after, also when the test fails."""
    seen = []

    class Watched(CreateOverwrites):
        async def open(self):
            seen.append("open")

        async def aclose(self):
            seen.append("aclose")

    class Contract(StoreContract):
        async def make_store(self, clock):
            await asyncio.sleep(0)
            return Watched(clock)

    with pytest.raises(AssertionError, match=r"create\(\) of a key that exists: True, expected"):
        Contract().test_create_never_overwrites()
    assert seen == ["open", "aclose"]


def test_a_contract_without_a_store_says_what_to_write():
    """make_store is what its user writes."""
    with pytest.raises(NotImplementedError, match="make_store"):
        StoreContract().test_create_never_overwrites()


@pytest.mark.parametrize(
    "options",
    [
        ["-p", "no:asyncio", "-p", "no:anyio"],
        ["-o", "asyncio_mode=strict", "-o", "asyncio_default_fixture_loop_scope=function"],
    ],
)
def test_the_contract_needs_no_plugin(options, tmp_path):
    """Nor minds one: a user's file is these four lines."""
    (tmp_path / "test_mine.py").write_text(
        "from fastapi_async_sessions.stores.memory import MemoryStore\n"
        "from fastapi_async_sessions.testing import StoreContract\n\n"
        "class TestMine(StoreContract):\n"
        "    def make_store(self, clock):\n"
        "        return MemoryStore(clock=clock)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *options, "test_mine.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout


def test_a_frozen_clock_stands_until_it_is_moved():
    """On, back, or to a moment."""
    clock = FrozenClock(datetime(2030, 1, 1, tzinfo=UTC))
    assert clock() == clock() == datetime(2030, 1, 1, tzinfo=UTC)
    clock.advance(timedelta(hours=2))
    clock.advance(-timedelta(hours=1))
    assert clock() == datetime(2030, 1, 1, 1, tzinfo=UTC)
    clock.now = datetime(2020, 1, 1, tzinfo=UTC)
    assert clock() == datetime(2020, 1, 1, tzinfo=UTC)


def test_a_frozen_clock_starts_now():
    """Where no moment is given; it is aware."""
    before = datetime.now(UTC)
    assert before <= FrozenClock()() <= datetime.now(UTC)


def test_a_frozen_clock_wants_to_know_the_zone():
    """A naive time is a mistake."""
    with pytest.raises(ConfigurationError, match="aware"):
        FrozenClock(datetime(2030, 1, 1))  # noqa: DTZ001 - naive on purpose
