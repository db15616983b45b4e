"""Draws results as an SVG bar chart: ``python -m benchmarks.chart RESULTS.json CHART.svg``."""

import json
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

SHOWN = ("read", "change", "sign in")

_COLOURS = {"read": "#2a78b5", "change": "#d9822b", "sign in": "#5a9e4b"}
_BAR, _GAP, _LEFT, _WIDTH, _TOP = 11, 12, 210, 460, 64
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.small { font-size: 11px }
.ours { font-weight: 600 }
line { stroke: #8b949e; stroke-opacity: .45 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } }
"""


def draw(shares: dict[str, dict[str, float]], subtitle: str) -> str:
    """One group of bars for each contender; ``shares`` is scenario -> contender -> share."""
    names = [name for name in shares[SHOWN[0]] if shares[SHOWN[0]][name] != 1]
    group = len(SHOWN) * _BAR + _GAP
    height = _TOP + len(names) * group + 28
    parts = [*_head(subtitle), *_scale(_TOP - 6, height - 28)]
    for number, name in enumerate(names):
        parts += _bars(
            name, {each: shares[each].get(name) for each in SHOWN}, _TOP + number * group
        )
    size = f'width="{_LEFT + _WIDTH + 70}" height="{height}"'
    view = f'viewBox="0 0 {_LEFT + _WIDTH + 70} {height}"'
    lines = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {view} role="img">\n'
        f"<style>{_STYLE}</style>\n{lines}\n</svg>\n"
    )


def _head(subtitle: str) -> Iterator[str]:
    yield "<title>Requests per second, as a share of FastAPI without sessions</title>"
    yield _text(0, 16, "Requests per second, as a share of FastAPI without sessions", "ours")
    yield _text(0, 34, subtitle, "small")
    for number, scenario in enumerate(SHOWN):
        x = _LEFT + 90 * number
        yield _rect(x, 43, 10, 10, _COLOURS[scenario])
        yield _text(x + 15, 52, scenario, "small")


def _scale(top: int, bottom: int) -> Iterator[str]:
    for tenths in range(0, 11, 2):
        x = _LEFT + _WIDTH * tenths / 10
        yield f'<line x1="{x}" x2="{x}" y1="{top}" y2="{bottom}"/>'
        yield _text(x - 8, bottom + 16, f"{tenths / 10:.1f}", "small")


def _bars(name: str, shares: dict[str, float | None], y: int) -> Iterator[str]:
    yield _text(0, y + 22, name, "ours" if name.startswith("ours") else "")
    for number, (scenario, share) in enumerate(shares.items()):
        if share is None:
            continue
        top, length = y + number * _BAR, _WIDTH * min(share, 1.05)
        yield _rect(_LEFT, top, length, _BAR - 1, _COLOURS[scenario])
        yield _text(_LEFT + length + 5, top + 9, f"{share:.2f}", "small")


def _rect(x: float, y: float, width: float, height: float, colour: str) -> str:
    size = f'width="{width:.1f}" height="{height}"'
    return f'<rect x="{x}" y="{y}" {size} rx="1.5" fill="{colour}"/>'


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text x="{x:.1f}" y="{y}" class="{kind}">{escape(text)}</text>'


def draw_results(results: dict[str, Any]) -> str:
    """The chart of the last way of calling that was measured: over HTTP, where that was."""
    title, figures = list(results["figures"].items())[-1]
    return draw(figures["share_of_fastapi"], f"{title}; {results['machine']['python']}")


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(draw_results(json.loads(Path(sys.argv[1]).read_text())))
