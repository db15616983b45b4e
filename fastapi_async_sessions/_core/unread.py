"""Parts of stored data that this release cannot read: they have their defaults, and stay stored.

JSON has such a part as it is stored, until the request gives it another value.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, cast

from pydantic import BaseModel

from .merge import JSON, Shape, is_same

Path = tuple[str | int, ...]
"""The keys that lead to a part; empty: the whole."""
Unread = Mapping[Path, JSON]
"""The parts that could not be read, as they are stored."""

NOTHING: Unread = MappingProxyType({})

_ABSENT = cast(JSON, object())
_FORBIDDEN = "extra_forbidden"


class Fallback(NamedTuple):
    """A part that has its default in a request.

    Attributes:
        stored, default: Its JSON as stored, and as the request found it.
        holder: The object whose attribute it is.
    """

    stored: JSON
    default: JSON
    holder: object


def fallbacks(data: BaseModel, dump: JSON, unread: Unread) -> dict[Path, Fallback]:
    """Note how data begins whose dump this is: with defaults, to which nothing was assigned."""
    noted: dict[Path, Fallback] = {}
    for path, stored in unread.items():
        noted[path] = Fallback(stored, _get(dump, path), _holder(data, path))
        _fields_set(noted[path].holder).difference_update(map(str, path[-1:]))
    return noted


def still_unread(data: BaseModel, dump: JSON, noted: Mapping[Path, Fallback]) -> dict[Path, JSON]:
    """The parts to which nothing was assigned; their very default would be an assignment."""
    return {
        path: part.stored
        for path, part in noted.items()
        if _holder(data, path) is part.holder
        and _fields_set(part.holder).isdisjoint(map(str, path[-1:]))
        and _is_default(_get(dump, path), part.default)
    }


def restored(values: JSON, unread: Unread) -> JSON:
    """A dump with these parts as they are stored."""
    for path, stored in unread.items():
        values = _replaced(values, path, stored)
    return values


def stripped(values: JSON, unread: Unread, shape: Shape) -> JSON:
    """Stored values without these parts, where they are still the same."""
    for path, stored in unread.items():
        found = _get(values, path)
        if found is not _ABSENT and is_same(found, stored, _shape_at(shape, path)):
            values = _replaced(values, path, _ABSENT)
    return values


def remove(values: JSON, paths: Iterable[Path]) -> None:
    """Remove these parts from values, in place: there may be many."""
    for path in paths:
        holder = _get(values, path[:-1])
        if isinstance(holder, dict):
            holder.pop(str(path[-1]), None)


def is_absent(values: JSON) -> bool:
    """Whether nothing is left."""
    return values is _ABSENT


def kept_parts(values: JSON, unread: Unread) -> dict[Path, JSON]:
    """Those of the parts that values still have as they are stored."""
    found = {path: _get(values, path) for path in unread}
    return {path: part for path, part in found.items() if _is_default(part, unread[path])}


def is_gone(values: JSON, name: str) -> bool:
    """Whether an object no longer has a key."""
    return _get(values, (name,)) is _ABSENT


def parts_of(values: JSON, paths: Iterable[Path]) -> dict[Path, JSON]:
    """The parts under these paths, but for those that are within others."""
    paths = set(paths)
    outer = [each for each in paths if not any(each[:end] in paths for end in range(len(each)))]
    return {path: _get(values, path) for path in outer}


def place_of(values: JSON, error: Mapping[str, Any], shape: Shape) -> tuple[Path, bool]:
    """The innermost field that an error is about, and whether it is a forbidden key.

    Lists, dicts and unions are one part: only a model says what a missing field is.
    """
    location: Path = error["loc"]
    if error["type"] == _FORBIDDEN and _get(values, location) is not _ABSENT:
        return location, True
    path: list[str | int] = []
    for name in location:
        is_field = name in shape.parts and isinstance(values, dict) and name in values
        if not is_field:
            break
        path.append(name)
        values, shape = cast(dict[str | int, JSON], values)[name], shape.at(name)
    return tuple(path), False


def _get(values: JSON, path: Path) -> JSON:
    for name in path:
        if isinstance(values, dict):
            values = values.get(cast(str, name), _ABSENT)
        elif isinstance(values, list) and isinstance(name, int) and name < len(values):
            values = values[name]
        else:
            return _ABSENT
    return values


def _replaced(values: JSON, path: Path, value: JSON) -> JSON:
    """A copy with another value at a path, or without it, if there is something to hold it."""
    if not path:
        return value
    # a field, or one of a model in it: values within a list or a dict are not separate parts
    key, rest = cast(str, path[0]), path[1:]
    if not isinstance(values, dict) or (rest and key not in values):
        return values
    changed = {**values, key: _replaced(values.get(key), rest, value)}
    return {name: each for name, each in changed.items() if each is not _ABSENT}


def _is_default(now: JSON, default: JSON) -> bool:
    return now is default if _ABSENT in (now, default) else is_same(now, default)


def _shape_at(shape: Shape, path: Path) -> Shape:
    for name in path:
        shape = shape.at(name)
    return shape


def _holder(data: object, path: Path) -> object:
    for name in path[:-1]:
        data = getattr(data, str(name), None)
    return data


def _fields_set(holder: object) -> set[str]:
    return holder.model_fields_set if isinstance(holder, BaseModel) else set()
