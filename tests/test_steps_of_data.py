"""What a commit and a load do with the data grows like its size."""

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from fastapi_async_sessions._core.codec import Codec, write_json
from fastapi_async_sessions._core.merge import JSON
from tests.steps import is_linear, steps


class Row(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: int = 0
    tags: list[Any] = []


class Rows(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rows: list[Row] = []
    tags: set[str] = set()
    free: Any = None


SIZES = (100, 200, 400)


def full(count: int) -> Rows:
    rows = [Row(id=number, tags=["a", number]) for number in range(count)]
    return Rows(rows=rows, tags={str(number) for number in range(count)}, free={"a": [1] * count})


def test_checking_a_change_is_linear() -> None:
    """Comparing the dumps, and the data with what is read back."""
    codec, counts = Codec(Rows), []
    for size in SIZES:
        data = full(size)
        before = codec.dump(data)
        data.rows.reverse()
        after = codec.dump(data)

        def check(data: Rows = data, before: bytes = before, after: bytes = after) -> None:
            assert codec.differs(before, after)
            codec.check(data, after)

        counts.append(steps(check))
    assert is_linear(counts)


# stored data of so many parts that this release cannot read
STORED: dict[str, Any] = {
    "forbidden keys": lambda n: {f"key {number}": number for number in range(n)},
    "forbidden keys in a list": lambda n: {"rows": [{"new": number} for number in range(n)]},
    "wrong items": lambda n: {"rows": [{"id": "x"} for _ in range(n)]},
}


@pytest.mark.parametrize("stored", STORED.values(), ids=STORED.keys())
def test_reading_what_does_not_fit_is_linear(stored: Any) -> None:
    """However many parts of it do not."""
    codec, counts = Codec(Rows), []
    for size in SIZES:
        values: JSON = stored(size)
        raw = write_json(values)
        with pytest.raises(ValidationError) as raised:
            codec.load(raw)
        error = raised.value
        counts.append(steps(lambda raw=raw, error=error: codec.load_partly(raw, error)))
    assert is_linear(counts)
