"""Between tokens and the signed text that a cookie holds."""

from collections.abc import Sequence
from enum import Enum
from hmac import compare_digest
from typing import NamedTuple, NoReturn

from .._core.keys import Keyring, Mac
from .._core.tokens import Token, base64url

_SIZE = 64 + 1 + 43  # a token, a point, and 32 bytes in base64url


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

    A signature is HMAC-SHA-256, in the format of itsdangerous. The keys are derived for this
    purpose, provider and cookie, so nothing else that was signed with the same secret is accepted.

    Args:
        keyring: The application's secrets.
        audience: The provider and the cookie's attributes, which the signature is bound to.
    """

    def __init__(self, keyring: Keyring, *, audience: Sequence[str]) -> None:
        self._macs = keyring.derive_macs(b"fastapi_async_sessions/v1", *audience)

    def sign(self, token: Token) -> str:
        """Return the cookie value for a token."""
        text = token.text()
        return b".".join((text, _signature(self._macs[0], text))).decode()

    def verify(self, candidates: Sequence[bytes]) -> list[Verified] | Rejected:
        """Return the well-signed tokens of one session among a request's cookie values.

        There may be several with different secrets: the record shows which one is live. Tokens of
        two sessions are rejected, because one of them was planted.
        """
        good = [verified for verified in map(self._verify, candidates) if verified is not None]
        if not good:
            return Rejected.BAD_SIGNATURE
        if len(good) > 1 and len({verified.token.handle for verified in good}) > 1:
            return Rejected.AMBIGUOUS
        return good

    def _verify(self, value: bytes) -> Verified | None:
        if len(value) != _SIZE:
            return None
        text, _, signature = value.partition(b".")
        for age, mac in enumerate(self._macs):
            # Compared as text, because base64 can be spelled in several ways.
            # If the signature is good, it is a token: nothing else is signed with these keys.
            if compare_digest(_signature(mac, text), signature):
                return Verified(Token.parse(text), needs_resigning=age > 0)
        return None

    def __repr__(self) -> str:
        return f"CookieVerifier({len(self._macs)} keys)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a verifier cannot be pickled or copied: it holds secrets")


def _signature(mac: Mac, text: bytes) -> bytes:
    return base64url(mac(text))
