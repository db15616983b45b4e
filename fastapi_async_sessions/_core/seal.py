"""The seal of a record, and the name under which a store knows a subject.

Both are HMAC-SHA-256 under keys derived from the application's secrets. Write access to a store is
not enough to make, move or change a session, and read access does not show who is signed in.
Applications with different secrets never meet in one store.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property, lru_cache, partial
from hmac import compare_digest
from typing import TYPE_CHECKING, NoReturn

from ..errors import ConfigurationError
from .keys import Keyring, Mac

if TYPE_CHECKING:
    from .encryption import Encryption

_OWNERS_KEPT = 1000
_TAG_SIZE = 16  # bytes: the 128 bits that RFC 2104 (5) asks for
# the first byte of a body; 1 was the format of 0.1.0, which is not read
_SEALED, _ENCRYPTED = b"\x02", b"\x03"


class Seal:
    """Seals what one provider stores with the newest key, and accepts a seal under any.

    With ``encrypt`` the content is encrypted as well. Both kinds of body are read, whatever is
    written.

    Raises:
        ConfigurationError: ``cryptography``, which ``encrypt`` needs, is not installed.
    """

    def __init__(self, keyring: Keyring, provider: str, *, encrypt: bool) -> None:
        self._keyring = keyring
        self._provider = provider
        self._seals = keyring.derive_macs(b"fastapi_async_sessions/seal", provider)
        self._owners = keyring.derive_macs(b"fastapi_async_sessions/owner", provider)
        self._writer = self._encryption if encrypt else None
        # whether a store's name for a subject is one of ours; each signed-in request needs to know
        self.is_owner = lru_cache(_OWNERS_KEPT)(partial(_is_owner, self._owners))

    @cached_property
    def _encryption(self) -> "Encryption":
        # imported when it is needed: cryptography is optional
        from .encryption import Encryption

        return Encryption(self._keyring.derive(b"fastapi_async_sessions/encrypt", self._provider))

    def close(self, key: str, owner: str | None, content: bytes, *, age: int = 0) -> bytes:
        """Return the body of a record with this content, bound to its key and owner.

        ``age`` selects the secret: 0 is the newest.
        """
        place = _place(key, owner)
        if self._writer is not None:
            return _ENCRYPTED + self._writer.encrypt(content, place, age=age)
        return _SEALED + _tag(self._seals[age], place + content) + content

    def open(self, key: str, owner: str | None, body: bytes) -> bytes | None:
        """Return the content of a body that was sealed here for this key and owner, or None.

        It is None as well if the body is encrypted and ``cryptography`` is not installed.
        """
        place = _place(key, owner)
        if body[:1] == _ENCRYPTED:
            with suppress(ConfigurationError):
                return self._encryption.decrypt(body[1:], place)
        if body[:1] != _SEALED:
            return None
        tag, content = body[1 : 1 + _TAG_SIZE], body[1 + _TAG_SIZE :]
        text = place + content
        for mac in self._seals:
            if compare_digest(_tag(mac, text), tag):
                return content
        return None

    def owner(self, subject: str) -> str:
        """Return the name under which a store knows a subject who signs in now: 64 hex digits."""
        return _owner(self._owners[0], subject)

    def owners(self, subject: str) -> list[str]:
        """Return the names under which a store knows a subject, one per secret, newest first."""
        return [_owner(mac, subject) for mac in self._owners]

    def __repr__(self) -> str:
        return f"Seal({len(self._seals)} keys)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a seal cannot be pickled or copied: it holds secrets")


def _place(key: str, owner: str | None) -> bytes:
    # a key has 64 characters, and an owner 64 or none: no two places begin a text alike
    return f"{key}:{owner or ''}:".encode()


def _tag(mac: Mac, text: bytes) -> bytes:
    return mac(text)[:_TAG_SIZE]


def _is_owner(macs: Sequence[Mac], owner: str | None, subject: str) -> bool:
    return any(_owner(mac, subject) == owner for mac in macs)


def _owner(mac: Mac, subject: str) -> str:
    return mac(subject.encode()).hex()
