"""Pictures: confusion matrices."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_DARK_FROM = 0.55  # share above which white text is readable on the colour


def draw_confusions(
    confusions: Mapping[str, np.ndarray], class_names: Sequence[str], title: str = ""
) -> Figure:
    """One matrix (C, C) of counts per title, side by side; colour is each true class's share."""
    side = 1.6 + 0.62 * len(class_names)
    figure = Figure(figsize=(side * len(confusions) + 0.6, side + 0.7), layout="constrained")
    axes = figure.subplots(1, len(confusions), squeeze=False)[0]
    for ax, (name, counts) in zip(axes, confusions.items(), strict=True):
        _draw(ax, np.asarray(counts), class_names)
        ax.set_title(name, fontsize=11)
    axes[0].set_ylabel("true emotion")
    if title:
        figure.suptitle(title, fontsize=12)
    return figure


def _draw(ax: Axes, counts: np.ndarray, class_names: Sequence[str]) -> None:
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ax.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0)
    ticks = range(len(class_names))
    ax.set_xticks(ticks, class_names, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(ticks, class_names)
    ax.set_xlabel("predicted emotion")
    for row in ticks:
        for column in ticks:
            value = share[row, column]
            colour = "white" if value > _DARK_FROM else "black"
            text = f"{100 * value:.0f}%\n{counts[row, column]}"
            ax.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def draw_pooled(results: Mapping[str, Any]) -> Figure:
    """Confusion matrices of the models over all folds, on the split that `results` are for."""
    split, confusions = results["split"], {}
    for model, found in results["pooled"].items():
        metrics = found[split]
        confusions[f"{model}, {split} UAR {metrics['uar']:.3f}"] = np.array(metrics["confusion"])
    folds = ", ".join(results["folds"])
    return draw_confusions(confusions, results["class_names"], f"{results['name']}, fold {folds}")
