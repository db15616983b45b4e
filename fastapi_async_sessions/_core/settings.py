"""The settings of a provider, as one frozen value."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from inspect import iscoroutinefunction, signature
from typing import Any, Generic, Literal, get_args

from ..errors import ConfigurationError
from ..events import SessionEvent
from ..lifetime import Clock, Lifetime, checked_clock
from ..records import MAX_BODY_BYTES, read_clock
from ..stores.base import Store
from .codec import Migration
from .keys import Keyring
from .models import Model

MAX_LIMIT = 50
"""The largest number of sessions of one subject that can be a limit: one page of a list shows them
together with those of many sign-ins at once."""

OnInvalid = Literal["fallback", "discard", "raise"]
OnConflict = Literal["overwrite", "raise"]

_NAME = re.compile(r"(?!__)[A-Za-z0-9_-]{1,64}")
_TYPES: Mapping[str, type] = {
    "name": str,
    "lifetime": Lifetime,
    "encrypt": bool,
    "store_timeout": timedelta,
    "commit_timeout": timedelta,
}


@dataclass(frozen=True, slots=True, repr=False)
class Settings(Generic[Model]):
    """The arguments of ``SessionProvider`` that do not concern HTTP.

    Raises:
        ConfigurationError: one of them is not valid.
    """

    name: str
    model: type[Model]
    store: Store
    keyring: Keyring
    lifetime: Lifetime
    persistent: bool
    encrypt: bool
    max_sessions_per_subject: int | None
    request_session: str | None
    on_invalid: OnInvalid | Migration[Model]
    on_conflict: OnConflict
    max_bytes: int
    store_timeout: timedelta
    commit_timeout: timedelta
    on_event: Callable[[SessionEvent], None] | None
    clock: Clock

    def __post_init__(self) -> None:
        require(isinstance(self.store, Store), "store=... takes a Store, such as MemoryStore()")
        for option, kind in _TYPES.items():
            has_type = isinstance(getattr(self, option), kind)
            require(has_type, f"{option}=... takes a {kind.__name__}")
        require(
            _NAME.fullmatch(self.name) is not None,
            "name=... takes 1 to 64 characters of A-Z a-z 0-9 _ - and must not begin with __",
        )
        require(
            _is_size(self.max_bytes) and 0 < self.max_bytes <= MAX_BODY_BYTES,
            f"max_bytes=... takes a whole number of at most {MAX_BODY_BYTES}",
        )
        require(
            min(self.store_timeout, self.commit_timeout) > timedelta(0),
            "store_timeout=... and commit_timeout=... must be positive",
        )
        self._check_request_session()
        self._check_limit()
        self._check_choices()
        self._check_functions()

    def _check_request_session(self) -> None:
        name = self.request_session
        if name is None:
            return
        field = self.model.model_fields.get(name) if isinstance(name, str) else None
        require(
            field is not None and field.annotation == dict[str, Any],
            "request_session=... names a field of the model for request.session: write "
            f"{name if isinstance(name, str) else 'extra'}: dict[str, Any] = {{}}",
        )

    def _check_limit(self) -> None:
        limit = self.max_sessions_per_subject
        if limit is None:
            return
        require(
            type(limit) is int and 1 <= limit <= MAX_LIMIT,
            f"max_sessions_per_subject=... is 1 to {MAX_LIMIT}, or None for no limit",
        )
        require(
            type(self.store).find is not Store.find,
            "max_sessions_per_subject=... needs a store that lists sessions: "
            f"write find() for {type(self.store).__name__}",
        )

    def _check_choices(self) -> None:
        require(
            self.on_conflict in get_args(OnConflict), 'on_conflict=... takes "overwrite" or "raise"'
        )
        require(
            self.on_invalid in get_args(OnInvalid) or _is_plain_function(self.on_invalid, 2),
            'on_invalid=... takes "fallback", "discard", "raise" or a function, not async, of dict '
            "and error",
        )

    def _check_functions(self) -> None:
        require(
            self.on_event is None or _is_plain_function(self.on_event, 1),
            "on_event=... takes a function, not async, of an event",
        )
        checked_clock(self.clock, "SessionProvider")

    def now(self) -> int:
        """Return the time of the clock, in microseconds since 1970."""
        return read_clock(self.clock)

    def __repr__(self) -> str:
        return f"<Settings of {self.name!r}>"


def require(condition: bool, rule: str) -> None:
    """Check an argument of the provider.

    Raises:
        ConfigurationError: the condition does not hold; names the rule.
    """
    if not condition:
        raise ConfigurationError(f"SessionProvider: {rule}")


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)  # Pydantic's ByteSize is one


def _is_plain_function(function: object, arguments: int) -> bool:
    """Return whether an object is a function of so many arguments that is not async.

    The result would not be awaited, and a wrong signature would show only when it is called.
    """
    if not callable(function):
        return False
    try:
        signature(function).bind(*range(arguments))
    except TypeError:
        return False
    except ValueError:
        pass  # a function in C that does not tell
    return not (iscoroutinefunction(function) or iscoroutinefunction(function.__call__))
