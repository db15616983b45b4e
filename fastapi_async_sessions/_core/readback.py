"""Finds values that the next request would read back as something else.

JSON has few types: a subclass, or a ``datetime`` in an ``Any``, is read back as another type.
Only types are compared: validators may normalize a value, and reorder it.
"""

import dataclasses
import re
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import date, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum
from math import isfinite
from pathlib import PurePath
from typing import Any, NamedTuple, TypeGuard, cast, get_args
from uuid import UUID

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

_LEAVES = frozenset((str, int, float, bool, type(None)))
_JSON = (str, int, float, list, dict, type(None))
_ARRAYS = (list, tuple, set, frozenset, deque)
_IMMUTABLE = (
    *(str, int, float, complex, bytes, type(None), type, range, re.Pattern, UUID, PurePath),
    *(date, time, timedelta, tzinfo, Decimal, Enum),
)


class Problem(NamedTuple):
    """A value that does not come back.

    Attributes:
        path: Where it is, in dots.
        expected, found: Names of types.
    """

    path: str
    expected: str
    found: str

    def __str__(self) -> str:
        """Say it in one line, without the value."""
        if self.expected == self.found:
            return self.path
        return f"{self.path}: expected {self.expected}, got {self.found}"


def has_same_types(live: object, again: object) -> bool:
    """Return whether data and what its dump gives have the same types throughout.

    Then nothing is lost. This takes a fraction of the time of ``lost_values``, but gives up where
    items have no order or a class is not known.
    """
    # a generic model may be read back with other parameters, and so other types of its fields
    if type(live) is not type(again):
        return False
    if isinstance(live, BaseModel):
        live, again = _fields(live), _fields(again)
    if _is_dict(live) and _is_dict(again):
        if list(live) != list(again):
            return False
        live, again = list(live.values()), list(again.values())
    if not (_is_sequence(live) and _is_sequence(again)):
        return isinstance(live, _IMMUTABLE)
    types = list(map(type, live))
    if types != list(map(type, again)):
        return False
    # a call for each of these values would take most of a commit's time
    return _LEAVES.issuperset(types) or all(map(has_same_types, live, again))


def lost_values(
    live: object, again: object, path: str = "", *, loose: str | None = None
) -> Iterator[Problem]:
    """Compare data with the data that its dump gives; in the field ``loose`` a tuple may become a
    list."""
    is_loose = loose is not None and path.partition(".")[0] == loose
    if _is_lost(live, again) and not (is_loose and _is_tuple_as_list(live, again)):
        yield Problem(path or "data", type(again).__name__, type(live).__name__)
        return
    if _is_dict(live) and _is_dict(again):
        yield from _lost_keys(live, again, path)
    for name, value, read in _parts(live, again):
        yield from lost_values(value, read, _joined(path, name), loose=loose)


def wrong_types(data: BaseModel, path: str = "") -> Iterator[Problem]:
    """Find the fields that cannot be written as their types; the innermost models' ones."""
    cls = type(data)
    for name, field in cls.model_fields.items():
        try:
            cls.__pydantic_serializer__.to_json(
                data, include={name}, by_alias=False, round_trip=True, warnings="error"
            )
        except PydanticSerializationError:
            value, inner_path = getattr(data, name, None), _joined(path, name)
            inner = [each for model in _models(value) for each in wrong_types(model, inner_path)]
            yield from inner or [Problem(inner_path, _spelled(field.annotation), _found(value))]


def shared_values(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Find the mutable objects that two values have in common, by their paths."""
    if isinstance(one, _IMMUTABLE) or type(one) is not type(other):
        return
    if one is other and _is_mutable(one):
        yield path or "data"
    elif isinstance(one, dict):
        for key, value in cast(dict[str, Any], one).items():
            yield from shared_values(value, other.get(key), _joined(path, str(key)))
    elif isinstance(one, _ARRAYS):
        for item, twin in zip(cast(Iterable[Any], one), other, strict=False):
            yield from shared_values(item, twin, _joined(path, "*"))
    else:
        twins = _fields(other)
        for name, value in _fields(one).items():
            yield from shared_values(value, twins.get(name), _joined(path, name))


def _is_lost(live: Any, again: Any) -> bool:
    if type(live) is type(again) or _kind(live) is _kind(again):
        return False
    if isinstance(live, BaseModel) or dataclasses.is_dataclass(live):
        return True
    if isinstance(live, float) and not isfinite(live):
        return True  # JSON has no such number
    return isinstance(again, _JSON) and not isinstance(live, _JSON)


def _lost_keys(live: dict[Any, Any], again: dict[Any, Any], path: str) -> Iterator[Problem]:
    if live.keys() == again.keys():
        return
    if any(isinstance(key, str) and key not in live for key in again):
        for key in live:
            if key not in again and not isinstance(key, str):
                yield Problem(_joined(path, "*"), "keys of type str", type(key).__name__)


def _parts(live: Any, again: Any) -> Iterator[tuple[str, object, object]]:
    """The parts that two values both have, with their names."""
    if _is_dict(live) and _is_dict(again):
        for key, value in live.items():
            if key in again:
                yield str(key), value, again[key]
    elif isinstance(live, _ARRAYS) and isinstance(again, _ARRAYS):
        one, other = cast(Collection[Any], live), cast(Collection[Any], again)
        if len(one) == len(other):
            # by their types: a set has no order, and a validator may sort
            pairs = zip(sorted(one, key=_type_name), sorted(other, key=_type_name), strict=True)
            yield from (("*", value, read) for value, read in pairs)
    else:
        before, after = _fields(live), _fields(again)
        for name, value in before.items():
            if name in after:
                yield name, value, after[name]


def _is_tuple_as_list(live: object, again: object) -> bool:
    return isinstance(live, tuple) and isinstance(again, list)


def _is_dict(value: Any) -> TypeGuard[dict[Any, Any]]:
    return isinstance(value, dict)


def _is_sequence(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, list | tuple)


def _kind(value: object) -> Any:
    """The class of a value; of a generic model's, the one without parameters."""
    cls = type(value)
    generic: Any = getattr(cls, "__pydantic_generic_metadata__", None)
    return (generic and generic["origin"]) or cls


def _fields(value: Any) -> dict[str, Any]:
    if isinstance(value, BaseModel):
        names = type(value).__pydantic_fields__  # model_fields, without its check of the caller
        values = value.__dict__
        known = {name: values[name] for name in names if name in values}
        return known | value.__pydantic_extra__ if value.__pydantic_extra__ else known
    if dataclasses.is_dataclass(value):
        names_of_all = (field.name for field in dataclasses.fields(value))
        return {name: getattr(value, name) for name in names_of_all if hasattr(value, name)}
    return {}


def _is_mutable(value: Any) -> bool:
    if isinstance(value, BaseModel):
        return not value.model_config.get("frozen")
    if dataclasses.is_dataclass(value):
        params: Any = getattr(type(value), "__dataclass_params__", None)
        return not params.frozen
    return isinstance(value, list | dict | set | deque | bytearray)


def _models(value: Any) -> Iterator[BaseModel]:
    """The models in a value, not those within them."""
    if isinstance(value, BaseModel):
        yield value
    elif _is_dict(value):
        for each in value.values():
            yield from _models(each)
    elif isinstance(value, _ARRAYS):
        for each in cast(Iterable[Any], value):
            yield from _models(each)


def _found(value: Any) -> str:
    name = _type_name(value)
    if not isinstance(value, _ARRAYS):
        return name
    items = sorted({_type_name(item) for item in cast(Iterable[Any], value)})
    return f"{name}[{' | '.join(items)}]" if items else name


def _spelled(annotation: Any) -> str:
    """An annotation as a program spells it, without modules."""
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", str(annotation))


def _type_name(value: Any) -> str:
    return type(value).__name__


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
