"""The record of a session, as its store sees it."""

import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

MAX_BODY_BYTES = 1024 * 1024
"""The size of the largest body; a larger one from a store is not read."""


@dataclass(frozen=True, slots=True)
class Record:
    """A stored session, as its store sees it.

    Attributes:
        body: Opaque bytes, at most ``MAX_BODY_BYTES``.
        version: Different after every write; at most 64 characters of ``[A-Za-z0-9_.-]``.
        subject: The user whose session it is, for ``Store.find``; at most 400 characters.
        expires_at: An aware datetime in UTC; from then on the record does not exist.
    """

    body: bytes = field(repr=False)
    version: str
    subject: str | None
    expires_at: datetime


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_microseconds(moment: datetime) -> int:
    """Return the microseconds from 1970, UTC, to an aware datetime; exact, unlike a float."""
    return (moment - _EPOCH) // _MICROSECOND


def from_microseconds(count: int) -> datetime:
    """Return the moment, in UTC, that ``to_microseconds`` made this number of.

    Raises:
        OverflowError: ``datetime`` cannot express the moment.
    """
    return _EPOCH + timedelta(microseconds=count)


_GENERATIONS = 4


def new_version(replaces: str = "") -> str:
    """Return the version of a write: its own random name, then those of the three writes before it.

    When a reply was lost, the names show whether the write was done, even if others followed it.
    """
    name = secrets.token_bytes(7).hex()
    return ".".join([name, *replaces.split(".")[: _GENERATIONS - 1]]) if replaces else name


def includes_write(version: str, write: str) -> bool:
    """Return whether a version is that of this write, or of one of the three writes after it."""
    return write.partition(".")[0] in version.split(".")
