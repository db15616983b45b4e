"""The three-way merge of two changes that began with the same data. A pure function."""

import json
from typing import NamedTuple, cast

JSON = None | bool | int | float | str | list["JSON"] | dict[str, "JSON"]


class JSONSet(list[JSON]):
    """An array that was a set, in one fixed order: where its items stand means nothing."""


class Merged(NamedTuple):
    """The merged value, and the dotted paths where both sides changed the same thing: ours won."""

    value: JSON
    conflicts: tuple[str, ...]


def merge(base: JSON, ours: JSON, theirs: JSON) -> Merged:
    """Lay what changed between ``base`` and ``ours`` over ``theirs``.

    Objects merge key by key. Lists merge when each side is the base less some items, plus new ones
    at its end, and no item went on both sides; in a ``JSONSet`` new ones may stand anywhere. A
    scalar that both changed is a conflict even when both wrote the same value: two requests that
    count one up each mean two.
    """
    conflicts: list[str] = []
    value = _merge(base, ours, theirs, "", conflicts)
    return Merged(None if value is _ABSENT else value, tuple(conflicts))


def lay_over(base: JSON, ours: JSON, stored: JSON) -> JSON:
    """Lay what changed between ``base`` and ``ours`` over ``stored``.

    ``base`` is what we read of ``stored``, so that the two differ in nothing but what we don't
    know: keys of a newer release, in items of lists too.
    """
    if is_same(ours, base):
        return stored
    if isinstance(base, dict) and isinstance(ours, dict) and isinstance(stored, dict):
        unknown = {key: stored[key] for key in stored if key not in base and key not in ours}
        return unknown | {key: _lay_key(key, base, ours, stored) for key in ours}
    if isinstance(base, JSONSet):
        return ours
    if isinstance(base, list) and isinstance(ours, list) and isinstance(stored, list):
        return _lay_items(base, ours, stored) if len(base) == len(stored) else ours
    return ours


def _lay_key(
    key: str, base: dict[str, JSON], ours: dict[str, JSON], stored: dict[str, JSON]
) -> JSON:
    if key in base and key in stored:
        return lay_over(base[key], ours[key], stored[key])
    return ours[key]


def _lay_items(base: list[JSON], ours: list[JSON], stored: list[JSON]) -> JSON:
    """Each of our items over the one it was: an equal one, or else the one at its place."""
    places = {index: index for index in range(min(len(base), len(ours)))}
    if len(ours) < len(base):  # some went: those that stayed are found by what they are
        places = {}
        position = 0
        for index, item in enumerate(ours):
            found = _find(item, base, position)
            if found is not None:
                places[index] = found
                position = found + 1
    return [
        lay_over(base[places[index]], item, stored[places[index]]) if index in places else item
        for index, item in enumerate(ours)
    ]


def is_same(left: JSON, right: JSON) -> bool:
    """Whether two JSON values are equal; unlike in Python, ``1``, ``1.0`` and ``true`` differ."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(is_same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(is_same, left, right))
    if isinstance(left, float):
        return repr(left) == repr(right)  # NaN is the same as itself here, and -0.0 is not 0.0
    return left == right


def _find(item: JSON, items: list[JSON], start: int) -> int | None:
    """Where an equal item stands, from a place on."""
    return next((i for i in range(start, len(items)) if is_same(items[i], item)), None)


# stands for a key that an object doesn't have; never leaves this module
_ABSENT = cast(JSON, object())


def _merge(base: JSON, ours: JSON, theirs: JSON, path: str, conflicts: list[str]) -> JSON:
    if is_same(ours, base):
        return theirs
    if is_same(theirs, base):
        return ours
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return _merge_objects(base if isinstance(base, dict) else {}, ours, theirs, path, conflicts)
    if isinstance(base, list) and isinstance(ours, list) and isinstance(theirs, list):
        merged = _merge_lists(base, ours, theirs)
        if merged is not None:
            return merged
    conflicts.append(path)
    return ours


def _merge_objects(
    base: dict[str, JSON],
    ours: dict[str, JSON],
    theirs: dict[str, JSON],
    path: str,
    conflicts: list[str],
) -> JSON:
    merged: dict[str, JSON] = {}
    for key in dict.fromkeys([*theirs, *ours]):
        inner = f"{path}.{key}" if path else key
        sides = [side.get(key, _ABSENT) for side in (base, ours, theirs)]
        value = _merge(sides[0], sides[1], sides[2], inner, conflicts)
        if value is not _ABSENT:
            merged[key] = value
    return merged


def _merge_lists(base: list[JSON], ours: list[JSON], theirs: list[JSON]) -> list[JSON] | None:
    changes = _set_changes if isinstance(base, JSONSet) else _list_changes
    our_changes, their_changes = changes(base, ours), changes(base, theirs)
    if our_changes is None or their_changes is None:
        return None
    if our_changes.removed & their_changes.removed:
        return None
    removed = our_changes.removed | their_changes.removed
    kept = [item for index, item in enumerate(base) if index not in removed]
    return [*kept, *their_changes.added, *our_changes.added]


class _ListChanges(NamedTuple):
    removed: set[int]
    added: list[JSON]


def _list_changes(base: list[JSON], side: list[JSON]) -> _ListChanges | None:
    """What a side took from the base, by index, and put at its end; None: it did something else."""
    kept: set[int] = set()
    position = 0
    for item in side:
        found = _find(item, base, position)
        if found is None:
            break
        kept.add(found)
        position = found + 1
    removed, added = set(range(len(base))) - kept, side[len(kept) :]
    forms = {_form(base[index]) for index in removed}
    if any(_form(item) in forms for item in added):
        return None  # an item that went and came back was moved, or one before it was edited
    return _ListChanges(removed, added)


def _set_changes(base: list[JSON], side: list[JSON]) -> _ListChanges:
    """What a side took from a set, by index in the base, and put into it."""
    before, after = (set(map(_form, items)) for items in (base, side))
    removed = {index for index, item in enumerate(base) if _form(item) not in after}
    return _ListChanges(removed, [item for item in side if _form(item) not in before])


def _form(value: JSON) -> str:
    return json.dumps(value, sort_keys=True)
