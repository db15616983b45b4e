"""The shape of a model's JSON: which arrays are sets or tuples, and which numbers add up.

Read once from pydantic's core schema. A value that may be of several kinds, as in a union, has the
shape on which all of them agree: where one is a set and another a list, the order counts.
"""

from collections.abc import Iterator
from typing import Any, Literal, cast

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema

from ..errors import ConfigurationError
from .merge import PLAIN, Shape

_Kind = Literal["plain", "set", "tuple", "sum"]

_ADDITIVE = "fastapi_async_sessions.additive"
_SCALARS = frozenset(
    (
        *("none", "bool", "int", "float", "complex", "decimal", "str", "bytes", "uuid", "json"),
        *("date", "time", "datetime", "timedelta", "literal", "enum", "url", "multi-host-url"),
        "missing-sentinel",
    )
)
_OBJECTS = frozenset(("dict", "model-fields", "typed-dict", "dataclass-args"))
# the types of schemas that only say how another one is used, and where that one stands
_WRAPPERS = {
    **dict.fromkeys(("nullable", "default", "model", "dataclass", "custom-error"), "schema"),
    **dict.fromkeys(("function-before", "function-after", "function-wrap"), "schema"),
    "json-or-python": "json_schema",
    "lax-or-strict": "lax_schema",
    "call": "arguments_schema",  # a NamedTuple before pydantic 2.14
}
_ANY: dict[str, Any] = {"type": "any"}
_NONE: dict[str, Any] = {"type": "none"}


class Additive:
    """Marks a number that is counted up and down: ``count: Annotated[int, Additive] = 0``.

    The changes of requests that count at the same time add up. An assignment is such a change too:
    two requests that set 5 to 0 leave -5.
    """

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: Any = dict(handler(source))
        schema["metadata"] = {**schema.get("metadata", {}), _ADDITIVE: True}
        return cast(CoreSchema, schema)


def shape_of(schema: CoreSchema) -> Shape:
    """The shape of the JSON that a core schema reads.

    Raises:
        ConfigurationError: ``Additive`` is not on an int or a float, or is inside an array.
    """
    return _Builder().build([schema], (), is_in_array=False)


class _Builder:
    def __init__(self) -> None:
        self._definitions: dict[str, Any] = {}
        self._shapes: dict[tuple[frozenset[int], bool], Shape] = {}

    def build(self, schemas: list[Any], path: tuple[str, ...], *, is_in_array: bool) -> Shape:
        """The shape of a value that any of these schemas may describe."""
        marked = [choice for schema in schemas for choice in self._choices(schema)]
        if any(is_additive for _, is_additive in marked):
            is_number = all(added and each["type"] in ("int", "float") for each, added in marked)
            if is_in_array or not is_number:
                raise _misplaced(path)
            return Shape("sum", start=_start(schemas))
        choices = [choice for choice, _ in marked if choice["type"] not in _SCALARS]
        if all(choice["type"] == "any" for choice in choices):
            return PLAIN
        known_by = frozenset(map(id, choices)), is_in_array
        if known_by not in self._shapes:
            # known before it is complete: a model may contain itself
            shape = self._shapes[known_by] = Shape()
            self._fill(shape, choices, path, is_in_array)
        return self._shapes[known_by]

    def _fill(
        self, shape: Shape, choices: list[Any], path: tuple[str, ...], is_in_array: bool
    ) -> None:
        kinds: set[_Kind] = {_kind(each) for each in choices if each["type"] not in _OBJECTS}
        is_in_array = is_in_array or bool(kinds)
        shape.may_be_set = "set" in kinds
        shape.kind = kinds.pop() if len(kinds) == 1 else "plain"
        contents = [_contents(choice) for choice in choices]
        for key in dict.fromkeys(key for named, _ in contents for key in named):
            part = [each for named, rest in contents for each in _under(key, named, rest)]
            shape.parts[key] = self.build(part, (*path, str(key)), is_in_array=is_in_array)
        others = [each for _, rest in contents for each in rest]
        if others:
            shape.rest = self.build(others, (*path, "*"), is_in_array=is_in_array)

    def _choices(self, schema: Any, is_additive: bool = False) -> Iterator[tuple[Any, bool]]:
        """The schemas that read a value in the end, and whether each is marked as additive."""
        is_additive = is_additive or _ADDITIVE in (schema.get("metadata") or {})
        inner: list[Any]
        match schema["type"]:
            case "definitions":
                self._definitions |= {each["ref"]: each for each in schema["definitions"]}
                inner = [schema["schema"]]
            case "definition-ref":
                inner = [self._definitions[schema["schema_ref"]]]
            case "union":
                inner = [each[0] if isinstance(each, tuple) else each for each in schema["choices"]]
            case "tagged-union":
                inner = list(schema["choices"].values())
            case "nullable":
                inner = [_NONE, schema["schema"]]
            case "chain":
                inner = [schema["steps"][0]]
            case kind if kind in _WRAPPERS:
                inner = [schema[_WRAPPERS[kind]]]
            case _:
                yield schema, is_additive
                return
        for each in inner:
            yield from self._choices(each, is_additive)


def _start(schemas: list[Any]) -> int | float:
    """The default of a number, if there is one; a dict's value has none."""
    start = schemas[0].get("default") if len(schemas) == 1 else 0
    return start if type(start) in (int, float) else 0


def _kind(schema: Any) -> _Kind:
    match schema["type"]:
        case "set" | "frozenset":
            return "set"
        case "tuple" if schema.get("variadic_item_index") is None:
            return "tuple"
        case "named-tuple" | "arguments":
            return "tuple"
        case _:
            return "plain"


def _contents(schema: Any) -> tuple[dict[str | int, Any], list[Any]]:
    """The schemas of the contents: by key or place, and of everything else."""
    items: list[Any]
    match schema["type"]:
        case "dict":
            return {}, [schema.get("values_schema", _ANY)]
        case "list" | "set" | "frozenset" | "generator":
            return {}, [schema.get("items_schema", _ANY)]
        case "tuple" if _kind(schema) == "tuple":
            items = schema["items_schema"]
            return dict(enumerate(items)), []
        case "tuple":
            return {}, schema["items_schema"]
        case "named-tuple":
            items = [each["schema"] for each in schema["fields"]]
            return dict(enumerate(items)), []
        case "arguments":
            items = [each["schema"] for each in schema["arguments_schema"]]
            return dict(enumerate(items)), []
        case "dataclass-args":
            return {each["name"]: each["schema"] for each in schema["fields"]}, []
        case "model-fields" | "typed-dict":
            named = {name: each["schema"] for name, each in schema["fields"].items()}
            return named, [schema["extras_schema"]] if schema.get("extras_schema") else []
        case _:
            return {}, [_ANY]


def _under(key: str | int, named: dict[str | int, Any], rest: list[Any]) -> list[Any]:
    return [named[key]] if key in named else rest


def _misplaced(path: tuple[str, ...]) -> ConfigurationError:
    return ConfigurationError(
        f"{'.'.join(path) or 'root'}: Additive is for an int or a float that is a field or a "
        "dict's value, and not inside a list, set or tuple"
    )
