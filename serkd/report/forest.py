"""A forest plot of differences, as HTML that wraps on a phone."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from serkd.report.block import Report
from serkd.report.blocks import MARKS, label
from serkd.report.charts import find_ticks
from serkd.report.compare_tables import with_interval

_SMALLEST_REACH = 0.02


def render_forest(report: Report, rows: Sequence[Mapping[str, Any]]) -> str:
    """Each arm's difference on all folds together, with both intervals and the margin's zone."""
    margin = report["comparison"]["margin"]
    ends = [e for row in rows for e in _ends(row["against_reference"]) if e is not None]
    reach = max(_SMALLEST_REACH, 1.5 * margin, *map(abs, ends))
    ticks = find_ticks(-reach, reach)
    low, high = ticks[0], ticks[-1]

    def at(value: float) -> float:
        return 100 * (value - low) / (high - low)

    zone = (
        f'<i class="zone" style="left:{at(-margin):.2f}%;width:{at(margin) - at(-margin):.2f}%">'
        f'</i><i class="zero" style="left:{at(0):.2f}%"></i>'
    )
    lines = "".join(_row(row, zone, at) for row in rows)
    scale = "".join(
        f'<span style="left:{at(tick):.2f}%">{_signed(100 * tick)}</span>' for tick in ticks[1:-1]
    )
    return (
        f'<div class="forest" role="group" aria-label="differences from the reference">{lines}'
        f'<div class="scale">{scale}</div>'
        '</div><p class="legend">Points of difference from the reference. Thin line: 95 % over '
        "folds (corrected t); thick: 95 % over speakers; dotted zone: differences of no "
        "interest.</p>"
    )


def _signed(value: float) -> str:
    return f"{value:+g}" if value else "0"


def _ends(test: Mapping[str, Any]) -> list[float | None]:
    return [test["difference"], *test["fold_test"]["interval"], *test["speaker_interval"]]


def _row(row: Mapping[str, Any], zone: str, at: Any) -> str:  # noqa: ANN401  a function
    test = row["against_reference"]
    bars = _bar("span", test["fold_test"]["interval"], at)
    bars += _bar("wide-span", test["speaker_interval"], at)
    text = with_interval(test["difference"], test["fold_test"]["interval"])
    verdict = test["verdict"]
    return (
        f'<span class="name">{escape(label(row))}</span>'
        f'<span class="value"><span class="verdict {verdict}">{MARKS[verdict]}</span> '
        f"{escape(text)}</span>"
        f'<div class="track {verdict}">{zone}{bars}'
        f'<i class="mid" style="left:{at(test["difference"]):.2f}%"></i></div>'
    )


def _bar(kind: str, interval: Sequence[float | None], at: Any) -> str:  # noqa: ANN401
    low, high = interval
    if low is None or high is None:
        return ""
    return f'<i class="{kind}" style="left:{at(low):.2f}%;width:{at(high) - at(low):.2f}%"></i>'
