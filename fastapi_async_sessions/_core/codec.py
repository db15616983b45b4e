"""Conversion between a user's model and the stored JSON.

JSON is written and read by field name, so that a model's aliases do not affect the stored data.
"""

from collections.abc import Callable, Container, Iterable, Iterator
from string import ascii_letters, digits
from typing import Any, Generic, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError, PydanticSerializationError, from_json, to_json

from ..errors import ConfigurationError, SessionInvalid
from .merge import JSON, is_same
from .models import Model, SessionModel

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

    def __init__(self, model: type[Model]) -> None:
        self._model = SessionModel(model)
        self._adapter = self._model.adapter
        self._verbatim: set[int] = set()
        self.is_plain = self._model.is_plain
        self.shape = self._model.shape
        self._check_round_trip()

    def new(self) -> Model:
        """Make the data of a new session."""
        return self._model.cls()

    def dump(self, data: Model) -> bytes:
        """Return the data as JSON. Equal bytes are equal data; for others, use ``is_change``.

        Raises:
            SessionInvalid: a value cannot be written as its field's type.
        """
        problem: str | None = None
        try:
            return self._adapter.serializer.to_json(
                data, by_alias=False, round_trip=True, warnings="error"
            )
        except PydanticSerializationError as error:
            problem = ", ".join(_unserializable(data)) or type(error).__name__
        # raised outside of the except block: the original's text holds the values
        raise SessionInvalid("The session's data cannot be written as JSON.", [problem])

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
        first read dumps the data.
        """
        fingerprint = hash(raw)
        if fingerprint in self._verbatim:
            return raw
        dump = self.dump(data)
        if dump == raw and self.is_plain:
            if len(self._verbatim) >= _MAX_VERBATIM:
                self._verbatim.clear()
            self._verbatim.add(fingerprint)
        return dump

    def read_back(self, dump: bytes) -> Model:
        """Return the data that the next request would load from this dump.

        Raises:
            SessionInvalid: the next request could not load it.
        """
        fields: list[str] = []
        try:
            return self.load(dump)
        except ValidationError as error:
            fields = self.fields_of(error)
        raise SessionInvalid("The session's data does not fit its model.", fields)

    def is_change(self, before: bytes, after: bytes) -> bool:
        """Return whether two dumps differ in more than the order of sets and dicts.

        Raises:
            SessionInvalid: the next request could not load the data as it is now.
        """
        if before == after:
            return False
        loaded = self.read_back(after)
        return not _may_be_reordered(before, after) or self.load(before) != loaded

    def changed_fields(self, before: bytes, after: bytes) -> list[str]:
        """Return the names of the fields in which two dumps differ."""
        left, right, shape = read_json(before), read_json(after), self.shape
        if isinstance(left, dict) and isinstance(right, dict):
            names = dict.fromkeys([*left, *right])
            return [
                name
                for name in names
                if not is_same(left.get(name), right.get(name), shape.at(name))
            ]
        return [] if is_same(left, right, shape) else ["root"]

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

    def _check_round_trip(self) -> None:
        name = self._model.cls.__name__
        if fields := self._lost_fields(self._first()):
            raise ConfigurationError(
                f"{name} does not survive a round trip through JSON ({', '.join(fields)}): use "
                "types that JSON can represent, with defaults of those types"
            )

    def _lost_fields(self, data: Model) -> list[str]:
        """Return the fields that are not the same after a round trip."""
        try:
            again = self.load(self.dump(data))
        except SessionInvalid as error:
            return list(error.fields)
        except ValidationError as error:
            return self.fields_of(error)
        before, after = vars(data), vars(again)
        lost = [name for name in before if _is_lost(before[name], after[name])]
        return lost + self._model.write_only

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


def _unserializable(data: BaseModel) -> Iterator[str]:
    for name in type(data).model_fields:
        try:
            data.model_dump_json(include={name}, round_trip=True, warnings="error")
        except PydanticSerializationError:
            yield name


def _is_lost(before: Any, after: Any) -> bool:
    is_nan = before != before and after != after  # only NaN differs from itself
    return before != after and not is_nan


def _may_be_reordered(before: bytes, after: bytes) -> bool:
    """Return whether two dumps may differ only in their order, as those of sets do; most do not."""
    if len(before) != len(after):
        return False
    return all(before.count(each) == after.count(each) for each in _DIGITS_AND_LETTERS)
