"""Charts as inline SVG, coloured by the page's style so that they are right in light and dark."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 320, 190  # of a chart, in its own units; text is 10 of them high
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 12, 10, 34
_MAX_TICKS = 6
_SMALLEST_SPAN = 0.01  # of an axis: what differs by less is drawn as nearly equal


def find_ticks(low: float, high: float) -> list[float]:
    """Round numbers from below `low` to above `high`, a few of them."""
    span = max(high - low, 1e-12)
    raw = span / (_MAX_TICKS - 2)
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


@dataclass(frozen=True)
class Axis:
    """From values to places on the picture; its ends are its first and last tick."""

    ticks: tuple[float, ...]
    start: float
    end: float
    is_log: bool = False

    def at(self, value: float) -> float:
        """Where a value lies, in the picture's units."""
        low, high, value = (self._scale(v) for v in (self.ticks[0], self.ticks[-1], value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def _scale(self, value: float) -> float:
        return math.log10(value) if self.is_log else value


def value_axis(values: Sequence[float]) -> Axis:
    """A vertical one for shares, at least a point high."""
    low, high = min(values), max(values)
    missing = max(0.0, _SMALLEST_SPAN - (high - low)) / 2
    return Axis(tuple(find_ticks(low - missing, high + missing)), HEIGHT - _BOTTOM, _TOP)


def size_axis(values: Sequence[float]) -> Axis:
    """A horizontal one for sizes: logarithmic, from 1, 2 or 5 times a power of ten to another."""
    steps = [f * 10.0**p for p in range(-3, 13) for f in (1, 2, 5)]
    first = max(step for step in steps if step <= min(values) * 0.999)
    last = min(step for step in steps if step >= max(values) * 1.001)
    inside = [step for step in steps if first <= step <= last]
    every = math.ceil(len(inside) / _MAX_TICKS)
    ticks = (*inside[:-1:every], last) if every > 1 else tuple(inside)
    return Axis(ticks, _LEFT, WIDTH - _RIGHT, is_log=True)


def count_axis(most: int) -> Axis:
    """A horizontal one for epochs."""
    ticks = [tick for tick in find_ticks(1, max(most, 2)) if tick == int(tick)]
    return Axis(tuple(dict.fromkeys([1.0, *ticks[1:]])), _LEFT, WIDTH - _RIGHT)


def _short(value: float) -> str:
    for size, suffix in ((1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"


def frame(x: Axis | None, y: Axis, x_title: str, y_title: str, body: str, about: str) -> str:
    """Axes with ticks and titles around a body."""
    parts = []
    for tick in y.ticks:
        place = y.at(tick)
        parts.append(
            f'<line class="rule" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{place:.1f}" '
            f'y2="{place:.1f}"/><text x="{_LEFT - 4}" y="{place + 3.5:.1f}" '
            f'text-anchor="end">{100 * tick:g}</text>'
        )
    for tick in x.ticks if x else ():
        place = x.at(tick) if x else 0
        parts.append(
            f'<text x="{place:.1f}" y="{HEIGHT - _BOTTOM + 15}" '
            f'text-anchor="middle">{_short(tick)}</text>'
        )
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(
        f'<text x="{middle:.0f}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x_title)}</text>'
        f'<text transform="translate(10 {(HEIGHT - _BOTTOM + _TOP) / 2:.0f}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_title)}</text>'
    )
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(about)}">{"".join(parts)}{body}</svg>'
    )


def level_chart(levels: Sequence[Mapping[str, object]], y_title: str, about: str) -> str:
    """The mean of every level, with its folds as small dots; levels are named below by number."""
    means = [float(level["mean"]) for level in levels]  # type: ignore[arg-type]
    folds = [list(level["by_fold"].values()) for level in levels]  # type: ignore[attr-defined]
    y = value_axis([*means, *(value for each in folds for value in each)])
    step = (WIDTH - _LEFT - _RIGHT) / len(levels)
    parts = []
    for i, (mean, values) in enumerate(zip(means, folds, strict=True)):
        x = _LEFT + step * (i + 0.5)
        reach = min(step * 0.3, 16)
        parts += [f'<circle class="fold" cx="{x:.1f}" cy="{y.at(v):.1f}" r="2.5"/>' for v in values]
        parts.append(
            f'<line class="mean" x1="{x - reach:.1f}" x2="{x + reach:.1f}" '
            f'y1="{y.at(mean):.1f}" y2="{y.at(mean):.1f}"/>'
            f'<text x="{x:.1f}" y="{HEIGHT - _BOTTOM + 15}" text-anchor="middle">{i + 1}</text>'
        )
    return frame(None, y, "level", y_title, "".join(parts), about)


def curve_chart(
    curve: Sequence[float], reference: Sequence[float], y: Axis, x: Axis, about: str
) -> str:
    """An arm's mean curve in front of the reference's."""
    lines = _line(reference, x, y, "behind") + _line(curve, x, y, "front")
    return frame(x, y, "epoch", "dev UAR, percent", lines, about)


def _line(values: Sequence[float], x: Axis, y: Axis, kind: str) -> str:
    if len(values) == 1:
        return f'<circle class="{kind}" cx="{x.at(1):.1f}" cy="{y.at(values[0]):.1f}" r="3"/>'
    points = " ".join(f"{x.at(i):.1f},{y.at(v):.1f}" for i, v in enumerate(values, start=1))
    return f'<polyline class="{kind}" points="{points}"/>'


def scatter_chart(
    points: Sequence[tuple[float, float, str, bool]], x_title: str, y_title: str, about: str
) -> str:
    """Points (size, share, short label, is filled); labels of equal places are written together."""
    x, y = size_axis([p[0] for p in points]), value_axis([p[1] for p in points])
    placed: list[tuple[float, float, list[str], bool]] = []
    for size, share, name, is_filled in sorted(points, key=lambda p: (p[0], -p[1])):
        here = (x.at(size), y.at(share))
        labelled = [p for p in placed if p[2]]
        near = [p for p in labelled if abs(p[0] - here[0]) < 22 and abs(p[1] - here[1]) < 10]
        if near:
            near[0][2].append(name)
        placed.append((*here, [] if near else [name], is_filled))
    dots = "".join(_dot(px, py, is_filled) for px, py, _, is_filled in placed)
    labels = "".join(_label(*each) for each in _dodge([p[:3] for p in placed if p[2]]))
    return frame(x, y, x_title, y_title, dots + labels, about)


def _dodge(labels: Sequence[tuple[float, float, Sequence[str]]]) -> list[tuple[float, float, str]]:
    """Places and texts; one that would lie on another is moved down."""
    found: list[tuple[float, float, str]] = []
    for x, y, names in sorted(labels, key=lambda each: each[1]):
        text = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
        for other_x, other_y, other in sorted(found, key=lambda each: each[1]):
            (left, right), (other_left, other_right) = _span(x, text), _span(other_x, other)
            if left < other_right and other_left < right and abs(y - other_y) < 11:
                y = other_y + 11
        found.append((x, y, text))
    return found


def _span(x: float, text: str) -> tuple[float, float]:
    """From where to where a label of letters of 10 pixels goes: away from the nearer edge."""
    width = 6 * len(text) + 6
    return (x - width, x) if x > WIDTH * 0.75 else (x, x + width)


def _dot(x: float, y: float, is_filled: bool) -> str:
    kind = "front" if is_filled else "behind"
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'


def _label(x: float, y: float, text: str) -> str:
    is_right = x > WIDTH * 0.75
    offset, anchor = (-6, "end") if is_right else (6, "start")
    return (
        f'<text x="{x + offset:.1f}" y="{y + 3.5:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )
