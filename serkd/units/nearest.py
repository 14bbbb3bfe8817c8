"""The nearest centroid of each frame: FAISS's exact search, behind a bfloat16 sieve where it pays.

Processors with bfloat16 units multiply matrices several times faster in it than in float32. The
sieve computes all scores in bfloat16, bounds their error, and keeps the nearest centroid of those
frames for which no error within the bound could change it; FAISS finds the others' in float32.
So the answer is FAISS's own, but for frames between two centroids that float32 cannot tell apart:
processes that share a fit must all use the sieve, or none.

Clusters may have prices: a frame x then belongs to the k that minimises |x - c_k|^2 + p_k. This is
a power diagram, the slice of an ordinary Voronoi diagram in one more dimension, where frames are
at 0 and centroids at sqrt(p_k) (Aurenhammer, SIAM J. Comput. 1987); so it is found as exactly.
"""

import functools
import threading
import time
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

CHUNK_FRAMES = 4096  # are searched at once: their scores stay in the cache of a core
_SIEVE_FRAMES = 1024  # pass the sieve at once: they stay there too, in float32
_SIEVE_FROM = 16  # centroids; of fewer the multiplication is no great part
_GAIN = 2.5  # how much faster bfloat16 has to be


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


def build_searcher(centroids: np.ndarray) -> faiss.Index:
    """Exact L2 search over (K, D) float32 centroids; on a GPU where there is one."""
    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(np.ascontiguousarray(centroids, np.float32))
    if faiss.get_num_gpus() > 0:
        return faiss.index_cpu_to_gpu(_gpu_resources(), 0, index)
    return index


@functools.cache
def _gpu_resources() -> Any:  # noqa: ANN401  FAISS without GPUs has no such class
    """One for this process: each takes a share of the card's memory."""
    return faiss.StandardGpuResources()


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
            use_sieve = sieve_pays(len(centroids), bfloat16_pays())
        self.sieve = _Sieve(centroids, prices) if use_sieve else None

    def assign(self, frames: np.ndarray) -> np.ndarray:
        """Frames (N, D) float16 to the nearest centroids' ids (N,) int32."""
        parts = [
            self._assign(frames[first : first + CHUNK_FRAMES])
            for first in range(0, len(frames), CHUNK_FRAMES)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)

    def _assign(self, frames: np.ndarray) -> np.ndarray:
        if self.sieve is None:
            return self._search(frames)
        ids, is_open = self.sieve.pass_through(frames)
        left = np.flatnonzero(is_open)
        if len(left):
            ids[left] = self._search(frames[left])
        return ids

    def _search(self, frames: np.ndarray) -> np.ndarray:
        wide = to_float32(frames)
        if self.is_priced:
            wide = np.pad(wide, ((0, 0), (0, 1)))
        return assign_units(self.searcher, wide)[0].astype(np.int32)


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
        self.local = threading.local()
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
        """Frames (N, D) float16 to ids (N,) int32, and whether each could be another's (N,)."""
        halves = torch.from_numpy(np.ascontiguousarray(frames))
        ids, is_open = np.empty(len(frames), np.int32), np.empty(len(frames), bool)
        for first in range(0, len(frames), _SIEVE_FRAMES):
            part = slice(first, first + _SIEVE_FRAMES)
            found = self._pass(halves[part])
            ids[part], is_open[part] = (one.numpy() for one in found)
        return ids, is_open

    def _pass(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        wide, kept, scores = (room[: len(frames)] for room in self._room(frames.shape[1]))
        wide.copy_(frames).sub_(self.mean)
        kept.copy_(wide)
        torch.addmm(self.bias, kept, self.weights, out=scores)
        best, ids = scores.max(dim=1)
        second = scores.scatter_(1, ids[:, None], -torch.inf).amax(dim=1)
        length = torch.linalg.vector_norm(wide, dim=1)
        error = torch.linalg.vector_norm(wide.sub_(kept), dim=1)
        best, second = best.float(), second.float()
        bound = self._bound(length, error, torch.maximum(best.abs(), second.abs()))
        return ids.to(torch.int32), ~(best - second > 2.0 * bound)

    def _room(self, dim: int) -> tuple[Tensor, Tensor, Tensor]:
        """Memory of this thread: to ask the system for it again costs more than to use it."""
        if not hasattr(self.local, "room"):
            self.local.room = (
                torch.empty(_SIEVE_FRAMES, dim),
                torch.empty(_SIEVE_FRAMES, dim, dtype=torch.bfloat16),
                torch.empty(_SIEVE_FRAMES, len(self.bias), dtype=torch.bfloat16),
            )
        return self.local.room

    def _bound(self, length: Tensor, error: Tensor, score: Tensor) -> Tensor:
        products = error * self.longest + length * (self.centroid_error + 1e-5 * self.longest)
        return 1.01 * products + score * 2.0**-8 + self.slack


def sieve_pays(num_clusters: int, has_bfloat16: bool) -> bool:
    """Whether the sieve saves more than it costs; `has_bfloat16` as `bfloat16_pays` says."""
    return has_bfloat16 and num_clusters >= _SIEVE_FROM


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
