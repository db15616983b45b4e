"""The data that a route works on, and its changes since it was loaded."""

import contextlib
from typing import Generic, NamedTuple

from ..errors import SessionInvalid
from ..events import logger
from .codec import Codec, read_json, update_in_place, write_json
from .merge import merge
from .models import Model


class MergedData(NamedTuple, Generic[Model]):
    """Our change merged with that of another request, as stored.

    Attributes:
        base, theirs: The dumps of the common base and of the other request's data.
    """

    data: Model
    base: bytes
    theirs: bytes

    def __repr__(self) -> str:
        return "MergedData(...)"


class SessionData(Generic[Model]):
    """A session's data during a request; ``destroy`` and ``reload`` replace it.

    Attributes:
        base: The dump of the data as loaded or last committed; any difference from it is a change.
        is_closed: Whether the route has returned, so that the data can only be read.
    """

    __slots__ = (
        "_codec",
        "_dumped",
        "_is_assigned",
        "_is_read",
        "_is_read_late",
        "_model",
        "base",
        "is_closed",
    )

    def __init__(self, codec: Codec[Model], model: Model, base: bytes) -> None:
        self._codec = codec
        self._model = model
        self.base = base
        self.is_closed = False
        self._dumped: bytes | None = None
        self._is_assigned = False
        self._is_read = False
        self._is_read_late = False

    def read(self) -> Model:
        """Return the model, which may be changed in place until the data is closed."""
        self._is_read = True
        self._is_read_late |= self.is_closed
        return self._model

    def assign(self, model: Model) -> None:
        """Replace the data by another object."""
        self._model = model
        self._is_read = True
        self._is_assigned = True

    def dump(self) -> bytes:
        """Return the data as JSON.

        Raises:
            SessionInvalid: it cannot be written.
        """
        # nobody can have changed a model that was not read, unless it has functions of its own
        is_as_loaded = self._codec.is_plain and not self._is_read
        self._dumped = self.base if is_as_loaded else self._codec.dump(self._model)
        return self._dumped

    def is_change(self, dump: bytes) -> bool:
        """Return whether a dump differs from the base in more than the order of sets."""
        return dump != self.base and self._codec.is_change(self.base, dump)

    def accept(self, base: bytes) -> None:
        """Record that the data has been stored; ``base`` is its dump."""
        self.base = self._dumped = base

    def accept_merge(self, merged: MergedData[Model], ours: bytes) -> None:
        """Add another request's changes to the data, which was ``ours`` when dumped."""
        model = self._with_late_changes(merged, ours)
        if self.is_closed or self._is_assigned:
            self._model = model  # the object that the route assigned may be shared
            return
        changed = self._codec.changed_fields(ours, self._codec.dump(model))
        update_in_place(self._model, model, model.__dict__.keys() - changed)

    def _with_late_changes(self, merged: MergedData[Model], ours: bytes) -> Model:
        """Return the merged data with changes that another task made after ours was dumped."""
        codec = self._codec
        try:
            now = codec.dump(self._model)
            if codec.is_change(ours, now):
                base, late, theirs = map(read_json, (merged.base, now, merged.theirs))
                again = merge(base, late, theirs, codec.shape)
                return codec.read_back(write_json(again.value))
        except SessionInvalid:
            logger.exception("changes made during a commit are lost: they do not fit the model")
        return merged.data

    def seal(self) -> None:
        """Close the data without a commit."""
        self.is_closed = True
        with contextlib.suppress(SessionInvalid):
            self.dump()

    def was_changed_late(self) -> bool:
        """Return whether the data was changed after it was closed, so that the change is lost."""
        if not self._is_read_late or self._dumped is None:
            return False
        try:
            return self._codec.is_change(self._dumped, self._codec.dump(self._model))
        except SessionInvalid:
            return True
