"""Between a user's model and the JSON that is stored.

JSON is written and read under field names, so that a model's aliases do not change what is stored.
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
"""A function of the stored dict and pydantic's error that gives the data of this release."""

_DIGITS_AND_LETTERS = (digits + ascii_letters).encode()
_MAX_VERBATIM = 10_000  # about 1 MB


class Codec(Generic[Model]):
    """Reads and writes the data of one model.

    Attributes:
        is_plain, shape: See ``SessionModel``.

    Raises:
        ConfigurationError: the model cannot be a session's, with the reason and the fields.
    """

    def __init__(self, model: type[Model]) -> None:
        self._model = SessionModel(model)
        self._adapter = self._model.adapter
        self._verbatim: set[int] = set()
        self.is_plain = self._model.is_plain
        self.shape = self._model.shape
        self._check_round_trip()

    def new(self) -> Model:
        """The data of a new session."""
        return self._model.cls()

    def dump(self, data: Model) -> bytes:
        """The data as JSON. Equal bytes mean equal data; for unequal bytes ask ``is_change``.

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
        """The data that this JSON holds.

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
            # the model's own validator may fail on what an older release wrote
            reason = PydanticCustomError("validator_failed", "a validator raised an exception")
            raise ValidationError.from_exception_data(
                self._model.cls.__name__, [{"type": reason, "input": None}]
            ) from error

    def dump_as_read(self, data: Model, raw: bytes) -> bytes:
        """The dump of data that has just been loaded from these bytes.

        It usually equals the bytes, and the same bytes are read many times: only the first read
        dumps the data.
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
        """The data that the next request would load from this dump.

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
        """Whether two dumps hold different data, not the same in another order (sets, dicts).

        Raises:
            SessionInvalid: the next request could not load the data as it is now.
        """
        if before == after:
            return False
        loaded = self.read_back(after)
        return not _may_be_reordered(before, after) or self.load(before) != loaded

    def changed_fields(self, before: bytes, after: bytes) -> list[str]:
        """The names of the fields in which two dumps differ."""
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
        """The dotted paths that a validation error names, without the values."""
        details = error.errors(include_url=False, include_context=False, include_input=False)
        return self.field_names(".".join(map(str, each["loc"])) for each in details if each["loc"])

    def field_names(self, paths: Iterable[str]) -> list[str]:
        """Dotted paths that are safe to show: a key of a user's data, which is no field's name,
        becomes ``*``."""
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
                "types that JSON can carry, with defaults that fit them"
            )

    def _lost_fields(self, data: Model) -> list[str]:
        """The fields that do not come back as they were written."""
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
            reason = f"its defaults do not fit it: {fields}"
        except Exception as error:
            reason = f"it raises {type(error).__name__}"
        raise ConfigurationError(
            f"a new session begins as {self._model.cls.__name__}(), and {reason}"
        )


def write_json(values: JSON) -> bytes:
    """JSON values as bytes, spelled as the model's own dump would spell them."""
    return to_json(values, inf_nan_mode="constants")


def read_json(raw: bytes) -> JSON:
    """The JSON values of bytes that this library wrote."""
    return cast(JSON, from_json(raw))


def update_in_place(data: Model, merged: Model, unchanged: Container[str]) -> None:
    """Give a session's data the values of a merge; it stays the same object.

    A field that the merge left as it was stays the very object that a route may hold. Every other
    field is replaced, never changed in place: its value may be a default or a constant that others
    share.
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
    """Whether two texts may hold the same in another order, as sets do; usually they do not."""
    if len(before) != len(after):
        return False
    return all(before.count(each) == after.count(each) for each in _DIGITS_AND_LETTERS)
