"""Errors for a session that is used as if it were its own data."""

from typing import TYPE_CHECKING

from .not_a_parameter import NEEDS_DEPENDS

_IN_DATA = (
    "the data is in session.data, as in session.data.count += 1, and a user is signed in with "
    "session.renew(subject=...)"
)


class NotTheData:
    """Raises errors that point to ``session.data`` when it is looked for on the session itself."""

    __slots__ = ()

    if not TYPE_CHECKING:  # a type checker would accept any name

        def __getattr__(self, name):
            raise AttributeError(f"a session has no attribute {name!r}: {_IN_DATA}")

        def __setattr__(self, name, value):
            try:
                super().__setattr__(name, value)
            except AttributeError:
                message = f"a session's {name!r} cannot be set: {_IN_DATA}"
                raise AttributeError(message) from None

        def __getitem__(self, key):
            raise TypeError(f"a session is not a dict: {_IN_DATA}")

        def __setitem__(self, key, value):
            raise TypeError(f"a session is not a dict: {_IN_DATA}")

        def __iter__(self):
            # FastAPI tries this to send a session in a response
            raise TypeError(NEEDS_DEPENDS.advice)
