"""Lloyd's k-means on shards of float16 frames, with FAISS's search; no Ray here.

Sums are exact: a float16 is a multiple of 2^-24, so float64 adds up to 2^29 in absolute value
without rounding, in any order. Centroids are therefore the same, bit for bit, for any number of
shards and any order of arrival.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import faiss
import numpy as np
from scipy import sparse
from sklearn.cluster import kmeans_plusplus

from serkd.errors import InputError

_SAMPLE_PER_CLUSTER = 64
_SPLIT_EPSILON = 1.0 / 1024  # FAISS's own perturbation of a split cluster


@dataclass(frozen=True)
class Sums:
    """What one pass over some blocks adds up to.

    `sums` (K, D) float64 and `counts` (K,) int64 of the assigned frames; `inertia` maps a block's
    number to its sum of squared distances, so that the total can be added in a fixed order.
    """

    sums: np.ndarray
    counts: np.ndarray
    inertia: dict[int, float]


@dataclass(frozen=True)
class Fitted:
    """`centroids` (K, D) float32, the inertia before each update, and the final `counts` (K,)."""

    centroids: np.ndarray
    inertia: tuple[float, ...]
    counts: np.ndarray


def build_searcher(centroids: np.ndarray) -> faiss.Index:
    """Exact L2 search over (K, D) float32 centroids; on a GPU where there is one."""
    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(np.ascontiguousarray(centroids, np.float32))
    if faiss.get_num_gpus() > 0:
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    return index


def assign_units(searcher: faiss.Index, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames (N, D) to the nearest centroids' ids (N,) int64 and squared distances (N,)."""
    distances, ids = searcher.search(np.ascontiguousarray(frames, np.float32), 1)
    return ids[:, 0], distances[:, 0]


def add_blocks(blocks: Iterable[tuple[int, np.ndarray]], centroids: np.ndarray) -> Sums:
    """Assign numbered blocks of frames (N, D) float16 and add them up by centroid."""
    searcher = build_searcher(centroids)
    sums = np.zeros(centroids.shape, np.float64)
    counts = np.zeros(len(centroids), np.int64)
    inertia = {}
    for number, frames in blocks:
        ids, distances = assign_units(searcher, frames)
        members = sparse.csr_array(
            (np.ones(len(ids)), ids, np.arange(len(ids) + 1)), shape=(len(ids), len(centroids))
        )
        sums += members.T @ frames.astype(np.float64)
        counts += np.bincount(ids, minlength=len(centroids))
        inertia[number] = float(distances.sum(dtype=np.float64))
    return Sums(sums, counts, inertia)


def merge_sums(parts: Sequence[Sums]) -> Sums:
    """The sums of several shards."""
    inertia = {number: value for part in parts for number, value in part.inertia.items()}
    sums = np.sum([part.sums for part in parts], axis=0)
    return Sums(sums, np.sum([part.counts for part in parts], axis=0), inertia)


def seed_centroids(sample: np.ndarray, num_clusters: int, seed: int) -> np.ndarray:
    """k-means++ (Arthur & Vassilvitskii 2007) on a sample (N, D); float32 (K, D)."""
    centers, _ = kmeans_plusplus(sample.astype(np.float32), num_clusters, random_state=seed)
    return centers


def sample_indices(num_frames: int, num_clusters: int, seed: int) -> np.ndarray:
    """Which of all training frames the start is drawn from, sorted.

    Raises:
        InputError: fewer frames than clusters.
    """
    if num_clusters > num_frames:
        raise InputError(
            "units.num_clusters must be at most the number of training frames = "
            f"{num_frames}, got {num_clusters}"
        )
    size = min(num_frames, num_clusters * _SAMPLE_PER_CLUSTER)
    return np.sort(np.random.default_rng(seed).choice(num_frames, size, replace=False))


def fit_lloyd(
    add_all: Callable[[np.ndarray], Sums],
    start: np.ndarray,
    *,
    max_iterations: int,
    tolerance: float,
    seed: int,
) -> Fitted:
    """Lloyd iterations until inertia improves by less than `tolerance`, relatively.

    `add_all` makes one pass over all the frames; `start` is (K, D).
    """
    rng = np.random.default_rng(seed)
    centroids = start.astype(np.float32)
    history: list[float] = []
    for _ in range(max_iterations):
        total = add_all(centroids)
        history.append(sum(total.inertia[number] for number in sorted(total.inertia)))
        centroids = _update(centroids, total, rng)
        if len(history) > 1 and history[-2] - history[-1] <= tolerance * history[-2]:
            break
    return Fitted(centroids, tuple(history), total.counts)


def _update(centroids: np.ndarray, total: Sums, rng: np.random.Generator) -> np.ndarray:
    filled = total.counts > 0
    updated = centroids.astype(np.float64)
    updated[filled] = total.sums[filled] / total.counts[filled, None]
    return split_empty(updated, total.counts, rng).astype(np.float32)


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
        signs = np.where(np.arange(centroids.shape[1]) % 2, 1.0, -1.0) * _SPLIT_EPSILON
        centroids[empty] = centroids[donor] * (1.0 + signs)
        centroids[donor] = centroids[donor] * (1.0 - signs)
        sizes[empty] = sizes[donor] = sizes[donor] / 2.0
    return centroids
