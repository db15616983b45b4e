"""What travels between a session and its store."""

import secrets
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Record:
    """A stored session, as a store sees it.

    Attributes:
        body: Opaque bytes, at most 1 MiB.
        version: Random, another one for each write; no line break.
        subject: Whose session it is, for ``Store.find``; at most 400 characters.
        expires_at: Aware, UTC; from then on the record is not there.
    """

    body: bytes
    version: str
    subject: str | None
    expires_at: datetime


def new_version() -> str:
    """A version that no other write has: 16 characters."""
    return secrets.token_urlsafe(12)
