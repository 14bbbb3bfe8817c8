"""The nearest centroid of each frame: FAISS's exact search, behind a bfloat16 sieve where it pays.

Processors with bfloat16 units multiply matrices several times faster in it than in float32. The
sieve computes all scores in bfloat16, bounds their error, and keeps the nearest centroid of those
frames for which no error within the bound could change it; FAISS finds the others' in float32.
So the answer is FAISS's own, and whether the sieve is used changes the time alone.

Clusters may have prices: a frame x then belongs to the k that minimises |x - c_k|^2 + p_k. This is
a power diagram, the slice of an ordinary Voronoi diagram in one more dimension, where frames are
at 0 and centroids at sqrt(p_k) (Aurenhammer, SIAM J. Comput. 1987); so it is found as exactly.
"""

import functools
import time
from dataclasses import dataclass

import faiss
import numpy as np
import torch
from torch import Tensor

CHUNK_FRAMES = 4096  # scores of so many frames stay in the cache of a core
_SIEVE_FROM = 16  # centroids; of fewer the multiplication is no great part
_GAIN = 2.5  # how much faster bfloat16 has to be

# The change of a price for a count e times too large, in mean squared distances of a frame.
_FIRST_STEP, _LEAST_STEP, _LARGEST_STEP = 0.01, 1e-5, 0.1
_FASTER, _SLOWER = 1.5, 0.5
# Prices further apart, in the same measure, would put frames together that are far from each
# other: where data have separate groups of unequal sizes, they keep some of the inequality.
_MOST_APART = 0.5


@dataclass(frozen=True)
class Codebook:
    """`centroids` (K, D) float32, and `prices` (K,) float32 that are added to squared distances.

    Prices are at least 0, in the units of a squared distance; None is all 0, and costs nothing.
    """

    centroids: np.ndarray
    prices: np.ndarray | None = None

    @classmethod
    def of(cls, values: "Codebook | np.ndarray") -> "Codebook":
        """What is a codebook already, or centroids (K, D) without prices."""
        return values if isinstance(values, Codebook) else cls(values)


class Prices:
    """Prices (K,) that follow the counts of clusters until these are about equal.

    Counts do not say how fast they follow a price, so each price has a step of its own, which grows
    while its count stays on one side of an equal share and shrinks when it has changed sides
    (Riedmiller & Braun's Rprop, ICNN 1993, with the count's logarithm in place of a sign).
    """

    def __init__(self, start: Codebook) -> None:
        size = len(start.centroids)
        given = np.zeros(size) if start.prices is None else start.prices
        self.values = given.astype(np.float32)
        self.steps = np.full(size, _FIRST_STEP)
        self.excess = np.zeros(size)

    def follow(self, counts: np.ndarray, shared: np.ndarray, scale: float) -> None:
        """Move prices after a pass with `counts` (K,) and `scale`, the mean squared distance.

        `shared` (S, 2) are pairs of clusters, the first of which now has half of the second; their
        counts say nothing any more, and both begin at the price of the second.
        """
        excess = np.clip(np.log((counts + 1.0) / (counts.mean() + 1.0)), -1.0, 1.0)
        agreement = excess * self.excess
        factors = np.where(agreement > 0.0, _FASTER, np.where(agreement < 0.0, _SLOWER, 1.0))
        self.steps = np.clip(self.steps * factors, _LEAST_STEP, _LARGEST_STEP)
        prices = self.values.astype(np.float64)
        prices[shared[:, 0]] = prices[shared[:, 1]]
        self.steps[shared], excess[shared] = _FIRST_STEP, 0.0
        self.excess = excess
        prices += scale * self.steps * excess
        reach = 0.5 * _MOST_APART * scale
        prices = np.clip(prices - np.median(prices), -reach, reach)
        self.values = (prices - prices.min()).astype(np.float32)


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


class Nearest:
    """Finds the nearest of some centroids (K, D) float32; `prices` as in `Codebook`."""

    def __init__(
        self,
        centroids: np.ndarray,
        prices: np.ndarray | None = None,
        *,
        use_sieve: bool | None = None,
    ) -> None:
        if prices is not None and not prices.any():
            prices = None
        self.is_priced = prices is not None
        self.searcher = build_searcher(centroids if prices is None else _lift(centroids, prices))
        if use_sieve is None:
            use_sieve = len(centroids) >= _SIEVE_FROM and bfloat16_pays()
        self.sieve = _Sieve(centroids, prices) if use_sieve else None

    def assign(self, frames: np.ndarray) -> np.ndarray:
        """Frames (N, D) float16 to the nearest centroids' ids (N,) int32."""
        ids = np.empty(len(frames), np.int32)
        if self.sieve is None:
            for first in range(0, len(frames), CHUNK_FRAMES):
                part = slice(first, first + CHUNK_FRAMES)
                ids[part] = self._search(frames[part])
            return ids
        open_rows = []
        for first in range(0, len(frames), CHUNK_FRAMES):
            part = slice(first, first + CHUNK_FRAMES)
            ids[part], is_open = self.sieve.pass_through(frames[part])
            open_rows.append(first + np.flatnonzero(is_open))
        left = np.concatenate(open_rows) if open_rows else np.zeros(0, np.int64)
        for first in range(0, len(left), CHUNK_FRAMES):
            rows = left[first : first + CHUNK_FRAMES]
            ids[rows] = self._search(frames[rows])
        return ids

    def _search(self, frames: np.ndarray) -> np.ndarray:
        wide = to_float32(frames)
        if self.is_priced:
            wide = np.pad(wide, ((0, 0), (0, 1)))
        return assign_units(self.searcher, wide)[0]


def _lift(centroids: np.ndarray, prices: np.ndarray) -> np.ndarray:
    """Centroids (K, D) and prices (K,) to (K, D + 1), where squared distances include prices."""
    heights = np.sqrt(prices.astype(np.float64)).astype(np.float32)
    return np.column_stack([centroids, heights])


def to_float32(frames: np.ndarray) -> np.ndarray:
    """float16 to float32; torch does it ten times faster than NumPy."""
    return torch.from_numpy(np.ascontiguousarray(frames)).float().numpy()


class _Sieve:
    """Scores x·c - (|c|² + p)/2 in bfloat16, around the centroids' mean, with their error's bound.

    Of x = h + e, h what bfloat16 keeps, and c = g + d likewise, |x·c - h·g| <= |e||c| + |h||d|
    (Cauchy-Schwarz). Rounding the score itself to eight bits adds a part in 2^8 of it.
    """

    def __init__(self, centroids: np.ndarray, prices: np.ndarray | None) -> None:
        exact = torch.from_numpy(np.ascontiguousarray(centroids, np.float32))
        self.mean = exact.mean(dim=0)
        moved = exact - self.mean
        rounded = moved.bfloat16()
        norms = moved.norm(dim=1)
        bias = -0.5 * norms.square()
        highest = 0.0
        if prices is not None:
            bias -= 0.5 * torch.from_numpy(np.ascontiguousarray(prices, np.float32))
            highest = float(prices.max())
        self.weights = rounded.t().contiguous()
        self.bias = bias.bfloat16()
        self.longest = float(norms.max())
        self.centroid_error = float((moved - rounded.float()).norm(dim=1).max())
        # float32 itself is not exact: a generous part in 10^5 of the largest numbers
        self.slack = float((bias - self.bias.float()).abs().max()) + 1e-5 * float(
            self.longest**2 + self.longest * self.mean.norm() + highest
        )

    @torch.inference_mode()
    def pass_through(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Frames (N, D) float16 to ids (N,), and whether each could be another's (N,) bool."""
        wide = torch.from_numpy(np.ascontiguousarray(frames)).float().sub_(self.mean)
        kept = wide.bfloat16()
        best, ids = torch.addmm(self.bias, kept, self.weights).topk(2, dim=1)
        length = wide.norm(dim=1)
        error = wide.sub_(kept).norm(dim=1)
        bound = self._bound(length, error, best.float().abs().amax(dim=1))
        is_open = ~(best[:, 0].float() - best[:, 1].float() > 2.0 * bound)
        return ids[:, 0].to(torch.int32).numpy(), is_open.numpy()

    def _bound(self, length: Tensor, error: Tensor, score: Tensor) -> Tensor:
        products = error * self.longest + length * (self.centroid_error + 1e-5 * self.longest)
        return 1.01 * products + score * 2.0**-8 + self.slack


@functools.cache
def bfloat16_pays() -> bool:
    """Whether this processor multiplies matrices much faster in bfloat16; measured once."""
    if faiss.get_num_gpus() > 0:
        return False
    left, right = torch.ones(CHUNK_FRAMES, 768), torch.ones(768, 256)
    return _seconds(left, right) > _GAIN * _seconds(left.bfloat16(), right.bfloat16())


def _seconds(left: Tensor, right: Tensor) -> float:
    times = []
    for _ in range(4):
        started = time.perf_counter()
        torch.mm(left, right)
        times.append(time.perf_counter() - started)
    return min(times)
