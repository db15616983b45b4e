"""The header of a record: the library's own data about a session.

It stands before the model's JSON, so that reading it takes no pass over the data and a user's model
cannot reach it. Its times are microseconds since 1970, UTC.
"""

import struct
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from ..errors import ConfigurationError
from ..lifetime import Lifetime
from ..records import to_microseconds

# flags, secret hash; in microseconds created, authenticated, seen, renewed, ends, idle, absolute;
# the size of the subject, which follows as UTF-8
_LAYOUT = struct.Struct(">B32s7qH")
_PERSISTENT, _OWN_LIFETIME = 1, 2
_NONE, _NEVER = -(2**63), 2**63
_MICROSECOND = timedelta(microseconds=1)
# two centuries before the last datetime: with the longest lifetime added it is still a datetime
_LATEST = to_microseconds(datetime(9800, 1, 1, tzinfo=UTC))


class CorruptBody(Exception):
    """The bytes are another program's, another key's, changed, or of an unknown format."""


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

    @property
    def is_sign_out(self) -> bool:
        """Whether no user is signed in after it."""
        return self.changes_subject and self.subject is None


class Header(NamedTuple):
    """The header of a record.

    Attributes:
        secret_hash: SHA-256 of the secret of the token that opens the session, 32 bytes.
        created_at: When the session was first stored.
        authenticated_at: The last sign-in; None: there was none.
        seen_at: The last extension.
        renewed_at: When its token was last replaced; None: it is the first.
        ends_at: The absolute end that was promised; None: there is none.
        lifetime: The session's own; None: the provider's.
        persistent: Whether its cookie outlives the browser.
        subject: The signed-in user, or None.
    """

    secret_hash: bytes
    created_at: int
    authenticated_at: int | None
    seen_at: int
    renewed_at: int | None
    ends_at: int | None
    lifetime: Lifetime | None
    persistent: bool
    subject: str | None

    @classmethod
    def new(cls, now: int, default: Lifetime, *, persistent: bool) -> "Header":
        """The header of a session that begins now, but for the hash of its secret."""
        return cls(
            secret_hash=b"",
            created_at=now,
            authenticated_at=None,
            seen_at=now,
            renewed_at=None,
            ends_at=_absolute_end(now, default),
            lifetime=None,
            persistent=persistent,
            subject=None,
        )

    def expires_at(self, default: Lifetime) -> int:
        """Return the time at which the session expires unless it is used again."""
        lifetime = self.lifetime or default
        ends_at = _NEVER if self.ends_at is None else self.ends_at
        if lifetime.absolute is not None:
            # also counts, so that a lifetime that was shortened applies to existing sessions
            began_at = self.authenticated_at or self.created_at
            ends_at = min(ends_at, began_at + lifetime.absolute // _MICROSECOND)
        if lifetime.idle is not None:
            ends_at = min(ends_at, self.seen_at + lifetime.idle // _MICROSECOND)
        return ends_at

    def is_extension_due(self, default: Lifetime, now: int) -> bool:
        """Return whether a request extends the session now: once per tenth of the idle timeout."""
        idle = (self.lifetime or default).idle
        return idle is not None and 10 * (now - self.seen_at) >= idle // _MICROSECOND

    def extended(self, now: int) -> "Header":
        """Return the header after a request that extends the session."""
        return self._replace(seen_at=max(now, self.seen_at))

    def renewed(self, renewal: Renewal, default: Lifetime) -> "Header":
        """The header after a renewal, but for the hash of the new secret."""
        if not renewal.is_sign_in:  # a sign-out moves no end: that of the last sign-in still holds
            subject = None if renewal.changes_subject else self.subject
            return self._replace(renewed_at=renewal.at, subject=subject)
        return self._replace(
            subject=renewal.subject,
            renewed_at=renewal.at,
            authenticated_at=renewal.at,
            ends_at=_absolute_end(renewal.at, renewal.lifetime or default),
            lifetime=renewal.lifetime,
            persistent=renewal.persistent,
        )

    def pack(self) -> bytes:
        """The header as bytes; the model's JSON follows."""
        lifetime, subject = self.lifetime, (self.subject or "").encode()
        return (
            _LAYOUT.pack(
                self.persistent * _PERSISTENT + (lifetime is not None) * _OWN_LIFETIME,
                self.secret_hash,
                self.created_at,
                _from_optional(self.authenticated_at),
                self.seen_at,
                _from_optional(self.renewed_at),
                _from_optional(self.ends_at),
                _from_span(lifetime.idle if lifetime else None),
                _from_span(lifetime.absolute if lifetime else None),
                len(subject),
            )
            + subject
        )

    @classmethod
    def unpack(cls, content: bytes) -> tuple["Header", bytes]:
        """The header that a content begins with, and the JSON that follows.

        Raises:
            CorruptBody: it begins with none.
        """
        if len(content) < _LAYOUT.size:
            raise CorruptBody
        flags, secret_hash, *times, idle, absolute, size = _LAYOUT.unpack_from(content)
        if max(times) > _LATEST:
            raise CorruptBody
        created, authenticated, seen, renewed, ends = [None if t < 0 else t for t in times]
        end = _LAYOUT.size + size
        if created is None or seen is None or len(content) < end:
            raise CorruptBody
        header = cls(
            secret_hash=secret_hash,
            created_at=created,
            authenticated_at=authenticated,
            seen_at=seen,
            renewed_at=renewed,
            ends_at=ends,
            lifetime=_to_lifetime(idle, absolute) if flags & _OWN_LIFETIME else None,
            persistent=bool(flags & _PERSISTENT),
            subject=_to_subject(content[_LAYOUT.size : end]),
        )
        return header, content[end:]


def _absolute_end(began_at: int, lifetime: Lifetime) -> int | None:
    return None if lifetime.absolute is None else began_at + lifetime.absolute // _MICROSECOND


def _from_optional(microseconds: int | None) -> int:
    return _NONE if microseconds is None else microseconds


def _to_subject(text: bytes) -> str | None:
    try:
        return text.decode() or None
    except UnicodeDecodeError:
        raise CorruptBody from None


def _from_span(span: timedelta | None) -> int:
    return _NONE if span is None else span // _MICROSECOND


def _to_lifetime(*microseconds: int) -> Lifetime:
    spans = [None if each == _NONE else each * _MICROSECOND for each in microseconds]
    try:
        return Lifetime(*spans)
    except ConfigurationError:
        raise CorruptBody from None
