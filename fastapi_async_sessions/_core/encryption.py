"""Encryption of what a store keeps: AES-256-GCM of ``cryptography``."""

import hashlib
import secrets
from collections.abc import Sequence
from hmac import digest
from typing import NoReturn

from ..errors import ConfigurationError

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
except ImportError:
    raise ConfigurationError(
        'encrypt=True needs cryptography: pip install "fastapi_async_sessions[encryption]"'
    ) from None

_SALT_SIZE = 32
# Each write has its own key, from a random salt, which encrypts one text and no other. So the
# nonce may be fixed, and there is no bound on the number of writes (NIST SP 800-38D, 8.3).
_NONCE = bytes(12)


class Encryption:
    """Encrypts with one of several keys, newest first, and decrypts with any of them."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = keys

    def encrypt(self, content: bytes, place: bytes, *, age: int = 0) -> bytes:
        """Return a salt and the ciphertext, bound to ``place``; ``age`` selects the key."""
        salt = secrets.token_bytes(_SALT_SIZE)
        return salt + _cipher(self._keys[age], salt).encrypt(_NONCE, content, place)

    def decrypt(self, text: bytes, place: bytes) -> bytes | None:
        """Return the content; None if it is of another key or place, or was changed."""
        salt, ciphertext = text[:_SALT_SIZE], text[_SALT_SIZE:]
        for key in self._keys:
            try:
                return _cipher(key, salt).decrypt(_NONCE, ciphertext, place)
            except InvalidTag:
                continue
        return None

    def __reduce__(self) -> NoReturn:
        raise TypeError("an encryption cannot be pickled or copied: it holds secrets")


def _cipher(key: bytes, salt: bytes) -> AESGCM:
    return AESGCM(digest(key, salt, hashlib.sha256))
