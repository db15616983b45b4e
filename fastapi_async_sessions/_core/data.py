"""The data that a route works on, and its changes since it was loaded."""

import contextlib
from collections.abc import Callable
from threading import RLock
from typing import Generic, NamedTuple

from ..errors import SessionInvalid
from ..events import logger
from .codec import Codec, read_json, replace_in_place, update_in_place, write_json
from .merge import JSON, merge
from .models import Model
from .repository import Contents
from .unread import NOTHING, Unread, fallbacks, still_unread

# A route may work in several threads, which must get one model. Reentrant: a factory of a default
# may use another session.
_BEGINNING = RLock()


class MergedData(NamedTuple, Generic[Model]):
    """Our change merged with that of another request, as stored.

    Attributes:
        base, theirs: The dumps of the common base and of the other request's data.
        unread: The parts that this release cannot read.
    """

    data: Model
    base: bytes
    theirs: bytes
    unread: Unread = NOTHING

    def __repr__(self) -> str:
        return "MergedData(...)"


class SessionData(Generic[Model]):
    """A session's data during a request; ``destroy`` and ``reload`` replace it.

    Attributes:
        is_closed: Whether the route has returned, so that the data can only be read.
    """

    __slots__ = (
        "_base",
        "_codec",
        "_contents",
        "_dumped",
        "_fallbacks",
        "_is_read",
        "_is_read_late",
        "_model",
        "_unread",
        "is_closed",
    )

    def __init__(self, codec: Codec[Model], contents: Callable[[], Contents[Model]]) -> None:
        self._codec = codec
        self._contents: Callable[[], Contents[Model]] | None = contents
        self.is_closed = False
        self._is_read = False
        self._is_read_late = False

    @property
    def has_begun(self) -> bool:
        """Whether there is a model, which may have been changed."""
        return self._contents is None

    def begin(self) -> None:
        """Get the model, unless there is one."""
        if self._contents is None:
            return
        with _BEGINNING:
            if self._contents is not None:
                self._model, self._base, unread = self._contents()
                self._dumped: bytes | None = self._base
                self._note(unread)
                self._contents = None  # the last step, because other threads do not lock to see it

    def _note(self, unread: Unread) -> None:
        """Remember the parts that this release cannot read, to see whether they are assigned."""
        self._unread = unread
        dump = read_json(self._codec.dump(self._model)) if unread else None
        self._fallbacks = fallbacks(self._model, dump, unread)

    @property
    def base(self) -> bytes:
        """The dump of the data as loaded or last committed; any difference from it is a change."""
        self.begin()
        return self._base

    @property
    def unread(self) -> Unread:
        """The parts that this release cannot read, as they are stored; the base has them."""
        self.begin()
        return self._unread

    def read(self) -> Model:
        """Return the model, which may be changed in place until the data is closed."""
        self.begin()
        self._is_read = True
        self._is_read_late |= self.is_closed
        return self._model

    def assign(self, model: Model) -> None:
        """Replace the data by another object."""
        self.begin()
        self._model = model
        self._is_read = True

    def dump(self) -> bytes:
        """Return the data as JSON.

        Raises:
            SessionInvalid: it cannot be written.
        """
        self.begin()
        self._dumped = None  # if this fails, it is not known what a late change would differ from
        # a model that was not read is unchanged, unless it runs functions when it is dumped
        is_as_loaded = self._codec.is_plain and not self._is_read
        self._dumped = self._base if is_as_loaded else self._dump()
        return self._dumped

    def _dump(self) -> bytes:
        dump = self._codec.dump(self._model)
        if not self._fallbacks:
            return dump
        self._unread = still_unread(self._model, read_json(dump), self._fallbacks)
        return self._codec.restored(dump, self._unread)

    def is_change(self, dump: bytes) -> bool:
        """Return whether the data, whose dump this is, differs from the base.

        Raises:
            SessionInvalid: the next request would read it back as something else.
        """
        if not self._codec.differs(self._base, dump):
            return False
        self._codec.check(self._model, dump, self._unread)
        return True

    def adds_key(self, field: str, dump: bytes) -> bool:
        """Return whether this dump has a key in a dict of the data that the base has not."""
        before, after = (_keys(read_json(each), field) for each in (self.base, dump))
        return not after <= before

    def accept(self, base: bytes) -> None:
        """Record that the data has been stored; ``base`` is its dump."""
        self._base = self._dumped = base

    def accept_merge(self, merged: MergedData[Model], ours: bytes) -> None:
        """Add another request's changes to the data, which was ``ours`` when dumped."""
        model = self._with_late_changes(merged, ours)
        if self.is_closed:
            self._model = model  # the object that the route assigned may be shared
        else:
            self._update(model, ours)
        self._note(merged.unread)

    def _update(self, model: Model, ours: bytes) -> None:
        codec, dump = self._codec, self._codec.dump(model)
        changed = codec.changed_fields(ours, dump)
        update_in_place(self._model, model, model.__dict__.keys() - changed)
        # the keys of the JSON may be no fields: of a RootModel, or where the model writes itself
        if codec.differs(codec.dump(self._model), dump):
            replace_in_place(self._model, model)

    def _with_late_changes(self, merged: MergedData[Model], ours: bytes) -> Model:
        """Return the merged data with changes that another task made after ours was dumped."""
        codec = self._codec
        try:
            now = self._dump()
            if codec.differs(ours, now):
                codec.check(self._model, now, self._unread)
                base, late, theirs = map(read_json, (merged.base, now, merged.theirs))
                again = merge(base, late, theirs, codec.shape)
                return codec.read_back(write_json(again.value), merged.unread)
        except SessionInvalid:
            logger.exception("changes made during a commit are lost: they do not fit the model")
        return merged.data

    def seal(self) -> None:
        """Close the data without a commit."""
        self.is_closed = True
        if self.has_begun:
            with contextlib.suppress(SessionInvalid):
                self.dump()

    def was_changed_late(self) -> bool:
        """Return whether the data was changed after it was closed, so that the change is lost."""
        if not self._is_read_late or self._dumped is None:
            return False
        try:
            return self._codec.differs(self._dumped, self._dump())
        except SessionInvalid:
            return True


def _keys(data: JSON, field: str) -> set[str]:
    value = data.get(field) if isinstance(data, dict) else None
    return set(value) if isinstance(value, dict) else set()
