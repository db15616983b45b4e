"""The contract of a store, as tests to inherit."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import FrozenInstanceError, replace
from datetime import timedelta
from inspect import isawaitable
from typing import Any

from ..records import MAX_BODY_BYTES, Record, new_version
from ..stores.base import Store
from .clock import FrozenClock

_LIFETIME = timedelta(hours=1)
_LONGEST = timedelta(days=36525)  # what a Lifetime may be
_TICK = timedelta(milliseconds=1)
_MINUTE = timedelta(minutes=1)
_CROWD = 50
_MANY = 120  # more than find() lists where no limit is given


_Scenario = Callable[[Any, Store, FrozenClock], Coroutine[Any, Any, None]]


def _behaviour(scenario: _Scenario) -> Callable[["StoreContract"], None]:
    """Make a coroutine a plain test, so that it needs no plugin and works with every plugin."""

    def test(self: "StoreContract") -> None:
        asyncio.run(_check(self, scenario))

    # functools.wraps would not do: pytest would take the parameters of the scenario for fixtures
    test.__name__, test.__qualname__ = scenario.__name__, scenario.__qualname__
    test.__doc__ = scenario.__doc__
    return test


async def _check(contract: "StoreContract", scenario: _Scenario) -> None:
    clock = FrozenClock()
    made = contract.make_store(clock)
    store = await made if isawaitable(made) else made
    await store.open()
    try:
        await scenario(contract, store, clock)
    finally:
        await store.aclose()


class StoreContract:
    """The tests that every store must pass: inherit them and implement ``make_store``.

        class TestMyStore(StoreContract):
            def make_store(self, clock):
                return MyStore("memory:", clock=clock)

    ``make_store`` may be ``async``. Each test makes a store, opens it, uses its own keys and
    closes it, all in one event loop; no pytest plugin is needed. The store must use the clock that
    it is given.
    """

    def make_store(self, clock: FrozenClock) -> Store | Awaitable[Store]:
        """Make a store that takes the time from ``clock``."""
        raise NotImplementedError(f"write {type(self).__name__}.make_store(self, clock)")

    # create and load

    @_behaviour
    async def test_a_created_record_is_loaded_as_it_was(
        self, store: Store, clock: FrozenClock
    ) -> None:
        """Body, version, owner and expiry come back exactly."""
        key, record = _key(), _record(clock, owner="user:42")
        _expect(await store.create(key, record), True, "create() of a new key")
        _expect(await store.load(key), record, "load() after create()")

    @_behaviour
    async def test_a_record_may_have_no_owner(self, store: Store, clock: FrozenClock) -> None:
        """None does not become an empty string."""
        key = _key()
        await store.create(key, _record(clock, owner=None))
        _expect(_existing(await store.load(key)).owner, None, "the owner")

    @_behaviour
    async def test_a_body_may_be_any_bytes(self, store: Store, clock: FrozenClock) -> None:
        """Empty, every byte value, line ends, bytes that are not text, 64 kB, and the largest."""
        bodies = [b"", b"\x00", bytes(range(256)), b"\r\n\n\\x00'\"{}", b" pad ", b"\xff" * 65536]
        bodies.append(b"\x80" * MAX_BODY_BYTES)
        for body in bodies:
            key = _key()
            await store.create(key, _record(clock, body=body))
            loaded = _existing(await store.load(key))
            _expect(type(loaded.body), bytes, "the type of the body")
            _expect(loaded.body == body, True, f"a body of {len(body)} bytes comes back the same")

    @_behaviour
    async def test_an_expiry_is_kept_to_the_microsecond(
        self, store: Store, clock: FrozenClock
    ) -> None:
        """It is loaded as an aware datetime that equals the one stored, up to a hundred years."""
        for microsecond, life in ((0, _LIFETIME), (1, _LIFETIME), (999_999, _LONGEST)):
            key = _key()
            expires_at = (clock() + life).replace(microsecond=microsecond)
            await store.create(key, replace(_record(clock), expires_at=expires_at))
            loaded = _existing(await store.load(key)).expires_at
            _expect(loaded.utcoffset(), timedelta(0), "the UTC offset of expires_at")
            _expect(loaded, expires_at, "expires_at")

    @_behaviour
    async def test_a_version_may_have_512_characters(
        self, store: Store, clock: FrozenClock
    ) -> None:
        """They are kept and compared to the last one."""
        key, longest, newer = _key(), "v" * 511, _record(clock, body=b"new")
        record = replace(_record(clock), version=longest + "a")
        await store.create(key, record)
        _expect(await store.load(key), record, "load() after create()")
        saved = await store.save(key, newer, replaces=longest + "b")
        _expect(saved, False, "save() over a version whose last character is another")
        _expect(await store.save(key, newer, replaces=longest + "a"), True, "save() over its own")

    @_behaviour
    async def test_an_unknown_key_is_missing(self, store: Store, clock: FrozenClock) -> None:
        """No verb finds a record under it, and only create() makes one."""
        key = _key()
        _expect(await store.load(key), None, "load() of an unknown key")
        _expect(
            await store.save(key, _record(clock), replaces=new_version()), False, "save() of it"
        )
        _expect(await store.delete(key), False, "delete() of it")
        _expect(await store.load(key), None, "load() after all of that")

    @_behaviour
    async def test_create_never_overwrites(self, store: Store, clock: FrozenClock) -> None:
        """The record of an existing key is unchanged."""
        key, first, second = _key(), _record(clock, body=b"first"), _record(clock, body=b"second")
        await store.create(key, first)
        _expect(await store.create(key, second), False, "create() of a key that exists")
        _expect(await store.load(key), first, "load() after that")

    @_behaviour
    async def test_a_repeated_create_succeeds(self, store: Store, clock: FrozenClock) -> None:
        """A driver that lost the reply sends a write again; it is recognised by its version."""
        key, record = _key(), _record(clock, owner="user:42")
        await store.create(key, record)
        _expect(await store.create(key, record), True, "the same create() again")
        _expect(await store.load(key), record, "load() after that")

    @_behaviour
    async def test_one_of_many_concurrent_creates_wins(
        self, store: Store, clock: FrozenClock
    ) -> None:
        """Afterwards the record is the one that the winner wrote."""
        key = _key()
        records = [_record(clock, body=b"%d" % number) for number in range(_CROWD)]
        won = await asyncio.gather(*(store.create(key, record) for record in records))
        winners = [record for record, created in zip(records, won, strict=True) if created]
        _expect(len(winners), 1, f"how many of {_CROWD} creates of one key returned True")
        _expect(await store.load(key), winners[0], "load() after that")

    @_behaviour
    async def test_keys_are_independent(self, store: Store, clock: FrozenClock) -> None:
        """Writing or deleting a key leaves the others alone, even those one digit away."""
        near = _key()[:-1]
        keys = [near + digit for digit in "0123456789abcdef"]
        records = [_record(clock, body=key.encode()) for key in keys]
        for key, record in zip(keys, records, strict=True):
            await store.create(key, record)
        changed = _record(clock, body=b"changed")
        await store.save(keys[0], changed, replaces=records[0].version)
        await store.delete(keys[1])
        loaded = await asyncio.gather(*(store.load(key) for key in keys))
        _expect(loaded, [changed, None, *records[2:]], "the records of all keys")

    @_behaviour
    async def test_a_loaded_record_is_a_snapshot(self, store: Store, clock: FrozenClock) -> None:
        """A later write does not change a record that was loaded before, and nor can a caller."""
        key, record = _key(), _record(clock, body=b"first")
        before = replace(record)
        await store.create(key, record)
        loaded = _existing(await store.load(key))
        await store.save(key, _record(clock, body=b"second"), replaces=record.version)
        _expect(loaded, before, "the record that was loaded before the save()")
        try:
            loaded.body = b"third"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
        except FrozenInstanceError:
            return
        raise AssertionError("a loaded Record can be changed")

    # save

    @_behaviour
    async def test_save_replaces_the_version_it_names(
        self, store: Store, clock: FrozenClock
    ) -> None:
        """Body, version, owner and expiry are the new ones, after each of several saves."""
        key, record = _key(), _record(clock, owner="user:1")
        await store.create(key, record)
        for number in range(3):
            longer = clock() + _LIFETIME * (number + 2)
            newer = replace(_record(clock, body=b"%d" % number), expires_at=longer)
            newer = replace(newer, owner=None if number == 1 else f"user:{number + 2}")
            _expect(await store.save(key, newer, replaces=record.version), True, "save()")
            _expect(await store.load(key), newer, "load() after save()")
            record = newer

    @_behaviour
    async def test_save_leaves_another_version_alone(
        self, store: Store, clock: FrozenClock
    ) -> None:
        """Versions are compared as a whole: a common beginning or end is not enough."""
        key, record = _key(), replace(_record(clock), version="abc.def")
        await store.create(key, record)
        for wrong in ("abc", "abc.", "def", "abc.def.", "ABC.DEF", "abc-def", "xabc.def"):
            saved = await store.save(key, _record(clock, body=b"new"), replaces=wrong)
            _expect(saved, False, f"save(replaces={wrong!r}) over the version 'abc.def'")
        _expect(await store.load(key), record, "load() after that")

    @_behaviour
    async def test_a_version_is_replaced_only_once(self, store: Store, clock: FrozenClock) -> None:
        """A second save over the same version is refused."""
        key, record = _key(), _record(clock)
        await store.create(key, record)
        first = _record(clock, body=b"first")
        _expect(await store.save(key, first, replaces=record.version), True, "the first save()")
        late = await store.save(key, _record(clock, body=b"late"), replaces=record.version)
        _expect(late, False, "a second save() over the same version")
        _expect(await store.load(key), first, "load() after that")

    @_behaviour
    async def test_a_repeated_save_succeeds(self, store: Store, clock: FrozenClock) -> None:
        """A driver that lost the reply sends a write again; it is recognised by its version."""
        key, record, newer = _key(), _record(clock), _record(clock, body=b"new", owner="user:42")
        await store.create(key, record)
        await store.save(key, newer, replaces=record.version)
        _expect(
            await store.save(key, newer, replaces=record.version), True, "the same save() again"
        )
        _expect(await store.load(key), newer, "load() after that")

    @_behaviour
    async def test_one_of_many_concurrent_saves_wins(
        self, store: Store, clock: FrozenClock
    ) -> None:
        """Afterwards the record is the one that the winner wrote."""
        key, record = _key(), _record(clock)
        await store.create(key, record)
        records = [_record(clock, body=b"%d" % number) for number in range(_CROWD)]
        saves = (store.save(key, newer, replaces=record.version) for newer in records)
        won = await asyncio.gather(*saves)
        winners = [newer for newer, saved in zip(records, won, strict=True) if saved]
        _expect(len(winners), 1, f"how many of {_CROWD} saves over one version returned True")
        _expect(await store.load(key), winners[0], "load() after that")

    # delete

    @_behaviour
    async def test_a_deleted_record_is_gone(self, store: Store, clock: FrozenClock) -> None:
        """delete() returns True once, then False, and load() returns None."""
        key = _key()
        await store.create(key, _record(clock, owner="user:42"))
        _expect(await store.delete(key), True, "delete()")
        _expect(await store.load(key), None, "load() after delete()")
        _expect(await store.delete(key), False, "delete() again")

    @_behaviour
    async def test_save_never_brings_a_deleted_record_back(
        self, store: Store, clock: FrozenClock
    ) -> None:
        """A slow request that loaded the session before a logout cannot write it back."""
        key, record, late = _key(), _record(clock), _record(clock, body=b"late")
        await store.create(key, record)
        await store.delete(key)
        _expect(
            await store.save(key, late, replaces=record.version), False, "save() after delete()"
        )
        _expect(await store.load(key), None, "load() after that")

    @_behaviour
    async def test_a_save_concurrent_with_a_delete_never_wins(
        self, store: Store, clock: FrozenClock
    ) -> None:
        """Whichever of the two is first, the record is gone in the end."""
        for round_ in range(20):
            key, record, newer = _key(), _record(clock), _record(clock, body=b"new")
            await store.create(key, record)
            save = store.save(key, newer, replaces=record.version)
            delete = store.delete(key)
            both = (save, delete) if round_ % 2 else (delete, save)
            await asyncio.gather(*both)
            _expect(await store.load(key), None, "load() after a concurrent save() and delete()")

    @_behaviour
    async def test_one_of_many_concurrent_deletes_returns_true(
        self, store: Store, clock: FrozenClock
    ) -> None:
        """The one that removed the record."""
        key = _key()
        await store.create(key, _record(clock))
        deleted = await asyncio.gather(*(store.delete(key) for _ in range(_CROWD)))
        _expect(sum(deleted), 1, f"how many of {_CROWD} deletes of one key returned True")

    @_behaviour
    async def test_a_deleted_key_can_be_created_again(
        self, store: Store, clock: FrozenClock
    ) -> None:
        """delete() leaves nothing behind."""
        key, again = _key(), _record(clock, body=b"again")
        await store.create(key, _record(clock))
        await store.delete(key)
        _expect(await store.create(key, again), True, "create() after delete()")
        _expect(await store.load(key), again, "load() after that")

    # expiry

    @_behaviour
    async def test_a_record_lives_until_its_expiry(self, store: Store, clock: FrozenClock) -> None:
        """It exists one millisecond before, and no longer at that moment or after it."""
        key, record = _key(), _record(clock)
        await store.create(key, record)
        for offset, expected in ((-_TICK, record), (timedelta(0), None), (_TICK, None)):
            clock.now = record.expires_at + offset
            _expect(await store.load(key), expected, f"load() {offset} after expires_at")

    @_behaviour
    async def test_an_extended_record_lives_longer(self, store: Store, clock: FrozenClock) -> None:
        """A save may move the expiry, to later and to earlier."""
        key, record = _key(), _record(clock)
        await store.create(key, record)
        for life in (_LIFETIME * 3, _LIFETIME / 2):
            newer = replace(_record(clock), expires_at=clock() + life)
            await store.save(key, newer, replaces=record.version)
            clock.advance(life - _TICK)
            _expect(await store.load(key), newer, f"load() right before the end of {life}")
            clock.advance(-life + _TICK)
            record = newer
        clock.advance(_LIFETIME / 2)
        _expect(await store.load(key), None, "load() at the earlier end")

    @_behaviour
    async def test_no_verb_sees_an_expired_record(self, store: Store, clock: FrozenClock) -> None:
        """save() does not revive it, and delete() returns False."""
        first, second, record, late = (
            _key(),
            _key(),
            _record(clock),
            _record(clock, life=_LIFETIME * 9),
        )
        for key in (first, second):
            await store.create(key, record)
        clock.now = record.expires_at
        saved = await store.save(first, late, replaces=record.version)
        _expect(saved, False, "save() over an expired record")
        _expect(await store.load(first), None, "load() after that")
        _expect(await store.delete(second), False, "delete() of an expired record")
        _expect(await store.load(second), None, "load() after that")

    @_behaviour
    async def test_an_expired_key_can_be_created_again(
        self, store: Store, clock: FrozenClock
    ) -> None:
        """Whether or not the store still holds the expired record."""
        key, record = _key(), _record(clock)
        await store.create(key, record)
        clock.now = record.expires_at
        again = _record(clock, body=b"again")
        _expect(await store.create(key, again), True, "create() over an expired record")
        _expect(await store.load(key), again, "load() after that")

    @_behaviour
    async def test_a_record_stored_after_its_expiry_is_missing(
        self, store: Store, clock: FrozenClock
    ) -> None:
        """An expiry in the past is not an error, and makes no session."""
        key, other, record = _key(), _key(), _record(clock)
        past = _record(clock, life=-_LIFETIME)
        await store.create(key, past)
        _expect(
            await store.load(key), None, "load() of a record created with an expiry in the past"
        )
        await store.create(other, record)
        await store.save(other, past, replaces=record.version)
        _expect(
            await store.load(other), None, "load() of a record saved with an expiry in the past"
        )

    @_behaviour
    async def test_purge_removes_expired_records_only(
        self, store: Store, clock: FrozenClock
    ) -> None:
        """It returns their number, or 0 when the server removes expired records by itself.

        A store that implements ``count_expired`` knows that number beforehand.
        """
        expired, live = [_key() for _ in range(3)], [_key() for _ in range(3)]
        for key in expired:
            await store.create(key, _record(clock))
        kept = _record(clock, life=_LIFETIME * 3)
        for key in live:
            await store.create(key, kept)
        clock.advance(_LIFETIME * 2)
        expected: object = await store.count_expired()
        purged: object = await store.purge()
        _expect(type(purged), int, "the type of what purge() returns")
        if expected is not None:
            _expect(expected, purged, "what count_expired() returned before purge()")
        _expect([await store.load(key) for key in live], [kept] * 3, "live records after purge()")
        _expect(
            [await store.load(key) for key in expired], [None] * 3, "expired ones after purge()"
        )
        _expect(await store.purge(), 0, "purge() again")

    @_behaviour
    async def test_clear_removes_every_record(self, store: Store, clock: FrozenClock) -> None:
        """find() lists none of them either."""
        _skip_without("clear", store)
        keys = [_key() for _ in range(3)]
        for key in keys:
            await store.create(key, _record(clock, owner="user:42"))
        await store.clear()
        _expect([await store.load(key) for key in keys], [None] * 3, "load() after clear()")
        if type(store).find is not Store.find:
            _expect(await store.find("user:42"), [], "find() after clear()")
        if type(store).count is not Store.count:
            _expect(await store.count(), 0, "count() after clear()")

    # count

    @_behaviour
    async def test_count_follows_what_is_stored(self, store: Store, clock: FrozenClock) -> None:
        """Every key counts once, whoever it belongs to and however often it was written."""
        _skip_without("count", store)
        before, keys = await store.count(), [_key() for _ in range(4)]
        for key, owner in zip(keys, (None, None, "user:1", "user:2"), strict=True):
            record = _record(clock, owner=owner)
            await store.create(key, record)
            await store.save(key, _record(clock, owner=owner), replaces=record.version)
        await store.delete(keys[0])
        _expect(await store.count() - before, 3, "how many more count() returns")

    # find

    @_behaviour
    async def test_find_lists_the_sessions_of_one_owner(
        self, store: Store, clock: FrozenClock
    ) -> None:
        """It returns their keys and records, and none of another owner."""
        _skip_without("find", store)
        owner, key, record = _owner(), _key(), _record(clock)
        mine = replace(record, owner=owner)
        await store.create(key, mine)
        await store.create(_key(), replace(_record(clock), owner=_owner()))
        await store.create(_key(), record)
        _expect(await store.find(owner), [(key, mine)], "find()")
        _expect(await store.find(_owner()), [], "find() of an unknown owner")

    @_behaviour
    async def test_find_sorts_by_expiry_the_latest_first(
        self, store: Store, clock: FrozenClock
    ) -> None:
        """In whatever order the sessions were created."""
        _skip_without("find", store)
        owner, made = _owner(), list[tuple[str, Record]]()
        for hours in (2, 5, 1, 4, 3):
            key, record = _key(), _record(clock, owner=owner, life=_LIFETIME * hours)
            await store.create(key, record)
            made.append((key, record))
        made.sort(key=lambda found: found[1].expires_at, reverse=True)
        _expect(await store.find(owner), made, "find()")

    @_behaviour
    async def test_find_leaves_out_sessions_that_have_ended(
        self, store: Store, clock: FrozenClock
    ) -> None:
        """Both deleted and expired ones."""
        _skip_without("find", store)
        owner, deleted, expired, live = _owner(), _key(), _key(), _key()
        for key in (deleted, expired):
            await store.create(key, _record(clock, owner=owner))
        kept = _record(clock, owner=owner, life=_LIFETIME * 2)
        await store.create(live, kept)
        await store.delete(deleted)
        _expect(
            {key for key, _ in await store.find(owner)}, {expired, live}, "find() after delete()"
        )
        clock.advance(_LIFETIME)
        for _ in range(2):
            _expect(await store.find(owner), [(live, kept)], "find() when one has expired")

    @_behaviour
    async def test_find_follows_a_change_of_owner(self, store: Store, clock: FrozenClock) -> None:
        """The save that gives a session to another owner takes it from the first."""
        _skip_without("find", store)
        key, old, new = _key(), _owner(), _owner()
        record = _record(clock, owner=old)
        await store.create(key, record)
        for owner, others in ((new, old), (old, new), (None, old)):
            newer = _record(clock, owner=owner)
            await store.save(key, newer, replaces=record.version)
            if owner is not None:
                _expect(await store.find(owner), [(key, newer)], "find() of the new owner")
            _expect(await store.find(others), [], "find() of the old owner")
            record = newer

    @_behaviour
    async def test_find_returns_the_latest_records(self, store: Store, clock: FrozenClock) -> None:
        """The same ones that load() returns."""
        _skip_without("find", store)
        key, owner = _key(), _owner()
        record = _record(clock, owner=owner)
        await store.create(key, record)
        for life in (_LIFETIME, _LIFETIME * 2):
            newer = replace(_record(clock, owner=owner, life=life), body=b"new")
            await store.save(key, newer, replaces=record.version)
            _expect(await store.find(owner), [(key, newer)], "find() after save()")
            record = newer

    @_behaviour
    async def test_find_still_lists_an_extended_session(
        self, store: Store, clock: FrozenClock
    ) -> None:
        """Even after its original expiry, and after the owner has got another session."""
        _skip_without("find", store)
        key, owner = _key(), _owner()
        record = _record(clock, owner=owner)
        await store.create(key, record)
        longer = _record(clock, owner=owner, life=_LIFETIME * 3)
        await store.save(key, longer, replaces=record.version)
        clock.advance(_LIFETIME * 2)
        await store.create(_key(), _record(clock, owner=owner))
        keys = [found for found, _ in await store.find(owner)]
        _expect(key in keys and len(keys) == 2, True, "find() lists both")

    @_behaviour
    async def test_an_owner_may_be_any_text(self, store: Store, clock: FrozenClock) -> None:
        """Spaces, line ends, quotes, wildcards, other scripts, case, and up to 400 characters."""
        _skip_without("find", store)
        salt = secrets.token_hex(4)
        odd = (
            *("a b", "a\nb", "a:b", "a/b?c=d&e#f", "../..", "%2e", "*", "_", "'\";--", "{a}", "-"),
            *("pad", " pad", "pad ", "Ada", "ada", "ÅÄÖ ✓ 日本語 🎈", "e\u0301", "\u00e9"),
            *("x" * 391, "x" * 392, "日" * 392),
        )
        owners = [salt + text for text in odd] + [text + salt for text in odd]
        keys: dict[str, str] = {}
        for owner in owners:
            keys[owner] = _key()
            await store.create(keys[owner], _record(clock, owner=owner))
        for owner in owners:
            found = [(key, record.owner) for key, record in await store.find(owner)]
            _expect(found, [(keys[owner], owner)], f"find() of the owner {owner!r}")

    @_behaviour
    async def test_find_misses_no_concurrent_create(self, store: Store, clock: FrozenClock) -> None:
        """Sessions that are created at the same time are all listed."""
        _skip_without("find", store)
        owner, keys = _owner(), {_key() for _ in range(_CROWD)}
        await asyncio.gather(*(store.create(key, _record(clock, owner=owner)) for key in keys))
        _expect({key for key, _ in await store.find(owner)}, keys, "the keys that find() lists")

    @_behaviour
    async def test_find_lists_no_more_than_its_limit(
        self, store: Store, clock: FrozenClock
    ) -> None:
        """Those that expire last, of all that there are; a hundred where no limit is given."""
        _skip_without("find", store)
        owner, made = _owner(), list[tuple[str, Record]]()
        for minutes in range(_MANY):
            key, record = _key(), _record(clock, owner=owner, life=_LIFETIME + _MINUTE * minutes)
            await store.create(key, record)
            made.insert(0, (key, record))
        for limit in (1, 3, _MANY - 1, _MANY, _MANY + 1):
            _expect(await store.find(owner, limit), made[:limit], f"find(limit={limit})")
        _expect(await store.find(owner), made[:100], "find() without a limit")

    # delete_owned

    @_behaviour
    async def test_delete_owned_removes_the_sessions_of_one_owner(
        self, store: Store, clock: FrozenClock
    ) -> None:
        """It is repeated until it returns 0, and the numbers add up to how many there were."""
        _skip_without("find", store)
        owner, other = _owner(), _owner()
        keys = await self._create_all(store, clock, owner, 3)
        left = await self._create_all(store, clock, other, 2)
        left += await self._create_all(store, clock, None, 2)
        _expect(await _delete_all_owned(store, owner), 3, "what delete_owned() returned in all")
        _expect([await store.load(key) for key in keys], [None] * 3, "load() after that")
        _expect(await store.find(owner), [], "find() after that")
        _expect(None in [await store.load(key) for key in left], False, "another session is gone")
        _expect(len(await store.find(other)), 2, "how many sessions another owner has")

    @_behaviour
    async def test_delete_owned_removes_any_number(self, store: Store, clock: FrozenClock) -> None:
        """Each call that returns more than 0 has made progress."""
        _skip_without("find", store)
        owner = _owner()
        keys = await self._create_all(store, clock, owner, _MANY)
        _expect(await _delete_all_owned(store, owner), _MANY, "what delete_owned() returned in all")
        _expect(await store.find(owner), [], "find() after that")
        _expect([await store.load(key) for key in keys], [None] * _MANY, "load() after that")

    @_behaviour
    async def test_delete_owned_keeps_one_session(self, store: Store, clock: FrozenClock) -> None:
        """It is not counted; a key that the owner does not have changes nothing."""
        _skip_without("find", store)
        owner = _owner()
        keys = await self._create_all(store, clock, owner, 3)
        for keep in keys[1], keys[1], _key():
            is_kept = keep in keys
            left = {key for key, _ in await store.find(owner)}
            deleted = await _delete_all_owned(store, owner, keep)
            _expect(deleted, len(left) - is_kept, "what delete_owned(keep=...) returned in all")
            kept = [key for key, _ in await store.find(owner)]
            _expect(kept, [keep] if is_kept else [], "find() after that")

    @_behaviour
    async def test_delete_owned_counts_live_sessions(
        self, store: Store, clock: FrozenClock
    ) -> None:
        """Neither deleted nor expired ones, nor those that belong to another owner by now."""
        _skip_without("find", store)
        owner, moved, record = _owner(), _key(), _record(clock, life=_LIFETIME * 2)
        deleted, *_ = await self._create_all(store, clock, owner, 3)
        await store.delete(deleted)
        await store.create(moved, replace(record, owner=owner))
        newer = replace(record, owner=_owner(), version=new_version())
        await store.save(moved, newer, replaces=record.version)
        clock.advance(_LIFETIME)
        await self._create_all(store, clock, owner, 2)
        _expect(await _delete_all_owned(store, owner), 2, "what delete_owned() returned in all")
        _expect(await store.load(moved), newer, "load() of what belongs to another owner")

    @_behaviour
    async def test_save_never_brings_back_what_delete_owned_removed(
        self, store: Store, clock: FrozenClock
    ) -> None:
        """As after delete(); the key can be created again, and its new session is listed."""
        _skip_without("find", store)
        key, record = _key(), _record(clock, owner=_owner())
        await store.create(key, record)
        await _delete_all_owned(store, str(record.owner))
        late = await store.save(key, _record(clock, owner=record.owner), replaces=record.version)
        _expect(late, False, "save() after delete_owned()")
        _expect(await store.load(key), None, "load() after that")
        again = _record(clock, owner=record.owner)
        _expect(await store.create(key, again), True, "create() after delete_owned()")
        _expect(await store.find(str(record.owner)), [(key, again)], "find() after that")

    @_behaviour
    async def test_delete_owned_leaves_a_session_that_changes_its_owner(
        self, store: Store, clock: FrozenClock
    ) -> None:
        """Checking the owner and removing the record is one step: either the save wins, and the
        session lives on under its new owner, or it is refused, and the session is gone."""
        _skip_without("find", store)
        for place in (0, _CROWD // 2, _CROWD):
            owner, new_owner = _owner(), _owner()
            records = {_key(): _record(clock, owner=owner) for _ in range(_CROWD)}
            for key, record in records.items():
                await store.create(key, record)
            calls: list[Coroutine[Any, Any, int]] = [
                store.save(key, _record(clock, owner=new_owner), replaces=record.version)
                for key, record in records.items()
            ]
            calls.insert(place, _delete_all_owned(store, owner))
            saved = await asyncio.gather(*calls)
            deleted = saved.pop(place)
            alive = [await store.load(key) is not None for key in records]
            _expect(alive, saved, "which sessions live on, by whether their save() returned True")
            _expect(deleted, _CROWD - sum(saved), "what delete_owned() returned in all")

    @_behaviour
    async def test_concurrent_calls_of_delete_owned_share_the_sessions(
        self, store: Store, clock: FrozenClock
    ) -> None:
        """Each session is counted by the call that removed it, and after a 0 none is left."""
        _skip_without("find", store)
        owner = _owner()
        await self._create_all(store, clock, owner, _CROWD)
        counts = await asyncio.gather(*(_delete_all_owned(store, owner) for _ in range(3)))
        _expect(sum(counts), _CROWD, "what delete_owned() returned in all")
        _expect(await store.find(owner), [], "find() after that")

    async def _create_all(
        self, store: Store, clock: FrozenClock, owner: str | None, count: int
    ) -> list[str]:
        keys = [_key() for _ in range(count)]
        for key in keys:
            await store.create(key, _record(clock, owner=owner))
        return keys


async def _delete_all_owned(store: Store, owner: str, keep: str | None = None) -> int:
    deleted = 0
    while page := await store.delete_owned(owner, keep=keep):
        deleted += page
    return deleted


def _skip_without(verb: str, store: Store) -> None:
    if getattr(type(store), verb) is getattr(Store, verb):
        import pytest

        pytest.skip(f"{type(store).__name__} does not implement {verb}()")


def _key() -> str:
    return secrets.token_hex(32)


def _owner() -> str:
    return f"user:{secrets.token_hex(8)}"


def _record(
    clock: FrozenClock,
    *,
    body: bytes = b"data",
    owner: str | None = None,
    life: timedelta = _LIFETIME,
) -> Record:
    return Record(body=body, version=new_version(), owner=owner, expires_at=clock() + life)


def _existing(record: Record | None) -> Record:
    if record is None:
        raise AssertionError("load() found nothing under a key that was just stored")
    return record


def _expect(actual: object, expected: object, what: str) -> None:
    # pytest does not rewrite assertions in a library, so the message must say everything
    if actual != expected:
        raise AssertionError(f"{what}: {actual!r}, expected {expected!r}")
