"""Draws the CPU shares of a run as an SVG bar chart."""

from collections.abc import Iterator, Mapping
from html import escape
from statistics import median

from .results import Results

SHOWN = ("subject", "read", "change", "sign in")
TITLE = "CPU time of FastAPI without sessions, as a share of the CPU time with them"

_COLOURS = {"subject": "#8a63b8", "read": "#2a78b5", "change": "#d9822b", "sign in": "#5a9e4b"}
_BAR, _GAP, _LEFT, _WIDTH, _TOP = 11, 12, 270, 400, 64
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.small { font-size: 11px }
.ours { font-weight: 600 }
line { stroke: #8b949e; stroke-opacity: .45 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } }
"""


def draw(results: Results) -> str:
    """One group of bars for each contender but the first, which the others are compared with."""
    base, *names = results.contenders()
    group = len(SHOWN) * _BAR + _GAP
    height = _TOP + len(names) * group + 28
    machine = results.machine
    conditions = f"{machine['connections']} connections, one worker; longer is faster"
    parts = [*_head(f"Over HTTP, {conditions}"), *_scale(_TOP - 6, height - 28)]
    for number, name in enumerate(names):
        shares = {each: median(results.ratios(each, base, name, "cpu_us")) for each in SHOWN}
        parts += _bars(name, shares, _TOP + number * group)
    size = f'width="{_LEFT + _WIDTH + 70}" height="{height}"'
    view = f'viewBox="0 0 {_LEFT + _WIDTH + 70} {height}"'
    lines = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {view} role="img">\n'
        f"<style>{_STYLE}</style>\n{lines}\n</svg>\n"
    )


def _head(subtitle: str) -> Iterator[str]:
    yield f"<title>{TITLE}</title>"
    yield _text(0, 16, TITLE, "ours")
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


def _bars(name: str, shares: Mapping[str, float], y: int) -> Iterator[str]:
    yield _text(0, y + 27, name, "ours" if name.startswith("this library") else "")
    for number, (scenario, share) in enumerate(shares.items()):
        top, length = y + number * _BAR, _WIDTH * min(share, 1.05)
        yield _rect(_LEFT, top, length, _BAR - 1, _COLOURS[scenario])
        yield _text(_LEFT + length + 5, top + 9, f"{share:.2f}", "small")


def _rect(x: float, y: float, width: float, height: float, colour: str) -> str:
    size = f'width="{width:.1f}" height="{height}"'
    return f'<rect x="{x}" y="{y}" {size} rx="1.5" fill="{colour}"/>'


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text x="{x:.1f}" y="{y}" class="{kind}">{escape(text)}</text>'
