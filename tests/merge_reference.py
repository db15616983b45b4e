"""The rules of the merge, spelled out slowly: what ``merge`` is compared with.

Values are compared by their text, and all ways are tried in which a list can have come about.
"""

import json
from itertools import combinations
from typing import Any

GONE = object()  # in place of a value: the key is not there
CONFLICT = object()  # in place of a result: the rules know no answer


def text(value: Any, shape: Any) -> str:
    """How a value is written; the items of a set stand in one order."""
    if value is GONE:
        return "gone"
    if isinstance(value, dict):
        pairs = [f"{json.dumps(key)}:{text(value[key], shape.at(key))}" for key in value]
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list):
        items = [text(item, shape.at(place)) for place, item in enumerate(value)]
        return "[" + ",".join(sorted(set(items)) if shape.kind == "set" else items) + "]"
    return json.dumps(value)


def reference_merge(base: Any, ours: Any, theirs: Any, shape: Any) -> tuple[Any, list[str]]:
    """The merged value and the paths of the conflicts."""
    conflicts: list[str] = []
    return _merge(base, ours, theirs, shape, [], conflicts), conflicts


def _merge(
    base: Any, ours: Any, theirs: Any, shape: Any, path: list[str], conflicts: list[str]
) -> Any:
    before, one, other = (text(side, shape) for side in (base, ours, theirs))
    if one == before:
        return theirs
    if other == before:
        return ours
    kinds = {type(base), type(ours), type(theirs)}
    if type(ours) is type(theirs) is dict:
        return _merge_objects(base, ours, theirs, shape, path, conflicts)
    merged: Any = CONFLICT
    is_conflict = True
    if type(ours) is type(theirs) is list and shape.kind == "set":
        merged, is_conflict = _merge_sets(base, ours, theirs, shape.at(0))
    elif kinds == {list} and shape.kind in ("plain", "sum"):
        merged, is_conflict = _merge_lists(base, ours, theirs, shape.at(0))
    elif shape.kind == "sum":
        start = 0 if base is GONE else base
        if all(type(number) in (int, float) for number in (start, ours, theirs)):
            merged, is_conflict = theirs + (ours - start), False
    if is_conflict:
        conflicts.append(".".join(path))
    return ours if merged is CONFLICT else merged


def _merge_objects(
    base: Any, ours: Any, theirs: Any, shape: Any, path: list[str], conflicts: list[str]
) -> Any:
    start = base if type(base) is dict else {}
    merged: Any = {}
    for key in {**start, **ours, **theirs}:
        sides = [side.get(key, GONE) for side in (start, ours, theirs)]
        value = _merge(*sides, shape.at(key), [*path, key], conflicts)
        if value is not GONE:
            merged[key] = value
    return merged


def _merge_sets(base: Any, ours: Any, theirs: Any, shape: Any) -> tuple[Any, bool]:
    start, one, other = (
        {text(item, shape) for item in side} if type(side) is list else set[str]()
        for side in (base, ours, theirs)
    )
    merged = (start & one & other) | (one - start) | (other - start)
    return [json.loads(item) for item in merged], bool((start - one) & (start - other))


def _merge_lists(base: Any, ours: Any, theirs: Any, shape: Any) -> tuple[Any, bool]:
    one, other = list_change(base, ours, shape), list_change(base, theirs, shape)
    if one is None or other is None:
        return CONFLICT, True
    removed = one[0] | other[0]
    kept = [item for place, item in enumerate(base) if place not in removed]
    return kept + other[1] + one[1], bool(one[0] & other[0])


def list_change(base: Any, side: Any, shape: Any) -> tuple[set[int], Any] | None:
    """The places that a side removed from the base, and the new items at its end.

    Of all ways to explain the side, the one that removes the fewest items, and of equal items the
    last ones. None: there is no way in which no removed item is also a new one.
    """
    texts, wanted = ([text(item, shape) for item in items] for items in (base, side))
    for count in range(len(base), -1, -1):
        for kept in combinations(range(len(base)), count):
            if [texts[place] for place in kept] == wanted[:count]:
                removed = set(range(len(base))) - set(kept)
                if {texts[place] for place in removed}.isdisjoint(wanted[count:]):
                    return removed, side[count:]
    return None
