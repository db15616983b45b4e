"""The JSON, headers and token that ``HTTPStore`` and ``session_service`` exchange."""

import re
from typing import Annotated
from urllib.parse import quote, unquote

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr, TypeAdapter

from ..errors import ConfigurationError
from ..records import Record

KEY = "^[0-9a-f]{64}$"

# The service sets this header on every answer about a session or its store, so that a 404 from
# another server or a proxy is not taken for a missing session.
SERVICE_HEADER = "Session-Service"

_TOKEN = re.compile(r"[\x21-\x7e]{32,}")
_STRONG_ETAG = re.compile(r'"[!#-~]+"')


class StoredRecord(BaseModel):
    """A record as JSON; ``body`` is base64, in the alphabet for URLs."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", frozen=True)

    key: Annotated[str, Field(pattern=KEY)]
    version: Annotated[str, Field(min_length=1, max_length=512)]
    owner: Annotated[str, Field(min_length=1, max_length=400)] | None
    expires_at: AwareDatetime
    body: bytes

    @classmethod
    def of(cls, key: str, record: Record) -> "StoredRecord":
        """Return the JSON form of a record."""
        return cls(
            key=key,
            version=record.version,
            owner=record.owner,
            expires_at=record.expires_at,
            body=record.body,
        )

    def to_record(self) -> Record:
        """Return the record without its key."""
        return Record(self.body, self.version, self.owner, self.expires_at)


class Count(BaseModel):
    """A number of sessions."""

    count: int


class Unavailable(BaseModel):
    """The reason that the service's store gave, from an answer with status 503."""

    reason: Annotated[str, Field(max_length=1000)]


RECORD = TypeAdapter(StoredRecord)
RECORDS = TypeAdapter(list[StoredRecord])
COUNT = TypeAdapter(Count)
UNAVAILABLE = TypeAdapter(Unavailable)


def to_etag(version: str) -> str:
    """Return the entity tag of a version."""
    return f'"{quote(version, safe="")}"'


def from_etag(etag: str) -> str:
    """Return the version that an entity tag stands for.

    Raises:
        ValueError: this is not one strong entity tag.
    """
    if not _STRONG_ETAG.fullmatch(etag):
        raise ValueError("If-Match takes one strong entity tag")
    return unquote(etag[1:-1])


def checked_token(token: str | SecretStr) -> SecretStr:
    """Return the token of a service if it is long enough to be a secret.

    Raises:
        ConfigurationError: it is too short, or has characters that a header cannot hold.
    """
    text = token.get_secret_value() if isinstance(token, SecretStr) else token
    if not isinstance(text, str) or not _TOKEN.fullmatch(text):
        raise ConfigurationError(
            "the token of a session service has at least 32 ASCII characters and no spaces: "
            "make one with secrets.token_urlsafe(32), and give both ends the same"
        )
    return SecretStr(text)
