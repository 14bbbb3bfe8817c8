"""The state of a fit of one scale, and what moves its centroids."""

from dataclasses import dataclass

import numpy as np

from serkd.units.nearest import Codebook
from serkd.units.sums import Sums

_SPLIT_EPSILON = 1.0 / 1024  # FAISS's own perturbation of a split cluster


@dataclass(frozen=True)
class Fitted:
    """`centroids` (K, D) float32, the inertia before each update, and the final `counts` (K,).

    `prices` (K,) float32 if the clusters are balanced: units are found with them. The last inertia
    and the counts are then those of these very centroids and prices.
    """

    centroids: np.ndarray
    inertia: tuple[float, ...]
    counts: np.ndarray
    prices: np.ndarray | None = None


class Scale:
    """The state of one scale's fit."""

    def __init__(self, start: Codebook, rng: np.random.Generator) -> None:
        self.centroids, self.rng = start.centroids.astype(np.float32), rng
        self.history: list[float] = []
        self.sums, self.counts = np.zeros(0), np.zeros(0, np.int64)
        self.is_done = False

    @property
    def book(self) -> Codebook:
        return Codebook(self.centroids)

    def step(self, total: Sums, squares: float, tolerance: float) -> None:
        """Note the inertia of these centroids, move them, and see whether that is enough."""
        is_same = np.array_equal(total.sums, self.sums) and np.array_equal(
            total.counts, self.counts
        )
        self.note(total, squares)
        means = find_means(self.centroids, total)
        self.centroids = split_empty(means, total.counts, self.rng).astype(np.float32)
        if len(self.history) > 1:
            gain = self.history[-2] - self.history[-1]
            self.is_done = is_same or gain <= tolerance * self.history[-2]

    def note(self, total: Sums, squares: float) -> None:
        wide = self.centroids.astype(np.float64)
        inside = np.einsum("kd,kd->k", wide, total.counts[:, None] * wide - 2.0 * total.sums)
        self.history.append(max(squares + float(inside.sum()), 0.0))
        self.sums, self.counts = total.sums.copy(), total.counts.copy()

    def result(self) -> Fitted:
        return Fitted(self.centroids, tuple(self.history), self.counts)


def find_means(centroids: np.ndarray, total: Sums) -> np.ndarray:
    """Means (K, D) float64 of what was added up; empty clusters keep their centroids."""
    filled = total.counts > 0
    updated = centroids.astype(np.float64)
    updated[filled] = total.sums[filled] / total.counts[filled, None]
    return updated


def split_empty(centroids: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Give each empty cluster half of a large one, as FAISS does.

    The donor is drawn in proportion to its size; both halves are moved apart by 1/1024,
    symmetrically.
    """
    sizes = counts.astype(np.float64)
    centroids = centroids.copy()
    for empty in np.flatnonzero(counts == 0):
        weights = np.maximum(sizes - 1.0, 0.0)
        if weights.sum() == 0.0:
            return centroids  # no cluster has two frames to share
        donor = rng.choice(len(sizes), p=weights / weights.sum())
        halve(centroids, int(empty), donor)
        sizes[empty] = sizes[donor] = sizes[donor] / 2.0
    return centroids


def halve(centroids: np.ndarray, taker: int, donor: int) -> None:
    """Put the taker's centroid beside the donor's, in place, which is moved away as far."""
    signs = np.where(np.arange(centroids.shape[1]) % 2, 1.0, -1.0) * _SPLIT_EPSILON
    centroids[taker] = centroids[donor] * (1.0 + signs)
    centroids[donor] = centroids[donor] * (1.0 - signs)
