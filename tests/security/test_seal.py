"""The seal of records: what a store holds cannot be made, changed, moved or read."""

import re
import secrets
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel
from redis.asyncio import Redis

from fastapi_async_sessions import (
    MemoryStore,
    Record,
    Session,
    SessionEvent,
    SessionNotFound,
)
from fastapi_async_sessions._core.encryption import Encryption
from fastapi_async_sessions._core.header import Header
from fastapi_async_sessions._core.repository import Absent
from fastapi_async_sessions.records import MAX_BODY_BYTES, new_version
from fastapi_async_sessions.testing import FrozenClock

from ..apps import OLDER_SECRET, SECRET, make_provider, with_json
from ..doubles import SpyStore, StoreCall
from ..races import Client, opened_store

NOTE = "what-ada-wrote"
SUBJECT = "ada@example.com"

each_kind = pytest.mark.parametrize("encrypt", [False, True], ids=["sealed", "encrypted"])


class Notes(BaseModel):
    text: str = ""


@pytest.fixture(params=["memory", "redis", "sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, clock: FrozenClock) -> AsyncIterator[SpyStore]:
    """An open store of each kind, which records its calls."""
    async with opened_store(request.param, clock, request) as opened:
        yield SpyStore(opened)


@pytest.fixture
def memory(clock: FrozenClock) -> SpyStore:
    return SpyStore(MemoryStore(clock=clock))


async def write_as_ada(session: Session[Any]) -> None:
    session.renew(subject=SUBJECT)
    session.data.text = NOTE


async def stored_session(provider: Any) -> tuple[Client, str, Record]:
    """A client that is signed in, with the key and the record of its session."""
    client = Client(provider)
    await client.request(write_as_ada)
    (stored,) = await provider.sessions(SUBJECT)
    record = await provider.repository.store.load(stored.key)
    return client, stored.key, record


async def put(store: SpyStore, key: str, record: Record) -> None:
    """Write a record as somebody who has got hold of the store."""
    await store.inner.delete(key)
    other = Record(record.body, new_version(), record.owner, record.expires_at)
    assert await store.inner.create(key, other)


async def assert_corrupt(provider: Any, client: Client, key: str, events: list[Any]) -> None:
    """The key opens nothing, the cookie neither, and each time an event says so."""
    events.clear()
    with pytest.raises(SessionNotFound):
        async with provider.open(key):
            pass
    assert not await client.copy().is_live()
    assert [(event.kind, event.key) for event in events] == [("corrupt", key)] * 2


# writing to the store


@each_kind
async def test_a_body_with_any_byte_changed_is_no_session(
    memory: SpyStore, clock: FrozenClock, events: list[SessionEvent], encrypt: bool
) -> None:
    """Changed, left out, doubled or added."""
    options: Any = {"clock": clock, "on_event": events.append, "encrypt": encrypt}
    provider = make_provider(memory, Notes, **options)
    client, key, record = await stored_session(provider)
    body = record.body
    for place in range(len(body)):
        flipped = bytes([body[place] ^ (1 << secrets.randbelow(8))])
        for middle in (flipped, b"", body[place : place + 1] * 2):
            changed = body[:place] + middle + body[place + 1 :]
            if changed != body:
                await put(memory, key, Record(changed, "1", record.owner, record.expires_at))
                await assert_corrupt(provider, client, key, events)
    for changed in (body + b"x", body[: len(body) // 2], b"", b"\x02", b"\x03", b"\x03" * 48):
        await put(memory, key, Record(changed, "1", record.owner, record.expires_at))
        await assert_corrupt(provider, client, key, events)
    await put(memory, key, record)
    assert await client.is_live()


@each_kind
async def test_a_record_under_another_key_or_owner_is_no_session(
    memory: SpyStore, clock: FrozenClock, events: list[SessionEvent], encrypt: bool
) -> None:
    """Nobody becomes another user by a copy of a record, and no session leaves its user's list."""
    options: Any = {"clock": clock, "on_event": events.append, "encrypt": encrypt}
    provider = make_provider(memory, Notes, **options)
    client, key, record = await stored_session(provider)
    eve = Client(provider)
    key_of_eve = await eve.sign_in("eve")
    record_of_eve = await memory.inner.load(key_of_eve)
    assert record_of_eve is not None
    for owner in (None, "", record_of_eve.owner, "0" * 64):
        await put(memory, key, Record(record.body, "1", owner, record.expires_at))
        await assert_corrupt(provider, client, key, events)
        assert await provider.sessions("eve") != []
        assert [each.subject for each in await provider.sessions("eve")] == ["eve"]
    await put(memory, key_of_eve, record)
    await assert_corrupt(provider, eve, key_of_eve, events)
    await put(memory, key, record_of_eve)
    await assert_corrupt(provider, client, key, events)


@each_kind
async def test_only_a_seal_of_the_same_provider_and_secret_fits(
    memory: SpyStore, clock: FrozenClock, events: list[SessionEvent], encrypt: bool
) -> None:
    """A record that another provider or application made, under the very same key."""
    options: Any = {"clock": clock, "on_event": events.append, "encrypt": encrypt}
    provider = make_provider(memory, Notes, **options)
    client, key, _ = await stored_session(provider)
    header = Header.new(
        provider.repository.settings.now(), provider.repository.settings.lifetime, persistent=False
    )
    for other in (
        make_provider(SpyStore(memory), Notes, name="other", **options),
        make_provider(SpyStore(memory), Notes, secret_key=OLDER_SECRET, **options),
    ):
        made = other.repository.new_record(key, header, b"{}", None)
        await put(memory, key, made)
        await assert_corrupt(provider, client, key, events)


@each_kind
async def test_a_record_larger_than_any_is_not_read_though_its_seal_fits(
    memory: SpyStore, clock: FrozenClock, events: list[SessionEvent], encrypt: bool
) -> None:
    """A megabyte is the most that a provider writes, so nothing larger costs a pass over it."""
    provider = make_provider(
        memory,
        Notes,
        clock=clock,
        on_event=events.append,
        encrypt=encrypt,
        max_bytes=MAX_BODY_BYTES,
    )
    client, key, record = await stored_session(provider)
    largest = with_json(provider, key, record, b'{"text":""}')
    room = MAX_BODY_BYTES - len(largest.body)
    for spaces in (room, room + 1):
        padded = with_json(provider, key, record, b'{"text":""}' + b" " * spaces)
        assert len(padded.body) == MAX_BODY_BYTES - room + spaces
        await put(memory, key, padded)
        if spaces == room:
            assert await client.is_live()
        else:
            events.clear()
            await assert_corrupt(provider, client, key, events)


async def test_an_older_record_of_the_same_session_fits(
    memory: SpyStore, clock: FrozenClock
) -> None:
    """The seal cannot tell which of two is the newer one: see the guide. Its times still count."""
    provider = make_provider(memory, Notes, clock=clock)
    client, key, record = await stored_session(provider)

    async def forget(session: Session[Any]) -> None:
        session.data.text = ""

    await client.request(forget)
    await put(memory, key, record)
    assert (await client.data()).text == NOTE
    clock.advance(provider.repository.settings.lifetime.idle)
    far = Record(record.body, "1", record.owner, record.expires_at.replace(year=2100))
    await put(memory, key, far)
    assert not await client.is_live()


async def test_a_revocation_that_was_not_sealed_here_does_not_count(
    memory: SpyStore, clock: FrozenClock
) -> None:
    """It locks nobody out, and the next revocation overwrites it."""
    provider = make_provider(memory, Notes, clock=clock)
    before = set(memory.keys)
    await provider.revoke_all(SUBJECT)
    (key,) = set(memory.keys) - before
    record = await memory.inner.load(key)
    assert record is not None
    body = record.body[:-1] + bytes([record.body[-1] ^ 1])
    await put(memory, key, Record(body, "1", None, record.expires_at))
    client = Client(provider)
    assert (await client.request(write_as_ada)).is_ok  # in the same microsecond
    assert await client.is_live()
    assert await provider.revoke_all(SUBJECT) == 1
    assert not (await Client(provider).request(write_as_ada)).is_ok


# two applications with one store


async def test_applications_with_two_secrets_never_meet(
    store: SpyStore, clock: FrozenClock
) -> None:
    """With all defaults, on one store: what one does has no effect on the other."""
    ours, theirs = (
        make_provider(SpyStore(store), Notes, secret_key=secret, clock=clock)
        for secret in (secrets.token_urlsafe(32), secrets.token_urlsafe(32))
    )
    client, key, _ = await stored_session(ours)
    # load
    assert not await Client(theirs, client.cookie).is_live()
    assert isinstance(await theirs.repository.load(key), Absent)
    with pytest.raises(SessionNotFound):
        async with theirs.open(key):
            pass
    # find
    assert await theirs.sessions(SUBJECT) == []
    # delete
    assert await theirs.revoke(key) is False
    assert await theirs.revoke(key, SUBJECT) is False
    # delete_owned and marks, in the very microsecond of a sign-in
    assert await theirs.revoke_all(SUBJECT) == 0
    other = Client(ours)
    assert (await other.request(write_as_ada)).is_ok
    # save: their session of the same user is another one
    clock.advance(timedelta(seconds=1))
    of_theirs, _, _ = await stored_session(theirs)
    assert (await of_theirs.data()).text == NOTE
    assert await ours.revoke_all(SUBJECT) == 2
    assert await of_theirs.is_live()
    assert not await client.is_live()


# reading the store


async def dump_of(store: SpyStore, request: pytest.FixtureRequest) -> bytes:
    """Everything that a store holds: keys, lists, columns, indexes and bodies."""
    match request.node.callspec.params["store"]:
        case "redis":
            return await redis_dump(request.getfixturevalue("redis_url"))
        case "sqlite":
            files = request.getfixturevalue("tmp_path").glob("sessions.db*")
            return b"".join(path.read_bytes() for path in files)
        case "postgresql":
            server = request.getfixturevalue("postgres_server")
            text = server.execute("SELECT string_agg(s::text, ' ') FROM sessions s")
            return re.sub(rb"\\+x([0-9a-f]*)", from_hexadecimal, text.encode())
        case _:
            records = (await store.records()).items()
            rows = (f"{key} {each.owner} {each.expires_at} ".encode() for key, each in records)
            return b"".join(rows) + b"".join(each.body for _, each in records)


def from_hexadecimal(match: re.Match[bytes]) -> bytes:
    return bytes.fromhex(match[1].decode())


async def redis_dump(url: str) -> bytes:
    async with Redis.from_url(url) as client:
        parts: list[bytes] = []
        async for key in client.scan_iter():
            is_list = await client.type(key) == b"zset"
            values = await client.zrange(key, 0, -1) if is_list else [await client.get(key)]
            parts += [key, *values]
        return b" ".join(parts)


def keep_bodies(store: SpyStore) -> list[bytes]:
    """The bodies of all records that are written from now on."""
    bodies: list[bytes] = []

    async def hook(call: StoreCall) -> Any:
        if call.record is not None:
            bodies.append(call.record.body)
        return await call.pass_on()

    store.hook = hook
    return bodies


@each_kind
async def test_a_dump_of_a_store_shows_nobody(
    store: SpyStore, clock: FrozenClock, request: pytest.FixtureRequest, encrypt: bool
) -> None:
    """No key, list, column or index has a subject in plain text; encrypted, no body has data, a
    subject or a time either, of sessions and of revocations."""
    keys = [secrets.token_urlsafe(32), secrets.token_urlsafe(32)]
    provider = make_provider(store, Notes, clock=clock, encrypt=encrypt, secret_key=keys)
    bodies = keep_bodies(store)
    _, _, record = await stored_session(provider)
    await provider.revoke_all("bob@example.com")
    now = provider.repository.settings.now()
    in_bodies = [NOTE.encode(), SUBJECT.encode(), now.to_bytes(8, "big"), f"{now} ".encode()]
    dump = await dump_of(store, request)
    assert record.body in dump
    assert [text in dump for text in in_bodies] == [not encrypt] * len(in_bodies)
    for body in bodies:
        dump = dump.replace(body, b"")
    assert [text in dump for text in (*in_bodies, b"example.com")] == [False] * 5


async def test_each_of_very_many_writes_has_a_salt_of_its_own() -> None:
    """So each text has a key of its own, and the fixed nonce is used once with each."""
    encryption = Encryption([bytes(32)])
    texts = {encryption.encrypt(b"the same", b"place")[:32] for _ in range(100_000)}
    assert len(texts) == 100_000


async def test_encryption_is_switched_on_and_off_in_a_running_application(
    memory: SpyStore, clock: FrozenClock, events: list[SessionEvent]
) -> None:
    """Two workers that differ read each other's records; each write is as its worker says."""
    plain, encrypted = (
        make_provider(SpyStore(memory), Notes, clock=clock, encrypt=encrypt, on_event=events.append)
        for encrypt in (False, True)
    )
    client, key, _ = await stored_session(plain)
    for number in range(6):
        client.provider = (encrypted, plain)[number % 2]

        async def write(session: Session[Any], number: int = number) -> str | None:
            session.data.text = f"the text {number}"
            return session.subject

        assert (await client.request(write)).value == SUBJECT
        record = await memory.inner.load(key)
        assert record is not None
        assert (b"the text" in record.body) is (number % 2 == 1)
        for other in (plain, encrypted):
            assert [each.data.text for each in await other.sessions(SUBJECT)] == [
                f"the text {number}"
            ]
    assert not {"corrupt", "missing"} & {event.kind for event in events}


async def test_an_encrypted_record_without_the_library_is_no_session(
    memory: SpyStore,
    clock: FrozenClock,
    events: list[SessionEvent],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The event says so; nothing else fails."""
    client, key, _ = await stored_session(
        make_provider(SpyStore(memory), Notes, clock=clock, encrypt=True)
    )
    monkeypatch.delitem(sys.modules, "fastapi_async_sessions._core.encryption")
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    provider = make_provider(memory, Notes, clock=clock, on_event=events.append)
    client.provider = provider
    await assert_corrupt(provider, client, key, events)


# the formats that stay readable

COOKIE_VALUE = (
    "AAECAwQFBgcICQoLDA0ODwABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
    ".BrZhXToqlWSHRqxqSempffIrcIdUth42rj3vuSjWXnI"
)
STORED_KEY = "a58a1ba55e1821d4c3e981067203a04bb00a6edd3bf706797ec62dcef4ef5329"
STORED_OWNER = "acac0a82e1887efa8435a8e900b48eb4efbc72385089217b395c8f61b0eff1ec"
SEALED = (
    "028324e6d86ca8ae354662ad3a0630bf5400630dcd2966c4336691125448bbb25b4ff412a49c732db2c8abc1"
    "b8581bd710dd00064748462040000006474846204000000647484620400000064748462040000006475c63f7"
    "a00080000000000000008000000000000000000f616461406578616d706c652e636f6d7b2274657874223a22"
    "776861742d6164612d77726f7465227d"
)
ENCRYPTED = (
    "03b635e9f6b41c1e889c4b0034a57527b853c2e6e4ff018678a518b8a0d95e00a214aebac5fb6fbd884346f1"
    "65983565e474e242874afc70411b8aea425fb0be59601e77fcd070ad014f41f03b9b0c9e39faad8cf83b0645"
    "9c3044f813eeefb2019769588be675df8d9d31d23e77b02e4908167f0da0de4d962c82c477c43a103923784d"
    "867d8e15c33ac5ffa642ef5f54c5cc3285962109c1f81a1971eae1a9876668304d32904ea50735f55c50a0bc"
    "3d237b67"
)


OF_NOBODY = (
    "025756d9ddba4a2a476d5a51ac2ff2a99800630dcd2966c4336691125448bbb25b4ff412a49c732db2c8abc1"
    "b8581bd710dd00064748462040008000000000000000000647484620400080000000000000000006475c63f7"
    "a0008000000000000000800000000000000000007b2274657874223a22776861742d6164612d77726f746522"
    "7d"
)


@pytest.mark.parametrize(
    ("body", "owner"),
    [(SEALED, STORED_OWNER), (ENCRYPTED, STORED_OWNER), (OF_NOBODY, None)],
    ids=["sealed", "encrypted", "of nobody"],
)
async def test_a_cookie_and_a_record_of_this_format_stay_readable(
    memory: SpyStore, clock: FrozenClock, body: str, owner: str | None
) -> None:
    """They were made by an earlier run: a release that reads them otherwise signs everybody out."""
    clock.now = datetime(2026, 1, 1, tzinfo=UTC)
    record = Record(bytes.fromhex(body), "1", owner, clock() + timedelta(days=1))
    await memory.create(STORED_KEY, record)
    provider = make_provider(memory, Notes, clock=clock)
    client = Client(provider, COOKIE_VALUE)
    assert (await client.data()).text == NOTE
    assert len(await provider.sessions(SUBJECT)) == (owner is not None)


def test_each_purpose_provider_and_secret_has_keys_of_its_own() -> None:
    """What is signed for one is worthless for another (NIST SP 800-108)."""
    providers = [
        make_provider(name=name, encrypt=True, secret_key=[SECRET, OLDER_SECRET])
        for name in ("one", "two")
    ]
    keys: list[bytes] = []
    for provider in providers:
        seal = provider.repository.seal
        macs = [*seal._seals, *seal._owners, *provider.verifier._macs]
        # under different keys, one message has different codes
        keys += [*(mac(b"") for mac in macs), *seal._encryption._keys]
    assert len(keys) == len(set(keys)) == 16
    assert {len(key) for key in keys} == {32}
