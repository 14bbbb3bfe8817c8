"""Frames to units: one id per frame and scale."""

from pathlib import Path

import numpy as np

from serkd.events import Observer
from serkd.features.store import list_parts, part_path, read_part, write_part
from serkd.units.kmeans import assign_units, build_searcher


def write_units(
    folder: Path, column: str, centroids: np.ndarray, out: Path, *, observer: Observer
) -> None:
    """Assign every stored frame to its nearest centroid, part by part.

    `centroids` is (K, D); the parts below `out` get a column ``units`` of (F,) int32. A part that
    exists is skipped.
    """
    searcher = build_searcher(centroids)
    parts = list_parts(folder)
    for number, path in enumerate(parts):
        target = part_path(out, number)
        if not target.exists():
            rows = list(read_part(path, column))
            units = [assign_units(searcher, frames)[0].astype(np.int32) for _, frames in rows]
            write_part(target, [utt_id for utt_id, _ in rows], {"units": units})
        observer.progress("units", number + 1, len(parts), "parts")
