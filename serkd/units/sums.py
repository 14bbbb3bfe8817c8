"""What one pass over some frames adds up to, for several scales side by side.

Sums are exact: a float16 is a multiple of 2^-24, so float64 adds up to 2^29 in absolute value
without rounding, in any order. Two things follow. They are the same, bit for bit, for any number
of shards and threads and any order of arrival; and a pass needs to add only the frames that
changed their cluster to the sums of the pass before, which late in a fit are few.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Lock

import faiss
import numpy as np
import torch
from scipy import sparse

from serkd.threads import side_by_side
from serkd.units.nearest import CHUNK_FRAMES, Codebook, Nearest, bfloat16_pays, sieve_pays

_SQUARED_FRAMES = 512  # at once: they stay in the cache of a core
_AHEAD = 4  # chunks for each worker that are cut before they are needed

Blocks = Iterable[tuple[int, np.ndarray]]  # a block's number and its frames (N, D) float16
Chunk = tuple[int, int, np.ndarray]  # a block's number, the first of its frames, and (n, D)


@dataclass(frozen=True)
class Sums:
    """What one pass adds up to, for one scale.

    `sums` (K, D) float64 and `counts` (K,) int64 of the frames of each cluster.
    """

    sums: np.ndarray
    counts: np.ndarray


@dataclass
class Tally:
    """The sums of one scale over the blocks of one shard, kept from pass to pass.

    `units` maps a block's number to the cluster of each of its frames in the last pass.
    """

    sums: np.ndarray
    counts: np.ndarray
    units: dict[int, np.ndarray] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)

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
        touched, places = np.unique(np.concatenate([after, before[left]]), return_inverse=True)
        signs = np.concatenate([np.ones(len(moved)), np.full(left.sum(), -1.0)])
        members = sparse.csr_array(
            (signs, (places, np.concatenate([rows, rows[left]]))), (len(touched), len(moved))
        )
        sums, counts = members @ _to_float64(frames[moved]), members.sum(axis=1)
        known[moved] = after
        with self.lock:
            self.sums[touched] += sums
            self.counts[touched] += counts.astype(np.int64)


def add_blocks(
    blocks: Blocks,
    centroids: Mapping[int, Codebook | np.ndarray],
    tallies: dict[int, Tally],
    *,
    has_bfloat16: bool | None = None,
) -> dict[int, Sums]:
    """One pass over some blocks for several scales, which share the read.

    `centroids` maps a scale's K to its codebook, or to (K, D) without prices. `tallies` are those
    of the pass before and are brought up to date; scales that are not asked for any more are
    forgotten. Chunks of frames are dealt over as many workers as torch has threads. `has_bfloat16`
    is for `sieve_pays`; None is what this process measured.
    """
    books = {scale: Codebook.of(values) for scale, values in centroids.items()}
    has_bfloat16 = bfloat16_pays() if has_bfloat16 is None else has_bfloat16
    nearest = {
        scale: Nearest(
            book.centroids, book.prices, use_sieve=sieve_pays(len(book.centroids), has_bfloat16)
        )
        for scale, book in books.items()
    }
    for scale in list(tallies):
        if scale not in books:
            del tallies[scale]
    for scale, book in books.items():
        shape = book.centroids.shape
        if scale not in tallies or tallies[scale].sums.shape != shape:
            tallies[scale] = Tally.empty(*shape)

    def add(chunk: Chunk) -> None:
        number, first, frames = chunk
        for scale, tally in tallies.items():
            tally.move(number, first, frames, nearest[scale].assign(frames))

    _for_each(_cut(blocks, tallies), add)
    return {scale: Sums(tally.sums, tally.counts) for scale, tally in tallies.items()}


def _cut(blocks: Blocks, tallies: Mapping[int, Tally]) -> Iterator[Chunk]:
    for number, frames in blocks:
        for tally in tallies.values():
            tally.units.setdefault(number, np.full(len(frames), -1, np.int32))
        for first in range(0, len(frames), CHUNK_FRAMES):
            yield number, first, frames[first : first + CHUNK_FRAMES]


def _for_each(chunks: Iterable[Chunk], work: Callable[[Chunk], None]) -> None:
    """Work on chunks side by side, with few of them in memory; a GPU's index takes turns."""
    num_workers = 1 if faiss.get_num_gpus() else torch.get_num_threads()
    if num_workers == 1:
        for chunk in chunks:
            work(chunk)
        return
    with side_by_side(num_workers) as pool:
        pending: deque[Future[None]] = deque()
        for chunk in chunks:
            pending.append(pool.submit(work, chunk))
            if len(pending) > _AHEAD * num_workers:
                pending.popleft().result()
        for future in pending:
            future.result()


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
        )
        for scale, found in merged.items()
    }


def square_sum(frames: np.ndarray) -> float:
    """Sum of squares of frames (N, D) float16, to float32's rounding of each square."""
    total = 0.0
    for first in range(0, len(frames), _SQUARED_FRAMES):
        part = torch.from_numpy(np.ascontiguousarray(frames[first : first + _SQUARED_FRAMES]))
        total += float(part.float().square_().sum(dtype=torch.float64))
    return total


def _to_float64(frames: np.ndarray) -> np.ndarray:
    """float16 to float64; torch does it several times faster than NumPy."""
    return torch.from_numpy(np.ascontiguousarray(frames)).double().numpy()
