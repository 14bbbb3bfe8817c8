"""Frames to units: one id per frame and scale."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from serkd.events import Observer
from serkd.features.store import list_parts, part_path, read_part, write_part
from serkd.gender import num_units
from serkd.units.nearest import Nearest


def write_units(
    folder: Path,
    column: str,
    centroids: np.ndarray,
    genders: Mapping[str, int] | None,
    out: Path,
    *,
    observer: Observer,
) -> None:
    """Assign every stored frame to a unit, part by part.

    `centroids` is (G, K, D): one codebook for all utterances (G = 1), or one a gender (G = 2).
    `genders` maps an utterance to its slot; its units are cluster + K · slot, or the cluster where
    there are no genders. The parts below `out` get a column ``units`` of (F,) int16, or int32
    where ids need it. A part that exists is skipped.
    """
    num_books, num_clusters, _ = centroids.shape
    books = [Nearest(book) for book in centroids]
    most = num_units(num_clusters, "no" if genders is None else "known")
    dtype = np.int16 if most <= np.iinfo(np.int16).max else np.int32
    parts = list_parts(folder)
    for number, path in enumerate(parts):
        target = part_path(out, number)
        if not target.exists():
            rows = list(read_part(path, column))
            slots = [0 if genders is None else genders[utt_id] for utt_id, _ in rows]
            units: list[np.ndarray] = [np.zeros(0, dtype)] * len(rows)
            for slot in set(slots):
                mine = [row for row, of in enumerate(slots) if of == slot]
                nearest = books[slot if num_books > 1 else 0]
                found = _assign(nearest, [rows[row][1] for row in mine])
                for row, clusters in zip(mine, found, strict=True):
                    units[row] = (clusters + num_clusters * slot).astype(dtype)
            write_part(target, [utt_id for utt_id, _ in rows], {"units": units})
        observer.progress("units", number + 1, len(parts), "parts")


def _assign(nearest: Nearest, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The nearest centroid of each frame, (F,) for each (F, D)."""
    ends = np.cumsum([len(array) for array in arrays])
    return np.split(nearest.assign(np.concatenate(arrays)), ends[:-1])
