"""The header of a record: what the library itself knows of a session.

It has a fixed size and stands before the model's JSON, so that reading it takes no pass over the
data and a user's model cannot reach it.
"""

import struct
from datetime import datetime, timedelta
from typing import NamedTuple

from ..errors import ConfigurationError
from ..lifetime import Lifetime
from ..records import MAX_BODY_BYTES, from_microseconds, to_microseconds

_FORMAT = 1
# format, flags, binding, secret hash, then microseconds: created, authenticated, seen, ends, idle,
# absolute
_LAYOUT = struct.Struct(">BB8s32s6q")
_PERSISTENT, _OWN_LIFETIME = 1, 2
_NONE = -(2**63)
_MICROSECOND = timedelta(microseconds=1)

HEADER_SIZE = _LAYOUT.size
"""In bytes; the model's JSON follows."""


class CorruptBody(Exception):
    """The bytes are not ours: another program's, another key's, or of an unknown format."""


class Renewal(NamedTuple):
    """A request for a new token.

    Where ``changes_subject`` is true it is a sign-in as ``subject``, or with None a sign-out.
    """

    at: datetime
    changes_subject: bool
    subject: str | None = None
    lifetime: Lifetime | None = None
    persistent: bool = False

    @property
    def is_sign_in(self) -> bool:
        """Whether somebody has just proven who they are."""
        return self.subject is not None


class Header(NamedTuple):
    """What a record says of its session.

    Attributes:
        secret_hash: SHA-256 of the secret of the token that opens the session, 32 bytes.
        created_at: When the session was first stored.
        authenticated_at: The last sign-in; None: there was none.
        seen_at: The last extension.
        ends_at: The absolute end that was promised; None: there is none.
        lifetime: The session's own; None: the provider's.
        persistent: Whether its cookie outlives the browser.
    """

    secret_hash: bytes
    created_at: datetime
    authenticated_at: datetime | None
    seen_at: datetime
    ends_at: datetime | None
    lifetime: Lifetime | None
    persistent: bool

    @classmethod
    def new(cls, now: datetime, default: Lifetime, *, persistent: bool) -> "Header":
        """The header of a session that begins now, but for the hash of its secret."""
        return cls(b"", now, None, now, default.ends_at(now), None, persistent)

    def expires_at(self, default: Lifetime) -> datetime:
        """When the session ends unless it is used again."""
        lifetime = self.lifetime or default
        began_at = self.authenticated_at or self.created_at
        return lifetime.expires_at(began_at, self.seen_at, self.ends_at)

    def is_extension_due(self, default: Lifetime, now: datetime) -> bool:
        """Whether a request at this moment extends the session."""
        return (self.lifetime or default).is_extension_due(self.seen_at, now)

    def extended(self, now: datetime) -> "Header":
        """The header after a request that extends the session."""
        return self._replace(seen_at=max(now, self.seen_at))

    def renewed(self, renewal: Renewal, default: Lifetime) -> "Header":
        """The header after a renewal, but for the hash of the new secret."""
        if not renewal.is_sign_in:
            return self  # a sign-out moves no end: that of the last sign-in still holds
        return self._replace(
            authenticated_at=renewal.at,
            ends_at=(renewal.lifetime or default).ends_at(renewal.at),
            lifetime=renewal.lifetime,
            persistent=renewal.persistent,
        )

    def pack(self, binding: bytes) -> bytes:
        """The header as bytes, with the 8 bytes that bind it to its key and provider."""
        idle, absolute = (
            (self.lifetime.idle, self.lifetime.absolute) if self.lifetime else _NO_SPANS
        )
        return _LAYOUT.pack(
            _FORMAT,
            self.persistent * _PERSISTENT + (self.lifetime is not None) * _OWN_LIFETIME,
            binding,
            self.secret_hash,
            to_microseconds(self.created_at),
            _from_time(self.authenticated_at),
            to_microseconds(self.seen_at),
            _from_time(self.ends_at),
            _from_span(idle),
            _from_span(absolute),
        )

    @classmethod
    def unpack(cls, body: bytes, binding: bytes) -> "Header":
        """The header that a body begins with.

        Raises:
            CorruptBody: it has none, or one that is bound to another key or provider, or it is
                larger than any record.
        """
        if len(body) > MAX_BODY_BYTES:
            raise CorruptBody
        try:
            version, flags, bound_to, secret_hash, *numbers = _LAYOUT.unpack_from(body)
            if version != _FORMAT or bound_to != binding:
                raise CorruptBody
            created, authenticated, seen, ends, idle, absolute = numbers
            has_own = flags & _OWN_LIFETIME
            return cls(
                secret_hash=secret_hash,
                created_at=from_microseconds(created),
                authenticated_at=_to_time(authenticated),
                seen_at=from_microseconds(seen),
                ends_at=_to_time(ends),
                lifetime=Lifetime(_to_span(idle), _to_span(absolute)) if has_own else None,
                persistent=bool(flags & _PERSISTENT),
            )
        except (struct.error, OverflowError, ConfigurationError):
            raise CorruptBody from None


_NO_SPANS = (None, None)


def _from_time(time: datetime | None) -> int:
    return _NONE if time is None else to_microseconds(time)


def _to_time(microseconds: int) -> datetime | None:
    return None if microseconds == _NONE else from_microseconds(microseconds)


def _from_span(span: timedelta | None) -> int:
    return _NONE if span is None else span // _MICROSECOND


def _to_span(microseconds: int) -> timedelta | None:
    return None if microseconds == _NONE else microseconds * _MICROSECOND
