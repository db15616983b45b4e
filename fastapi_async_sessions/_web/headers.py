"""What a response's headers say of its sessions. Every function gives a new list, for a response
object may be shared between requests."""

from collections.abc import Iterable

from .cookies import Cookie

Header = tuple[bytes, bytes]


def vary_by_cookie(headers: Iterable[Header]) -> list[Header]:
    """Keep caches from giving one visitor's page to another (CVE-2023-30861)."""
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
    """Set one cookie, in place of what the route set under its name; no cache may keep it."""
    kept = [header for header in headers if not _is_replaced(header, cookie)]
    return [*kept, (b"set-cookie", value), (b"cache-control", b"no-store")]


def _is_replaced(header: Header, cookie: Cookie) -> bool:
    name, value = header[0].lower(), header[1]
    return name == b"cache-control" or (name == b"set-cookie" and cookie.is_set_by(value))
