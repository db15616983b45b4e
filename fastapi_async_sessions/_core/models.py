"""The requirements on a session's model, checked in the class and in pydantic's schemas.

Everything that knows the names in those schemas is in this file, ``declared`` and ``shapes``.
"""

import warnings
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar, cast

from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic.json_schema import GenerateJsonSchema

from ..errors import ConfigurationError
from .declared import UNKNOWN, declaration_of
from .merge import JSON
from .shapes import shape_of

Model = TypeVar("Model", bound=BaseModel)

# The types of pydantic's core schemas that always read and write the same if their parts do. Sets
# may change the order of their items, and enums and dataclasses run code of their classes.
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
_FUNCTIONS = (
    *("post_init", "custom_init", "serialization", "serialization_exclude_if"),
    "now_op",  # a time in the past or the future: what fits the model depends on the clock
)

# keys of a core schema with values of a user's, or with fields that are never written
_NO_SCHEMAS = ("default", "metadata", "computed_fields", "expected")

# keys of a JSON schema whose values are objects without being fields
_NO_FIELDS = ("properties", "$defs", "items", "additionalProperties")


class SessionModel(Generic[Model]):
    """A model class, and the properties that its schemas show.

    Attributes:
        cls: The class.
        adapter: Validates and serializes it.
        field_names: The names of all fields, including nested ones; other keys are a user's data.
        is_plain: Whether reading and writing run no functions of the model, which may return a
            different result each time or keep a reference to the data.
        declared: The types of its data, as far as JSON gives them back.
        shape: The properties that the JSON values themselves do not show.
        unwritten: Fields of types that JSON hides (``SecretStr``), and those that are left out
            (``exclude``, ``exclude_if``).

    Raises:
        ConfigurationError: the class is not a model that can be created without arguments.
    """

    def __init__(self, cls: type[Model]) -> None:
        self.cls = _checked(cls)
        self.adapter = _adapter(cls)
        schema = _json_schema(self.adapter)
        self.field_names = frozenset([*cls.model_fields, *_property_names(schema)])
        self.is_plain = _is_plain(self.adapter.core_schema)
        self.declared = declaration_of(self.adapter.core_schema) if self.is_plain else UNKNOWN
        self.shape = shape_of(self.adapter.core_schema)
        self.unwritten = sorted({*_write_only(schema), *_excluded(self.adapter.core_schema)})


def _checked(cls: type[Model]) -> type[Model]:
    if not (isinstance(cls, type) and issubclass(cls, BaseModel)):
        raise ConfigurationError(
            f"a session's model must be a class derived from pydantic.BaseModel, not {cls!r}"
        )
    missing = [name for name, field in cls.model_fields.items() if field.is_required()]
    if missing:
        raise ConfigurationError(
            f"a new session begins as {cls.__name__}(), so each field needs a default; "
            f"these have none: {', '.join(missing)}"
        )
    return cls


def _adapter(cls: type[Model]) -> TypeAdapter[Model]:
    reason = ""
    try:
        adapter = TypeAdapter(cls)
        adapter.rebuild()
        return adapter
    except (PydanticUserError, PydanticUndefinedAnnotation) as error:
        reason = error.code or type(error).__name__
    raise ConfigurationError(f"pydantic cannot use {cls.__name__} as it is: {reason}")


def _json_schema(adapter: TypeAdapter[Any]) -> dict[str, Any]:
    try:
        with warnings.catch_warnings(action="ignore"):
            return adapter.json_schema(by_alias=False, schema_generator=_TolerantGenerator)
    except PydanticUserError:
        return {}


class _TolerantGenerator(GenerateJsonSchema):
    """Leaves a user's own type without a JSON schema open, instead of failing."""

    def handle_invalid_for_json_schema(
        self,
        schema: Any,  # noqa: ARG002
        error_info: str,  # noqa: ARG002
    ) -> dict[str, Any]:
        return {}


def _property_names(schema: JSON) -> Iterator[str]:
    if isinstance(schema, dict):
        properties = schema.get("properties")
        if isinstance(properties, dict):
            yield from properties
        for value in schema.values():
            yield from _property_names(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from _property_names(item)


def _write_only(schema: JSON, name: str = "") -> Iterator[str]:
    if isinstance(schema, dict):
        if schema.get("writeOnly") is True:
            yield name
        for key, value in schema.items():
            is_field = isinstance(value, dict) and key not in _NO_FIELDS
            yield from _write_only(value, key if is_field else name)
    elif isinstance(schema, list):
        for item in schema:
            yield from _write_only(item, name)


def _excluded(schema: Any) -> Iterator[str]:
    """The names of the fields that a core schema does not write, nested ones too."""
    for name, values in _schemas(schema):
        if values.get("serialization_exclude") or values.get("serialization_exclude_if"):
            yield str(values.get("name", name))


def _schemas(schema: Any, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """A core schema and all within it, each with the key under which it stands."""
    if isinstance(schema, dict):
        values = cast(dict[str, Any], schema)
        yield name, values
        for key, value in values.items():
            if key not in _NO_SCHEMAS:
                yield from _schemas(value, key)
    elif isinstance(schema, list | tuple):
        for item in cast(Iterable[Any], schema):
            yield from _schemas(item, name)


def _is_plain(schema: Any) -> bool:
    """Return whether a core schema is known to run no functions; an unknown one may."""
    if isinstance(schema, list | tuple):  # a choice of a union may have a label
        parts = cast(Iterable[Any], schema)
        return all(_is_plain(part) for part in parts if not isinstance(part, str))
    inner_names = _PLAIN.get(schema["type"])
    if inner_names is None or any(schema.get(name) not in (None, False) for name in _FUNCTIONS):
        return False
    inner = [schema[name] for name in inner_names if schema.get(name) is not None]
    return all(map(_is_plain, [*inner, *schema.get("fields", {}).values()]))
