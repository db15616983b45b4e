"""What a release changes is applied to what is stored, whose every field it may not know."""

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_async_sessions._core.merge import JSON, PLAIN, Shape, rebase
from tests.generated import VALUES, cases, edits
from tests.merge_reference import text
from tests.steps import SIDES, boxed, is_linear, nested, stack_left, steps

SET, TUPLE = Shape("set"), Shape("tuple")
UNKNOWN = "newer"


def noted(value: Any) -> Any:
    """The value as a newer release has it: each object has a field more, each with another text."""
    notes = iter(range(10**6))

    def add(inner: Any) -> Any:
        if isinstance(inner, dict):
            return {**{key: add(each) for key, each in inner.items()}, UNKNOWN: next(notes)}
        return [add(item) for item in inner] if isinstance(inner, list) else inner

    return add(value)


def known(value: Any) -> Any:
    """The value as an older release reads it."""
    if isinstance(value, dict):
        return {key: known(each) for key, each in value.items() if key != UNKNOWN}
    return [known(item) for item in value] if isinstance(value, list) else value


# laws


@cases(150)
@given(sides=edits(sides=1, values=VALUES))
def test_an_older_release_reads_back_what_it_wrote(sides: Any) -> None:
    """Whatever it changed, and whatever the stored value has beside."""
    base, ours = sides
    assert text(known(rebase(base, ours, noted(base))), PLAIN) == text(ours, PLAIN)


@cases(100)
@given(sides=edits(sides=1, values=VALUES))
def test_a_value_without_unknown_fields_is_just_replaced(sides: Any) -> None:
    """Exactly; and one that was not changed is as it is stored."""
    base, ours = sides
    assert text(rebase(base, ours, base), PLAIN) == text(ours, PLAIN)
    stored = noted(base)
    assert rebase(base, base, stored) is stored


@cases(100)
@given(base=VALUES, ours=VALUES, stored=VALUES)
def test_values_that_have_nothing_in_common_are_rebased_too(
    base: JSON, ours: JSON, stored: JSON
) -> None:
    """A validator may make anything of what is stored: nothing of ours is lost."""
    before = repr((base, ours, stored))
    rebased = rebase(base, ours, stored)
    assert repr((base, ours, stored)) == before
    if type(rebased) is type(ours) is dict:
        assert ours.keys() <= rebased.keys()
        assert rebased.keys() - ours.keys() <= (stored.keys() if type(stored) is dict else set())


# objects


def test_unknown_fields_stay_at_every_depth() -> None:
    """And go with the object that is removed."""
    stored = {"a": {"n": 1, "x": 1}, "b": {"n": 2, "y": 2}, "z": 3}
    base = {"a": {"n": 1}, "b": {"n": 2}}
    assert rebase(base, {"a": {"n": 5}, "b": {"n": 2}}, stored) == {
        "a": {"n": 5, "x": 1},
        "b": {"n": 2, "y": 2},
        "z": 3,
    }
    assert rebase(base, {"b": {"n": 2}}, stored) == {"b": {"n": 2, "y": 2}, "z": 3}
    assert rebase(base, {"a": None, "b": {}}, stored) == {"a": None, "b": {"y": 2}, "z": 3}


def test_what_we_did_not_change_stays_as_it_is_stored() -> None:
    """Though we read it in another form, or have the default of what we cannot read."""
    stored = {"price": "1.50", "role": {"unreadable": 1}, "n": 1}
    base = {"price": 1.5, "role": "guest", "n": 1}
    assert rebase(base, {**base, "n": 2}, stored) == {**stored, "n": 2}
    assert rebase(base, {**base, "role": "admin"}, stored) == {**stored, "role": "admin"}


def test_a_default_that_is_not_stored_is_written_with_a_change() -> None:
    """It is part of the data that this release commits."""
    assert rebase({"n": 1, "new": []}, {"n": 2, "new": []}, {"n": 1}) == {"n": 2, "new": []}


def test_a_key_of_ours_that_is_unknown_in_the_store_is_ours() -> None:
    """An assigned value wins over one that could not be read."""
    assert rebase({}, {"a": {"b": 1}}, {"a": {"c": 2}, "z": 1}) == {"a": {"b": 1}, "z": 1}


def test_the_keys_of_an_object_stand_as_we_left_them() -> None:
    """The unknown ones follow."""
    rebased: Any = rebase({"a": 0, "b": 0}, {"b": 0, "c": 0, "a": 0}, {"x": 0, "a": 0, "b": 0})
    assert "".join(rebased) == "bcax"


# lists


def row(number: int, quantity: int = 1) -> dict[str, JSON]:
    return {"id": number, "quantity": quantity, "parts": [{"of": number}]}


@st.composite
def list_edits(draw: st.DrawFn, ids: st.SearchStrategy[int] | None = None) -> Any:
    """Rows, and what up to four edits made of them, each with the place of the row it was.

    None is the place of a new row. Ids are all different unless they are drawn.
    """
    fresh = iter(range(100))

    def new() -> dict[str, JSON]:
        return row(next(fresh) if ids is None else draw(ids))

    base = [new() for _ in range(draw(st.integers(0, 6)))]
    rows: list[tuple[int | None, Any]] = list(enumerate(base))
    made: list[str] = []
    for _ in range(draw(st.integers(1, 4))):
        places = st.integers(0, max(len(rows) - 1, 0))
        edit = draw(st.sampled_from(["append", "insert", "remove", "move", "edit", "turn", "sort"]))
        made.append(edit)
        place = draw(places)
        match edit:
            case "append":
                rows.append((None, new()))
            case "insert":
                rows.insert(place, (None, new()))
            case "turn":
                rows.reverse()
            case "sort":
                rows.sort(key=lambda each: -each[1]["id"])
            case _ if not rows:
                pass
            case "remove":
                rows.pop(place)
            case "move":
                rows.insert(draw(places), rows.pop(place))
            case _:
                origin, old = rows[place]
                rows[place] = origin, {**old, "quantity": draw(st.integers(1, 3))}
    return base, rows, made


def slowly_rebased(base: list[Any], ours: list[Any], stored: list[Any]) -> list[Any]:
    """Equal rows are the same row; one that is not equal is the one at its place in a gap between
    two that are, if there are as many in the gap before and now."""
    equal = {place: base.index(item) for place, item in enumerate(ours) if item in base}
    result: list[Any] = []
    for place, item in enumerate(ours):
        before = max((each for each in equal if each <= place), default=None)
        after = min((each for each in equal if each >= place), default=None)
        if place in equal:
            result.append(stored[equal[place]])
        elif before is None or after is None:
            result.append(item)
        else:
            gap = range(equal[before] + 1, equal[after])
            is_gap = len(gap) == after - before - 1 and not set(gap) & set(equal.values())
            origin = equal[before] + place - before
            result.append(_edited(item, base[origin], stored[origin]) if is_gap else item)
    return result


def _edited(item: Any, base: Any, stored: Any) -> Any:
    parts = stored["parts"] if item["parts"] == base["parts"] else item["parts"]
    return {**item, "parts": parts, UNKNOWN: stored[UNKNOWN]}


@cases(400)
@given(list_edits())
def test_rows_keep_their_unknown_fields_as_the_rule_says(drawn: Any) -> None:
    """An equal row, or one between two equal ones at whose place it stands."""
    base, rows, _ = drawn
    ours, stored = [item for _, item in rows], noted(base)
    assert rebase(base, ours, stored) == slowly_rebased(base, ours, stored)


@cases(400)
@given(list_edits())
def test_no_edit_moves_an_unknown_field_to_another_row(drawn: Any) -> None:
    """It stays with its row or goes with it; a row that was not edited always keeps its own.

    What was put exactly where another was removed cannot be told from an edit of that.
    """
    base, rows, made = drawn
    stored = noted(base)
    rebased: Any = rebase(base, [item for _, item in rows], stored)
    owners = {item[UNKNOWN]: place for place, item in enumerate(stored)}
    left = {origin for origin, _ in rows}
    for (origin, item), now in zip(rows, rebased, strict=True):
        owner = owners.get(now.get(UNKNOWN))
        if len(made) == 1 or owner in left:
            assert owner in (None, origin)
        if item in base:
            assert owner == base.index(item)
    notes = [item[UNKNOWN] for item in rebased if UNKNOWN in item]
    assert len(notes) == len(set(notes))


@cases(200)
@given(list_edits(ids=st.integers(0, 2)))
def test_of_equal_rows_each_keeps_an_unknown_field(drawn: Any) -> None:
    """As many as there were and still are; it does not matter which."""
    base, rows, _ = drawn
    ours = [item for _, item in rows]
    stored = noted(base)
    owners = {item[UNKNOWN]: json.dumps(base[place]) for place, item in enumerate(stored)}
    rebased: Any = rebase(base, ours, stored)
    kept = Counter(
        json.dumps(known(item))
        for item in rebased
        if owners.get(item.get(UNKNOWN)) == json.dumps(known(item))
    )
    assert kept == Counter(map(json.dumps, base)) & Counter(map(json.dumps, ours))
    notes = [item[UNKNOWN] for item in rebased if UNKNOWN in item]
    assert len(notes) == len(set(notes))


NAMED: dict[str, tuple[str, str, str]] = {
    "nothing": ("abc", "abc", "012"),
    "put first": ("abc", "xabc", "-012"),
    "put last": ("abc", "abcx", "012-"),
    "put between": ("abc", "axbc", "0-12"),
    "first removed": ("abc", "bc", "12"),
    "reversed": ("abc", "cba", "210"),
    "first removed, one put last": ("abc", "bcx", "12-"),
    "last removed, one put last": ("abc", "abx", "01-"),
    "first removed, one put first": ("abc", "xbc", "-12"),
    "first to the end": ("abc", "bca", "120"),
    "one between edited": ("abc", "aBc", "012"),
    "two between edited": ("abcd", "aBCd", "0123"),
    "two between made one": ("abcd", "aBd", "0-3"),
    "one between made two": ("abc", "aBCc", "0--2"),
    "one between edited, the ends swapped": ("abc", "cBa", "2-0"),
    "one edited where another had been moved from": ("abcd", "aXYdb", "0--31"),
    "one removed of two equal": ("aba", "ba", "12"),
    "last removed of two equal": ("aba", "ab", "01"),
    "all equal, one more": ("aaa", "aaaa", "012-"),
    "all removed": ("abc", "", ""),
    "all new": ("abc", "xyz", "---"),
    "the only one edited": ("a", "A", "-"),
    "one put before equal ones": ("aab", "xaab", "-012"),
}


@pytest.mark.parametrize(("base", "ours", "kept"), NAMED.values(), ids=NAMED)
def test_an_unknown_field_stays_with_its_item(base: str, ours: str, kept: str) -> None:
    """A digit is the place of the item whose field it has, a dash is none."""
    before: list[JSON] = [{"name": name} for name in base]
    stored: list[JSON] = [{"name": name, "from": str(place)} for place, name in enumerate(base)]
    rebased: Any = rebase(before, [{"name": name} for name in ours], stored)
    assert "".join(item["name"] for item in rebased) == ours
    assert "".join(item.get("from", "-") for item in rebased) == kept


READ: dict[str, tuple[str, str, str, str]] = {
    "as it is stored": ("abc", "abc", "abcx", "012-"),
    "sorted": ("cab", "abc", "abcx", "120-"),
    "without the one that is not valid": ("a!b", "ab", "abx", "02-"),
    "without what is there twice": ("aba", "ab", "abx", "01-"),
    "in another spelling": ("abc", "ABC", "ABCX", "012-"),
    "in another spelling, one removed": ("abc", "ABC", "AC", "02"),
    "partly in another spelling": ("abc", "aBc", "xaBc", "-012"),
    "sorted and partly in another spelling": ("cab", "Abc", "xAbc", "--20"),
}


@pytest.mark.parametrize(("stored", "base", "ours", "kept"), READ.values(), ids=READ)
def test_items_are_found_however_they_are_read(
    stored: str, base: str, ours: str, kept: str
) -> None:
    """A validator may sort a list, leave items out, or spell them in another way."""
    raw: list[JSON] = [{"from": str(place), "name": name} for place, name in enumerate(stored)]
    before: list[JSON] = [{"name": name, "default": 0} for name in base]
    now: list[JSON] = [{"name": name, "default": 0} for name in ours]
    rebased: Any = rebase(before, now, raw)
    assert "".join(item["name"].lower() for item in rebased) == ours.lower()
    assert "".join(item.get("from", "-") for item in rebased) == kept


def test_what_is_read_of_an_item_is_compared_at_every_depth() -> None:
    """Only what both know counts, in items of items as well."""
    stored = [{"in": [{"n": 2, "x": 1}], "y": 1}, {"in": [{"n": 1, "x": 2}], "y": 2}]
    base = [{"in": [{"n": 1}]}, {"in": [{"n": 2}]}]
    assert rebase(base, [*base, {"in": []}], stored) == [stored[1], stored[0], {"in": []}]
    ours = [{"in": [{"n": 0}, {"n": 1}]}, *base, {"in": []}]
    assert rebase([{"in": []}, *base], ours, [{"in": []}, *stored])[1:3] == stored[::-1]


def test_the_items_of_an_edited_item_keep_theirs() -> None:
    """Lists within items of lists are rebased as well."""
    stored = noted([row(1), row(2), row(3)])
    edited = {**row(2), "parts": [{"of": 0}, {"of": 2}]}
    assert rebase([row(1), row(2), row(3)], [row(1), edited, row(3)], stored) == [
        stored[0],
        {**stored[1], "parts": [{"of": 0}, *stored[1]["parts"]]},
        stored[2],
    ]


def test_numbers_that_python_takes_for_equal_are_different_items() -> None:
    """1 and true are two items."""
    base, stored = [{"n": 1}, {"n": True}], [{"n": 1, "x": "one"}, {"n": True, "x": "true"}]
    assert rebase(base, [{"n": True}], stored) == [{"n": True, "x": "true"}]


# sets and tuples


def test_items_of_sets_keep_their_unknown_fields() -> None:
    """Wherever they stand; an edited one is another item."""
    shape = Shape(parts={"s": SET, "l": Shape(rest=SET)})
    stored = {"s": [{"n": 1, "x": "one"}, {"n": 2, "x": "two"}, {"n": 3, "x": "three"}]}
    base = {"s": [{"n": 3}, {"n": 1}, {"n": 2}]}
    rebased: Any = rebase(base, {"s": [{"n": 2}, {"n": 4}, {"n": 3}]}, stored, shape)
    assert rebased == {"s": [stored["s"][1], {"n": 4}, stored["s"][2]]}
    assert rebase(base, {"s": [{"n": 2}, {"n": 3}, {"n": 1}]}, stored, shape) is stored
    unread = {"s": [{"n": "1", "x": "one"}, {"n": "2", "x": "two"}, {"n": "3", "x": "three"}]}
    ours = {"s": [{"n": 1}, {"n": 2}, {"n": 3}, {"n": 4}]}
    assert rebase(base, ours, unread, shape) == ours
    assert rebase({"l": [[1, 2]]}, {"l": [[2, 1], [3]]}, {"l": [[1, 2]]}, shape) == {
        "l": [[1, 2], [3]]
    }


def test_items_of_tuples_are_told_apart_by_their_place() -> None:
    """Though they are equal to another one."""
    stored = [{"n": 1, "x": "left"}, {"n": 2, "x": "right"}]
    swapped: list[JSON] = [{"n": 2}, {"n": 1}]
    assert rebase([{"n": 1}, {"n": 2}], swapped, stored, TUPLE) == [
        {"n": 2, "x": "left"},
        {"n": 1, "x": "right"},
    ]
    assert rebase([{"n": 1}, {"n": 2}], [{"n": 2}], stored, TUPLE) == [{"n": 2, "x": "left"}]
    assert rebase([{"n": 1}, {"n": 2}], [{"n": 3}], [stored[0]], TUPLE) == [{"n": 3}]
    parts = Shape("tuple", {1: SET})
    pair: list[Any] = [1, [{"n": 1}, {"n": 2}]]
    kept: list[Any] = [1, [{"n": 1, "x": 1}, {"n": 2, "x": 2}]]
    assert rebase(pair, [5, [{"n": 2}, {"n": 1}]], kept, parts) == [5, kept[1]]


# size


@pytest.mark.parametrize("name", SIDES)
def test_the_work_of_a_rebase_grows_with_the_size_alone(name: str) -> None:
    """Twice the data is twice the steps, whatever it is and whatever was changed."""
    shape = Shape("set") if name == "set" else PLAIN

    def work(count: int, side: int) -> int:
        sides = SIDES[name](count)
        stored = noted(sides[0])
        return steps(lambda: rebase(sides[0], sides[side], stored, shape))

    for side in (1, 2):
        counts = [work(count, side) for count in (200, 400, 800)]
        assert is_linear(counts), counts


def test_values_as_deep_as_pydantic_reads_them_are_rebased() -> None:
    """200 levels of either kind, by a caller that has half of Python's stack left."""
    for nest in (nested, boxed):
        base, ours = (json.loads(json.dumps(nest({"a": a}, 199))) for a in (0, 1))
        stored = noted(base)
        with stack_left(500):
            rebased = rebase(base, ours, stored)
        assert text(known(rebased), PLAIN) == text(ours, PLAIN)
    assert rebase(nested({"a": 0}, 199), nested({"a": 1}, 199), nested({"a": 0, "b": 2}, 199)) == (
        nested({"a": 1, "b": 2}, 199)
    )
