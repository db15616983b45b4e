"""The three-way merge of JSON values: of the changes that two requests made to one session.

Pure functions, about linear in the size of the values. JSON does not distinguish a set from a
list, nor a counter from another number: the ``Shape`` beside the values does.
"""

from collections import defaultdict, deque
from dataclasses import dataclass, field
from itertools import pairwise, repeat
from math import isfinite
from typing import Literal, NamedTuple, TypeGuard, cast

JSON = None | bool | int | float | str | list["JSON"] | dict[str, "JSON"]


@dataclass(slots=True, eq=False)
class Shape:
    """The properties of a JSON value that its model knows and the value itself does not show.

    Attributes:
        kind: ``"set"``: an array without an order. ``"tuple"``: an array whose items are known
            by their place, and which merges as one value. ``"sum"``: a number that is counted up
            and down. ``"plain"``: anything else.
        may_be_set: Whether an array may be a set although ``kind`` is not ``"set"``: as one member
            of a union, or because its type is unknown, as in an ``Any``.
        parts: The shapes of single values within: by key in an object, by place in an array.
        rest: The shape of all other values within; None: plain.
        start: The number from which a new key counts: the default of its field, if it has one.
    """

    kind: Literal["plain", "set", "tuple", "sum"] = "plain"
    parts: dict[str | int, "Shape"] = field(default_factory=dict[str | int, "Shape"])
    rest: "Shape | None" = None
    start: int | float = 0
    may_be_set: bool = False

    def at(self, key: str | int) -> "Shape":
        """The shape of the value under a key, or at a place."""
        return self.parts.get(key) or self.rest or PLAIN


PLAIN = Shape(may_be_set=True)


class Merged(NamedTuple):
    """The merged value, and the dotted path of each conflict."""

    value: JSON
    conflicts: tuple[str, ...]


def merge(base: JSON, ours: JSON, theirs: JSON, shape: Shape = PLAIN) -> Merged:
    """Apply what changed between ``base`` and ``ours`` to ``theirs``.

    A value that one side changed is as that side left it. Where both changed it:

    - Objects merge key by key. A key that both removed is a conflict.
    - Lists merge where each side is the base without some of its items, plus new items at the end;
      sets always do. Both removals and both additions are kept; an item that both removed is a
      conflict with the same result.
    - A number of kind ``"sum"`` becomes ``theirs + (ours - base)``. Under a new key its base is the
      shape's start.
    - Anything else is a conflict in which ours is kept, also when both sides wrote the same: two
      requests that each set a counter from 1 to 2 have counted twice.
    """
    merger = _Merger()
    value = merger.merge(base, ours, theirs, shape)
    return Merged(value, tuple(merger.conflicts))


def rebase(base: JSON, ours: JSON, stored: JSON, shape: Shape = PLAIN) -> JSON:
    """Apply what changed between ``base`` and ``ours`` to ``stored``.

    ``base`` is what this release reads in ``stored``. The two differ in fields that only another
    release knows, in defaults, and in what validators normalize. What we did not change stays as it
    is stored. An unknown field within an array stays with the item that has it, or goes with it. An
    edited item is recognized by its place alone, between two items that were left as they were.
    """
    common = _common_keys(_keys_within(base), _keys_within(stored))
    return _Rebaser().rebase(base, ours, stored, shape, common)


def is_same(left: JSON, right: JSON, shape: Shape = PLAIN, *, in_doubt_a_set: bool = False) -> bool:
    """Whether two values are written alike, but for the order of sets.

    Unlike in Python ``1``, ``1.0`` and ``true`` differ, NaN is equal to itself, and the order of an
    object's keys counts. ``in_doubt_a_set`` ignores the order of every array that may be a set.
    """
    forms = _Forms(in_doubt_a_set=in_doubt_a_set)
    return forms.of(left, shape) == forms.of(right, shape)


# see _Forms
_Form = str | int

# the keys of an object, each with the keys within its value; an array has those of its items
_Keys = dict[str, "_Keys"]


def _keys_within(value: JSON) -> _Keys:
    keys: _Keys = {}
    _add_keys(value, keys)
    return keys


def _add_keys(value: JSON, keys: _Keys) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _add_keys(inner, keys.setdefault(key, {}))
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, (list, dict)):
                _add_keys(item, keys)


def _common_keys(left: _Keys, right: _Keys) -> _Keys:
    return {key: _common_keys(left[key], right[key]) for key in left if key in right}


class _Forms:
    """Gives each value a form, so that equal values have equal forms and comparing is one step.

    The form of a scalar is its text: 1, 1.0 and True are equal in Python. That of an array or
    object is a number, found once however often it is compared: walking it again at each level
    would make deep values quadratic.
    """

    def __init__(self, *, in_doubt_a_set: bool = False) -> None:
        self._in_doubt_a_set = in_doubt_a_set
        self._numbers: dict[tuple[_Form, ...], int] = {}
        self._found: dict[tuple[int, int, int], int] = {}
        self._items: dict[tuple[int, int, int], list[_Form]] = {}

    def of(self, value: JSON, shape: Shape, keys: _Keys | None = None) -> _Form:
        """The form of a value; with ``keys``, of as much of it as they name, in their order."""
        if not isinstance(value, (list, dict)):
            return repr(value)
        place = id(value), id(shape), id(keys)
        form = self._found.get(place)
        if form is None:
            if isinstance(value, dict):
                content = self._object(value, shape, keys)
            else:
                items = self._items[place] = self._array(value, shape, keys)
                is_set = shape.kind == "set" or (self._in_doubt_a_set and shape.may_be_set)
                # by repr: forms may be text and numbers
                content = sorted(set(items), key=repr) if is_set else items
            form = self._numbers.setdefault((type(value).__name__, *content), len(self._numbers))
            self._found[place] = form
        return form

    def of_items(self, items: list[JSON], shape: Shape, keys: _Keys | None = None) -> list[_Form]:
        """The form of each item of an array."""
        self.of(items, shape, keys)
        return self._items[id(items), id(shape), id(keys)]

    def _array(self, items: list[JSON], shape: Shape, keys: _Keys | None) -> list[_Form]:
        shapes = map(shape.at, range(len(items))) if shape.parts else repeat(shape.rest or PLAIN)
        content: list[_Form] = []
        for item, inner in zip(items, shapes, strict=False):
            is_nested = isinstance(item, (list, dict))
            content.append(self.of(item, inner, keys) if is_nested else repr(item))
        return content

    def _object(self, value: dict[str, JSON], shape: Shape, keys: _Keys | None) -> list[_Form]:
        content: list[_Form] = []
        for key in value if keys is None else keys:
            if key in value:
                content += key, self.of(value[key], shape.at(key), keys and keys[key])
        return content


# stands for a key that an object does not have; never leaves this module
_ABSENT = cast(JSON, object())


class _Merger:
    def __init__(self) -> None:
        self.conflicts: list[str] = []
        self._path: list[str] = []
        self._forms = _Forms()

    def merge(self, base: JSON, ours: JSON, theirs: JSON, shape: Shape) -> JSON:
        form = self._forms.of
        if form(ours, shape) == form(base, shape):
            return theirs
        if form(theirs, shape) == form(base, shape):
            return ours
        if isinstance(ours, dict) and isinstance(theirs, dict):
            return self._objects(base if isinstance(base, dict) else {}, ours, theirs, shape)
        value, is_conflict = self._both_changed(base, ours, theirs, shape)
        if is_conflict:
            self.conflicts.append(".".join(self._path))
        return value

    def _objects(
        self,
        base: dict[str, JSON],
        ours: dict[str, JSON],
        theirs: dict[str, JSON],
        shape: Shape,
    ) -> JSON:
        merged: dict[str, JSON] = {}
        for key in _key_order(base, ours, theirs):
            self._path.append(key)
            before, one, other = (side.get(key, _ABSENT) for side in (base, ours, theirs))
            value = self.merge(before, one, other, shape.at(key))
            if value is not _ABSENT:
                merged[key] = value
            self._path.pop()
        return merged

    def _both_changed(
        self, base: JSON, ours: JSON, theirs: JSON, shape: Shape
    ) -> tuple[JSON, bool]:
        """The merged value, and whether it is a conflict."""
        if isinstance(ours, list) and isinstance(theirs, list):
            if shape.kind == "set":
                return self._sets(base, ours, theirs, shape)
            if shape.kind != "tuple" and isinstance(base, list):
                return self._lists(base, ours, theirs, shape)
        if shape.kind == "sum":
            return _sum(shape.start if base is _ABSENT else base, ours, theirs)
        return ours, True

    def _sets(
        self, base: JSON, ours: list[JSON], theirs: list[JSON], shape: Shape
    ) -> tuple[JSON, bool]:
        """Merge as objects whose keys are the forms of the items."""
        before, one, other = (self._by_form(items, shape) for items in (base, ours, theirs))
        removed = (before.keys() - one.keys()) | (before.keys() - other.keys())
        merged = [item for form, item in (other | one).items() if form not in removed]
        return merged, not before.keys() <= one.keys() | other.keys()

    def _by_form(self, items: JSON, shape: Shape) -> dict[_Form, JSON]:
        if not isinstance(items, list):
            return {}
        return dict(zip(self._forms.of_items(items, shape), items, strict=True))

    def _lists(
        self, base: list[JSON], ours: list[JSON], theirs: list[JSON], shape: Shape
    ) -> tuple[JSON, bool]:
        before, one, other = (self._forms.of_items(items, shape) for items in (base, ours, theirs))
        our_kept, their_kept = _kept_places(before, one), _kept_places(before, other)
        if our_kept is None or their_kept is None:
            return ours, True
        both_kept = our_kept & their_kept
        kept = [item for place, item in enumerate(base) if place in both_kept]
        merged = [*kept, *theirs[len(their_kept) :], *ours[len(our_kept) :]]
        return merged, len(our_kept | their_kept) < len(base)


def _key_order(
    base: dict[str, JSON], ours: dict[str, JSON], theirs: dict[str, JSON]
) -> dict[str, None]:
    """All keys, in their order, with our new ones at the end.

    If our side has reordered keys, those of the base come first, in our order.
    """
    kept = [key for key in ours if key in base]
    is_moved = kept != [key for key in base if key in ours]
    return dict.fromkeys([*(kept if is_moved else ()), *theirs, *ours, *base])


def _kept_places(base: list[_Form], side: list[_Form]) -> set[int] | None:
    """Where the items stand in the base that a side begins with; what follows them is new.

    Each item is found at the first place after the one before it. None: an item of the base also
    stands among the new ones, so that it was moved or one before it was edited.
    """
    kept: set[int] = set()
    place = 0
    for item in side:
        while place < len(base) and base[place] != item:
            place += 1
        if place == len(base):
            break
        kept.add(place)
        place += 1
    removed = {item for place, item in enumerate(base) if place not in kept}
    return kept if removed.isdisjoint(side[len(kept) :]) else None


def _sum(before: JSON, ours: JSON, theirs: JSON) -> tuple[JSON, bool]:
    if not (_is_number(before) and _is_number(ours) and _is_number(theirs)):
        return ours, True
    try:
        total = theirs + (ours - before)
        return (total, False) if isinstance(total, int) or isfinite(total) else (ours, True)
    except OverflowError:  # an int that no float can hold
        return ours, True


def _is_number(value: JSON) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


class _Rebaser:
    def __init__(self) -> None:
        self._forms = _Forms()

    def rebase(self, base: JSON, ours: JSON, stored: JSON, shape: Shape, common: _Keys) -> JSON:
        if self._forms.of(ours, shape) == self._forms.of(base, shape):
            return stored
        if isinstance(base, dict) and isinstance(ours, dict) and isinstance(stored, dict):
            return self._object(base, ours, stored, shape, common)
        if isinstance(base, list) and isinstance(ours, list) and isinstance(stored, list):
            return self._array(base, ours, stored, shape, common)
        return ours

    def _object(
        self,
        base: dict[str, JSON],
        ours: dict[str, JSON],
        stored: dict[str, JSON],
        shape: Shape,
        common: _Keys,
    ) -> JSON:
        rebased = dict(ours)
        for key in ours:
            if key in base and key in stored:
                inner = shape.at(key), common[key]
                rebased[key] = self.rebase(base[key], ours[key], stored[key], *inner)
        unknown = {key: stored[key] for key in stored if key not in base and key not in ours}
        return rebased | unknown

    def _array(
        self,
        base: list[JSON],
        ours: list[JSON],
        stored: list[JSON],
        shape: Shape,
        common: _Keys,
    ) -> JSON:
        read_from = self._read_from(base, stored, shape, common)
        kept, edited = self._origins(base, ours, shape)
        rebased = list(ours)
        for place, origin in kept.items():
            if origin in read_from:
                rebased[place] = stored[read_from[origin]]
        for place, origin in edited.items():
            if origin in read_from:
                item, inner = stored[read_from[origin]], shape.at(place)
                rebased[place] = self.rebase(base[origin], ours[place], item, inner, common)
        return rebased

    def _read_from(
        self, base: list[JSON], stored: list[JSON], shape: Shape, common: _Keys
    ) -> dict[int, int]:
        """Which stored item each item of the base was read from, by their places.

        One that is equal as far as both know; of the others, the one at the same place.
        """
        pairs: dict[int, int] = {}
        if shape.kind != "tuple":
            read, raw = (self._forms.of_items(items, shape, common) for items in (base, stored))
            pairs = _pair_equal(read, raw)
        if shape.kind != "set" and len(base) == len(stored):
            taken = set(pairs.values())
            left = [place for place in range(len(base)) if place not in pairs]
            pairs |= {place: place for place in left if place not in taken}
        return pairs

    def _origins(
        self, base: list[JSON], ours: list[JSON], shape: Shape
    ) -> tuple[dict[int, int], dict[int, int]]:
        """Which item of the base our items were that are kept, and edited, by their places."""
        if shape.kind == "tuple":
            return {}, {place: place for place in range(min(len(base), len(ours)))}
        kept = _pair_equal(self._forms.of_items(ours, shape), self._forms.of_items(base, shape))
        return kept, {} if shape.kind == "set" else _pair_between(kept)


def _pair_equal(left: list[_Form], right: list[_Form]) -> dict[int, int]:
    """Pair equal items by their places: those at both ends first, the others in their order."""
    limit = min(len(left), len(right))
    start = next((step for step in range(limit) if left[step] != right[step]), limit)
    limit -= start
    end = next((step for step in range(limit) if left[~step] != right[~step]), limit)
    pairs = {step: step for step in range(start)}
    pairs |= {len(left) + ~step: len(right) + ~step for step in range(end)}
    places: dict[_Form, deque[int]] = defaultdict(deque)
    for place in range(start, len(right) - end):
        places[right[place]].append(place)
    for place in range(start, len(left) - end):
        if places[left[place]]:
            pairs[place] = places[left[place]].popleft()
    return pairs


def _pair_between(pairs: dict[int, int]) -> dict[int, int]:
    """Pair what stands between two pairs, where nothing else stands between them on either side."""
    taken = set(pairs.values())
    between: dict[int, int] = {}
    for first, last in pairwise(sorted(pairs)):
        gap, other = range(first + 1, last), range(pairs[first] + 1, pairs[last])
        if len(gap) == len(other) and taken.isdisjoint(other):
            between |= zip(gap, other, strict=True)
    return between
