"""Counts the steps of a pure function, and makes values of any size to count them with."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from types import FrameType
from typing import Any


def steps(act: Callable[[], Any]) -> int:
    """How many lines an act runs, each pass of a comprehension too: the same number each time, on
    a busy machine too."""
    count = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    return count


def is_linear(counts: list[int]) -> bool:
    """Whether these steps, each of them for twice the size, grow like the size."""
    return all(larger < 2.3 * smaller for smaller, larger in pairwise(counts))


@contextmanager
def stack_left(frames: int) -> Iterator[None]:
    """Lets the block call functions so deep and no deeper."""
    depth, frame = 0, sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back  # type: ignore[assignment]
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(depth + frames)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def nested(value: Any, depth: int) -> Any:
    """A value in so many objects, each with another field."""
    for _ in range(depth):
        value = {"in": value, "beside": [1]}
    return value


def boxed(value: Any, depth: int) -> Any:
    """A value in so many arrays, each with other items."""
    for _ in range(depth):
        value = ["before", value, {"beside": 1}]
    return value


def _numbers(count: int) -> list[Any]:
    return list(range(count))


def _few(count: int) -> list[Any]:
    return [number % 3 for number in range(count)]


def _rows(count: int) -> list[Any]:
    return [{"id": number, "tags": ["a", number]} for number in range(count)]


def _fields(count: int) -> dict[str, Any]:
    return {str(number): [number] for number in range(count)}


def _empty(count: int) -> list[Any]:
    return [[] for _ in range(count)]


# by name: a base with about so many parts, and what two sides made of it
SIDES: dict[str, Callable[[int], list[Any]]] = {
    "one removed": lambda n: [
        _numbers(n),
        [*range(n // 2), *range(n // 2 + 1, n)],
        [*range(n), -1],
    ],
    "each other one removed": lambda n: [_numbers(n), _numbers(n)[::2], [*range(n), -1]],
    "all removed": lambda n: [_numbers(n), [], [*range(n), -1]],
    "reversed": lambda n: [_numbers(n), _numbers(n)[::-1], [*range(n), -1]],
    "put first": lambda n: [_numbers(n), [-1, *range(n)], [*range(n), -1]],
    "all equal": lambda n: [[0] * n, [0] * (n - 1), [0] * n + [1]],
    "few that differ": lambda n: [_few(n), _few(n)[1:], _few(n)[::-1]],
    "empty arrays": lambda n: [_empty(n), [-1, *_empty(n)], _empty(n - 1)],
    "rows": lambda n: [_rows(n), _rows(n)[1:], [*_rows(n), {"id": -1}]],
    "rows, reversed": lambda n: [_rows(n), _rows(n)[::-1], [*_rows(n), {"id": -1}]],
    "rows, shorter": lambda n: [_rows(n), _rows(n)[::3], _rows(n)[::2]],
    "rows, all edited": lambda n: [_rows(n), [{**row, "id": 0} for row in _rows(n)], _rows(n)[1:]],
    "fields": lambda n: [_fields(n), {**_fields(n), "7": 0}, {**_fields(n), "8": 0}],
    "fields removed": lambda n: [_fields(n), {}, {**_fields(n), "8": 0}],
    "a long name": lambda n: [{"k" * n: {**_fields(n), "in": side}} for side in range(3)],
    "deep objects": lambda n: [nested({"in": side}, n // 5) for side in range(3)],
    "deep arrays": lambda n: [boxed([side], n // 5) for side in range(3)],
    "set": lambda n: [_numbers(n), _numbers(n)[:0:-1], [-1, *range(n)]],
}
