"""The headers of a response that concern sessions. Every function returns a new list, because a
response object may be shared between requests."""

from collections.abc import Iterable, Sequence

from .cookies import Cookie

RawHeader = tuple[bytes, bytes]

_VARY = (b"vary", b"Cookie")
_NO_STORE = (b"cache-control", b"no-store")
_PRIVATE = (b"cache-control", b"private")


def mark_as_personal(headers: Iterable[RawHeader], *, is_signed_in: bool) -> list[RawHeader]:
    """Return the headers of a response that depends on a session: see the two functions below."""
    headers = list(headers)
    if any(name.lower() in (b"vary", b"cache-control") for name, _ in headers):
        return cache_privately(vary_by_cookie(headers), is_signed_in=is_signed_in)
    return [*headers, _VARY, _NO_STORE if is_signed_in else _PRIVATE]


def vary_by_cookie(headers: Iterable[RawHeader]) -> list[RawHeader]:
    """Add ``Vary: Cookie``, so that no cache serves one visitor's page to another
    (CVE-2023-30861)."""
    varies: list[bytes] = []
    others: list[RawHeader] = []
    for header in headers:
        if header[0].lower() == b"vary":
            varies += filter(None, map(bytes.strip, header[1].split(b",")))
        else:
            others.append(header)
    if b"*" not in varies and b"cookie" not in map(bytes.lower, varies):
        varies.append(b"Cookie")
    return [*others, (b"vary", b", ".join(varies))]


def cache_privately(headers: Sequence[RawHeader], *, is_signed_in: bool) -> list[RawHeader]:
    """Keep a response that read a session out of shared caches, if its route says nothing.

    While a user is signed in no cache stores it, so that after the sign-out the browser's Back
    button shows nothing (ASVS 14.3.2). A route that sets ``Cache-Control`` itself decides, but a
    bare ``max-age`` is meant for the browser.
    """
    others = [header for header in headers if header[0].lower() != b"cache-control"]
    given = [value for name, value in headers if name.lower() == b"cache-control"]
    directives = [part.strip() for value in given for part in value.split(b",") if part.strip()]
    names = {directive.partition(b"=")[0].strip().lower() for directive in directives}
    if not names:
        directives = [b"no-store" if is_signed_in else b"private"]
    elif b"max-age" in names and not names & {b"public", b"private", b"s-maxage"}:
        directives.append(b"private")
    return [*others, (b"cache-control", b", ".join(directives))]


def set_cookie(headers: Iterable[RawHeader], cookie: Cookie, value: bytes) -> list[RawHeader]:
    """Set a cookie, replacing any of the same name that the route set, and forbid caching."""
    kept = [header for header in headers if not _is_replaced(header, cookie)]
    return [*kept, (b"set-cookie", value), _NO_STORE]


def _is_replaced(header: RawHeader, cookie: Cookie) -> bool:
    name, value = header[0].lower(), header[1]
    return name == b"cache-control" or (name == b"set-cookie" and cookie.is_set_by(value))
