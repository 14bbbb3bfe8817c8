"""Where k-means starts: several greedy k-means++ starts, the best one refined on a sample.

A good start matters more than iterations: from random frames Lloyd's algorithm ends several per
cent higher than from here, however long it runs. Drawing, scoring and refining on samples of a
fixed size costs less than a few passes over a large corpus, and saves most of them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from serkd.errors import InputError
from serkd.units.kmeans import fit_lloyd
from serkd.units.nearest import Codebook
from serkd.units.scale import Fitted
from serkd.units.sums import Sums

_SAMPLE_FRAMES = 65_536  # a start is refined on so many
_SCORED_FRAMES = 16_384  # starts are compared on so many, and at least 16 a cluster
_CANDIDATES = 4_096  # starts are chosen among so many, and about 4 a cluster
_MOST_CANDIDATES = 8_192  # all distances between candidates are in memory: 256 MB
_SCORED_WORK = 4_096  # starts times clusters: scoring takes about as long for any K
_MIN_STARTS, _MAX_STARTS = 2, 16
_SIDE_BY_SIDE = 4  # starts: each has sums (K, D) float64 in every shard
_SCORING_ITERATIONS, _REFINING_ITERATIONS, _TOLERANCE = 3, 20, 1e-4


@dataclass(frozen=True)
class Plan:
    """Which frames a start is found on: indices into all of them.

    A start is refined on `refined`, starts are compared on `scored`, a part of those, and chosen
    among `candidates`, a part of these. All are sorted.
    """

    refined: np.ndarray
    scored: np.ndarray
    candidates: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Equal for plans of one seed that differ in their candidates only."""
        return len(self.refined), len(self.scored)


def plan_start(num_frames: int, num_clusters: int, seed: int) -> Plan:
    """Draw the samples for a start.

    Raises:
        InputError: fewer frames than clusters.
    """
    if num_clusters > num_frames:
        raise InputError(
            "units.num_clusters must be at most the number of training frames = "
            f"{num_frames}, got {num_clusters}"
        )
    rng = np.random.default_rng(seed)
    size = min(num_frames, max(_SAMPLE_FRAMES, 16 * num_clusters))
    drawn = rng.choice(num_frames, size, replace=False)
    scored = drawn[: max(_SCORED_FRAMES, 16 * num_clusters)]
    wanted = min(max(_CANDIDATES, 4 * num_clusters), _MOST_CANDIDATES)
    candidates = drawn[: max(wanted, num_clusters)]
    return Plan(np.sort(drawn), np.sort(scored), np.sort(candidates))


class Sampled(Protocol):
    """The samples of a plan, wherever their frames are."""

    @property
    def squares(self) -> Mapping[str, float]:
        """The sums of squares of `refined` and `scored`."""

    def choose(self, num_clusters: int, num_starts: int, seed: int) -> Sequence[np.ndarray]:
        """`choose_starts` among the candidates."""

    def add(self, sample: str, codebooks: Mapping[int, Codebook]) -> Mapping[int, Sums]:
        """One pass over `refined` or `scored`: see `add_blocks`."""


def find_start(frames: Sampled, num_clusters: int, seed: int) -> np.ndarray:
    """The best of some starts, refined: (K, D) float32."""

    def fit(sample: str, starts: Mapping[int, np.ndarray], passes: int) -> Mapping[int, Fitted]:
        return fit_lloyd(
            lambda codebooks: frames.add(sample, codebooks),
            starts,
            squares=frames.squares[sample],
            max_iterations=passes,
            tolerance=_TOLERANCE,
            seed=0,
        )

    num_starts = min(max(_SCORED_WORK // num_clusters, _MIN_STARTS), _MAX_STARTS)
    starts = dict(enumerate(frames.choose(num_clusters, num_starts, seed)))
    best: Fitted | None = None
    for first in range(0, num_starts, _SIDE_BY_SIDE):
        some = {n: starts[n] for n in range(first, min(first + _SIDE_BY_SIDE, num_starts))}
        for found in fit("scored", some, _SCORING_ITERATIONS).values():
            if best is None or found.inertia[-1] < best.inertia[-1]:
                best = found
    assert best is not None
    return fit("refined", {0: best.centroids}, _REFINING_ITERATIONS)[0].centroids


def choose_starts(
    candidates: np.ndarray, num_clusters: int, num_starts: int, seed: int
) -> list[np.ndarray]:
    """Several greedy k-means++ starts, (K, D) float32 each, among candidates (C, D) float16.

    Of more clusters than half of `_MOST_CANDIDATES` they are drawn at random.
    """
    points, rng = candidates.astype(np.float32), np.random.default_rng([seed, num_clusters])
    if 2 * num_clusters > _MOST_CANDIDATES:
        size = len(points)
        return [points[rng.choice(size, num_clusters, replace=False)] for _ in range(num_starts)]
    return [points[one] for one in choose_greedily(points, num_clusters, num_starts, rng)]


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
