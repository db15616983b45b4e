"""The headers of a response that concern sessions. Every function returns a new list, because a
response object may be shared between requests."""

from collections.abc import Iterable

from .cookies import Cookie

Header = tuple[bytes, bytes]


def vary_by_cookie(headers: Iterable[Header]) -> list[Header]:
    """Add ``Vary: Cookie``, so that no cache serves one visitor's page to another
    (CVE-2023-30861)."""
    varies: list[bytes] = []
    others: list[Header] = []
    for header in headers:
        if header[0].lower() == b"vary":
            varies += filter(None, map(bytes.strip, header[1].split(b",")))
        else:
            others.append(header)
    if b"*" not in varies and b"cookie" not in map(bytes.lower, varies):
        varies.append(b"Cookie")
    return [*others, (b"vary", b", ".join(varies))]


def set_cookie(headers: Iterable[Header], cookie: Cookie, value: bytes) -> list[Header]:
    """Set a cookie, replacing any of the same name that the route set, and forbid caching."""
    kept = [header for header in headers if not _is_replaced(header, cookie)]
    return [*kept, (b"set-cookie", value), (b"cache-control", b"no-store")]


def _is_replaced(header: Header, cookie: Cookie) -> bool:
    name, value = header[0].lower(), header[1]
    return name == b"cache-control" or (name == b"set-cookie" and cookie.is_set_by(value))
