"""The header of a record: the library's own data about a session.

It has a fixed size and stands before the model's JSON, so that reading it takes no pass over the
data and a user's model cannot reach it. Its times are microseconds since 1970, UTC.
"""

import struct
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from ..errors import ConfigurationError
from ..lifetime import Lifetime
from ..records import MAX_BODY_BYTES, to_microseconds

_FORMAT = 1
# format, flags, binding, secret hash, then microseconds: created, authenticated, seen, ends, idle,
# absolute
_LAYOUT = struct.Struct(">BB8s32s6q")
_PERSISTENT, _OWN_LIFETIME = 1, 2
_NONE = -(2**63)
_MICROSECOND = timedelta(microseconds=1)
# two centuries before the last datetime: with the longest lifetime added it is still a datetime
_LATEST = to_microseconds(datetime(9800, 1, 1, tzinfo=UTC))

HEADER_SIZE = _LAYOUT.size
"""In bytes; the model's JSON follows."""


class CorruptBody(Exception):
    """The bytes are not ours: another program's, another key's, or of an unknown format."""


class Renewal(NamedTuple):
    """A request for a new token, at a moment in microseconds.

    If ``changes_subject`` is true, it is a sign-in as ``subject``, or a sign-out if that is None.
    """

    at: int
    changes_subject: bool
    subject: str | None = None
    lifetime: Lifetime | None = None
    persistent: bool = False

    @property
    def is_sign_in(self) -> bool:
        """Whether a user has just been authenticated."""
        return self.subject is not None


class Header(NamedTuple):
    """The header of a record.

    Attributes:
        secret_hash: SHA-256 of the secret of the token that opens the session, 32 bytes.
        created_at: When the session was first stored.
        authenticated_at: When a user last signed in; None if nobody has.
        seen_at: When the session was last extended.
        ends_at: The absolute end, set at the creation and at each sign-in; None if there is none.
        lifetime: The session's own lifetime; None if it has the provider's.
        persistent: Whether its cookie survives closing the browser.
    """

    secret_hash: bytes
    created_at: int
    authenticated_at: int | None
    seen_at: int
    ends_at: int | None
    lifetime: Lifetime | None
    persistent: bool

    @classmethod
    def new(cls, now: int, default: Lifetime, *, persistent: bool) -> "Header":
        """Make the header of a session that begins now, still without the hash of its secret."""
        return cls(b"", now, None, now, _absolute_end(now, default), None, persistent)

    def expires_at(self, default: Lifetime) -> int:
        """Return the time at which the session expires unless it is used again."""
        lifetime = self.lifetime or default
        limits: list[int] = []
        if self.ends_at is not None:
            limits.append(self.ends_at)
        if lifetime.absolute is not None:
            # also counts, so that a lifetime that was shortened applies to existing sessions
            began_at = self.authenticated_at or self.created_at
            limits.append(began_at + lifetime.absolute // _MICROSECOND)
        if lifetime.idle is not None:
            limits.append(self.seen_at + lifetime.idle // _MICROSECOND)
        return min(limits)

    def is_extension_due(self, default: Lifetime, now: int) -> bool:
        """Return whether a request extends the session now: once per tenth of the idle timeout."""
        idle = (self.lifetime or default).idle
        return idle is not None and 10 * (now - self.seen_at) >= idle // _MICROSECOND

    def extended(self, now: int) -> "Header":
        """Return the header after a request that extends the session."""
        return self._replace(seen_at=max(now, self.seen_at))

    def renewed(self, renewal: Renewal, default: Lifetime) -> "Header":
        """Return the header after a renewal, still with the hash of the old secret."""
        if not renewal.is_sign_in:
            return self  # a sign-out moves no end: that of the last sign-in still holds
        return self._replace(
            authenticated_at=renewal.at,
            ends_at=_absolute_end(renewal.at, renewal.lifetime or default),
            lifetime=renewal.lifetime,
            persistent=renewal.persistent,
        )

    def pack(self, binding: bytes) -> bytes:
        """The header as bytes, with the 8 bytes that bind it to its key and provider."""
        lifetime = self.lifetime
        return _LAYOUT.pack(
            _FORMAT,
            self.persistent * _PERSISTENT + (lifetime is not None) * _OWN_LIFETIME,
            binding,
            self.secret_hash,
            self.created_at,
            _NONE if self.authenticated_at is None else self.authenticated_at,
            self.seen_at,
            _NONE if self.ends_at is None else self.ends_at,
            _from_span(lifetime.idle if lifetime else None),
            _from_span(lifetime.absolute if lifetime else None),
        )

    @classmethod
    def unpack(cls, body: bytes, binding: bytes) -> "Header":
        """The header that a body begins with.

        Raises:
            CorruptBody: it has none, or one that is bound to another key or provider, or it is
                larger than any record.
        """
        if not HEADER_SIZE <= len(body) <= MAX_BODY_BYTES:
            raise CorruptBody
        version, flags, bound_to, secret_hash, *numbers = _LAYOUT.unpack_from(body)
        created, authenticated, seen, ends, idle, absolute = numbers
        if version != _FORMAT or bound_to != binding or not 0 <= created <= _LATEST >= seen >= 0:
            raise CorruptBody
        return cls(
            secret_hash=secret_hash,
            created_at=created,
            authenticated_at=_to_time(authenticated),
            seen_at=seen,
            ends_at=_to_time(ends),
            lifetime=_to_lifetime(idle, absolute) if flags & _OWN_LIFETIME else None,
            persistent=bool(flags & _PERSISTENT),
        )


def _absolute_end(began_at: int, lifetime: Lifetime) -> int | None:
    return None if lifetime.absolute is None else began_at + lifetime.absolute // _MICROSECOND


def _to_time(microseconds: int) -> int | None:
    if microseconds == _NONE:
        return None
    if not 0 <= microseconds <= _LATEST:
        raise CorruptBody
    return microseconds


def _from_span(span: timedelta | None) -> int:
    return _NONE if span is None else span // _MICROSECOND


def _to_lifetime(*microseconds: int) -> Lifetime:
    spans = [None if each == _NONE else each * _MICROSECOND for each in microseconds]
    try:
        return Lifetime(*spans)
    except ConfigurationError:
        raise CorruptBody from None
