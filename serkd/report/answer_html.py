"""An ablation's report as one page."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from serkd.report.answer_style import ANSWER_STYLE
from serkd.report.block import Block, Report, percent
from serkd.report.blocks import MARKS, all_blocks, label, main_effect
from serkd.report.charts import (
    count_axis,
    curve_chart,
    level_chart,
    scatter_chart,
    value_axis,
)
from serkd.report.forest import render_forest
from serkd.report.page import render_html, table

_MAX_CURVES, _MAX_MATRICES = 24, 24
_LONG = 20  # letters in a cell: more may go to a second line


def render_answer(report: Report) -> str:
    """The page as text; everything in it that a user named is escaped."""
    charts = {
        "arms": _forest,
        "recall": _matrices,
        "factors": _levels,
        "pareto": _pareto,
        "stopping": _curves,
    }
    parts = [f"<h1>{escape(report['name'])}</h1>", _summary(report)]
    for block in all_blocks(report):
        chart = charts[block.name](report) if block.name in charts else ""
        parts.append(_section(block, chart))
    return render_html(f"serkd report: {report['name']}", "\n".join(parts), ANSWER_STYLE)


def _summary(report: Report) -> str:
    arms = report["comparison"]["arms"][1:]
    said = [row["against_reference"]["verdict"] for row in arms if row["against_reference"]]
    tiles = "".join(
        f'<li class="{name}"><b>{said.count(name)}</b> {mark} {name}</li>'
        for name, mark in MARKS.items()
    )
    banner = ""
    if report["is_partial"]:
        banner = (
            f'<p class="banner"><b>Partial:</b> {report["num_done"]} of {report["num_cells"]} '
            "cells are done; verdicts may change.</p>"
        )
    return (
        f'<p class="question">{escape(report["question"])}</p>{banner}'
        f'<ul class="tiles">{tiles}</ul>'
    )


def _section(block: Block, chart: str) -> str:
    body = ""
    if block.rows:
        rows = [[_cell(block, row, i) for i in range(len(row))] for row in block.rows]
        body = f'<div class="words">{table(map(escape, block.head), rows, block.num_words)}</div>'
    notes = "".join(f'<p class="notes">{escape(note)}</p>' for note in block.notes)
    return (
        f'<section id="{block.name}"><h2>{escape(block.title)}</h2>{chart}{body}{notes}</section>'
    )


def _cell(block: Block, row: Sequence[str], i: int) -> str:
    text = escape(row[i])
    if block.name == "arms" and i == 2:
        return f'<span class="verdict {row[i].rpartition(" ")[2]}">{text}</span>'
    if block.name in ("recall", "gender") and i > 0 and row[i] != "–":
        return f'<span class="heat" style="--share:{float(row[i]):.0f}%">{text}</span>'
    if block.name == "commands" and i == 1:
        text = f"<code>{text}</code>"
    return (
        f'<span class="long">{text}</span>' if i < block.num_words and len(row[i]) > _LONG else text
    )


def _forest(report: Report) -> str:
    rows = [row for row in report["comparison"]["arms"][1:] if row["against_reference"]]
    return render_forest(report, rows) if rows else ""


def _matrices(report: Report) -> str:
    """Confusion of the reference and of every arm, in percent of the true class."""
    names = report["stamp"]["class_names"]
    arms = [row for row in report["comparison"]["arms"] if row["mean"] is not None]
    figures = "".join(_matrix(row, names) for row in arms[:_MAX_MATRICES])
    summary = "Confusion of the reference and the arms, percent of the true class"
    return (
        f"<details open><summary>{summary}</summary>"
        f'<div class="grid matrices" style="--classes:{len(names)}">{figures}</div></details>'
    )


def _matrix(row: Mapping[str, Any], names: Sequence[str]) -> str:
    def share(count: int, total: int) -> str:
        value = 100 * count / total if total else 0.0
        return f'<span class="heat" style="--share:{value:.0f}%">{value:.0f}</span>'

    rows = [
        [escape(name), *(share(count, sum(counts)) for count in counts)]
        for name, counts in zip(names, row["confusion"], strict=True)
    ]
    shown = table(["true", *(escape(name[:4]) for name in names)], rows)
    return (
        f'<figure class="matrix"><figcaption><b>{escape(label(row))}</b></figcaption>'
        f"{shown}</figure>"
    )


def _effect(level: Report) -> str:
    return f" ({main_effect(level)})" if "against_first" in level else ""


def _levels(report: Report) -> str:
    metric = report["comparison"]["metric"].upper()
    figures = []
    for factor in report["factors"]:
        levels = "".join(
            f"<li>{escape(level['level'])}: {percent(level['mean'])}{_effect(level)}</li>"
            for level in factor["levels"]
        )
        about = f"{metric} for each level of {factor['name']}"
        chart = level_chart(factor["levels"], f"{metric}, percent", about)
        figures.append(
            f"<figure><figcaption><b>{escape(factor['name'])}</b></figcaption>{chart}"
            f"<figcaption><ol>{levels}</ol></figcaption></figure>"
        )
    note = "Bars are means, dots are folds; in brackets is the difference to the first level."
    legend = f'<p class="legend">{note}</p>' if figures else ""
    return f'<div class="grid">{"".join(figures)}</div>{legend}'


def _pareto(report: Report) -> str:
    points, metric = report["pareto"], report["comparison"]["metric"].upper()
    if not points:
        return ""
    figures = []
    for cost, title in (("parameters", "parameters"), ("latency_ms", "latency, ms")):
        if all(point[cost] for point in points):
            shown = [(p[cost], p["mean"], str(p["row"]), p["is_on_front"]) for p in points]
            chart = scatter_chart(shown, title, f"{metric}, percent", f"{metric} by {title}")
            figures.append(f"<figure>{chart}</figure>")
    legend = '<p class="legend">Numbers are rows of the first table; filled: on the front.</p>'
    return f'<div class="grid">{"".join(figures)}</div>{legend}'


def _curves(report: Report) -> str:
    known = [each for each in report["training"] if each["curve"]]
    if not known:
        return ""
    y = value_axis([value for each in known for value in each["curve"]])
    x = count_axis(max(len(each["curve"]) for each in known))
    reference = report["training"][0]["curve"]
    figures = "".join(
        f"<figure><figcaption><b>{escape(each['name'])}</b></figcaption>"
        f"{curve_chart(each['curve'], reference, y, x, 'dev UAR of ' + each['name'])}</figure>"
        for each in known[:_MAX_CURVES]
    )
    legend = '<p class="legend">Means over folds and seeds; dashed: the reference.</p>'
    return f'<div class="grid">{figures}</div>{legend}'
