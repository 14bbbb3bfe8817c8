"""Pictures of units: how evenly they are used, and which emotion they go with."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from serkd.units.quality import compute_occupancy

_MAX_COLUMNS = 512  # of a heat map; more are not wider than a pixel
_PRIOR_FRAMES = 10.0  # a unit of few frames says little: it is drawn towards white
_MOST = 2.0  # colours end at 4 times and a quarter of an emotion's share


def draw_occupancy(counts: Mapping[str, np.ndarray], title: str = "") -> Figure:
    """Sorted shares of units against uniform, one curve a scale; `counts` (K,) are frames.

    Both axes are relative to the number of units, so that scales of any size can be compared. A
    curve ends with a cross where the units without a frame begin.
    """
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    ax = figure.subplots()
    colours = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, len(counts)))
    for colour, (scale, frames) in zip(colours, counts.items(), strict=True):
        found = compute_occupancy(frames)
        used = np.sort(frames[frames > 0])[::-1] / frames.sum()
        unused = f", {found['num_unused']} unused" if found["num_unused"] else ""
        edges = 100 * np.arange(len(used) + 1) / len(frames)
        label = f"{scale}: perplexity {found['perplexity_share']:.2f} of {len(frames)}{unused}"
        ax.stairs(
            used * len(frames), edges, baseline=None, color=colour, label=label, linewidth=1.6
        )
        if unused:
            ax.plot(edges[-1], used[-1] * len(frames), "x", color=colour)
    ax.axhline(1.0, color="grey", linestyle="--", linewidth=1, label="uniform")
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_xlim(0, 100)
    ax.set_xlabel("units, most frequent first (% of all)")
    ax.set_ylabel("frames of a unit, relative to uniform")
    ax.grid(alpha=0.3, which="major")
    ax.legend(title="layer/K", fontsize=9)
    ax.set_title(title, fontsize=11)
    return figure


def draw_emotions(table: np.ndarray, class_names: Sequence[str], title: str = "") -> Figure:
    """Emotion x unit: how many times an emotion's share it has of a unit's frames.

    `table` (C, K) are frames. Columns are sorted by the emotion that a unit goes with most, then
    by how much; unused units are left out, and neighbours are added up where they are too many.
    """
    columns = _sort_columns(table)
    lift = _lift(columns, table)
    figure = Figure(figsize=(9.0, 1.5 + 0.36 * len(class_names)), layout="constrained")
    ax = figure.subplots()
    num_used = int(np.count_nonzero(table.sum(axis=0)))
    image = ax.imshow(
        lift,
        cmap="RdBu_r",
        vmin=-_MOST,
        vmax=_MOST,
        aspect="auto",
        interpolation="nearest",
        extent=(0.0, float(num_used), len(class_names) - 0.5, -0.5),
    )
    ax.set_yticks(range(len(class_names)), class_names)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    together = "" if columns.shape[1] == num_used else f", {columns.shape[1]} columns"
    ax.set_xlabel(f"units, sorted: {num_used} of {table.shape[1]} used{together}")
    bar = figure.colorbar(image, ax=ax, ticks=[-2, -1, 0, 1, 2], fraction=0.04, pad=0.02)
    bar.ax.set_yticklabels(["¼", "½", "1", "2", "4"])
    bar.set_label("times its share", fontsize=9)
    ax.set_title(title, fontsize=11)
    return figure


def _lift(columns: np.ndarray, table: np.ndarray) -> np.ndarray:
    """log2 of P(emotion | unit) / P(emotion), (C, columns), drawn towards 0 for few frames."""
    prior = table.sum(axis=1, keepdims=True) / table.sum()
    share = (columns + _PRIOR_FRAMES * prior) / (columns.sum(axis=0) + _PRIOR_FRAMES)
    return np.log2(np.maximum(share, 1e-9) / np.maximum(prior, 1e-9))


def _sort_columns(table: np.ndarray) -> np.ndarray:
    """The used columns in order, at most `_MAX_COLUMNS`: neighbours are added up."""
    used = table[:, table.any(axis=0)]
    lift = _lift(used, table)
    order = np.lexsort((-lift.max(axis=0), lift.argmax(axis=0)))
    groups = np.array_split(order, min(len(order), _MAX_COLUMNS))
    return np.stack([used[:, group].sum(axis=1) for group in groups], axis=1)
