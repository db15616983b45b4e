"""The cross-origin check: the algorithm of Go's ``http.CrossOriginProtection``.

Browsers send the origin of unsafe requests. A request from another origin is rejected with or
without a session cookie, because signing a victim in to the attacker's account is an attack too.
"""

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from ipaddress import ip_address

from ..errors import ConfigurationError

_MAX_SEEN = 255
_MAX_PORT = 65535
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# as browsers write it: in lower case, without a path or the scheme's default port
_ORIGIN = re.compile(
    r"(?!https://.*:443$|http://.*:80$)"
    r"[a-z][a-z0-9+.-]*://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::(0|[1-9][0-9]{0,4}))?"
)


class OriginCheck:
    """Checks ``Sec-Fetch-Site``, or else compares ``Origin`` with ``Host``.

    A request without ``Sec-Fetch-Site`` and ``Origin`` does not come from a page in a browser, and
    is allowed.

    Args:
        trusted: Other origins that are allowed, each exactly ``scheme://host[:port]``.

    Raises:
        ConfigurationError: a trusted origin does not have that form.
    """

    def __init__(self, trusted: Iterable[str]) -> None:
        if isinstance(trusted, str | bytes) or not isinstance(trusted, Iterable):
            raise ConfigurationError(f"trusted_origins takes a sequence, as in ({trusted!r},)")
        self._trusted = frozenset(origin.encode() for origin in map(_checked, trusted))

    def allows(self, method: str, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        """Return whether a request may change a session; a websocket handshake is unsafe."""
        if method in SAFE_METHODS:
            return True
        if self._trusted and self._is_trusted(headers):
            return True
        if sites := _values(headers, b"sec-fetch-site"):
            return len(sites) == 1 and sites[0] in (b"same-origin", b"none")
        origins = _values(headers, b"origin")
        if not origins:
            return True
        host = origins[0].partition(b"://")[2] if len(origins) == 1 else b""
        return host != b"" and _values(headers, b"host") == [host]

    def _is_trusted(self, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        origins = set(_values(headers, b"origin"))
        return len(origins) == 1 and origins <= self._trusted


def seen_headers(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return what the check looks at, as facts of an event: it comes from the client."""
    names = (b"origin", b"host", b"sec-fetch-site")
    return {
        name.decode().replace("-", "_"): b", ".join(values)[:_MAX_SEEN].decode("latin-1")
        for name in names
        if (values := _values(headers, name))
    }


def _values(headers: Sequence[tuple[bytes, bytes]], wanted: bytes) -> list[bytes]:
    return [value for name, value in headers if name == wanted]


def _checked(origin: str) -> str:
    match = _ORIGIN.fullmatch(origin) if isinstance(origin, str) else None
    if match is None or not _is_host(match[1]) or int(match[2] or 0) > _MAX_PORT:
        raise ConfigurationError(
            f'trusted_origins: {origin!r} is not an origin such as "https://app.example.com" '
            'or "https://app.example.com:8443": lower case, without a path or a wildcard'
        )
    return origin


def _is_host(host: str) -> bool:
    """Return whether a browser writes a host like this: an address is in its shortest form."""
    is_address = host.startswith("[") or host.rpartition(".")[2].isdecimal()
    with suppress(ValueError):
        return str(ip_address(host.strip("[]"))) == host.strip("[]")
    return not is_address
