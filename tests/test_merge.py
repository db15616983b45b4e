"""The three-way merge of two changes that began with the same data."""

import json
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_async_sessions._core.merge import JSON, PLAIN, Merged, Shape, is_same, merge
from tests.generated import NAMES, OBJECTS, SCALARS, VALUES, cases, edits
from tests.merge_reference import reference_merge, text
from tests.steps import SIDES, boxed, is_linear, nested, stack_left, steps

SET, COUNT, TUPLE = Shape("set"), Shape("sum"), Shape("tuple")
FLAT = st.dictionaries(NAMES, SCALARS, max_size=4)
SHAPES: st.SearchStrategy[Shape] = st.recursive(
    st.just(PLAIN),
    lambda inner: st.builds(
        Shape,
        st.sampled_from(["plain", "plain", "set", "sum", "tuple"]),
        st.dictionaries(NAMES, inner, max_size=3),
        st.none() | inner,
    ),
    max_leaves=6,
)


def same(actual: JSON, expected: JSON, shape: Shape = PLAIN) -> None:
    """Written alike, but for the order of the keys of objects."""
    assert text(_sorted(actual), shape) == text(_sorted(expected), shape)


# the whole of the rules


@cases(600)
@given(sides=edits(), shape=SHAPES)
def test_a_merge_is_what_the_rules_say(sides: Any, shape: Shape) -> None:
    """For any value, any two changes and any shape: the same value and the same conflicts."""
    merged = merge(*sides, shape)
    value, conflicts = reference_merge(*sides, shape)
    same(merged.value, value, shape)
    assert sorted(merged.conflicts) == sorted(conflicts)


@cases(100)
@given(base=VALUES, ours=VALUES, theirs=VALUES, shape=SHAPES)
def test_values_that_have_nothing_in_common_merge_by_the_same_rules(
    base: JSON, ours: JSON, theirs: JSON, shape: Shape
) -> None:
    """A change may leave nothing as it was."""
    merged = merge(base, ours, theirs, shape)
    value, conflicts = reference_merge(base, ours, theirs, shape)
    same(merged.value, value, shape)
    assert sorted(merged.conflicts) == sorted(conflicts)


# laws


@cases(200)
@given(sides=edits(sides=1), shape=SHAPES)
def test_no_change_on_one_side_gives_the_other_side(sides: Any, shape: Shape) -> None:
    """Exactly, its order of keys too, and without a conflict."""
    base, other = sides
    for merged in (merge(base, base, other, shape), merge(base, other, base, shape)):
        assert text(merged.value, shape) == text(other, shape)
        assert merged.conflicts == ()


@cases(100)
@given(base=OBJECTS, one=OBJECTS, other=OBJECTS, names=st.sets(NAMES), depth=st.integers(0, 2))
def test_changes_of_different_fields_commute(
    base: Any, one: Any, other: Any, names: set[str], depth: int
) -> None:
    """Both are there in the end, in whatever order they came and however deep."""
    ours = _replaced(base, one, names)
    theirs = _replaced(base, other, set("abcd") - names)
    expected = _replaced(ours, other, set("abcd") - names)
    values = [nested(value, depth) for value in (base, ours, theirs, expected)]
    for merged in (merge(*values[:3]), merge(values[0], values[2], values[1])):
        same(merged.value, values[3])
        assert merged.conflicts == ()


@cases(150)
@given(sides=edits(), shape=SHAPES)
def test_both_sides_see_the_same_conflicts(sides: Any, shape: Shape) -> None:
    """Whichever of them commits last."""
    base, ours, theirs = sides
    left, right = merge(base, ours, theirs, shape), merge(base, theirs, ours, shape)
    assert sorted(left.conflicts) == sorted(right.conflicts)


@cases(100)
@given(sides=edits(), shape=SHAPES)
def test_the_values_are_left_as_they_are(sides: Any, shape: Shape) -> None:
    """A pure function: calling it twice gives the same."""
    before = repr(sides)
    assert repr(merge(*sides, shape)) == repr(merge(*sides, shape))
    assert repr(sides) == before


@cases(200)
@given(sides=edits())
def test_what_either_side_added_or_removed_is_added_and_removed(sides: Any) -> None:
    """Unless it is named as a conflict: no key is lost, and none comes back."""
    base, ours, theirs = sides
    if not all(isinstance(side, dict) for side in sides):
        return
    merged: Any = merge(base, ours, theirs)
    for key in {**base, **ours, **theirs}:
        if not any(path.split(".")[0] == key for path in merged.conflicts):
            kept = [key in side for side in (ours, theirs)]
            assert (key in merged.value) is (all(kept) if key in base else any(kept))


@cases(100)
@given(base=FLAT, ours=FLAT, theirs=FLAT)
def test_what_one_side_alone_did_to_a_field_is_what_becomes_of_it(
    base: Any, ours: Any, theirs: Any
) -> None:
    """Added ones are there, removed ones are not, changed ones have the new value."""
    merged: Any = merge(base, ours, theirs)
    for name in "abcd":
        before, one, other = ([side[name]] if name in side else [] for side in (base, ours, theirs))
        now = [merged.value[name]] if name in merged.value else []
        same(now, other if text(one, PLAIN) == text(before, PLAIN) else one)
        is_conflict = text(before, PLAIN) not in (text(one, PLAIN), text(other, PLAIN))
        assert (name in merged.conflicts) is is_conflict


@cases(100)
@given(sides=edits(), unknown=VALUES)
def test_fields_that_only_their_side_has_stay(sides: Any, unknown: JSON) -> None:
    """A newer release wrote them, at the top or within: our change goes beside them."""
    base, ours, theirs = (side if isinstance(side, dict) else {"a": side} for side in sides)
    theirs = {**theirs, "newer": unknown}
    merged: Any = merge({"in": base}, {"in": ours}, {"in": theirs, "newer": unknown})
    same(merged.value["newer"], unknown)
    same(merged.value["in"]["newer"], unknown)


@cases(100)
@given(st.lists(st.integers(0, 9), max_size=5), st.lists(st.lists(SCALARS), min_size=3, max_size=3))
def test_three_writers_keep_all_they_appended_in_every_order(base: Any, tails: Any) -> None:
    """Each merges over what the ones before it have stored."""
    for order in permutations(tails):
        stored: Any = base
        for tail in order:
            stored, conflicts = merge(base, [*base, *tail], stored)
            assert conflicts == ()
        same(stored, [*base, *order[0], *order[1], *order[2]])


# lists


@st.composite
def two_list_changes(draw: st.DrawFn) -> Any:
    """A list of different items, and two sides that removed some and appended others."""
    base = draw(st.lists(st.integers(0, 9), unique=True, max_size=6))
    sides: list[tuple[list[int], list[int]]] = []
    for _ in range(2):
        removed = [item for item in base if draw(st.booleans())]
        tail = draw(st.lists(st.integers(0, 15).filter(lambda item, r=removed: item not in r)))
        sides.append((removed, tail))
    return base, sides


@cases(200)
@given(two_list_changes())
def test_lists_keep_both_removals_and_both_tails(drawn: Any) -> None:
    """An item that both removed is a conflict, with the same result."""
    base, ((our_removed, our_tail), (their_removed, their_tail)) = drawn
    ours = [*(item for item in base if item not in our_removed), *our_tail]
    theirs = [*(item for item in base if item not in their_removed), *their_tail]
    if base in (ours, theirs):
        return
    kept = [item for item in base if item not in our_removed and item not in their_removed]
    is_conflict = not set(our_removed).isdisjoint(their_removed)
    merged = merge({"list": base}, {"list": ours}, {"list": theirs})
    assert merged == (
        {"list": [*kept, *their_tail, *our_tail]},
        ("list",) if is_conflict else (),
    )


@pytest.mark.parametrize(
    "ours",
    [["b", "a"], ["x", "a", "b"], ["a", "x", "b"], ["x", "b"], "a text", {"a": 1}, None],
    ids=["reordered", "put first", "put between", "one replaced", "text", "object", "null"],
)
def test_any_other_change_of_a_list_is_a_conflict_of_that_list(ours: JSON) -> None:
    """It is no guess where things belong; ours stays, as later commits win."""
    base, theirs = ["a", "b"], ["a", "b", "t"]
    merged = merge({"l": base, "n": 1}, {"l": ours, "n": 1}, {"l": theirs, "n": 2})
    assert merged == ({"l": ours, "n": 2}, ("l",))
    assert merge({"l": base}, {"l": theirs}, {"l": ours}) == ({"l": theirs}, ("l",))


def test_of_equal_items_in_a_list_each_side_takes_its_own() -> None:
    """One side took one of three, the other put one there: two and one are left."""
    assert merge(["x", "x", "x"], ["x", "x"], ["x", "x", "x", "x"]) == (["x"] * 3, ())
    assert merge(["x", "y", "x"], ["x", "y"], ["y", "x"]) == (["y"], ())
    assert merge(["x", "x"], ["x"], ["x"]) == (["x"], ("",))


def test_both_tails_stay_when_they_are_equal() -> None:
    """Two requests that each put a product into the basket mean two."""
    assert merge(["a"], ["a", "b"], ["a", "b"]) == (["a", "b", "b"], ())


def test_lists_that_both_began_where_there_was_none_are_a_conflict() -> None:
    """Two requests that fill in the same first items do not mean twice as many."""
    assert merge({}, {"l": ["a"]}, {"l": ["a"]}) == ({"l": ["a"]}, ("l",))
    assert merge({"l": None}, {"l": ["a"]}, {"l": ["b"]}) == ({"l": ["a"]}, ("l",))


def test_a_tuple_merges_as_one_value() -> None:
    """What has two places does not get a third one, or one of each side."""
    point = Shape(parts={"at": TUPLE})
    assert merge({"at": [0, 0]}, {"at": [0, 1]}, {"at": [0, 2]}, point) == ({"at": [0, 1]}, ("at",))
    assert merge({"at": [0, 0]}, {"at": [0, 1]}, {"at": [1, 0]}, point) == ({"at": [0, 1]}, ("at",))
    assert merge({"at": [0, 0]}, {"at": [0, 1]}, {"at": [0, 0]}, point) == ({"at": [0, 1]}, ())


# sets


@cases(100)
@given(*[st.sets(st.integers(0, 12)) for _ in range(3)], st.randoms())
def test_sets_keep_both_removals_and_both_additions(
    base: set[int], ours: set[int], theirs: set[int], random: Any
) -> None:
    """Wherever an item stands. Put in twice it is there once, removed twice it is a conflict."""
    sides = [random.sample(sorted(side), len(side)) for side in (base, ours, theirs)]
    merged: Any = merge(*sides, SET)
    removed = (base - ours) | (base - theirs)
    assert sorted(merged.value) == sorted((base | ours | theirs) - removed)
    assert merged.conflicts == (("",) if (base - ours) & (base - theirs) else ())


def test_a_set_in_another_order_is_the_same_set() -> None:
    """Also one within a list, or within a set; the order of a list beside it counts."""
    deep = Shape(rest=Shape("set", rest=SET))
    assert is_same([[[1, 2], [3]]], [[[3], [2, 1]]], deep)
    assert merge([[[1, 2], [3]]], [[[3], [2, 1]]], [], deep) == ([], ())
    beside = Shape(parts={"tags": SET})
    assert is_same({"tags": [1, 2], "l": [1, 2]}, {"tags": [2, 1], "l": [1, 2]}, beside)
    assert not is_same({"tags": [1, 2], "l": [1, 2]}, {"tags": [1, 2], "l": [2, 1]}, beside)
    assert is_same(["1", 1, [0]], [[0], 1, "1"], SET)


def test_sets_that_both_began_where_there_was_none_are_united() -> None:
    """It makes no difference which of them came first."""
    shape = Shape(rest=SET)
    assert merge({}, {"s": [1, 2]}, {"s": [2, 3]}, shape) == ({"s": [2, 3, 1]}, ())
    assert merge({"s": None}, {"s": [1]}, {"s": [2]}, shape) == ({"s": [2, 1]}, ())


def test_a_merge_leaves_lists_beside_sets_in_their_order() -> None:
    """Values are told apart by their keys, not by where they stand."""
    shape = Shape(parts={"tags": SET})
    base = {"names": ["c", "a"], "tags": ["y"]}
    ours = {"tags": ["x", "y"], "names": ["c", "a", "b"]}
    theirs = {"names": ["c", "a"], "tags": ["y", "z"]}
    merged: Any = merge(base, ours, theirs, shape)
    assert merged.value["names"] == ["c", "a", "b"]
    assert sorted(merged.value["tags"]) == ["x", "y", "z"]


# objects


def test_a_key_that_both_removed_is_a_conflict() -> None:
    """Of two requests that each take a one-time token only one may have it."""
    tokens = {"one": 1, "two": {"in": 2}}
    assert merge(tokens, {"two": {"in": 2}}, {"two": {"in": 2}}) == ({"two": {"in": 2}}, ("one",))
    assert merge(tokens, {"one": 1}, {"one": 1}) == ({"one": 1}, ("two",))
    assert merge(tokens, {"one": 1, "two": {}}, {"one": 1, "two": {}}).conflicts == ("two.in",)
    assert merge({"t": tokens}, {"t": {}}, {"t": {}}) == ({"t": {}}, ("t.one", "t.two"))
    assert merge({"t": tokens}, {}, {"t": {"two": {"in": 2}}}) == ({}, ("t",))
    assert merge({"t": tokens}, {"t": {"two": {"in": 2}}}, {}).conflicts == ("t",)
    assert merge({"t": tokens}, {}, {}) == ({}, ("t",))


def test_a_value_that_became_another_kind_of_value_is_merged_as_a_whole() -> None:
    """A variant of a union, an object that is gone: only what both changed is a conflict."""
    cat, dog = {"kind": "cat", "lives": 9}, {"kind": "dog", "age": 3}
    assert merge({"pet": cat}, {"pet": dog}, {"pet": {**cat, "lives": 8}}) == (
        {"pet": {"kind": "dog", "age": 3}},
        ("pet.lives",),
    )
    assert merge({"pet": cat}, {"pet": None}, {"pet": cat, "x": 1}).value == {"pet": None, "x": 1}
    assert merge({"pet": cat}, {"pet": None}, {"pet": {**cat, "lives": 8}}).conflicts == ("pet",)
    assert merge({"pet": None}, {"pet": {"a": 1}}, {"pet": {"b": 2}}) == (
        {"pet": {"a": 1, "b": 2}},
        (),
    )


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "merged"),
    [
        ("abc", "abcx", "abcy", "abcyx"),
        ("abc", "bca", "abcy", "bcay"),
        ("abc", "abcx", "bca", "bcax"),
        ("abc", "bca", "yabc", "bcay"),
        ("abc", "bca", "cab", "bca"),
        ("abc", "cb", "bacy", "cby"),
        ("abc", "cxa", "abcy", "cayx"),
    ],
)
def test_the_keys_of_an_object_stand_as_the_sides_left_them(
    base: str, ours: str, theirs: str, merged: str
) -> None:
    """Moved ones stay moved, as in an OrderedDict; new ones follow, ours last."""
    value: Any = merge(*(dict.fromkeys(side, 0) for side in (base, ours, theirs))).value
    assert "".join(value) == merged


# numbers that are counted up and down


@cases(200)
@given(base=st.integers(), ours=st.integers(), theirs=st.integers())
def test_what_both_sides_counted_adds_up(base: int, ours: int, theirs: int) -> None:
    """Both differences are in the sum, exactly, and it is no conflict."""
    shape = Shape(parts={"n": COUNT})
    merged: Any = merge({"n": base}, {"n": ours}, {"n": theirs}, shape)
    assert merged == ({"n": theirs + ours - base}, ())
    assert type(merged.value["n"]) is int


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "total"),
    [(1.5, 2.0, 1.75, 2.25), (0.0, 1, 2.0, 3.0), (1, 2, 2, 3), (0, 0.5, 1, 1.5), (5, 0, 0, -5)],
)
def test_floats_add_up_as_floats(base: JSON, ours: JSON, theirs: JSON, total: JSON) -> None:
    """Also where both sides wrote the same."""
    assert repr(merge(base, ours, theirs, COUNT)) == repr(Merged(total, ()))


def test_a_key_that_is_missing_counts_as_nothing() -> None:
    """In a dict of counters; against a count a removed key is a conflict."""
    counters = Shape(rest=COUNT)
    assert merge({}, {"a": 2}, {"a": 3}, counters) == ({"a": 5}, ())
    assert merge({"a": 1}, {"a": 2, "b": 1}, {"a": 3}, counters) == ({"a": 4, "b": 1}, ())
    assert merge({"a": 1}, {}, {"a": 3}, counters) == ({}, ("a",))
    assert merge({"a": 1}, {"a": 3}, {}, counters) == ({"a": 3}, ("a",))
    assert merge({"a": 1}, {}, {}, counters) == ({}, ("a",))
    assert merge({"a": 1}, {}, {"a": 1}, counters) == ({}, ())


@pytest.mark.parametrize(
    ("base", "ours", "theirs"),
    [
        (0, True, 2),
        (0, 1, True),
        (False, 1, 2),
        (None, 1, 2),
        (0, None, 2),
        (0, 1, "2"),
        (0, 1e308, 1.7e308),
        (0.0, float("inf"), 2.0),
        (0.0, 1.0, float("nan")),
        (0, 10**400, 1.5),
        ([], 1, 2),
    ],
)
def test_what_has_no_sum_is_a_conflict(base: JSON, ours: JSON, theirs: JSON) -> None:
    """Ours stays, as of any other value."""
    assert repr(merge({"n": base}, {"n": ours}, {"n": theirs}, Shape(rest=COUNT))) == repr(
        Merged({"n": ours}, ("n",))
    )


def test_integers_of_any_size_add_up() -> None:
    """They are not turned into floats on the way."""
    assert merge(0, 10**400, 1, COUNT) == (10**400 + 1, ())


# scalars


@cases(100)
@given(base=SCALARS, ours=SCALARS, theirs=SCALARS)
def test_a_scalar_that_both_changed_is_a_conflict_even_when_equal(
    base: JSON, ours: JSON, theirs: JSON
) -> None:
    """Two requests that count one up each mean two: the field is named, ours is there."""
    merged = merge({"a": {"n": base}}, {"a": {"n": ours}}, {"a": {"n": theirs}})
    if is_same(ours, base) or is_same(theirs, base):
        return
    same(merged.value, {"a": {"n": ours}})
    assert merged.conflicts == ("a.n",)


DIFFERENT: list[JSON] = [1, 1.0, True, 0, 0.0, -0.0, False, "1", "True", "", None, [], {}, [[]]]
DIFFERENT += [float("nan"), float("inf"), "nan", "None", 10**20, 1e20, [0], ["0"], "[]", {"": []}]
DIFFERENT += [{"a": 1, "b": 2}, {"b": 2, "a": 1}, ["a", 1, "b", 2], [1, 0], [0, 1], [0, 0]]


def test_what_is_written_differently_differs() -> None:
    """1, 1.0 and true are equal in Python and three values in JSON; NaN is NaN."""
    copies: list[Any] = json.loads(json.dumps(DIFFERENT))
    for number, left in enumerate(DIFFERENT):
        for other, right in enumerate(copies):
            assert is_same(left, right) is (number == other)
            assert is_same([left], [right]) is (number == other)
            assert is_same({"a": left}, {"a": right}) is (number == other)
            same(merge(left, left, right).value, right)
    same(merge({"n": 1}, {"n": True}, {"n": 1}).value, {"n": True})
    same(merge([1], [True], [1, 2]).value, [2, True])


# size


@pytest.mark.parametrize("name", SIDES)
def test_the_work_of_a_merge_grows_with_the_size_alone(name: str) -> None:
    """Twice the data is twice the steps, whatever it is; a comparison is a merge of nothing."""
    make, shape = SIDES[name], Shape("set") if name == "set" else PLAIN
    merges = [steps(lambda sides=make(count): merge(*sides, shape)) for count in (200, 400, 800)]
    assert is_linear(merges), merges
    compared = [
        steps(lambda sides=make(count): is_same(sides[0], sides[1], shape))
        for count in (200, 400, 800)
    ]
    assert is_linear(compared), compared


def test_values_as_deep_as_pydantic_reads_them_are_merged() -> None:
    """200 levels of either kind, by a caller that has half of Python's stack left."""
    for nest in (nested, boxed):
        values = [json.loads(json.dumps(nest({"a": a, "b": b}, 199))) for a, b in AB]
        with stack_left(500):
            merged = merge(values[0], values[1], values[2])
        assert merged.conflicts == (("",) if nest is boxed else ())
    assert text(merge(*(nested({"a": a, "b": b}, 199) for a, b in AB)).value, PLAIN) == text(
        nested({"a": 1, "b": 1}, 199), PLAIN
    )


AB = [(0, 0), (1, 0), (0, 1)]


def _replaced(value: Any, source: Any, names: set[str]) -> Any:
    """The value with some of its fields as they are in the source, or are not."""
    kept = {name: item for name, item in value.items() if name not in names}
    return kept | {name: item for name, item in source.items() if name in names}


def _sorted(value: Any) -> Any:
    """With the keys of objects in one order."""
    return json.loads(json.dumps(value, sort_keys=True))
