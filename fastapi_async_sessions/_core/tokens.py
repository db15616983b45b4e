"""The token in a cookie, and the hashes of it that a store may see."""

import hashlib
import re
import secrets
from binascii import a2b_base64, b2a_base64
from typing import NoReturn

_HANDLE_BYTES = 16
_SECRET_BYTES = 32
_TO_URLSAFE = bytes.maketrans(b"+/", b"-_")
_FROM_URLSAFE = bytes.maketrans(b"-_", b"+/")


class Token:
    """A random handle, which finds the session, and a random secret, which opens it.

    The handle stays the same as long as the session lives; the secret changes with each renewal. A
    store sees only a hash of each, which cannot open the session (ASVS 7.2.3, CVE-2019-16782).
    """

    __slots__ = ("handle", "secret")

    def __init__(self, handle: bytes, secret: bytes) -> None:
        self.handle = handle
        self.secret = secret

    @classmethod
    def issue(cls) -> "Token":
        """Make a token for a new session."""
        return cls(secrets.token_bytes(_HANDLE_BYTES), secrets.token_bytes(_SECRET_BYTES))

    @classmethod
    def parse(cls, text: bytes) -> "Token":
        """Read the result of ``text``: 48 bytes in base64url, which has one spelling for them."""
        raw = a2b_base64(text.translate(_FROM_URLSAFE))
        return cls(raw[:_HANDLE_BYTES], raw[_HANDLE_BYTES:])

    def renewed(self) -> "Token":
        """Make a token for the same session with a new secret."""
        return Token(self.handle, secrets.token_bytes(_SECRET_BYTES))

    def text(self) -> bytes:
        """Return the token as 64 characters of base64url."""
        return base64url(self.handle + self.secret)

    def key(self, namespace: str) -> str:
        """Return the key in the store: 64 hexadecimal digits that cannot open the session."""
        return store_key("handle", namespace, self.handle)

    def secret_hash(self) -> bytes:
        """Return the hash of the secret that the record keeps: 32 bytes."""
        return hashlib.sha256(self.secret).digest()

    def __repr__(self) -> str:
        return "Token(...)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a token cannot be pickled or copied: it is a secret")


def base64url(raw: bytes) -> bytes:
    """Return bytes as base64url without padding (RFC 4648, 5)."""
    return b2a_base64(raw, newline=False).rstrip(b"=").translate(_TO_URLSAFE)


def store_key(purpose: str, namespace: str, name: bytes) -> str:
    """Return the hexadecimal SHA-256 of the parts, each preceded by its length.

    No other parts have the same key (CVE-2026-25480).
    """
    return hashlib.sha256(join_parts(purpose.encode(), namespace.encode(), name)).hexdigest()


def join_parts(*parts: bytes) -> bytes:
    """Join the parts to a byte string that no other parts result in."""
    return b"".join([b"%d:%b" % (len(part), part) for part in parts])


_KEY = re.compile(r"[0-9a-f]{64}")


def is_key(text: str) -> bool:
    """Return whether a text has the form of a session key.

    Raises:
        TypeError: it is not text.
    """
    if not isinstance(text, str):
        raise TypeError(f"a key is a str, as session.key is, not {type(text).__name__}")
    return _KEY.fullmatch(text) is not None
