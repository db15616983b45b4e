"""Between the bytes of a record and the user's model with the session's own facts.

A body is a fixed header with the facts, then the model's JSON: the facts cost no pass over the
data. JSON is written and read under field names, so that a model's aliases stay its own affair.
"""

import struct
import warnings
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import is_dataclass
from datetime import UTC, datetime, timedelta
from string import ascii_letters, digits
from typing import Any, Generic, NamedTuple, TypeVar, cast

from pydantic import BaseModel, RootModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticCustomError, PydanticSerializationError, from_json, to_json

from ..errors import ConfigurationError, SessionInvalid
from ..lifetime import Lifetime
from .merge import JSON, JSONSet, is_same

Model = TypeVar("Model", bound=BaseModel)

Migration = Callable[[dict[str, Any], ValidationError], Model]

_FORMAT = 1
# format, flags, binding, secret hash, then microseconds: created, authenticated, seen, ends, idle,
# absolute
_HEADER = struct.Struct(">BB8s32s6q")
FACTS_SIZE = _HEADER.size
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
_NONE = -(2**63)
_DIGITS_AND_LETTERS = (digits + ascii_letters).encode()
_PERSISTENT, _OWN_LIFETIME = 1, 2
_MOST_VERBATIM = 10_000  # about 1 MB

# The types of pydantic's core schemas that read and write the same each time where their parts do.
# Sets may order their items otherwise, and enums and dataclasses run code of their classes.
_PLAIN: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("any", "none", "bool", "int", "float", "decimal", "str", "bytes"), ()),
    **dict.fromkeys(("date", "time", "datetime", "timedelta", "uuid", "literal"), ()),
    "definitions": ("schema", "definitions"),
    "definition-ref": (),
    "default": ("schema",),
    "nullable": ("schema",),
    "union": ("choices",),
    "list": ("items_schema",),
    "tuple": ("items_schema",),
    "dict": ("keys_schema", "values_schema"),
    "model": ("schema",),
    "model-fields": ("extras_schema", "extras_keys_schema"),
    "model-field": ("schema",),
}
_FUNCTIONS = ("post_init", "custom_init", "serialization", "serialization_exclude_if")


class CorruptBody(Exception):
    """These bytes are none of ours: of another writer, another key, or a format we don't know."""


class Facts(NamedTuple):
    """What the library itself knows of a session; a user's model cannot reach it.

    Attributes:
        secret_hash: 32 bytes; the token that opens the session has this hash.
        created_at: When the session was first stored.
        authenticated_at: The last sign-in; None when there was none.
        seen_at: The last extension.
        ends_at: The absolute end that was promised; None: no absolute end.
        lifetime: This session's own; None: the provider's.
        persistent: Whether its cookie outlives the browser.
    """

    secret_hash: bytes
    created_at: datetime
    authenticated_at: datetime | None
    seen_at: datetime
    ends_at: datetime | None
    lifetime: Lifetime | None
    persistent: bool

    def expires_at(self, default: Lifetime) -> datetime:
        """When the session ends if nobody comes back."""
        lifetime = self.lifetime or default
        began_at = self.authenticated_at or self.created_at
        return lifetime.expires_at(began_at, self.seen_at, self.ends_at)

    def is_extension_due(self, default: Lifetime, now: datetime) -> bool:
        """Whether this request should stamp the session."""
        return (self.lifetime or default).is_extension_due(self.seen_at, now)

    def pack(self, binding: bytes) -> bytes:
        """The facts as a header, bound to where the record is kept: 8 bytes."""
        lifetime = self.lifetime
        idle, absolute = (lifetime.idle, lifetime.absolute) if lifetime else (None, None)
        flags = self.persistent * _PERSISTENT + (lifetime is not None) * _OWN_LIFETIME
        return _HEADER.pack(
            _FORMAT,
            flags,
            binding,
            self.secret_hash,
            _from_time(self.created_at),
            _from_time(self.authenticated_at),
            _from_time(self.seen_at),
            _from_time(self.ends_at),
            _NONE if idle is None else idle // MICROSECOND,
            _NONE if absolute is None else absolute // MICROSECOND,
        )

    @classmethod
    def unpack(cls, body: bytes, binding: bytes) -> "Facts":
        """The facts of a body.

        Raises:
            CorruptBody: there are none, or they were bound to another place.
        """
        try:
            version, flags, bound_to, secret_hash, *times = _HEADER.unpack_from(body)
            created, authenticated, seen, ends, idle, absolute = times
            if version != _FORMAT or bound_to != binding:
                raise CorruptBody
            lifetime = (
                Lifetime(_to_span(idle), _to_span(absolute)) if flags & _OWN_LIFETIME else None
            )
            return cls(
                secret_hash=secret_hash,
                created_at=EPOCH + created * MICROSECOND,
                authenticated_at=_to_time(authenticated),
                seen_at=EPOCH + seen * MICROSECOND,
                ends_at=_to_time(ends),
                lifetime=lifetime,
                persistent=bool(flags & _PERSISTENT),
            )
        except (struct.error, OverflowError, ConfigurationError):
            raise CorruptBody from None


def _from_time(time: datetime | None) -> int:
    return _NONE if time is None else (time - EPOCH) // MICROSECOND


def _to_time(microseconds: int) -> datetime | None:
    return None if microseconds == _NONE else EPOCH + microseconds * MICROSECOND


def _to_span(microseconds: int) -> timedelta | None:
    return None if microseconds == _NONE else microseconds * MICROSECOND


class Codec(Generic[Model]):
    """Reads and writes one model.

    Attributes:
        is_plain: No function runs with it that may say another thing each time, or keep the data.

    Raises:
        ConfigurationError: the model can't be a session's, with the reason and the fields.
    """

    def __init__(self, model: type[Model]) -> None:
        self.model = model
        self._adapter = _adapter(_checked_class(model))
        schema = self._schema()
        self._names = {*model.model_fields, *_property_names(schema)}
        self.is_plain = _is_plain(self._adapter.core_schema)
        self._verbatim: set[int] = set()
        self._check_round_trip(schema)

    def fresh(self) -> Model:
        """The data of a new session."""
        return self.model()

    def dump(self, data: Model) -> bytes:
        """The data as JSON. Equal bytes are equal data; ``is_change`` tells the reverse.

        Raises:
            SessionInvalid: a value has no JSON form that its field's type would write.
        """
        problem: str | None = None
        try:
            return self._adapter.serializer.to_json(
                data, by_alias=False, round_trip=True, warnings="error"
            )
        except PydanticSerializationError as error:
            problem = ", ".join(_unserializable(data)) or type(error).__name__
        # outside the except block: the original's text holds the values
        raise SessionInvalid("The session's data cannot be written as JSON.", [problem])

    def load(self, raw: bytes) -> Model:
        """The data that was written as this JSON.

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
            # a validator of the model's own that stumbles over what an older one wrote
            reason = PydanticCustomError("validator_failed", "a validator raised an exception")
            raise ValidationError.from_exception_data(
                self.model.__name__, [{"type": reason, "input": None}]
            ) from error

    def dump_as_read(self, data: Model, raw: bytes) -> bytes:
        """What ``dump`` gives for data that was read from these bytes a moment ago.

        Mostly the bytes themselves, and they are read many times: then only the first reader
        dumps the data.
        """
        known_by = hash(raw)
        if known_by in self._verbatim:
            return raw
        dump = self.dump(data)
        if dump == raw and self.is_plain:
            if len(self._verbatim) >= _MOST_VERBATIM:
                self._verbatim.clear()
            self._verbatim.add(known_by)
        return dump

    def check(self, raw: bytes) -> Model:
        """The data that a write would give back to the next request.

        Raises:
            SessionInvalid: the next request could not read it.
        """
        fields: list[str] = []
        try:
            return self.load(raw)
        except ValidationError as error:
            fields = self.fields(error)
        raise SessionInvalid("The session's data does not fit its model.", fields)

    def is_change(self, before: bytes, after: bytes) -> bool:
        """Whether two dumps are different data, and not one spelled in two ways (sets, dicts).

        Raises:
            SessionInvalid: the next request could not read what is there now.
        """
        if before == after:
            return False
        checked = self.check(after)
        return not _may_be_reordered(before, after) or self.load(before) != checked

    def changed_fields(self, before: bytes, after: bytes) -> list[str]:
        """The names of the fields in which two dumps differ."""
        left, right = self.values(before), self.values(after)
        if isinstance(left, dict) and isinstance(right, dict):
            names = dict.fromkeys([*left, *right])
            return [name for name in names if not is_same(left.get(name), right.get(name))]
        return [] if is_same(left, right) else ["root"]

    def values(self, raw: bytes) -> JSON:
        """A dump as JSON values that know which of their arrays are sets."""
        return _with_sets(self.load(raw), read_json(raw))

    def fields(self, error: ValidationError) -> list[str]:
        """The dotted paths that a validation error names, without the values."""
        details = error.errors(include_url=False, include_context=False, include_input=False)
        return self.field_names(".".join(map(str, each["loc"])) for each in details if each["loc"])

    def field_names(self, paths: Iterable[str]) -> list[str]:
        """Dotted paths as they may be shown: what is no field's name is a key that a user's data
        has, and becomes ``*``."""
        shown = (
            ".".join(part if part in self._names else "*" for part in path.split("."))
            for path in paths
        )
        return list(dict.fromkeys(path if path != "*" else "data" for path in shown))

    def _check_round_trip(self, schema: dict[str, Any]) -> None:
        fresh = self._first()
        fields: list[str]
        try:
            again = self.load(self.dump(fresh))
        except SessionInvalid as error:
            fields = list(error.fields)
        except ValidationError as error:
            fields = self.fields(error)
        else:
            fields = [
                name for name in vars(fresh) if _is_lost(vars(fresh)[name], vars(again)[name])
            ]
            # what writes asterisks, wherever it is: SecretStr, SecretBytes
            fields += sorted(set(_write_only(schema)))
        if fields:
            raise ConfigurationError(
                f"{self.model.__name__} does not survive a round trip through JSON "
                f"({', '.join(fields)}): use types that JSON can carry, with defaults that fit them"
            )

    def _first(self) -> Model:
        reason = ""
        try:
            return self.fresh()
        except ValidationError as error:
            reason = f"its defaults do not fit it: {', '.join(self.fields(error)) or 'as a whole'}"
        except Exception as error:
            reason = f"it raises {type(error).__name__}"
        raise ConfigurationError(
            f"{self.model.__name__}() is what a new session begins with, and {reason}"
        )

    def _schema(self) -> dict[str, Any]:
        try:
            with warnings.catch_warnings(action="ignore"):
                return self._adapter.json_schema(by_alias=False)
        except PydanticUserError:  # a type of the user's own without a schema: nothing to look at
            return {}


def write_json(values: JSON) -> bytes:
    """JSON values as bytes, spelled as the model's own dump would."""
    return to_json(values, inf_nan_mode="constants")


def read_json(raw: bytes) -> JSON:
    """The JSON values of bytes that this library wrote."""
    return cast(JSON, from_json(raw))


def adopt(data: Model, merged: Model, unchanged: Container[str]) -> None:
    """Give a session's data the values of a merge, as the same object.

    A field that the merge left as it was stays the very object that a route may hold. Every other
    is replaced and never changed in place: it may be a default or a constant that others share.
    """
    target: Any = data
    before, fields = dict(target.__dict__), target.__dict__
    fields.clear()  # what is cached beside the fields is out of date
    for name, value in merged.__dict__.items():
        fields[name] = before[name] if name in unchanged else value
    object.__setattr__(data, "__pydantic_extra__", merged.__pydantic_extra__)


def _kind(value: object) -> type[Any]:
    return type(value)


def _checked_class(model: type[Model]) -> type[Model]:
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise ConfigurationError(
            f"a session's model is a class derived from pydantic.BaseModel, not {model!r}"
        )
    missing = [name for name, field in model.model_fields.items() if field.is_required()]
    if missing:
        raise ConfigurationError(
            f"{model.__name__}() is what a new session begins with, so that each field needs a "
            f"default; these have none: {', '.join(missing)}"
        )
    return model


def _unserializable(data: BaseModel) -> Iterator[str]:
    for name in type(data).model_fields:
        try:
            data.model_dump_json(include={name}, round_trip=True, warnings="error")
        except PydanticSerializationError:
            yield name


_NO_FIELDS = ("properties", "$defs", "items", "additionalProperties")


def _adapter(model: type[Model]) -> TypeAdapter[Model]:
    reason = ""
    try:
        adapter = TypeAdapter(model)
        adapter.rebuild()
        return adapter
    except PydanticUserError as error:
        reason = error.code or type(error).__name__
    raise ConfigurationError(f"pydantic cannot use {model.__name__} as it is: {reason}")


def _is_lost(before: Any, after: Any) -> bool:
    is_nan = before != before and after != after  # what NaN is known by
    return before != after and not is_nan


def _may_be_reordered(before: bytes, after: bytes) -> bool:
    """Whether two texts may hold the same in another order, as of sets; mostly they do not."""
    if len(before) != len(after):
        return False
    return all(before.count(each) == after.count(each) for each in _DIGITS_AND_LETTERS)


def _property_names(schema: Any) -> Iterator[str]:
    kind = _kind(schema)
    if issubclass(kind, dict):
        yield from schema.get("properties", ())
        for value in schema.values():
            yield from _property_names(value)
    elif issubclass(kind, list):
        for item in schema:
            yield from _property_names(item)


def _write_only(schema: Any, name: str = "") -> Iterator[str]:
    kind = _kind(schema)
    if issubclass(kind, dict):
        if schema.get("writeOnly") is True:
            yield name
        for key, value in schema.items():
            is_field = type(value) is dict and key not in _NO_FIELDS
            yield from _write_only(value, key if is_field else name)
    elif issubclass(kind, list):
        for item in schema:
            yield from _write_only(item, name)


def _is_plain(schema: Any) -> bool:
    """Whether a core schema is known to run no functions; what is unknown may."""
    kind = _kind(schema)
    if issubclass(kind, list | tuple):  # a union's choice may come with a label
        return all(_is_plain(part) for part in schema if not isinstance(part, str))
    parts = _PLAIN.get(schema["type"])
    if parts is None or any(schema.get(name) not in (None, False) for name in _FUNCTIONS):
        return False
    inner = [schema[part] for part in parts if schema.get(part) is not None]
    return all(map(_is_plain, [*inner, *schema.get("fields", {}).values()]))


def _with_sets(data: Any, values: JSON) -> JSON:
    kind = _kind(data)
    if issubclass(kind, RootModel):
        return _with_sets(data.root, values)
    if isinstance(values, list) and issubclass(kind, set | frozenset):
        return JSONSet(sorted(values, key=write_json))
    if isinstance(values, list) and issubclass(kind, list | tuple) and len(data) == len(values):
        return [_with_sets(*pair) for pair in zip(data, values, strict=True)]
    if isinstance(values, dict) and issubclass(kind, dict) and len(data) == len(values):
        pairs = zip(data.values(), values.items(), strict=True)
        return {key: _with_sets(inner, value) for inner, (key, value) in pairs}
    if isinstance(values, dict) and issubclass(kind, BaseModel):
        # not by getattr: that warns of a deprecated field
        return {key: _with_sets(data.__dict__.get(key), values[key]) for key in values}
    if isinstance(values, dict) and is_dataclass(data):
        return {key: _with_sets(getattr(data, key, None), values[key]) for key in values}
    return values
