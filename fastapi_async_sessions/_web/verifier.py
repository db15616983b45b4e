"""Signs tokens for cookies, and verifies them."""

import hashlib
from collections.abc import Sequence
from enum import Enum
from hmac import compare_digest
from typing import NamedTuple, NoReturn

from itsdangerous import Signer
from pydantic import SecretStr

from .._core.tokens import Token, join_parts
from ..errors import ConfigurationError

Secret = str | bytes | SecretStr

_MIN_SECRET_BYTES = 32
_MAX_KEYS = 5
_SAMPLES = (b"changeme", b"change-me", b"change_me", b"your-secret", b"your_secret")
_SIZE = 64 + 1 + 43  # a token, a dot, and 32 bytes in base64url


class Rejected(Enum):
    """The reason why a request's cookie was rejected."""

    BAD_SIGNATURE = "bad_signature"
    AMBIGUOUS = "ambiguous_cookie"


class Verified(NamedTuple):
    """A token that we signed; ``needs_resigning`` if not with the newest key."""

    token: Token
    needs_resigning: bool


class CookieVerifier:
    """Signs tokens with the newest key and accepts those that were signed with any of the keys.

    The signature is itsdangerous's HMAC-SHA-256. The keys are derived for this purpose, provider
    and cookie, so nothing else that was signed with the same secret is accepted.

    Args:
        secret_key: One secret, or up to five, newest first; each at least 32 bytes.
        audience: The names of provider and cookie, to which the signature is bound.

    Raises:
        ConfigurationError: there are too few or too many secrets, or a weak one.
    """

    def __init__(self, secret_key: Secret | Sequence[Secret], *, audience: Sequence[str]) -> None:
        salt = join_parts(b"fastapi_async_sessions/v1", *(part.encode() for part in audience))
        self._signers = [_signer(secret, salt) for secret in _checked(secret_key)]

    def sign(self, token: Token) -> str:
        """Return the cookie value for a token."""
        return self._signers[0].sign(token.text()).decode()

    def verify(self, candidates: Sequence[bytes]) -> Verified | Rejected:
        """Find the one token in a request's cookie values, whatever their order.

        Two different tokens with good signatures are rejected: one of them was planted.
        """
        good: Verified | None = None
        for value in candidates:
            verified = self._verify(value)
            if good is None:
                good = verified
            elif verified is not None and verified.token.text() != good.token.text():
                return Rejected.AMBIGUOUS
        return good or Rejected.BAD_SIGNATURE

    def _verify(self, value: bytes) -> Verified | None:
        if len(value) != _SIZE:
            return None
        text, _, signature = value.partition(b".")
        for age, signer in enumerate(self._signers):
            # Compared as text, because ``unsign`` would also accept other spellings of a signature.
            # If the signature is good, it is a token: nothing else is signed with these keys.
            if compare_digest(signer.get_signature(text), signature):
                return Verified(Token.parse(text), needs_resigning=age > 0)
        return None

    def __repr__(self) -> str:
        return f"CookieVerifier({len(self._signers)} keys)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a verifier cannot be pickled or copied: it holds secrets")


def _signer(secret: bytes, salt: bytes) -> Signer:
    derived = Signer(secret, salt, key_derivation="hmac", digest_method=hashlib.sha256).derive_key()
    # derived once here, because itsdangerous would derive the key again for each signature
    return Signer(derived, key_derivation="none", digest_method=hashlib.sha256)


def _checked(secret_key: Secret | Sequence[Secret]) -> list[bytes]:
    given: list[object] = [secret_key]
    if isinstance(secret_key, Sequence) and not isinstance(secret_key, str | bytes):
        given = list(secret_key)
    if not 1 <= len(given) <= _MAX_KEYS:
        raise ConfigurationError(f"secret_key takes one secret, or 2 to {_MAX_KEYS}, newest first")
    secrets = [_checked_one(secret) for secret in given]
    if len(set(secrets)) < len(secrets):
        raise ConfigurationError("secret_key holds the same secret twice")
    return secrets


def _checked_one(secret: object) -> bytes:
    if isinstance(secret, SecretStr):
        secret = secret.get_secret_value()
    if isinstance(secret, str):
        secret = secret.encode()
    if not isinstance(secret, bytes):
        raise ConfigurationError(f"secret_key takes str, bytes or SecretStr. {_ADVICE}")
    if len(secret.strip()) < _MIN_SECRET_BYTES:
        raise ConfigurationError(f"secret_key is shorter than {_MIN_SECRET_BYTES} bytes. {_ADVICE}")
    if len(set(secret)) < 8:
        raise ConfigurationError(f"secret_key repeats a few characters. {_ADVICE}")
    if any(sample in secret.lower() for sample in _SAMPLES):
        raise ConfigurationError(f"secret_key is a sample from documentation. {_ADVICE}")
    return secret


_ADVICE = 'Make one with: python -c "import secrets; print(secrets.token_urlsafe(32))"'
