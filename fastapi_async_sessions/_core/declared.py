"""The types that a model declares, where JSON gives back exactly these.

Data of declared types need not be read back to see that nothing is lost. Values are looked at
column by column: the items of a long list take little more time than one.
"""

from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import chain
from math import isfinite
from operator import itemgetter, methodcaller
from typing import Any, NamedTuple
from uuid import UUID

_SCALARS: dict[str, type[Any]] = {
    "none": type(None),
    **{kind.__name__: kind for kind in (bool, int, str, bytes, date, time, datetime, timedelta)},
    "decimal": Decimal,
    "uuid": UUID,
}
_values = methodcaller("values")
# pydantic reads no JSON with more than about 200 levels
_MAX_DEPTH, _MAX_ANY_DEPTH = 150, 50
_MAX_DIGITS = 4300  # of a number that can be read
_NO_OFFSET, _MINUTE = timedelta(0), timedelta(minutes=1)
# the keys of core schemas that neither restrict nor change what is read
_FREE = frozenset(
    (
        *("type", "schema", "ref", "schema_ref", "definitions", "metadata"),
        *("default", "default_factory", "default_factory_takes_data", "microseconds_precision"),
        *("items_schema", "keys_schema", "values_schema", "expected", "fields", "model_name"),
        *("cls", "config", "custom_init", "root_model", "computed_fields", "extra_behavior"),
        *("validation_alias", "serialization_alias", "frozen", "generic_origin"),
    )
)
_FREE_CONFIG = frozenset(("title", "extra_fields_behavior"))
_ANY = {"type": "any"}


class Types:
    """The types that the values in one place may have; without any, no value fits.

    Attributes:
        depth: The levels of JSON that are nested in such a value.
    """

    def __init__(self, *types: type[Any], depth: int = 0) -> None:
        self._types = frozenset(types)
        self.depth = depth

    def fit(self, values: Iterable[Any]) -> bool:
        """Return whether these values have declared types, and so has all that they contain."""
        return self._types.issuperset(map(type, values))


class Declaration(NamedTuple):
    """What a model declares: data of these types is read back with the same types, if at all.

    Attributes:
        types: Those of any data.
        types_without_null: Those of data whose dump has no null. The serializer refuses a text in
            place of a number, but not None, so that most values need not be looked at.
        is_free: Whether the data can always be read, and is then written as it was. Otherwise a
            text may be too long, or be stripped.
    """

    types: Types
    types_without_null: Types
    is_free: bool

    def fits(self, data: object, dump: bytes) -> bool:
        """Return whether data, whose dump this is, has declared types throughout."""
        types = self.types if b"null" in dump else self.types_without_null
        return types.fit([data])

    def is_certain(self, dump: bytes) -> bool:
        """Return whether the dump of data that fits can be read, and is then written as it was."""
        return self.is_free and len(dump) <= _MAX_DIGITS


UNKNOWN = Declaration(Types(), Types(), is_free=False)


def declaration_of(schema: Any) -> Declaration:
    """Return what a core schema without functions declares.

    It is ``UNKNOWN`` if some value may come back as another type, as in a union.
    """
    reader = _Reader(has_null=True)
    try:
        types = reader.read(schema)
        is_free = reader.is_free and types.depth <= _MAX_DEPTH
        return Declaration(types, _Reader(has_null=False).read(schema), is_free)
    except _UnknownSchema:
        return UNKNOWN


class _Anything(Types):
    """Values that need no look."""

    def fit(self, values: Iterable[Any]) -> bool:  # noqa: ARG002
        return True


class _Optional(Types):
    def __init__(self, types: Types) -> None:
        super().__init__(depth=types.depth)
        self._inner = types

    def fit(self, values: Iterable[Any]) -> bool:
        return self._inner.fit(value for value in values if value is not None)


class _Floats(Types):
    """Finite ones, because JSON has no others."""

    def __init__(self) -> None:
        super().__init__(float)

    def fit(self, values: Iterable[Any]) -> bool:
        values = [*values]
        return super().fit(values) and all(map(isfinite, values))


class _Moments(Types):
    """With an offset in minutes: pydantic cuts off the seconds."""

    def fit(self, values: Iterable[Any]) -> bool:
        values = [*values]
        offsets = (value.utcoffset() or _NO_OFFSET for value in values)
        return super().fit(values) and not any(offset % _MINUTE for offset in offsets)


class _Texts(Types):
    """Certain texts."""

    def __init__(self, texts: Iterable[str]) -> None:
        super().__init__(str)
        self._texts = frozenset(texts)

    def fit(self, values: Iterable[Any]) -> bool:
        values = [*values]
        return super().fit(values) and self._texts.issuperset(values)


class _Lists(Types):
    def __init__(self, items: Types) -> None:
        super().__init__(list, depth=1 + items.depth)
        self._items = items

    def fit(self, values: Iterable[Any]) -> bool:
        values = [*values]
        return super().fit(values) and self._items.fit(chain(*values))


class _Dicts(Types):
    """With keys that are texts and nothing else: None is written as one without a warning, and a
    derived class may have two keys of one text."""

    def __init__(self, items: Types) -> None:
        super().__init__(dict, depth=1 + items.depth)
        self._items = items

    def fit(self, values: Iterable[Any]) -> bool:
        values = [*values]
        return (
            super().fit(values)
            and _TEXTS.fit(chain(*values))
            and self._items.fit(chain(*map(_values, values)))
        )


class _Models(Types):
    def __init__(self, cls: type[Any], fields: dict[str, Types]) -> None:
        super().__init__(cls, depth=1 + max((types.depth for types in fields.values()), default=0))
        self._names = tuple(fields)
        self._columns = [
            (itemgetter(name), types.fit)
            for name, types in fields.items()
            if types is not _ANYTHING
        ]

    def fit(self, values: Iterable[Any]) -> bool:
        values = [*values]
        if not super().fit(values):
            return False
        rows = [value.__dict__ for value in values]
        # each field, and in the order in which it will be read and written again
        if [*map(tuple, rows)] != [self._names] * len(rows):
            return False
        return all(fit(map(column, rows)) for column, fit in self._columns)


class _Json(Types):
    """Anything that JSON has."""

    def __init__(self) -> None:
        types = (type(None), bool, int, float, str, list, dict)
        super().__init__(*types, depth=_MAX_ANY_DEPTH)

    def fit(self, values: Iterable[Any]) -> bool:
        for _ in range(_MAX_ANY_DEPTH):
            values = [*values]
            if not values:
                return True
            dicts: list[Any] = [value for value in values if type(value) is dict]
            lists: list[Any] = [value for value in values if type(value) is list]
            floats = [value for value in values if type(value) is float]
            if not (super().fit(values) and _TEXTS.fit(chain(*dicts)) and _FLOATS.fit(floats)):
                return False
            values = chain(*lists, *map(_values, dicts))
        return False


_ANYTHING, _TEXTS, _FLOATS, _JSON = _Anything(), Types(str), _Floats(), _Json()


class _UnknownSchema(Exception):
    """A core schema of a type whose values may come back as others."""


class _Reader:
    """Reads core schemas, for data whose dump has a null or for that without.

    Attributes:
        is_free: Whether none of them restricts or changes the values.
    """

    def __init__(self, *, has_null: bool) -> None:
        self.is_free = True
        self._has_null = has_null
        self._definitions: dict[str, Any] = {}
        self._read: dict[str, Types] = {}

    def read(self, schema: Any) -> Types:
        self.is_free &= schema.keys() <= _FREE and schema.get("config", {}).keys() <= _FREE_CONFIG
        match schema["type"]:
            case "definitions":
                self._definitions |= {each["ref"]: each for each in schema["definitions"]}
                return self.read(schema["schema"])
            case "definition-ref":
                return self._referenced(schema["schema_ref"])
            case "default" | "model-field":
                return self.read(schema["schema"])
            case "nullable":
                types = self.read(schema["schema"])
                return _Optional(types) if self._has_null else types
            case "any":
                return _JSON
            case "float":
                return _FLOATS
            case "literal" if _TEXTS.fit(schema["expected"]):
                return _Texts(schema["expected"])
            case "list":
                items = self.read(schema.get("items_schema", _ANY))
                return _ANYTHING if items is _ANYTHING else _Lists(items)
            case "dict" if schema.get("keys_schema", _ANY)["type"] in ("any", "str"):
                self.read(schema.get("keys_schema", _ANY))  # only to see whether it limits them
                return _Dicts(self.read(schema.get("values_schema", _ANY)))
            case "model" if schema["schema"]["type"] == "model-fields":
                return self._model(schema, schema["schema"])
            case "time" | "datetime":
                return _Moments(_SCALARS[schema["type"]])
            case kind if kind in _SCALARS:
                self.is_free &= kind != "decimal"  # which may be infinite
                return Types(_SCALARS[kind]) if self._has_null else _ANYTHING
            case _:
                raise _UnknownSchema

    def _model(self, schema: Any, inner: Any) -> Types:
        config: Any = schema.get("config", {})
        if "allow" in (inner.get("extra_behavior"), config.get("extra_fields_behavior")):
            raise _UnknownSchema
        self.is_free &= inner.keys() <= _FREE
        fields = {name: self.read(field) for name, field in inner["fields"].items()}
        return _Models(schema["cls"], fields)

    def _referenced(self, name: str) -> Types:
        if name not in self._read:
            # data of a model that contains itself may be nested too deep to be read
            self._read[name] = UNKNOWN.types
            self._read[name] = self.read(self._definitions[name])
        return self._read[name]
