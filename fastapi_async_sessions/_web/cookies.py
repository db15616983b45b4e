"""The session cookie: its configuration, and how it is read from raw headers and written.

Starlette's parser is not used: it takes the last of several cookies with the same name, strips
bytes so that other names look like ours, and decodes in quadratic time on older Pythons
(CVE-2024-7592).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, get_args

from ..errors import ConfigurationError

SameSite = Literal["lax", "strict", "none"]

MAX_COOKIE_AGE = timedelta(days=400)
"""The longest time for which browsers keep a cookie (RFC 6265bis, 5.5)."""

_MAX_HEADER_BYTES = 65536
_MAX_VALUE_BYTES = 4096
_MAX_CANDIDATES = 8
_PATH = re.compile(r"/[!-:<-~]*")
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"({_LABEL}\.)*{_LABEL}")


@dataclass(frozen=True, slots=True)
class CookieConfig:
    """The attributes of the session cookie; it is always ``HttpOnly``.

    With ``secure=True``, ``path="/"`` and no domain, the name has the prefix ``__Host-``; other
    secure cookies have ``__Secure-`` (RFC 6265bis, 4.1.3). With ``persistent=True`` the cookie
    survives closing the browser, as long as the session lives and for at most 400 days.

    Raises:
        ConfigurationError: browsers would reject the cookie or misread it.
    """

    secure: bool = True
    samesite: SameSite = "lax"
    domain: str | None = None
    path: str = "/"
    partitioned: bool = False
    persistent: bool = False

    def __post_init__(self) -> None:
        for name in ("secure", "partitioned", "persistent"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigurationError(f"CookieConfig({name}=...) takes True or False")
        if not isinstance(self.path, str) or not isinstance(self.domain, str | None):
            raise ConfigurationError("CookieConfig(path=..., domain=...) takes strings")
        if self.samesite not in get_args(SameSite):
            raise ConfigurationError('CookieConfig(samesite=...) takes "lax", "strict" or "none"')
        if self.samesite == "none" and not self.secure:
            raise ConfigurationError('CookieConfig(samesite="none") needs secure=True')
        if self.partitioned and not self.secure:
            raise ConfigurationError("CookieConfig(partitioned=True) needs secure=True")
        if len(self.path) > 1024 or not _PATH.fullmatch(self.path):
            raise ConfigurationError(
                'CookieConfig(path=...) must start with "/" and have at most 1024 printable ASCII '
                'characters, without spaces and ";"'
            )
        if self.domain is not None and not (
            len(self.domain) <= 253 and _DOMAIN.fullmatch(self.domain)
        ):
            raise ConfigurationError(
                'CookieConfig(domain=...) takes a host name such as "example.com", without a '
                "leading dot"
            )

    @property
    def prefix(self) -> str:
        """The prefix of the name, for which browsers require certain attributes."""
        if not self.secure:
            return ""
        return "__Host-" if self.path == "/" and self.domain is None else "__Secure-"


class Cookie:
    """A cookie name with its attributes."""

    def __init__(self, name: str, config: CookieConfig) -> None:
        self.config = config
        self.name = _full_name(name, config)
        # cookies that are equal in these replace each other in a browser
        self.identity = (self.name, config.domain, config.path)
        # A signature is bound to these. A browser that still holds a cookie with other attributes
        # sends both, and only one of them is signed for this configuration.
        self.audience = (
            *(name, self.name, config.domain or "", config.path),
            *(("partitioned",) if config.partitioned else ()),
        )
        self._raw_name = self.name.encode()
        self._values = re.compile(rb"(?:^|;)[ \t]*%b[ \t]*=([^;]*)" % self._raw_name).findall
        self._attributes = _attributes(config)

    def candidates(self, headers: Iterable[tuple[bytes, bytes]]) -> list[bytes] | None:
        """Return this cookie's values in raw request headers; None if there are too many.

        Several headers are read as one list (RFC 6265bis, 4.2.1). Names are compared byte by byte,
        and nothing is decoded or unquoted.
        """
        found = [
            header for name, header in headers if name == b"cookie" and self._raw_name in header
        ]
        if sum(map(len, found)) > _MAX_HEADER_BYTES:
            return None
        values = [
            value.strip(b" \t")
            for header in found
            for value in self._values(header)
            if len(value) < _MAX_VALUE_BYTES
        ]
        return values if len(values) <= _MAX_CANDIDATES else None

    def set(self, value: str, max_age: timedelta | None) -> bytes:
        """Return the ``Set-Cookie`` value; without ``max_age``, until the browser closes."""
        age = "" if max_age is None else f"; Max-Age={_seconds(max_age)}"
        return f"{self.name}={value}{age}{self._attributes}".encode()

    def remove(self) -> bytes:
        """Return the ``Set-Cookie`` value that deletes the cookie: only value and age differ."""
        expired = "Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
        return f"{self.name}=; {expired}{self._attributes}".encode()

    def is_set_by(self, set_cookie: bytes) -> bool:
        """Return whether a ``Set-Cookie`` value is for this cookie."""
        return set_cookie.partition(b"=")[0].strip(b" \t") == self._raw_name


def _full_name(name: str, config: CookieConfig) -> str:
    # without a prefix "session" is the cookie of Starlette's SessionMiddleware and of Flask
    is_taken = not config.prefix and name == "session"
    return "app-session" if is_taken else config.prefix + name


def _attributes(config: CookieConfig) -> str:
    parts = [f"Path={config.path}"]
    if config.domain is not None:
        parts.append(f"Domain={config.domain}")
    parts.append("HttpOnly")
    if config.secure:
        parts.append("Secure")
    parts.append(f"SameSite={config.samesite.capitalize()}")
    if config.partitioned:
        parts.append("Partitioned")
    return "".join(f"; {part}" for part in parts)


def _seconds(age: timedelta) -> int:
    # rounded up: it does no harm if the cookie outlives its session, whose record decides
    return max(1, -(-min(age, MAX_COOKIE_AGE) // timedelta(seconds=1)))
