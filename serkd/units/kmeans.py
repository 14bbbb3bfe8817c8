"""Lloyd's k-means on shards of float16 frames; no Ray here.

Sums are exact: a float16 is a multiple of 2^-24, so float64 adds up to 2^29 in absolute value
without rounding, in any order. Two things follow. Centroids are the same, bit for bit, for any
number of shards and any order of arrival; and a pass needs to add only the frames that changed
their cluster to the sums of the pass before, which late in a fit are few.

Clusters can be balanced, by prices that are added to squared distances. For any centroids there are
prices that make all clusters the same size, and then inertia is the least of all partitions into
such sizes (Aurenhammer, Hoffmann & Aronov, Algorithmica 1998). Here they follow the counts of each
pass while centroids move: balance is sought little by little, as by de Maeyer, Sieranoja & Fränti
("Balanced k-means revisited", 2023), and not enforced.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import sparse

from serkd.units.nearest import CHUNK_FRAMES, Codebook, Nearest, Prices

_SPLIT_EPSILON = 1.0 / 1024  # FAISS's own perturbation of a split cluster
_SMALL, _LARGE = 0.5, 1.5  # balanced, in equal shares: the one may take half of the other
_EVEN = 0.1  # balanced: no count is further from an equal share when a fit ends

Blocks = Iterable[tuple[int, np.ndarray]]  # a block's number and its frames (N, D) float16


@dataclass(frozen=True)
class Sums:
    """What one pass adds up to, for one scale.

    `sums` (K, D) float64 and `counts` (K,) int64 of the frames of each cluster; `num_moved` is how
    many of them were in another one in the pass before.
    """

    sums: np.ndarray
    counts: np.ndarray
    num_moved: int


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


@dataclass
class Tally:
    """The sums of one scale over the blocks of one shard, kept from pass to pass.

    `units` maps a block's number to the cluster of each of its frames in the last pass.
    """

    sums: np.ndarray
    counts: np.ndarray
    units: dict[int, np.ndarray] = field(default_factory=dict)
    num_moved: int = 0

    @classmethod
    def empty(cls, num_clusters: int, dim: int) -> "Tally":
        """Before the first pass."""
        return cls(np.zeros((num_clusters, dim)), np.zeros(num_clusters, np.int64))

    def move(self, number: int, first: int, frames: np.ndarray, ids: np.ndarray) -> None:
        """Frames `first`... of a block are in clusters `ids` now; they change the sums if new."""
        known = self.units[number][first : first + len(ids)]
        moved = np.flatnonzero(known != ids)
        if not len(moved):
            return
        before, after, rows = known[moved], ids[moved], np.arange(len(moved))
        left = before >= 0
        members = sparse.csr_array(
            (
                np.concatenate([np.ones(len(moved)), np.full(left.sum(), -1.0)]),
                (np.concatenate([after, before[left]]), np.concatenate([rows, rows[left]])),
            ),
            shape=(len(self.counts), len(moved)),
        )
        self.sums += members @ frames[moved].astype(np.float64)
        size = len(self.counts)
        self.counts += np.bincount(after, minlength=size)
        self.counts -= np.bincount(before[left], minlength=size)
        self.num_moved += len(moved)
        known[moved] = after


def add_blocks(
    blocks: Blocks, centroids: Mapping[int, Codebook | np.ndarray], tallies: dict[int, Tally]
) -> dict[int, Sums]:
    """One pass over some blocks for several scales, which share the read.

    `centroids` maps a scale's K to its codebook, or to (K, D) without prices. `tallies` are those
    of the pass before and are brought up to date; scales that are not asked for any more are
    forgotten.
    """
    books = {scale: Codebook.of(values) for scale, values in centroids.items()}
    nearest = {scale: Nearest(book.centroids, book.prices) for scale, book in books.items()}
    for scale in list(tallies):
        if scale not in books:
            del tallies[scale]
    for scale, book in books.items():
        tallies.setdefault(scale, Tally.empty(*book.centroids.shape)).num_moved = 0
    for number, frames in blocks:
        for scale, tally in tallies.items():
            ids = nearest[scale].assign(frames)
            tally.units.setdefault(number, np.full(len(frames), -1, np.int32))
            for first in range(0, len(frames), CHUNK_FRAMES):
                part = slice(first, first + CHUNK_FRAMES)
                tally.move(number, first, frames[part], ids[part])
    return {
        scale: Sums(tally.sums, tally.counts, tally.num_moved) for scale, tally in tallies.items()
    }


def merge_sums(parts: Iterable[Mapping[int, Sums]]) -> dict[int, Sums]:
    """The sums of several shards, by scale."""
    merged: dict[int, list[Sums]] = {}
    for part in parts:
        for scale, sums in part.items():
            merged.setdefault(scale, []).append(sums)
    return {
        scale: Sums(
            np.sum([one.sums for one in found], axis=0),
            np.sum([one.counts for one in found], axis=0),
            sum(one.num_moved for one in found),
        )
        for scale, found in merged.items()
    }


def square_sum(frames: np.ndarray) -> float:
    """Sum of squares of frames (N, D) float16, in float64 and chunk by chunk."""
    total = 0.0
    for first in range(0, len(frames), CHUNK_FRAMES):
        wide = frames[first : first + CHUNK_FRAMES].astype(np.float64)
        total += float(np.einsum("nd,nd->", wide, wide))
    return total


class _Scale:
    """The state of one scale's fit."""

    def __init__(self, start: Codebook, rng: np.random.Generator) -> None:
        self.centroids, self.rng = start.centroids.astype(np.float32), rng
        self.history: list[float] = []
        self.counts = np.zeros(0, np.int64)
        self.is_done = False

    @property
    def book(self) -> Codebook:
        return Codebook(self.centroids)

    def step(self, total: Sums, squares: float, tolerance: float) -> None:
        """Note the inertia of these centroids, move them, and see whether that is enough."""
        self.note(total, squares)
        self.centroids = _update(self.centroids, total, self.rng)
        if len(self.history) > 1:
            gain = self.history[-2] - self.history[-1]
            self.is_done = total.num_moved == 0 or gain <= tolerance * self.history[-2]

    def note(self, total: Sums, squares: float) -> None:
        wide = self.centroids.astype(np.float64)
        inside = np.einsum("kd,kd->k", wide, total.counts[:, None] * wide - 2.0 * total.sums)
        self.history.append(max(squares + float(inside.sum()), 0.0))
        self.counts = total.counts.copy()

    def result(self) -> Fitted:
        return Fitted(self.centroids, tuple(self.history), self.counts)


class _BalancedScale(_Scale):
    """The state of one scale's fit that also moves prices, and clusters to where frames are many.

    Prices alone would drag the clusters of rare frames through all others to where they are needed.
    """

    def __init__(self, start: Codebook, rng: np.random.Generator) -> None:
        super().__init__(start, rng)
        self.prices = Prices(start)
        self.shared = np.zeros((0, 2), np.int64)  # who took half of whom in the pass before
        self.is_whole = np.zeros(len(self.centroids), bool)  # equal frames, which none can share
        self.best = math.inf, super().result()

    @property
    def book(self) -> Codebook:
        return Codebook(self.centroids, self.prices.values)

    def step(self, total: Sums, squares: float, tolerance: float) -> None:
        """Note what these centroids and prices give, keep the evenest, and move them all."""
        self.note(total, squares)
        share = float(self.counts.mean())
        if len(self.history) > 1:
            change = abs(self.history[-2] - self.history[-1])  # inertia may rise
            is_even = bool((np.abs(self.counts - share) <= _EVEN * share).all())
            self.is_done = is_even and change <= tolerance * self.history[-2]
        spread = float(self.counts.std())
        if self.is_done or spread < self.best[0]:
            self.best = spread, replace(super().result(), prices=self.prices.values)
        self._move(total, share)

    def _move(self, total: Sums, share: float) -> None:
        """To the means; but small clusters, and all empty ones, take half of a large one each."""
        has_failed = (self.counts[self.shared] == 0).any(axis=1)
        self.is_whole[self.shared[has_failed]] = True
        order = np.argsort(self.counts, kind="stable")
        donors = order[::-1][~self.is_whole[order[::-1]]]
        takers = order[: len(donors)]
        few, many = self.counts[takers], self.counts[donors]
        may = ((few < _SMALL * share) & (many > _LARGE * share)) | ((few == 0) & (many > 1))
        self.shared = np.column_stack([takers, donors])[may]
        centroids = _means(self.centroids, total)
        for taker, donor in self.shared:
            _halve(centroids, taker, donor)
        self.centroids = centroids.astype(np.float32)
        self.prices.follow(self.counts, self.shared, self.history[-1] / float(self.counts.sum()))

    def result(self) -> Fitted:
        return self.best[1]


def fit_lloyd(
    add_all: Callable[[Mapping[int, Codebook]], Mapping[int, Sums]],
    starts: Mapping[int, Codebook | np.ndarray],
    *,
    squares: float,
    max_iterations: int,
    tolerance: float,
    seed: int,
    balanced: bool = False,
) -> dict[int, Fitted]:
    """Lloyd iterations of several scales side by side, each as if it were alone.

    `add_all` makes one pass over all the frames for some scales; `starts` maps K to its (K, D);
    `squares` is the sum of squares of all frames. A scale ends when its inertia improves by less
    than `tolerance`, relatively.

    If `balanced`, clusters get about the same number of frames, by prices that `starts` may have
    already. A scale then ends when no count is more than a tenth from an equal share and inertia
    changes by less than `tolerance`; if that is never, the pass with the evenest counts is its
    result. Equal frames stay together, however many.
    """
    kind = _BalancedScale if balanced else _Scale
    scales = {
        k: kind(Codebook.of(start), np.random.default_rng(seed)) for k, start in starts.items()
    }
    for _ in range(max_iterations):
        running = {k: scale.book for k, scale in scales.items() if not scale.is_done}
        if not running:
            break
        for k, total in add_all(running).items():
            scales[k].step(total, squares, tolerance)
    return {k: scale.result() for k, scale in scales.items()}


def _update(centroids: np.ndarray, total: Sums, rng: np.random.Generator) -> np.ndarray:
    return split_empty(_means(centroids, total), total.counts, rng).astype(np.float32)


def _means(centroids: np.ndarray, total: Sums) -> np.ndarray:
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
        _halve(centroids, int(empty), donor)
        sizes[empty] = sizes[donor] = sizes[donor] / 2.0
    return centroids


def _halve(centroids: np.ndarray, taker: int, donor: int) -> None:
    """Put the taker's centroid beside the donor's, in place, which is moved away as far."""
    signs = np.where(np.arange(centroids.shape[1]) % 2, 1.0, -1.0) * _SPLIT_EPSILON
    centroids[taker] = centroids[donor] * (1.0 + signs)
    centroids[donor] = centroids[donor] * (1.0 - signs)
