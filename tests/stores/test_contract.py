"""StoreContract catches faulty stores: each one below fails the tests named above it."""

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


class Correct(Store):
    """A correct store in a dictionary, in parts that a subclass can get wrong one by one."""

    def __init__(self, clock):
        self.clock = clock
        self.records = {}

    def is_live(self, record):
        return record.expires_at > self.clock()

    def is_version(self, stored, named):
        return stored == named

    def is_owner(self, stored, named):
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

    async def find(self, owner, limit=100):
        found = [
            (key, record)
            for key, record in self.records.items()
            if self.is_live(record) and self.is_owner(record.owner, owner)
        ]
        return sorted(found, key=lambda item: item[1].expires_at, reverse=True)[:limit]

    async def delete_owned(self, owner, *, keep=None):
        page = [key for key, _ in self.owned(owner) if key != keep][:40]
        for key in page:
            del self.records[key]
        return len(page)

    def owned(self, owner):
        found = [(key, each) for key, each in self.records.items() if each.owner == owner]
        return sorted((each for each in found if self.is_live(each[1])), key=expires_at)

    async def count(self):
        return sum(self.is_live(record) for record in self.records.values())

    async def purge(self):
        expired = [key for key, record in self.records.items() if not self.is_live(record)]
        for key in expired:
            del self.records[key]
        return len(expired)

    async def clear(self):
        self.records.clear()


def expires_at(found):
    return found[1].expires_at


class TestCorrect(StoreContract):
    """The store that every faulty one is derived from is correct."""

    def make_store(self, clock):
        return Correct(clock)


FAULTY = []


def fails(*names):
    """Register a faulty store with the tests that it must fail."""

    def register(store):
        FAULTY.append((store, names))
        return store

    return register


@fails("test_create_never_overwrites", "test_one_of_many_concurrent_creates_wins")
class CreateOverwrites(Correct):
    async def create(self, key, record):
        self.records[key] = record
        return True


@fails("test_a_repeated_create_succeeds")
class CreateRefusesARepeat(Correct):
    async def create(self, key, record):
        return self.live(key) is None and await super().create(key, record)


@fails("test_one_of_many_concurrent_creates_wins")
class CreateIsNotAtomic(Correct):
    async def create(self, key, record):
        existing = self.live(key)
        await asyncio.sleep(0)
        if existing is not None:
            return existing.version == record.version
        self.records[key] = record
        return True


@fails("test_save_leaves_another_version_alone", "test_a_version_is_replaced_only_once")
class SaveIgnoresVersions(Correct):
    def is_version(self, stored, named):
        return True


@fails("test_save_leaves_another_version_alone")
class SaveComparesPrefixes(Correct):
    def is_version(self, stored, named):
        return stored.startswith(named)


@fails("test_save_leaves_another_version_alone")
class SaveComparesSuffixes(Correct):
    def is_version(self, stored, named):
        return named.endswith(stored)


@fails("test_save_leaves_another_version_alone")
class SaveFoldsCase(Correct):
    def is_version(self, stored, named):
        return stored.casefold() == named.casefold()


@fails("test_a_repeated_save_succeeds")
class SaveRefusesARepeat(Correct):
    async def save(self, key, record, *, replaces):
        existing = self.live(key)
        if existing is None or existing.version != replaces:
            return False
        return await super().save(key, record, replaces=replaces)


@fails("test_one_of_many_concurrent_saves_wins", "test_a_save_concurrent_with_a_delete_never_wins")
class SaveIsNotAtomic(Correct):
    async def save(self, key, record, *, replaces):
        existing = self.live(key)
        await asyncio.sleep(0)
        if existing is None or existing.version != replaces:
            return False
        self.records[key] = record
        return True


@fails("test_save_never_brings_a_deleted_record_back", "test_an_unknown_key_is_missing")
class SaveRevivesDeleted(Correct):
    async def save(self, key, record, *, replaces):
        if self.live(key) is None:
            return await self.create(key, record)
        return await super().save(key, record, replaces=replaces)


@fails("test_no_verb_sees_an_expired_record")
class SaveRevivesExpired(Correct):
    async def save(self, key, record, *, replaces):
        existing = self.records.get(key)
        if existing is None or existing.version not in (replaces, record.version):
            return False
        self.records[key] = record
        return True


@fails("test_save_replaces_the_version_it_names")
class SaveWritesNothing(Correct):
    async def save(self, key, record, *, replaces):
        existing = self.live(key)
        return existing is not None and existing.version in (replaces, record.version)


@fails("test_an_extended_record_lives_longer", "test_save_replaces_the_version_it_names")
class SaveKeepsTheFirstExpiry(Correct):
    async def save(self, key, record, *, replaces):
        existing = self.live(key)
        if existing is not None:
            record = replace(record, expires_at=existing.expires_at)
        return await super().save(key, record, replaces=replaces)


@fails("test_save_replaces_the_version_it_names", "test_find_follows_a_change_of_owner")
class SaveKeepsTheFirstOwner(Correct):
    async def save(self, key, record, *, replaces):
        existing = self.live(key)
        if existing is not None:
            record = replace(record, owner=existing.owner)
        return await super().save(key, record, replaces=replaces)


@fails("test_a_deleted_record_is_gone", "test_an_unknown_key_is_missing")
class DeleteAlwaysReturnsTrue(Correct):
    async def delete(self, key):
        self.records.pop(key, None)
        return True


@fails("test_a_deleted_record_is_gone", "test_save_never_brings_a_deleted_record_back")
class DeleteDoesNothing(Correct):
    async def delete(self, key):
        return self.live(key) is not None


@fails("test_no_verb_sees_an_expired_record")
class DeleteSeesExpired(Correct):
    async def delete(self, key):
        return self.records.pop(key, None) is not None


@fails("test_one_of_many_concurrent_deletes_returns_true")
class DeleteIsNotAtomic(Correct):
    async def delete(self, key):
        existed = self.live(key) is not None
        await asyncio.sleep(0)
        self.records.pop(key, None)
        return existed


@fails("test_a_deleted_key_can_be_created_again")
class DeleteBlocksTheKey(Correct):
    async def delete(self, key):
        existed = await super().delete(key)
        if existed:
            self.blocked = {*getattr(self, "blocked", ()), key}
        return existed

    async def create(self, key, record):
        return key not in getattr(self, "blocked", ()) and await super().create(key, record)


@fails("test_a_record_lives_until_its_expiry")
class ServesExpired(Correct):
    def is_live(self, record):
        return True


@fails("test_a_record_lives_until_its_expiry")
class ExpiresTooLate(Correct):
    def is_live(self, record):
        return record.expires_at >= self.clock()


@fails("test_a_record_lives_until_its_expiry", "test_an_extended_record_lives_longer")
class ExpiresTooEarly(Correct):
    def is_live(self, record):
        return record.expires_at.replace(microsecond=0) > self.clock()


@fails("test_a_record_lives_until_its_expiry")
class IgnoresTheClock(Correct):
    def is_live(self, record):
        return record.expires_at > datetime.now(UTC)


@fails("test_an_expired_key_can_be_created_again")
class ExpiredKeysStayTaken(Correct):
    async def create(self, key, record):
        if key in self.records:
            return self.records[key].version == record.version
        return await super().create(key, record)


@fails("test_a_record_stored_after_its_expiry_is_missing")
class RefusesAnExpiredRecord(Correct):
    def keep(self, record):
        if not self.is_live(record):
            raise ValueError("invalid expire time")
        return record


@fails("test_a_record_stored_after_its_expiry_is_missing")
class KeepsAnExpiredRecordForever(Correct):
    def keep(self, record):
        return (
            record
            if self.is_live(record)
            else replace(record, expires_at=datetime.max.replace(tzinfo=UTC))
        )


@fails("test_a_body_may_be_any_bytes")
class KeepsBodiesAsText(Correct):
    def keep(self, record):
        return replace(record, body=record.body.decode(errors="replace").encode())


@fails("test_a_body_may_be_any_bytes")
class StripsBodies(Correct):
    def keep(self, record):
        return replace(record, body=record.body.strip())


@fails("test_a_body_may_be_any_bytes")
class TruncatesBodies(Correct):
    def keep(self, record):
        return replace(record, body=record.body[:65535])


@fails("test_a_body_may_be_any_bytes")
class TruncatesTheLargestBodies(Correct):
    def keep(self, record):
        return replace(record, body=record.body[: 2**20 - 1])


@fails("test_a_body_may_be_any_bytes")
class ReturnsAMemoryview(Correct):
    def keep(self, record):
        return replace(record, body=memoryview(record.body))


@fails("test_a_created_record_is_loaded_as_it_was", "test_find_lists_the_sessions_of_one_owner")
class ForgetsOwners(Correct):
    def keep(self, record):
        return replace(record, owner=None)


@fails("test_a_record_may_have_no_owner")
class MakesNoOwnerEmpty(Correct):
    def keep(self, record):
        return replace(record, owner=record.owner or "")


@fails("test_an_expiry_is_kept_to_the_microsecond")
class KeepsMilliseconds(Correct):
    def keep(self, record):
        microsecond = record.expires_at.microsecond // 1000 * 1000
        return replace(record, expires_at=record.expires_at.replace(microsecond=microsecond))


@fails("test_an_expiry_is_kept_to_the_microsecond")
class KeepsTimesAsFloats(Correct):
    def keep(self, record):
        seconds = round(record.expires_at.timestamp(), 4)
        return replace(record, expires_at=datetime.fromtimestamp(seconds, UTC))


@fails("test_an_expiry_is_kept_to_the_microsecond")
class EndsIn2038(Correct):
    def keep(self, record):
        return replace(record, expires_at=min(record.expires_at, datetime(2038, 1, 19, tzinfo=UTC)))


@fails("test_an_expiry_is_kept_to_the_microsecond")
class ReturnsLocalTimes(Correct):
    def keep(self, record):
        there = timezone(timedelta(hours=2))
        return replace(record, expires_at=record.expires_at.astimezone(there))


@fails("test_a_loaded_record_is_a_snapshot")
class ChangesLoadedRecords(Correct):
    async def save(self, key, record, *, replaces):
        existing = self.live(key)
        if existing is None or existing.version not in (replaces, record.version):
            return False
        for name in ("body", "version", "owner", "expires_at"):
            object.__setattr__(existing, name, getattr(record, name))
        return True


@fails("test_a_loaded_record_is_a_snapshot")
class ReturnsMutableRecords(Correct):
    class Mutable(Record):
        __setattr__ = object.__setattr__

        def __eq__(self, other):
            return self.version == other.version

        __hash__ = None

    def keep(self, record):
        return self.Mutable(record.body, record.version, record.owner, record.expires_at)


@fails("test_keys_are_independent")
class TruncatesKeys(Correct):
    def __init__(self, clock):
        super().__init__(clock)
        self.records = self.Truncating()

    class Truncating(dict):
        def __setitem__(self, key, value):
            super().__setitem__(key[:63], value)

        def get(self, key):
            return super().get(key[:63])


@fails("test_find_lists_the_sessions_of_one_owner")
class FindListsEveryOwner(Correct):
    def is_owner(self, stored, named):
        return True


@fails("test_an_owner_may_be_any_text")
class FindFoldsCase(Correct):
    def is_owner(self, stored, named):
        return (stored or "").casefold() == named.casefold()


@fails("test_an_owner_may_be_any_text")
class TruncatesOwners(Correct):
    def keep(self, record):
        return replace(record, owner=record.owner and record.owner[:399])


@fails("test_an_owner_may_be_any_text")
class FindStrips(Correct):
    def is_owner(self, stored, named):
        return (stored or "").strip() == named.strip()


@fails("test_an_owner_may_be_any_text")
class FindMatchesPatterns(Correct):
    def is_owner(self, stored, named):
        return fnmatchcase(stored or "", named)


@fails("test_an_owner_may_be_any_text")
class FindComparesPrefixes(Correct):
    def is_owner(self, stored, named):
        return (stored or "")[:255] == named[:255] and len(stored or "") < 256


@fails("test_find_sorts_by_expiry_the_latest_first")
class FindSortsByCreation(Correct):
    async def find(self, owner, limit=100):
        found = dict(await super().find(owner))
        return [(key, found[key]) for key in self.records if key in found]


@fails("test_find_leaves_out_sessions_that_have_ended")
class FindListsExpired(Correct):
    async def find(self, owner, limit=100):
        found = [(key, record) for key, record in self.records.items() if record.owner == owner]
        return sorted(found, key=lambda item: item[1].expires_at, reverse=True)


@fails("test_find_lists_no_more_than_its_limit")
class FindIgnoresItsLimit(Correct):
    async def find(self, owner, limit=100):
        return await super().find(owner, 10**6)


@fails("test_find_lists_no_more_than_its_limit")
class FindHasNoDefaultLimit(Correct):
    async def find(self, owner, limit=10**6):
        return await super().find(owner, limit)


@fails("test_find_lists_no_more_than_its_limit")
class FindStopsBeforeItSorts(Correct):
    async def find(self, owner, limit=100):
        page = self.owned(owner)[:limit]
        return page[::-1]


@fails("test_find_lists_no_more_than_its_limit")
class FindHasALimitOfItsOwn(Correct):
    async def find(self, owner, limit=100):
        return await super().find(owner, min(limit, 100))


@fails("test_delete_owned_removes_the_sessions_of_one_owner")
class DeleteOwnedRemovesEverySession(Correct):
    async def delete_owned(self, owner, *, keep=None):
        count = len(self.owned(owner))
        self.records.clear()
        return count


@fails("test_delete_owned_removes_the_sessions_of_one_owner", "test_delete_owned_keeps_one_session")
class DeleteOwnedOnlyCounts(Correct):
    async def delete_owned(self, owner, *, keep=None):
        counted, self.counted = getattr(self, "counted", False), True
        return 0 if counted else len(self.owned(owner))


@fails("test_delete_owned_removes_any_number")
class DeleteOwnedStopsAtAPage(Correct):
    async def delete_owned(self, owner, *, keep=None):
        done, self.done = getattr(self, "done", False), True
        return 0 if done else await super().delete_owned(owner, keep=keep)


@fails("test_delete_owned_removes_any_number")
class DeleteOwnedAnswersWithPages(Correct):
    async def delete_owned(self, owner, *, keep=None):
        return min(1, await super().delete_owned(owner, keep=keep))


@fails("test_delete_owned_keeps_one_session")
class DeleteOwnedKeepsNone(Correct):
    async def delete_owned(self, owner, *, keep=None):
        return await super().delete_owned(owner)


@fails("test_delete_owned_counts_live_sessions")
class DeleteOwnedCountsExpired(Correct):
    async def delete_owned(self, owner, *, keep=None):
        owned = [key for key, record in self.records.items() if record.owner == owner != keep]
        for key in owned:
            del self.records[key]
        return len(owned)


@fails("test_save_never_brings_back_what_delete_owned_removed")
class DeleteOwnedBlocksTheKey(Correct):
    blocked = frozenset()

    async def delete_owned(self, owner, *, keep=None):
        self.blocked = {*self.blocked, *self.records}
        return await super().delete_owned(owner, keep=keep)

    async def create(self, key, record):
        return key not in self.blocked and await super().create(key, record)


@fails("test_save_never_brings_back_what_delete_owned_removed")
class DeleteOwnedLeavesTheVersion(Correct):
    """Marks a record as deleted, and save() takes the mark for the record."""

    async def delete_owned(self, owner, *, keep=None):
        page = self.owned(owner)
        for key, record in page:
            self.records[key] = replace(record, owner=None, expires_at=self.clock())
        return len(page)

    save = SaveRevivesExpired.save


@fails("test_delete_owned_leaves_a_session_that_changes_its_owner")
class DeleteOwnedListsAndThenDeletes(Correct):
    async def delete_owned(self, owner, *, keep=None):
        page = [key for key, _ in self.owned(owner) if key != keep]
        await asyncio.sleep(0)
        return sum([await self.delete(key) for key in page])


@fails("test_delete_owned_leaves_a_session_that_changes_its_owner")
class DeleteOwnedLosesToASave(Correct):
    """Writes the old record back where the owner has changed meanwhile."""

    async def delete_owned(self, owner, *, keep=None):
        page = [each for each in self.owned(owner) if each[0] != keep]
        await asyncio.sleep(0)
        for key, _ in page:
            self.records.pop(key, None)
        await asyncio.sleep(0)
        return len(page)


@fails("test_concurrent_calls_of_delete_owned_share_the_sessions")
class DeleteOwnedCountsWhatItListed(Correct):
    async def delete_owned(self, owner, *, keep=None):
        page = [key for key, _ in self.owned(owner) if key != keep]
        await asyncio.sleep(0)
        for key in page:
            await self.delete(key)
        return len(page)


@fails("test_count_follows_what_is_stored", "test_clear_removes_every_record")
class CountNeverFalls(Correct):
    counted = 0

    async def create(self, key, record):
        self.counted += 1
        return await super().create(key, record)

    async def count(self):
        return self.counted


@fails("test_count_follows_what_is_stored")
class CountCountsOwned(Correct):
    async def count(self):
        return sum(record.owner is not None for record in self.records.values())


@fails("test_count_follows_what_is_stored")
class CountCountsWrites(Correct):
    written = 0

    def keep(self, record):
        self.written += 1
        return record

    async def count(self):
        return self.written


@fails("test_a_version_may_have_512_characters")
class TruncatesVersions(Correct):
    def keep(self, record):
        return replace(record, version=record.version[:255])


@fails("test_a_version_may_have_512_characters")
class ComparesTheBeginningOfVersions(Correct):
    def is_version(self, stored, named):
        return stored[:255] == named[:255]


class Indexed(Correct):
    """Keeps an index of keys for each owner, as a store without queries must."""

    def __init__(self, clock):
        super().__init__(clock)
        self.index = {}

    async def add_to_index(self, key, record):
        self.index.setdefault(record.owner, {})[key] = record

    async def create(self, key, record):
        created = await super().create(key, record)
        if created:
            await self.add_to_index(key, record)
        return created


@fails("test_find_leaves_out_sessions_that_have_ended", "test_clear_removes_every_record")
class FindTrustsItsIndex(Indexed):
    async def find(self, owner, limit=100):
        live = [item for item in self.index.get(owner, {}).items() if self.is_live(item[1])]
        return sorted(live, key=lambda item: item[1].expires_at, reverse=True)


@fails("test_find_follows_a_change_of_owner")
class FindKnowsOnlyTheFirstOwner(Indexed):
    async def find(self, owner, limit=100):
        found = [(key, self.live(key)) for key in self.index.get(owner, ())]
        found = [(key, record) for key, record in found if record and record.owner == owner]
        return sorted(found, key=lambda item: item[1].expires_at, reverse=True)


@fails("test_find_returns_the_latest_records")
class FindShowsTheFirstRecord(Indexed):
    async def find(self, owner, limit=100):
        return [
            (key, self.index.get(owner, {}).get(key, record))
            for key, record in await super().find(owner)
        ]


@fails("test_find_still_lists_an_extended_session")
class FindForgetsAtTheFirstExpiry(Indexed):
    async def find(self, owner, limit=100):
        ended = {k for k, record in self.index.get(owner, {}).items() if not self.is_live(record)}
        return [(key, record) for key, record in await super().find(owner) if key not in ended]


@fails("test_find_misses_no_concurrent_create")
class IndexIsNotAtomic(Indexed):
    async def add_to_index(self, key, record):
        keys = dict(self.index.get(record.owner, {}))
        await asyncio.sleep(0)
        self.index[record.owner] = {**keys, key: record}

    async def find(self, owner, limit=100):
        keys = self.index.get(owner, {})
        return [(key, record) for key, record in await super().find(owner) if key in keys]


@fails("test_purge_removes_expired_records_only")
class PurgeRemovesEverything(Correct):
    async def purge(self):
        count = len(self.records)
        self.records.clear()
        return count


@fails("test_purge_removes_expired_records_only")
class PurgeReturnsNothing(Correct):
    async def purge(self):
        await super().purge()


@fails("test_purge_removes_expired_records_only")
class PurgeOnlyCounts(Correct):
    async def purge(self):
        return sum(not self.is_live(record) for record in self.records.values())


@fails("test_purge_removes_expired_records_only")
class CountsLiveRecordsAsExpired(Correct):
    async def count_expired(self):
        return len(self.records)


@fails("test_clear_removes_every_record")
class ClearDoesNothing(Correct):
    async def clear(self):
        pass


@fails("test_a_body_may_be_any_bytes", "test_a_created_record_is_loaded_as_it_was")
class KeepsNothing(Correct):
    async def load(self, key):
        return None


def contract_of(store):
    """Return the contract of a store, so that its tests can be called."""

    class Contract(StoreContract):
        def make_store(self, clock):
            return store(clock)

    return Contract()


@pytest.mark.parametrize(
    ("store", "name"), [(store, name) for store, names in FAULTY for name in names]
)
def test_a_faulty_store_is_caught(store, name):
    """The test that is meant for its fault fails."""
    # with either error: a faulty store may also raise one of its own
    with pytest.raises((AssertionError, ValueError)):
        getattr(contract_of(store), name)()


def test_each_test_of_the_contract_catches_a_faulty_store():
    """A test that every store passes would guarantee nothing."""
    names = {name for name in dir(StoreContract) if name.startswith("test_")}
    assert {name for _, names in FAULTY for name in names} == names
    assert all(getattr(StoreContract, name).__doc__ for name in names)


class Smallest(Store):
    """The four verbs and nothing else."""

    def __init__(self, clock):
        inner = Correct(clock)
        self.inner = inner

    async def create(self, key, record):
        return await self.inner.create(key, record)

    async def load(self, key):
        return await self.inner.load(key)

    async def save(self, key, record, *, replaces):
        return await self.inner.save(key, record, replaces=replaces)

    async def delete(self, key):
        return await self.inner.delete(key)


def test_the_tests_of_optional_verbs_are_skipped():
    """find() and clear() are optional: without them, their tests give that as the reason."""
    contract = contract_of(Smallest)
    skipped = {}
    for name in dir(contract):
        if name.startswith("test_"):
            try:
                getattr(contract, name)()
            except pytest.skip.Exception as reason:
                skipped[name] = str(reason)
    finds = {name for name in dir(contract) if "find" in name or "delete_owned" in name}
    finds.add("test_an_owner_may_be_any_text")
    assert skipped == {
        **dict.fromkeys(finds, "Smallest does not implement find()"),
        "test_clear_removes_every_record": "Smallest does not implement clear()",
        "test_count_follows_what_is_stored": "Smallest does not implement count()",
    }


class TestInheritedDeleteOwned(StoreContract):
    """A store that writes find() has a correct delete_owned() as well."""

    class Finding(Smallest):
        async def find(self, owner, limit=100):
            found = await self.inner.find(owner, limit)
            await asyncio.sleep(0)  # others write before the answer is there
            return found

    def make_store(self, clock):
        return self.Finding(clock)


def test_a_store_may_write_clear_without_find():
    """Neither optional verb requires the other."""

    class Clearing(Smallest):
        async def clear(self):
            await self.inner.clear()

    contract_of(Clearing).test_clear_removes_every_record()


def test_make_store_may_be_a_coroutine():
    """The store is opened before the test, and closed after it even when the test fails."""
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


def test_a_contract_without_make_store_says_what_to_write():
    """It is the only method that a user has to write."""
    with pytest.raises(NotImplementedError, match="make_store"):
        StoreContract().test_create_never_overwrites()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["-p", "no:asyncio", "-p", "no:anyio"],
        ["-o", "asyncio_mode=strict", "-o", "asyncio_default_fixture_loop_scope=function"],
    ],
)
def test_the_contract_works_with_and_without_plugins(options, tmp_path):
    """A user's file needs these lines and nothing else."""
    (tmp_path / "test_mine.py").write_text(
        "from fastapi_async_sessions.stores.memory import MemoryStore\n"
        "from fastapi_async_sessions.testing import StoreContract\n\n"
        "class TestMine(StoreContract):\n"
        "    def make_store(self, clock):\n"
        "        return MemoryStore(clock=clock)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *options, "test_mine.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout


def test_a_frozen_clock_stands_still_until_it_is_moved():
    """Forward, back, or to a given time."""
    clock = FrozenClock(datetime(2030, 1, 1, tzinfo=UTC))
    assert clock() == clock() == datetime(2030, 1, 1, tzinfo=UTC)
    clock.advance(timedelta(hours=2))
    clock.advance(-timedelta(hours=1))
    assert clock() == datetime(2030, 1, 1, 1, tzinfo=UTC)
    clock.now = datetime(2020, 1, 1, tzinfo=UTC)
    assert clock() == datetime(2020, 1, 1, tzinfo=UTC)


def test_a_frozen_clock_starts_at_the_current_time():
    """Unless another is given, and as an aware datetime."""
    before = datetime.now(UTC)
    assert before <= FrozenClock()() <= datetime.now(UTC)


def test_a_frozen_clock_refuses_a_naive_datetime():
    """It would not compare with the others."""
    with pytest.raises(ConfigurationError, match="aware"):
        FrozenClock(datetime(2030, 1, 1))  # noqa: DTZ001 - naive on purpose
