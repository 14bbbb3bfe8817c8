"""The quality of units, for people: tables, pictures, TensorBoard."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from safetensors.numpy import load_file

from serkd.report.plots import save_figure
from serkd.report.tensorboard import TensorBoard
from serkd.report.unit_plots import draw_emotions, draw_occupancy
from serkd.stages.context import Ref
from serkd.stages.store import Artifact

_LABELLINGS = ("emotion", "gender", "speaker")
_SHOWN = ("perplexity_share", "num_unused", "num_dominant", "run_mean_frames", "utterance_entropy")


def units_table(folds: Mapping[str, Mapping[str, Any]]) -> Table:
    """Per fold and scale: how the training frames use the units."""
    table = _open_table("units, training frames")
    headers = ("units", "perplexity\n/ units", "largest\nshare", "unused", "dominant")
    for name in (*headers, "half of\nframes in", "frames a unit lasts\nmean / median / 95%"):
        table.add_column(name, justify="right")
    table.add_column("entropy of an\nutterance (nats)", justify="right")
    for fold, scale, quality in _rows(folds):
        runs = (quality[f"run_{name}_frames"] for name in ("mean", "median", "p95"))
        table.add_row(
            fold,
            scale,
            str(quality["num_units"]),
            f"{quality['perplexity_share']:.2f}",
            f"{quality['largest_share']:.3f}",
            str(quality["num_unused"]),
            str(quality["num_dominant"]),
            str(quality["num_for_half"]),
            " / ".join(f"{value:.1f}" for value in runs),
            f"{quality['utterance_entropy']:.2f}",
        )
    return table


def told_table(folds: Mapping[str, Mapping[str, Any]]) -> Table:
    """Per fold and scale: what the units tell of emotion, gender and speaker."""
    table = _open_table("what units tell (beyond chance: 0 nothing, 1 all; speaker: of a gender)")
    for of in _LABELLINGS:
        for measure in ("purity", "PNMI", "beyond\nchance"):
            table.add_column(f"{of}\n{measure}", justify="right")
    for fold, scale, quality in _rows(folds):
        numbers = (
            f"{quality[f'{of}_{measure}']:.3f}"
            for of in _LABELLINGS
            for measure in ("purity", "pnmi", "told")
        )
        table.add_row(fold, scale, *numbers)
    return table


def _open_table(title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for name in ("fold", "layer/K"):
        table.add_column(name)
    return table


def _rows(folds: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, Mapping[str, Any]]]:
    return [(f, scale, found) for f, of in folds.items() for scale, found in of["units"].items()]


def unit_warnings(folds: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What is wrong with units, a line each."""
    return [
        f"fold {fold}, {scale}: {warning}"
        for fold, scale, quality in _rows(folds)
        for warning in quality["warnings"]
    ]


def show_units(
    board: TensorBoard,
    folder: Path,
    artifacts: Mapping[Ref, Artifact],
    quality: Mapping[str, Mapping[str, Any]],
    class_names: Sequence[str],
) -> None:
    """Numbers and pictures of one fold's units: TensorBoard, and PNG files below `folder`."""
    tables = _emotion_tables(artifacts)
    if not tables:
        return
    occupancy = draw_occupancy({scale: table.sum(axis=0) for scale, table in tables.items()})
    save_figure(occupancy, folder / "occupancy.png")
    board.image("units/occupancy", occupancy)
    told = [f"{of}_{measure}" for of in _LABELLINGS for measure in ("purity", "pnmi", "told")]
    for scale, table in tables.items():
        figure = draw_emotions(table, class_names, f"layer/K {scale}: emotions of units")
        save_figure(figure, folder / f"emotions_{scale.replace('/', '_')}.png")
        board.image(f"units/emotions_{scale}", figure)
        found = quality[scale]
        board.scalars({f"units/{scale}/{name}": found[name] for name in (*_SHOWN, *told)})


def _emotion_tables(artifacts: Mapping[Ref, Artifact]) -> dict[str, np.ndarray]:
    return {
        "/".join(map(str, ref.scale)): load_file(artifact.folder / "quality.safetensors")["emotion"]
        for ref, artifact in artifacts.items()
        if ref.stage == "units"
    }
