"""Events of sessions, for logs, metrics and audits."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

logger = logging.getLogger("fastapi_async_sessions")

EventKind = Literal[
    "created",
    "renewed",
    "extended",
    "destroyed",
    "signed_in",
    "signed_out",
    "revoked",
    "missing",
    "outdated_token",
    "cookie_withheld",
    "ended_elsewhere",
    "conflict",
    "unreadable",
    "corrupt",
    "refused",
    "bad_signature",
    "ambiguous_cookie",
    "origin_rejected",
    "store_error",
]

_LEVELS: Mapping[EventKind, int] = {
    "created": logging.DEBUG,
    "renewed": logging.DEBUG,
    "extended": logging.DEBUG,
    "destroyed": logging.DEBUG,
    "missing": logging.DEBUG,
    "unreadable": logging.ERROR,
    "bad_signature": logging.WARNING,
    "ambiguous_cookie": logging.WARNING,
    "origin_rejected": logging.WARNING,
    "corrupt": logging.ERROR,
    "refused": logging.ERROR,
    "store_error": logging.ERROR,
}

# a template for each kind: error trackers group log records by their template.
# %r: a line break in a fact must not start a new line (ASVS 16.4.1)
_TEMPLATES: Mapping[str, str] = {kind: f"{kind}: session %r" for kind in get_args(EventKind)}


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """Something that happened to a session, or to a request that sent a session cookie.

    Attributes:
        kind: The kind of event.
        provider: The provider's name.
        key: The session's public key, or None if there is no session.
        facts: Details as text; never a token, a cookie, a secret or a session's data.
    """

    kind: EventKind
    provider: str
    key: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict[str, str])


class Events:
    """Emits events to the log and to the application's hook; a failing hook is only logged."""

    def __init__(self, provider: str, hook: Callable[[SessionEvent], None] | None) -> None:
        self._provider = provider
        self._hooks = [] if hook is None else [hook]

    def listen(self, hook: Callable[[SessionEvent], None]) -> None:
        """Call another hook with each event from now on."""
        self._hooks.append(hook)

    def emit(
        self, kind: EventKind, key: str | None = None, is_news: bool = True, /, **facts: str
    ) -> None:
        """Log an event, at the level DEBUG if it is routine, and call the hooks with it."""
        level = _LEVELS.get(kind, logging.INFO) if is_news else logging.DEBUG
        if not self._hooks and not logger.isEnabledFor(level):
            return
        event = SessionEvent(kind, self._provider, key, facts)
        logger.log(level, _TEMPLATES[kind], event)
        for hook in self._hooks:
            try:
                hook(event)
            except Exception:
                logger.exception("on_event failed for %r", kind)
