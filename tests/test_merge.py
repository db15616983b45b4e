"""The merge of two changes that began with the same data, and of writes that were sent twice."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastapi_async_sessions._core.merge import JSON, JSONSet, is_same, lay_over, merge
from fastapi_async_sessions.records import Record, includes_write, new_version
from fastapi_async_sessions.stores.memory import MemoryStore
from fastapi_async_sessions.testing import FrozenClock
from tests.apps import Data, Line
from tests.races import Client, provider_without_timeouts

settings.register_profile("merge", derandomize=True, deadline=None, max_examples=60)
of_every_kind = settings(settings.get_profile("merge"))

NAMES = st.sampled_from("abcd")
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-1, 2), st.sampled_from([0.0, -0.0, 1.0, 1.5]), NAMES
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=4)
FLAT = st.dictionaries(NAMES, SCALARS, max_size=4)


def same(actual: JSON, expected: JSON) -> None:
    assert is_same(actual, expected), f"{actual!r} is not {expected!r}"


# no change on one side, disjoint changes


@of_every_kind
@given(base=VALUES, other=VALUES)
def test_no_change_on_one_side_gives_the_other_side(base: JSON, other: JSON) -> None:
    """Exactly, without a conflict, and whoever it was that changed nothing."""
    for merged in (merge(base, base, other), merge(base, other, base)):
        same(merged.value, other)
        assert merged.conflicts == ()


@of_every_kind
@given(base=OBJECTS, one=OBJECTS, other=OBJECTS, names=st.sets(NAMES))
def test_changes_of_different_fields_commute(
    base: dict[str, JSON], one: dict[str, JSON], other: dict[str, JSON], names: set[str]
) -> None:
    """Both are there in the end, in whatever order they came."""
    ours = _replaced(base, one, names)
    theirs = _replaced(base, other, set("abcd") - names)
    expected = _replaced(ours, other, set("abcd") - names)
    for merged in (merge(base, ours, theirs), merge(base, theirs, ours)):
        same(merged.value, expected)
        assert merged.conflicts == ()


@of_every_kind
@given(base=OBJECTS, one=OBJECTS, other=OBJECTS, names=st.sets(NAMES))
def test_changes_inside_one_nested_object_commute_too(
    base: dict[str, JSON], one: dict[str, JSON], other: dict[str, JSON], names: set[str]
) -> None:
    """What holds for the fields of the data holds for those of an object within."""
    ours = _replaced(base, one, names)
    theirs = _replaced(base, other, set("abcd") - names)
    expected = _replaced(ours, other, set("abcd") - names)
    wrap = [{"deep": {"er": value}} for value in (base, ours, theirs, expected)]
    merged = merge(wrap[0], wrap[1], wrap[2])
    same(merged.value, wrap[3])
    assert merged.conflicts == ()


@of_every_kind
@given(base=VALUES, ours=VALUES, theirs=VALUES)
def test_both_sides_see_the_same_conflicts(base: JSON, ours: JSON, theirs: JSON) -> None:
    """What cannot be merged does not depend on who comes last."""
    left, right = merge(base, ours, theirs), merge(base, theirs, ours)
    assert sorted(left.conflicts) == sorted(right.conflicts)


@of_every_kind
@given(base=VALUES, ours=VALUES, theirs=VALUES)
def test_the_sides_are_left_as_they_are(base: JSON, ours: JSON, theirs: JSON) -> None:
    """A pure function: calling it twice gives the same."""
    before = repr((base, ours, theirs))
    same(merge(base, ours, theirs).value, merge(base, ours, theirs).value)
    assert repr((base, ours, theirs)) == before


# nothing lost, nothing returns


@of_every_kind
@given(base=FLAT, ours=FLAT, theirs=FLAT)
def test_what_one_side_alone_did_to_a_field_is_what_becomes_of_it(
    base: dict[str, JSON], ours: dict[str, JSON], theirs: dict[str, JSON]
) -> None:
    """Added ones are there, removed ones are not, changed ones have the new value."""
    merged = merge(base, ours, theirs)
    assert isinstance(merged.value, dict)
    for name in "abcd":
        before, one, other = ([side[name]] if name in side else [] for side in (base, ours, theirs))
        now: list[JSON] = [merged.value[name]] if name in merged.value else []
        if is_same(one, before):
            same(now, other)
        else:
            same(now, one)
            is_conflict = bool(one or other) and not is_same(other, before)
            assert (name in merged.conflicts) is is_conflict


@of_every_kind
@given(base=OBJECTS, ours=OBJECTS, theirs=OBJECTS, unknown=VALUES)
def test_fields_that_only_the_stored_side_knows_stay(
    base: dict[str, JSON], ours: dict[str, JSON], theirs: dict[str, JSON], unknown: JSON
) -> None:
    """A newer release wrote them, at the top or within: our change goes beside them."""
    merged = merge(
        {"in": base, **base},
        {"in": ours, **ours},
        {"in": {**theirs, "newer": unknown}, **theirs, "newer": unknown},
    )
    assert isinstance(merged.value, dict)
    same(merged.value["newer"], unknown)
    inner = merged.value["in"]
    assert isinstance(inner, dict)
    same(inner["newer"], unknown)


# lists


@st.composite
def two_list_changes(draw: st.DrawFn) -> Any:
    """A list of different items, and two sides that took some and put others at the end."""
    base = draw(st.lists(st.integers(0, 9), unique=True, max_size=6))
    sides: list[tuple[list[int], list[int]]] = []
    for _ in range(2):
        removed = [item for item in base if draw(st.booleans())]
        tail = draw(st.lists(st.integers(0, 15).filter(lambda item, r=removed: item not in r)))
        sides.append((removed, tail))
    return base, sides


def _side(base: list[int], change: tuple[list[int], list[int]]) -> list[JSON]:
    removed, tail = change
    return [*(item for item in base if item not in removed), *tail]


@of_every_kind
@given(two_list_changes())
def test_lists_keep_both_removals_and_both_tails(drawn: Any) -> None:
    """Unless both took the same item: then it is a conflict of that list, and ours stays."""
    base, (one, other) = drawn
    ours, theirs = _side(base, one), _side(base, other)
    merged = merge({"list": base}, {"list": ours}, {"list": theirs})
    if is_same(ours, base) or is_same(theirs, base):
        return
    if set(one[0]) & set(other[0]):
        assert merged == ({"list": ours}, ("list",))
        return
    kept = [item for item in base if item not in one[0] and item not in other[0]]
    assert merged == ({"list": [*kept, *other[1], *one[1]]}, ())


@pytest.mark.parametrize(
    "ours",
    [["b", "a"], ["x", "a", "b"], ["a", "x", "b"], ["x", "b"], "a text", {"a": 1}, None],
    ids=["reordered", "put first", "put between", "one replaced", "text", "object", "null"],
)
def test_any_other_change_of_a_list_is_a_conflict_of_that_list(ours: JSON) -> None:
    """It is no guess where things belong; ours stays, as later commits win."""
    merged = merge({"l": ["a", "b"], "n": 1}, {"l": ours, "n": 1}, {"l": ["a", "b", "t"], "n": 2})
    assert merged == ({"l": ours, "n": 2}, ("l",))


def test_of_equal_items_in_a_list_each_side_takes_its_own() -> None:
    """One side took one of three, the other put one there: two and one are left."""
    assert merge(["x", "x", "x"], ["x", "x"], ["x", "x", "x", "x"]) == (["x"] * 3, ())


def test_both_tails_stay_when_they_are_equal() -> None:
    """Two requests that each put a product into the basket mean two."""
    assert merge(["a"], ["a", "b"], ["a", "b"]) == (["a", "b", "b"], ())


@of_every_kind
@given(*[st.sets(st.integers(0, 12)) for _ in range(3)])
def test_sets_keep_both_removals_and_both_additions(
    base: set[int], ours: set[int], theirs: set[int]
) -> None:
    """Wherever an item stands in the order; the same item put in twice is there once."""
    merged = merge(*[JSONSet(sorted(side)) for side in (base, ours, theirs)])
    if ours == base or theirs == base or not (base - ours) & (base - theirs):
        removed = (base - ours) | (base - theirs)
        assert merged.conflicts == ()
        assert isinstance(merged.value, list)
        assert set(merged.value) == (base | ours | theirs) - removed
    else:
        assert merged.conflicts == ("",)
        assert merged.value == sorted(ours)


# scalars


@of_every_kind
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


def test_numbers_and_truth_are_different_values() -> None:
    """1, 1.0 and true are equal in Python and three values in JSON; NaN is NaN."""
    different: list[JSON] = [1, 1.0, True, 0, 0.0, -0.0, False, "1", None, float("nan"), [], {}]
    for number, left in enumerate(different):
        for other, right in enumerate(different):
            assert is_same([left], [right]) is (number == other)
            assert is_same({"a": left}, {"a": right}) is (number == other)
    same(merge({"n": 1}, {"n": True}, {"n": 1}).value, {"n": True})
    same(merge([1], [True], [1, 2]).value, [2, True])


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


# size


def test_long_and_deep_values_merge_fast() -> None:
    """Ten thousand items, ten thousand fields, as deep as the JSON parser goes."""
    items: list[JSON] = list(range(10_000))
    fields: dict[str, JSON] = {str(number): number for number in range(10_000)}
    rows: list[JSON] = [{"id": number, "name": "n"} for number in range(10_000)]
    cases: list[tuple[JSON, JSON, JSON]] = [
        (items, items[:5000] + items[5001:], [*items, "new"]),
        (items, items[::2], [*items[1:2], *items[3:]]),
        (items, [], [*items, "new"]),
        (items, items[::-1], [*items, "new"]),
        (JSONSet(items), JSONSet(items[1:]), JSONSet([*items, -1])),
        (fields, {**fields, "7": 0}, {**fields, "8": 0}),
        (rows, rows[1:], [*rows, {"id": -1}]),
        ([0] * 10_000, [0] * 9_999, [0] * 10_000 + [1]),
        (_deep(0, 0), _deep(1, 0), _deep(0, 1)),
    ]
    began = time.process_time()
    merged = [merge(*case) for case in cases]
    assert time.process_time() - began < 3
    assert [bool(each.conflicts) for each in merged] == [number == 3 for number in range(9)]
    same(merged[-1].value, _deep(1, 1))


# a write that was sent twice


@pytest.mark.parametrize("writes", range(6))
def test_a_version_remembers_the_three_writes_before_it(writes: int) -> None:
    """So that a request whose reply was lost knows its write under those of others."""
    mine = version = new_version("somebody.else")
    for _ in range(writes):
        version = new_version(version)
    assert includes_write(version, mine) is (writes <= 3)
    assert not includes_write(version, new_version())
    assert len(version) <= 64


class ForgetfulStore(MemoryStore):
    """Does a save, lets others write, and then says that it did not: its reply was lost and the
    driver sent it again."""

    def __init__(self, clock: FrozenClock) -> None:
        super().__init__(clock=clock)
        self.meanwhile: list[Any] = []

    async def save(self, key: str, record: Record, *, replaces: str) -> bool:
        is_saved = await super().save(key, record, replaces=replaces)
        if not is_saved or not self.meanwhile:
            return is_saved
        writers, self.meanwhile = self.meanwhile, []
        for write in writers:
            await write()
        return await super().save(key, record, replaces=replaces)


@pytest.mark.parametrize("others", range(4))
@pytest.mark.parametrize("renews", [False, True])
async def test_an_own_write_that_was_sent_twice_adds_nothing_twice(
    others: int, renews: bool
) -> None:
    """The list has each line once, nobody's count is overwritten, and a renewal is one renewal."""
    clock = FrozenClock()
    store = ForgetfulStore(clock)
    provider = provider_without_timeouts(store, clock, Data, on_conflict="raise")
    client = Client(provider)
    key = await client.sign_in()

    async def another() -> None:
        async with provider.open(key) as session:
            session.data.lines.append(Line(name="theirs"))

    async def route(session: Any) -> None:
        session.data.lines.append(Line(name="ours"))
        session.data.count = 1
        if renews:
            session.renew()
        store.meanwhile = [another] * others
        await session.commit()
        assert [line.name for line in session.data.lines] == ["ours", *["theirs"] * others]

    answer = await client.request(route)
    assert answer.is_ok
    assert (answer.cookie is not None) is renews
    data = await client.data()
    assert [line.name for line in data.lines] == ["ours", *["theirs"] * others]
    assert data.count == 1


def _replaced(value: dict[str, JSON], source: dict[str, JSON], names: set[str]) -> dict[str, JSON]:
    """The value with some of its fields as they are in the source, or are not."""
    kept = {name: item for name, item in value.items() if name not in names}
    return kept | {name: item for name, item in source.items() if name in names}


def _deep(left: int, right: int) -> JSON:
    value: JSON = {"left": left, "right": right}
    for _ in range(190):
        value = {"in": value}
    return value


def test_fields_that_we_do_not_know_stay_in_items_of_lists() -> None:
    """An older release that edits one item keeps what a newer one has put into all of them."""
    base: JSON = {"items": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}
    stored: JSON = {"items": [{"name": item, "note": item.upper()} for item in "abc"]}
    edited: JSON = {"items": [{"name": "a"}, {"name": "B"}, {"name": "c"}, {"name": "d"}]}
    assert lay_over(base, edited, stored) == {
        "items": [
            {"name": "a", "note": "A"},
            {"name": "B", "note": "B"},
            {"name": "c", "note": "C"},
            {"name": "d"},
        ]
    }
    shorter: JSON = {"items": [{"name": "a"}, {"name": "c"}]}
    assert lay_over(base, shorter, stored) == {
        "items": [{"name": "a", "note": "A"}, {"name": "c", "note": "C"}]
    }
    assert lay_over(base, base, stored) == stored
