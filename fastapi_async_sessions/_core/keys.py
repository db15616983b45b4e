"""The application's secrets, and the keys that are derived from them."""

import hashlib
import hmac
from collections.abc import Sequence
from typing import NoReturn

from pydantic import SecretBytes, SecretStr

from ..errors import ConfigurationError
from .tokens import join_parts

Secret = str | bytes | SecretStr

_BLOCK_SIZE = 64  # bytes that SHA-256 takes at a time
_MIN_SECRET_BYTES = 32
_MIN_DISTINCT_BYTES = 8
_MAX_SECRETS = 5
# what documentation and generators show, compared in lower case
_SAMPLES = (
    *(b"changeme", b"change-me", b"change_me", b"your-secret", b"your_secret"),
    *(b"secret-key", b"secret_key", b"supersecret", b"super-secret", b"super_secret"),
    b"django-insecure-",
    b"09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",  # FastAPI's tutorial
)
_ADVICE = 'Make one with: python -c "import secrets; print(secrets.token_urlsafe(32))"'


class Keyring:
    """Up to five secrets, newest first.

    Args:
        secret_key: One secret, or up to five, newest first; each at least 32 bytes.

    Raises:
        ConfigurationError: there are too few or too many secrets, or a weak one.
    """

    def __init__(self, secret_key: Secret | Sequence[Secret]) -> None:
        given: list[object] = [secret_key]
        if isinstance(secret_key, Sequence) and not isinstance(secret_key, str | bytes):
            given = list(secret_key)
        if not 1 <= len(given) <= _MAX_SECRETS:
            raise ConfigurationError(
                f"secret_key takes one secret, or 2 to {_MAX_SECRETS}, newest first"
            )
        # in a wrapper, so that no error tracker that prints attributes shows them
        self._secrets = [SecretBytes(_checked(secret)) for secret in given]
        if len(set(self._secrets)) < len(self._secrets):
            raise ConfigurationError("secret_key holds the same secret twice")

    def derive(self, purpose: bytes, *audience: str) -> list[bytes]:
        """A key for one purpose from each secret, newest first.

        What was made under it fits nowhere else: another purpose, provider or cookie has another
        key (NIST SP 800-108, 7.6).
        """
        salt = join_parts(purpose, *(part.encode() for part in audience))
        secrets = [secret.get_secret_value() for secret in self._secrets]
        return [hmac.digest(secret, salt, hashlib.sha256) for secret in secrets]

    def derive_macs(self, purpose: bytes, *audience: str) -> list["Mac"]:
        """What authenticates under the keys that ``derive`` gives."""
        return [Mac(key) for key in self.derive(purpose, *audience)]

    def __len__(self) -> int:
        return len(self._secrets)

    def __repr__(self) -> str:
        return f"Keyring({len(self)} secrets)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a keyring cannot be pickled or copied: it holds secrets")


class Mac:
    """HMAC-SHA-256 under one key of at most 64 bytes (RFC 2104).

    Half of the work depends on the key alone and is done once. ``hmac.HMAC`` could be copied as
    well, but takes three times as long.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        block = key.ljust(_BLOCK_SIZE, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def __call__(self, message: bytes) -> bytes:
        """Return the 32 bytes that authenticate a message."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.digest()


def _checked(secret: object) -> bytes:
    if isinstance(secret, SecretStr):
        secret = secret.get_secret_value()
    if isinstance(secret, str):
        # os.environ has lone surrogates for bytes outside UTF-8; an error would show the secret
        secret = secret.encode(errors="surrogatepass")
    if not isinstance(secret, bytes):
        is_bytes = isinstance(secret, SecretBytes)
        remedy = "Pass its get_secret_value()" if is_bytes else _ADVICE
        raise ConfigurationError(
            f"secret_key takes str, bytes or SecretStr, not {type(secret).__name__}. {remedy}"
        )
    if len(secret.strip()) < _MIN_SECRET_BYTES:
        raise ConfigurationError(f"secret_key is shorter than {_MIN_SECRET_BYTES} bytes. {_ADVICE}")
    if len(set(secret)) < _MIN_DISTINCT_BYTES or _is_repeated(secret):
        raise ConfigurationError(f"secret_key repeats a few characters. {_ADVICE}")
    if any(sample in secret.lower() for sample in _SAMPLES):
        raise ConfigurationError(f"secret_key is a sample from documentation. {_ADVICE}")
    return secret


def _is_repeated(secret: bytes) -> bool:
    """Whether the secret is one text again and again, the last time perhaps in part."""
    longest = _MIN_SECRET_BYTES - 1
    return any(secret[size:] == secret[:-size] for size in range(1, min(longest, len(secret))))
