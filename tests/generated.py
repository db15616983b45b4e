"""Settings of the tests whose cases hypothesis makes, and JSON values with edits for them.

A plain run tries a quarter of each test's number of cases. ``HYPOTHESIS_PROFILE=full`` tries all
of them, as ``.ci/run`` and the mutation tests do; ``long`` twenty times as many, and other ones
each time.
"""

import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

_PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "quick")
_SHARE = {"quick": 0.25, "full": 1, "long": 20}[_PROFILE]


def load_profile() -> None:
    """Let every test have the same cases each time but in a long run, however slow the machine."""
    settings.register_profile(
        "tests",
        derandomize=_PROFILE != "long",
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    settings.load_profile("tests")


def cases(count: int) -> settings:
    """So many cases in a full run."""
    return settings(max_examples=int(count * _SHARE))


NAMES = st.sampled_from("abcd")
SCALARS = st.one_of(
    st.integers(-1, 2),
    st.none() | st.booleans() | st.sampled_from([0.0, -0.0, 1.0, 1.5]) | NAMES,
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=4)


def edited(draw: st.DrawFn, value: Any) -> Any:
    """A value after one edit, mostly somewhere within; what was drawn before is left as it is."""
    if isinstance(value, dict) and draw(st.integers(0, 5)):
        return _edited_object(draw, value)
    if isinstance(value, list) and draw(st.integers(0, 5)):
        return _edited_list(draw, value)
    return draw(SCALARS if draw(st.booleans()) else VALUES)


def _edited_object(draw: st.DrawFn, value: dict[str, Any]) -> Any:
    name = draw(st.sampled_from([*value, draw(NAMES)]))
    if name not in value:
        return {**value, name: draw(VALUES)}
    rest = {key: item for key, item in value.items() if key != name}
    match draw(st.sampled_from(["edit", "edit", "remove", "move"])):
        case "edit":
            return {**value, name: edited(draw, value[name])}
        case "remove":
            return rest
        case _:
            return {**rest, name: value[name]}


def _edited_list(draw: st.DrawFn, value: list[Any]) -> Any:
    if not value:
        return [draw(VALUES)]
    place = draw(st.integers(0, len(value) - 1))
    rest = value[:place] + value[place + 1 :]
    match draw(st.sampled_from(["append", "append", "remove", "remove", "edit", "insert", "move"])):
        case "append":
            return [*value, draw(SCALARS)]
        case "remove":
            return rest
        case "edit":
            return [*value[:place], edited(draw, value[place]), *value[place + 1 :]]
        case "insert":
            return [*value[:place], draw(VALUES), *value[place:]]
        case _:
            return [*rest, value[place]]


@st.composite
def edits(draw: st.DrawFn, sides: int = 2, values: st.SearchStrategy[Any] = OBJECTS) -> list[Any]:
    """A value, and what each of some sides made of it by up to three edits."""
    base = draw(values)
    changed = [base]
    for _ in range(sides):
        side = base
        for _ in range(draw(st.integers(0, 3))):
            side = edited(draw, side)
        changed.append(side)
    return changed
