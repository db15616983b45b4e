"""What travels between a session and its store."""

import secrets
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Record:
    """A stored session, as a store sees it.

    Attributes:
        body: Opaque bytes, at most 1 MiB.
        version: Another one for each write; at most 64 characters of ``[A-Za-z0-9_.-]``.
        subject: Whose session it is, for ``Store.find``; at most 400 characters.
        expires_at: Aware, UTC; from then on the record is not there.
    """

    body: bytes = field(repr=False)
    version: str
    subject: str | None
    expires_at: datetime


_GENERATIONS = 4


def new_version(replaces: str = "") -> str:
    """A version for one write: its own random name, and the names of the three writes before it.

    The names before it answer a question that a lost reply raises: was my write done, although
    another one has followed?
    """
    name = secrets.token_bytes(7).hex()
    return ".".join([name, *replaces.split(".")[: _GENERATIONS - 1]]) if replaces else name


def includes_write(version: str, write: str) -> bool:
    """Whether a record of this version holds the write of that version, itself or underneath."""
    return write.partition(".")[0] in version.split(".")
