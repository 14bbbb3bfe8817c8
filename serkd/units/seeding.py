"""Where k-means starts: several greedy k-means++ starts, the best one refined on a sample.

A good start matters more than iterations: from random frames Lloyd's algorithm ends several per
cent higher than from here, however long it runs. Drawing, scoring and refining on samples of a
fixed size costs less than a few passes over a large corpus, and saves most of them.
"""

import math

import numpy as np

from serkd.errors import InputError
from serkd.units.kmeans import fit_lloyd
from serkd.units.scale import Fitted
from serkd.units.sums import Tally, add_blocks, square_sum

_SAMPLE_FRAMES = 65_536  # a start is refined on so many
_SCORED_FRAMES = 16_384  # starts are compared on so many, and at least 16 a cluster
_CANDIDATES = 4_096  # starts are chosen among so many, and at least 4 a cluster
_SCORED_WORK = 4_096  # starts times clusters: scoring takes about as long for any K
_MIN_STARTS, _MAX_STARTS = 2, 16
_SCORING_ITERATIONS, _REFINING_ITERATIONS = 3, 20


def sample_indices(num_frames: int, num_clusters: int, seed: int) -> np.ndarray:
    """Which of all training frames the start is found on, sorted.

    Raises:
        InputError: fewer frames than clusters.
    """
    if num_clusters > num_frames:
        raise InputError(
            "units.num_clusters must be at most the number of training frames = "
            f"{num_frames}, got {num_clusters}"
        )
    size = min(num_frames, max(_SAMPLE_FRAMES, 16 * num_clusters))
    return np.sort(np.random.default_rng(seed).choice(num_frames, size, replace=False))


def seed_centroids(
    sample: np.ndarray, num_clusters: int, seed: int, *, tolerance: float = 1e-4
) -> np.ndarray:
    """The best of some starts on a sample (S, D) float16, refined there; (K, D) float32."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(sample))
    part = sample[np.sort(order[: max(_SCORED_FRAMES, 16 * num_clusters)])]
    candidates = sample[order[: max(_CANDIDATES, 4 * num_clusters)]].astype(np.float32)
    num_starts = min(max(_SCORED_WORK // num_clusters, _MIN_STARTS), _MAX_STARTS)
    squares = square_sum(part)
    best: Fitted | None = None
    for chosen in choose_greedily(candidates, num_clusters, num_starts, rng):
        found = _lloyd(part, candidates[chosen], squares, _SCORING_ITERATIONS, tolerance)
        if best is None or found.inertia[-1] < best.inertia[-1]:
            best = found
    assert best is not None
    start, squares = best.centroids, square_sum(sample)
    return _lloyd(sample, start, squares, _REFINING_ITERATIONS, tolerance).centroids


def _lloyd(
    sample: np.ndarray, start: np.ndarray, squares: float, iterations: int, tolerance: float
) -> Fitted:
    tallies: dict[int, Tally] = {}
    fitted = fit_lloyd(
        lambda centroids: add_blocks([(0, sample)], centroids, tallies),
        {len(start): start},
        squares=squares,
        max_iterations=iterations,
        tolerance=tolerance,
        seed=0,
    )
    return fitted[len(start)]


def choose_greedily(
    points: np.ndarray, num_clusters: int, num_starts: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Greedy k-means++ over points (M, D) float32, several times; indices (K,) of each start.

    Arthur & Vassilvitskii (SODA 2007): of 2 + log K points drawn in proportion to their squared
    distance from what is chosen, the one is taken that leaves the least. All distances are
    computed once, for all the starts: (M, M) float32.
    """
    squares = np.einsum("md,md->m", points, points)
    distances = points @ points.T
    distances *= -2.0
    distances += squares[:, None]
    distances += squares[None, :]
    np.maximum(distances, 0.0, out=distances)
    trials = 2 + int(math.log(num_clusters))
    return [_choose_once(distances, num_clusters, trials, rng) for _ in range(num_starts)]


def _choose_once(
    distances: np.ndarray, num_clusters: int, trials: int, rng: np.random.Generator
) -> np.ndarray:
    first = int(rng.integers(len(distances)))
    chosen, nearest = [first], distances[first].copy()
    is_free = np.ones(len(distances), bool)
    is_free[first] = False
    for _ in range(num_clusters - 1):
        mass = np.cumsum(nearest * is_free, dtype=np.float64)
        if mass[-1] > 0.0:
            tried = np.searchsorted(mass, rng.random(trials) * mass[-1], side="right")
            tried = np.minimum(tried, len(distances) - 1)
        else:  # all that is left are equals of what is chosen
            tried = rng.choice(np.flatnonzero(is_free), 1)
        closer = np.minimum(distances[tried], nearest)
        best = int(closer.sum(axis=1, dtype=np.float64).argmin())
        chosen.append(int(tried[best]))
        is_free[chosen[-1]] = False
        nearest = closer[best]
    return np.array(chosen)
