"""The record of a session, as its store sees it."""

import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from .lifetime import Clock, utc_now

MAX_BODY_BYTES = 1024 * 1024
"""The size of the largest body; a larger one from a store is not read."""


@dataclass(frozen=True, slots=True)
class Record:
    """A stored session, as its store sees it.

    Attributes:
        body: Opaque bytes, at most ``MAX_BODY_BYTES``.
        version: Different after every write; at most 512 characters of ``[A-Za-z0-9_.-]``.
        owner: The user whose session it is, for ``find`` and ``delete_owned`` of a store: opaque
            text of 1 to 400 characters; None without a sign-in.
        expires_at: An aware datetime in UTC; from then on the record does not exist.
    """

    body: bytes = field(repr=False)
    version: str
    owner: str | None
    expires_at: datetime


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_microseconds(moment: datetime) -> int:
    """Return the microseconds from 1970, UTC, to an aware datetime; exact, unlike a float."""
    # not ``-``: some derived classes, such as Pendulum's, return their own kind of timedelta
    return datetime.__sub__(moment, _EPOCH) // _MICROSECOND


def from_microseconds(count: int) -> datetime:
    """Return the moment, in UTC, that ``to_microseconds`` made this number of.

    Raises:
        OverflowError: ``datetime`` cannot express the moment.
    """
    return _EPOCH + timedelta(microseconds=count)


def read_clock(clock: Clock) -> int:
    """Return the time of a clock, in microseconds since 1970."""
    # a request reads it several times, and most of that would be arithmetic with datetimes
    return time.time_ns() // 1000 if clock is utc_now else to_microseconds(clock())


_EARLIER_WRITES = 24
_MAX_VERSION = 512


def new_version(replaces: str = "") -> str:
    """Return the version of a write: its own random name, then those of the 24 writes before it.

    When a reply was lost, the names show whether the write was done, even if others followed it.
    """
    earlier = replaces.split(".")[:_EARLIER_WRITES] if replaces else ()
    version = ".".join((secrets.token_bytes(7).hex(), *earlier))
    while len(version) > _MAX_VERSION:
        version = version.rpartition(".")[0]
    return version


def name_of_write(version: str) -> str:
    """Return the name of the write that a version is of."""
    return version.partition(".")[0]


def includes_write(version: str, write: str) -> bool:
    """Return whether a version is that of this write, or of one of the 24 writes after it."""
    return name_of_write(write) in version.split(".")
