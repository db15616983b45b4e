"""Conversion between a user's model and the stored JSON.

JSON is written and read by field name, so that a model's aliases do not affect the stored data.
"""

from collections import deque
from collections.abc import Callable, Container, Iterable
from copy import deepcopy
from string import ascii_letters, digits
from typing import Any, Generic, cast

from pydantic import RootModel, ValidationError
from pydantic_core import PydanticCustomError, PydanticSerializationError, from_json, to_json

from ..errors import ConfigurationError, SessionInvalid
from .merge import JSON, is_same
from .models import Model, SessionModel
from .readback import (
    Problem,
    has_same_types,
    lost_values,
    shared_values,
    wrong_types,
)
from .unread import (
    NOTHING,
    Path,
    Unread,
    is_absent,
    is_gone,
    parts_of,
    place_of,
    remove,
    restored,
    stripped,
)

Migration = Callable[[dict[str, Any], ValidationError], Model]
"""Takes the stored dict and pydantic's error, and returns the data as this release's model."""

_DIGITS_AND_LETTERS = (digits + ascii_letters).encode()
_MAX_VERBATIM = 10_000  # about 1 MB


class Codec(Generic[Model]):
    """Reads and writes the data of one model.

    Attributes:
        is_plain, shape: See ``SessionModel``.

    Raises:
        ConfigurationError: the model is not suitable for a session; names the reason and fields.
    """

    def __init__(self, model: type[Model], *, loose: str | None = None) -> None:
        self._model = SessionModel(model)
        self._loose = loose  # the field in which a tuple may become a list
        self._adapter = self._model.adapter
        self._verbatim: set[int] = set()
        self.is_plain = self._model.is_plain
        self.shape = self._model.shape
        self._check_round_trip()

    def new(self) -> Model:
        """Make the data of a new session."""
        return self._model.cls()

    def dump(self, data: Model) -> bytes:
        """Return the data as JSON. Equal bytes are equal data; for others, use ``differs``.

        Raises:
            SessionInvalid: a value cannot be written as its field's type.
        """
        problem = ""
        try:
            return self._adapter.serializer.to_json(
                data, by_alias=False, round_trip=True, warnings="error"
            )
        except PydanticSerializationError as error:
            problem = type(error).__name__
        # raised outside of the except block: the original's text holds the values
        raise self._invalid("The session's data cannot be written.", wrong_types(data), problem)

    def load(self, raw: bytes) -> Model:
        """Return the data in this JSON.

        Raises:
            ValidationError: it does not fit the model.
        """
        try:
            return cast(
                Model, self._adapter.validator.validate_json(raw, by_alias=False, by_name=True)
            )
        except ValidationError:
            raise
        except Exception as error:
            # a validator of the model may fail on data from an older release
            reason = PydanticCustomError("validator_failed", "a validator raised an exception")
            raise ValidationError.from_exception_data(
                self._model.cls.__name__, [{"type": reason, "input": None}]
            ) from error

    def dump_as_read(self, data: Model, raw: bytes) -> bytes:
        """Return the dump of data that has just been loaded from these bytes.

        Usually the dump equals the bytes, and the same bytes are read many times. So only the
        first read dumps the data, and none if this process has written the bytes.
        """
        if self.is_verbatim(raw):
            return raw
        dump = self.dump(data)
        if dump == raw and self.is_plain:
            self._note_verbatim(raw)
        return dump

    def _note_verbatim(self, raw: bytes) -> None:
        if len(self._verbatim) >= _MAX_VERBATIM:
            self._verbatim.clear()
        self._verbatim.add(hash(raw))

    def is_verbatim(self, raw: bytes) -> bool:
        """Return whether these bytes are known: they can be read, and are the dump of what is read.

        It is False for a model with its own functions, such as validators, because they may read
        the same bytes differently today.
        """
        return hash(raw) in self._verbatim

    def load_partly(self, raw: bytes, error: ValidationError) -> tuple[Model, Unread] | None:
        """Return the data with defaults for what does not fit the model, and those parts.

        None: the bytes are not JSON, or not an object.
        """
        try:
            values = read_json(raw)
        except ValueError:
            return None
        if not isinstance(values, dict):
            is_root = issubclass(self._model.cls, RootModel)
            return (self.new(), {(): values}) if is_root else None
        read = self._load_partly(values, error)
        return read or (self.new(), {(name,): value for name, value in values.items()})

    def _load_partly(
        self, values: dict[str, JSON], error: ValidationError
    ) -> tuple[Model, Unread] | None:
        left: JSON = deepcopy(values)
        unread: set[Path] = set()
        while True:
            details = error.errors(include_url=False, include_context=False, include_input=False)
            places = [place_of(left, each, self.shape) for each in details]
            if not all(path for path, _ in places):
                # an error without a place: each field is tried alone
                lone = [name for name in values if not self._is_readable({name: values[name]})]
                places = [((name,), False) for name in lone if not is_gone(left, name)]
            if not places:
                return None
            unread |= {path for path, is_forbidden in places if not is_forbidden}
            remove(left, (path for path, _ in places))
            try:
                return self.load(write_json(left)), parts_of(values, unread)
            except ValidationError as again:
                error = again

    def _is_readable(self, values: JSON) -> bool:
        try:
            self.load(write_json(values))
        except ValidationError:
            return False
        return True

    def restored(self, dump: bytes, unread: Unread) -> bytes:
        """Return a dump with the parts that could not be read as they are stored."""
        return write_json(restored(read_json(dump), unread)) if unread else dump

    def read_back(self, dump: bytes, unread: Unread = NOTHING) -> Model:
        """Return the data that the next request would load from this dump.

        Args:
            unread: The parts that it cannot read either.

        Raises:
            SessionInvalid: the next request could not load it.
        """
        fields: list[str] = []
        if unread:
            values = stripped(read_json(dump), unread, self.shape)
            if is_absent(values):
                return self.new()
            dump = write_json(values)
        try:
            return self.load(dump)
        except ValidationError as error:
            fields = self.fields_of(error)
        raise SessionInvalid("The session's data does not fit its model.", fields)

    def check(self, data: Model, dump: bytes, unread: Unread = NOTHING) -> None:
        """Check that the next request will read the dump of this data back with the same types.

        Raises:
            SessionInvalid: it would not; names the field, the type found and the one expected.
        """
        declared = self._model.declared
        fits = declared.fits(data, dump)
        if fits and not unread and declared.is_certain(dump):
            self._note_verbatim(dump)
            return
        again = self.read_back(dump, unread)
        if fits or has_same_types(data, again):
            return
        if problems := list(lost_values(data, again, loose=self._loose)):
            raise self._invalid("The session's data would not be read back as it is.", problems)

    def differs(self, one: bytes, other: bytes) -> bool:
        """Return whether two dumps hold different data; the order of a set means nothing.

        It compares what is written: Python's ``==`` has ``1 == True``, and classes with their own.
        """
        return not self._is_same(one, other)

    def reads_alike(self, one: bytes, other: bytes) -> bool:
        """Return whether two dumps hold the same data, also where an array may be a set.

        There ``differs`` counts the order, but a set that was read back may be written in another
        one. Only a change of nothing but the order of a list can be overlooked.
        """
        return self._is_same(one, other, in_doubt_a_set=True)

    def _is_same(self, one: bytes, other: bytes, *, in_doubt_a_set: bool = False) -> bool:
        return one == other or (
            _may_be_reordered(one, other)
            and is_same(read_json(one), read_json(other), self.shape, in_doubt_a_set=in_doubt_a_set)
        )

    def changed_fields(self, before: bytes, after: bytes) -> list[str]:
        """Return the keys whose values differ in two dumps; none if these are no objects."""
        left, right = read_json(before), read_json(after)
        if not (isinstance(left, dict) and isinstance(right, dict)):
            return []
        return [
            name
            for name in dict.fromkeys([*left, *right])
            if not is_same(left.get(name), right.get(name), self.shape.at(name))
        ]

    def fields_of(self, error: ValidationError) -> list[str]:
        """Return the dotted paths that a validation error names, without the values."""
        details = error.errors(include_url=False, include_context=False, include_input=False)
        return self.field_names(".".join(map(str, each["loc"])) for each in details if each["loc"])

    def field_names(self, paths: Iterable[str]) -> list[str]:
        """Make dotted paths safe to show: any part that is not the name of a field becomes ``*``,
        because it is a user's data."""
        names = self._model.field_names
        shown = (
            ".".join(part if part in names else "*" for part in path.split(".")) for path in paths
        )
        return list(dict.fromkeys(path if path != "*" else "data" for path in shown))

    def _invalid(
        self, reason: str, problems: Iterable[Problem], otherwise: str = ""
    ) -> SessionInvalid:
        """The error about these problems, or else another one."""
        shown: dict[Problem, str] = {}
        for problem in problems:
            (path,) = self.field_names([problem.path])
            shown[problem._replace(path=path)] = path
        fields = list(dict.fromkeys(shown.values())) or [otherwise]
        return SessionInvalid(reason, fields, list(map(str, shown)))

    def _check_round_trip(self) -> None:
        name, first = self._model.cls.__name__, self._first()
        if fields := self._lost_fields(first):
            raise ConfigurationError(
                f"{name} does not survive a round trip through JSON ({', '.join(fields)}): use "
                "types that JSON can represent, with defaults of those types, and no exclude=True"
            )
        if fields := list(shared_values(first, self._first())):
            raise ConfigurationError(
                f"all new sessions would share one object ({', '.join(fields)}): use "
                f"Field(default_factory=...), which makes one for each {name}()"
            )

    def _lost_fields(self, data: Model) -> list[str]:
        """Return the fields that are not the same after a round trip, or not written at all."""
        try:
            again = self.load(self.dump(data))
        except SessionInvalid as error:
            return list(error.fields)
        except ValidationError as error:
            return self.fields_of(error)
        before, after = vars(data), vars(again)
        lost = [name for name in before if _is_lost(before[name], after[name])]
        lost += self.field_names(problem.path for problem in lost_values(data, again))
        return list(dict.fromkeys(lost + self._model.unwritten))

    def _first(self) -> Model:
        reason = ""
        try:
            return self.new()
        except ValidationError as error:
            fields = ", ".join(self.fields_of(error)) or "as a whole"
            reason = f"its defaults are not valid: {fields}"
        except Exception as error:
            reason = f"it raises {type(error).__name__}"
        raise ConfigurationError(
            f"a new session begins as {self._model.cls.__name__}(), but {reason}"
        )


def write_json(values: JSON) -> bytes:
    """Return JSON values as bytes, spelled as the model's own dump would spell them."""
    return to_json(values, inf_nan_mode="constants")


def read_json(raw: bytes) -> JSON:
    """Return the JSON values of bytes that this library wrote."""
    return cast(JSON, from_json(raw))


def update_in_place(data: Model, merged: Model, unchanged: Container[str]) -> None:
    """Give a session's data the values of a merge; it stays the same object.

    A field that the merge did not change keeps its value, to which the route may hold a reference.
    Every other field gets a new value. No value is changed in place, because it may be a default or
    a constant that is shared.
    """
    target: Any = data
    fields = target.__dict__
    before = dict(fields)
    fields.clear()  # cached properties are out of date too
    for name, value in merged.__dict__.items():
        fields[name] = before[name] if name in unchanged else value
    object.__setattr__(data, "__pydantic_extra__", merged.__pydantic_extra__)


def replace_in_place(data: Model, merged: Model) -> None:
    """Give a session's data everything that a merge has, private attributes too."""
    update_in_place(data, merged, ())
    for name in ("__pydantic_private__", "__pydantic_fields_set__"):
        object.__setattr__(data, name, getattr(merged, name))


def _is_lost(before: Any, after: Any) -> bool:
    is_nan = before != before and after != after  # only NaN differs from itself
    # the bound of a deque is not in the JSON: after the first request it would grow without one
    is_unbounded = isinstance(before, deque) and before.maxlen != after.maxlen
    return (before != after and not is_nan) or is_unbounded


def _may_be_reordered(before: bytes, after: bytes) -> bool:
    """Return whether two dumps may differ only in their order, as those of sets do; most do not."""
    if len(before) != len(after):
        return False
    return all(before.count(each) == after.count(each) for each in _DIGITS_AND_LETTERS)
