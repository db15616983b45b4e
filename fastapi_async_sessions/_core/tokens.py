"""What a cookie carries, and what of it a store may know."""

import hashlib
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import NoReturn

_HANDLE_BYTES = 16
_SECRET_BYTES = 32


class Token:
    """A random handle, which finds the session, and a random secret, which opens it.

    The handle stays for the session's life and the secret changes with each renewal. A store sees
    a hash of each, so that what is stored opens nothing (ASVS 7.2.3, CVE-2019-16782).
    """

    __slots__ = ("handle", "secret")

    def __init__(self, handle: bytes, secret: bytes) -> None:
        self.handle = handle
        self.secret = secret

    @classmethod
    def issue(cls) -> "Token":
        """A token for a new session."""
        return cls(secrets.token_bytes(_HANDLE_BYTES), secrets.token_bytes(_SECRET_BYTES))

    @classmethod
    def parse(cls, text: bytes) -> "Token":
        """The token that ``text`` wrote: 48 bytes in base64url, which can be spelled in one way."""
        raw = urlsafe_b64decode(text)
        return cls(raw[:_HANDLE_BYTES], raw[_HANDLE_BYTES:])

    def renewed(self) -> "Token":
        """A token for the same session with another secret."""
        return Token(self.handle, secrets.token_bytes(_SECRET_BYTES))

    def text(self) -> bytes:
        """The token as 64 characters of base64url."""
        return urlsafe_b64encode(self.handle + self.secret)

    def key(self, namespace: str) -> str:
        """The store key: 64 hexadecimal digits, which name the session and cannot open it."""
        return store_key("handle", namespace, self.handle)

    def secret_hash(self) -> bytes:
        """What the record keeps of the secret: 32 bytes."""
        return hashlib.sha256(self.secret).digest()

    def __repr__(self) -> str:
        return "Token(...)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a token cannot be pickled or copied: it is a secret")


def store_key(purpose: str, namespace: str, name: bytes) -> str:
    """The hex SHA-256 of the parts, each after its length: no other parts give the same key
    (CVE-2026-25480)."""
    return hashlib.sha256(join_parts(purpose.encode(), namespace.encode(), name)).hexdigest()


def join_parts(*parts: bytes) -> bytes:
    """The parts as one byte string that no other parts give."""
    return b"".join([b"%d:%b" % (len(part), part) for part in parts])


_KEY = re.compile(r"[0-9a-f]{64}")


def is_key(text: str) -> bool:
    """Whether a text has the form of a session key."""
    return _KEY.fullmatch(text) is not None
