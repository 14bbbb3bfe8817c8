"""Figures of a report for a paper: PNG and PDF."""

import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from serkd.report.block import Report
from serkd.report.blocks import label
from serkd.report.plots import draw_confusions

# Okabe & Ito 2008: apart for every kind of colour vision
_COLOURS = {"helps": "#0072B2", "hurts": "#D55E00", "equivalent": "#555555", "undecided": "#999999"}
_MAX_MATRICES = 6
_MAX_NAME, _MAX_LINES = 46, 4  # characters of a line; a factorial's arms differ in their ends


def save_figures(report: Report, folder: Path) -> list[Path]:
    """Write every figure that the report has something for, as NAME.png and NAME.pdf."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, draw in FIGURES.items():
        figure = draw(report)
        if figure is None:
            continue
        for suffix in ("png", "pdf"):
            path = folder / f"{name}.{suffix}"
            # without a date, so that equal reports are equal files
            metadata = {"CreationDate": None} if suffix == "pdf" else {"Software": None}
            figure.savefig(path, dpi=150, metadata=metadata)
            written.append(path)
    return written


def _plain(name: str) -> str:
    """In lines; Matplotlib takes what is between dollar signs for mathematics."""
    lines = textwrap.wrap(name, _MAX_NAME, max_lines=_MAX_LINES, placeholder="…")
    return "\n".join(lines).replace("$", r"\$")


def draw_forest(report: Report) -> Figure | None:
    """Differences from the reference with both intervals."""
    rows = [row for row in report["comparison"]["arms"][1:] if row["against_reference"]]
    if not rows:
        return None
    names = [_plain(label(row)) for row in reversed(rows)]
    lines = max(name.count("\n") for name in names)
    figure = Figure(figsize=(7.2, 1.3 + (0.36 + 0.15 * lines) * len(rows)), layout="constrained")
    ax, margin = figure.subplots(), 100 * report["comparison"]["margin"]
    ax.axvspan(-margin, margin, color="#eeeeee", zorder=0)
    ax.axvline(0, color="black", linewidth=0.8)
    for place, row in enumerate(reversed(rows)):
        test = row["against_reference"]
        colour = _COLOURS[test["verdict"]]
        for field, width in (("speaker_interval", 5), ("interval", 1.5)):
            ends = test["fold_test"][field] if field == "interval" else test[field]
            if None not in ends:
                line = [100 * end for end in ends]
                alpha = 0.35 if width == 5 else 1.0
                ax.plot(line, [place] * 2, color=colour, linewidth=width, alpha=alpha)
        is_sure = test["verdict"] in ("helps", "hurts")
        fill = colour if is_sure else "white"
        ax.plot(100 * test["difference"], place, "o", color=colour, markerfacecolor=fill)
    ax.set_yticks(range(len(rows)), names)
    ax.set_ylim(-0.6, len(rows) - 0.4)
    metric = report["comparison"]["metric"].upper()
    ax.set_xlabel(f"difference in {metric} from the reference (points)")
    return figure


def draw_matrices(report: Report) -> Figure | None:
    """Confusion of the reference and the first arms."""
    arms = [row for row in report["comparison"]["arms"] if row["mean"] is not None]
    if not arms:
        return None
    counts = {_plain(row["name"]): np.array(row["confusion"]) for row in arms[:_MAX_MATRICES]}
    names = [_plain(name) for name in report["stamp"]["class_names"]]
    return draw_confusions(counts, names)


def draw_levels(report: Report) -> Figure | None:
    """For every factor the mean of its levels, and its folds."""
    factors = report["factors"]
    if not factors:
        return None
    columns = min(3, len(factors))
    lines = -(-len(factors) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.9 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    metric = report["comparison"]["metric"].upper()
    for ax, factor in zip(axes, factors, strict=False):
        _draw_levels(ax, factor)
    for ax in axes[::columns]:
        ax.set_ylabel(f"{metric} (percent)")
    for ax in axes[len(factors) :]:
        ax.set_visible(False)
    return figure


def _draw_levels(ax: Any, factor: Mapping[str, Any]) -> None:  # noqa: ANN401  Axes
    places = range(len(factor["levels"]))
    for place, level in enumerate(factor["levels"]):
        values = [100 * value for value in level["by_fold"].values()]
        ax.plot([place] * len(values), values, "o", color="#999999", markersize=3)
        ax.plot(place, 100 * level["mean"], "_", color="#0072B2", markersize=22, markeredgewidth=3)
    ax.set_xticks(places, [_plain(level["level"])[:16] for level in factor["levels"]])
    ax.tick_params("x", rotation=30)
    ax.set_xlim(-0.6, len(factor["levels"]) - 0.4)
    ax.set_title(_plain(factor["name"]), fontsize=10)


def draw_pareto(report: Report) -> Figure | None:
    """The metric by the number of parameters."""
    points = report["pareto"]
    if not points:
        return None
    figure = Figure(figsize=(5.4, 3.6), layout="constrained")
    ax = figure.subplots()
    for point in points:
        fill = "#0072B2" if point["is_on_front"] else "white"
        place = (point["parameters"], 100 * point["mean"])
        ax.plot(*place, "o", color="#0072B2", markerfacecolor=fill)
    names: dict[tuple[float, float], list[str]] = {}
    for point in points:
        place = (point["parameters"], round(100 * point["mean"], 1))
        names.setdefault(place, []).append(str(point["row"]))
    for place, rows in names.items():
        ax.annotate(", ".join(rows), place, xytext=(5, 3), textcoords="offset points", fontsize=8)
    ax.set_xscale("log")
    ax.set_xlabel("parameters (numbers are rows of the table)")
    ax.set_ylabel(f"{report['comparison']['metric'].upper()} (percent)")
    return figure


def draw_curves(report: Report) -> Figure | None:
    """Mean dev UAR over epochs, the reference in black."""
    known = [each for each in report["training"] if each["curve"]]
    if not known:
        return None
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    ax = figure.subplots()
    for number, each in reversed(list(enumerate(known))):
        epochs, values = range(1, len(each["curve"]) + 1), [100 * v for v in each["curve"]]
        style = {"color": "black", "linewidth": 2} if number == 0 else {"alpha": 0.8}
        ax.plot(epochs, values, label=_plain(each["name"]), **style)
    ax.set_xlabel("epoch")
    ax.set_ylabel("dev UAR (percent)")
    if len(known) <= 12:
        ax.legend(fontsize=7)
    return figure


FIGURES: dict[str, Callable[[Report], Figure | None]] = {
    "forest": draw_forest,
    "confusion": draw_matrices,
    "levels": draw_levels,
    "pareto": draw_pareto,
    "curves": draw_curves,
}
