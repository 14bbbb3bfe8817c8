"""Clustering shards: in this process, or actors that Ray Data feeds once.

Parts of the stored frames are dealt over the shards. A shard keeps the training frames of its
parts as float16, one block a part; the caller sees centroids and float64 sums only.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import ray

from serkd.features.store import decode_rows, list_parts, read_layout, read_part
from serkd.units.kmeans import (
    Fitted,
    Sums,
    add_blocks,
    fit_lloyd,
    merge_sums,
    sample_indices,
    seed_centroids,
)

_ACTOR_CPUS = 0.5  # the other half of the CPUs reads Parquet


class Shard:
    """The training frames of some parts; `blocks` maps a part's number to (N, D) float16."""

    def __init__(self, parts: Mapping[int, str], column: str, keep: Sequence[str]) -> None:
        self.parts = {number: Path(path) for number, path in parts.items()}
        self.column = column
        self.keep = frozenset(keep)
        self.blocks: dict[int, np.ndarray] = {}

    def load(self) -> dict[int, int]:
        """Read the parts directly; returns the frames of each block."""
        rows = {number: read_part(path, self.column) for number, path in self.parts.items()}
        return self._store(rows)

    def _store(self, rows: Mapping[int, Iterator[tuple[str, np.ndarray]]]) -> dict[int, int]:
        for number in sorted(rows):
            kept = [(u, f) for u, f in rows[number] if u in self.keep]
            kept.sort(key=lambda row: row[0])
            if kept:
                self.blocks[number] = np.concatenate([frames for _, frames in kept])
        return {number: len(block) for number, block in self.blocks.items()}

    def restrict(self, chosen: Mapping[int, np.ndarray]) -> None:
        """Keep only the given rows of each block."""
        self.blocks = self.rows(chosen)

    def rows(self, chosen: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Some rows of this shard's blocks."""
        return {n: self.blocks[n][rows] for n, rows in chosen.items() if n in self.blocks}

    def add(self, centroids: np.ndarray) -> Sums:
        """One pass: see `add_blocks`."""
        return add_blocks(sorted(self.blocks.items()), centroids)


class ShardActor(Shard):
    """A shard in its own process, fed by Ray Data."""

    def load(self) -> dict[int, int]:
        """Stream the parts once into the cache; returns the frames of each block."""
        faiss.omp_set_num_threads(1)
        numbers = {str(path): number for number, path in self.parts.items()}
        rows: dict[int, list[tuple[str, np.ndarray]]] = {number: [] for number in self.parts}
        dataset = ray.data.read_parquet(
            list(numbers), columns=["utt_id", self.column], include_paths=True
        )
        layout = read_layout(next(iter(self.parts.values())))[self.column]
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            utt_ids, blobs = batch["utt_id"].to_pylist(), batch[self.column]
            decoded = decode_rows(utt_ids, [blob.as_buffer() for blob in blobs], layout)
            for path, (utt_id, frames) in zip(batch["path"].to_pylist(), decoded, strict=True):
                if utt_id in self.keep:
                    rows[numbers[path]].append((utt_id, frames.copy()))
        return self._store({number: iter(found) for number, found in rows.items()})


class Clustering:
    """The training frames of one layer, over shards that live as long as this object.

    `max_points` keeps a random sample of them, the same one for any number of shards.
    """

    def __init__(
        self,
        folder: Path,
        column: str,
        train_ids: Sequence[str],
        *,
        max_points: int | None = None,
        seed: int = 0,
        num_actors: int = 0,
    ) -> None:
        parts = list(enumerate(str(path) for path in list_parts(folder)))
        count = max(1, min(num_actors, len(parts)))
        dealt = [dict(parts[i::count]) for i in range(count)]
        self.actors: list[Any] = []
        self.local: Shard | None = None
        if num_actors:
            actor = ray.remote(ShardActor).options(
                num_cpus=_ACTOR_CPUS, num_gpus=_gpus_per_actor(count)
            )
            keep = ray.put(list(train_ids))
            self.actors = [actor.remote(mine, column, keep) for mine in dealt]
        else:
            self.local = Shard(dealt[0], column, train_ids)
        sizes = self._call("load")
        self.block_sizes = {n: size for part in sizes for n, size in part.items()}
        if max_points is not None and max_points < self.num_frames:
            rng = np.random.default_rng(seed)
            self._limit(np.sort(rng.choice(self.num_frames, max_points, replace=False)))

    @property
    def num_frames(self) -> int:
        return sum(self.block_sizes.values())

    def _call(self, method: str, *arguments: object) -> list[Any]:
        if self.local is not None:
            return [getattr(self.local, method)(*arguments)]
        shared = [ray.put(argument) for argument in arguments]
        return ray.get([getattr(actor, method).remote(*shared) for actor in self.actors])

    def close(self) -> None:
        """End the actors."""
        for actor in self.actors:
            ray.kill(actor)
        self.actors = []

    def fit(self, num_clusters: int, *, max_iterations: int, tolerance: float, seed: int) -> Fitted:
        """Fit one scale from a k-means++ start on a sample of these frames.

        Raises:
            InputError: fewer training frames than clusters.
        """
        start = self._start(num_clusters, seed)
        return fit_lloyd(
            lambda centroids: merge_sums(self._call("add", centroids)),
            start,
            max_iterations=max_iterations,
            tolerance=tolerance,
            seed=seed,
        )

    def _limit(self, indices: np.ndarray) -> None:
        chosen = self._locate(indices)
        self._call("restrict", chosen)
        self.block_sizes = {n: len(rows) for n, rows in chosen.items()}

    def _start(self, num_clusters: int, seed: int) -> np.ndarray:
        chosen = self._locate(sample_indices(self.num_frames, num_clusters, seed))
        found = {n: rows for part in self._call("rows", chosen) for n, rows in part.items()}
        return seed_centroids(np.concatenate([found[n] for n in sorted(found)]), num_clusters, seed)

    def _locate(self, indices: np.ndarray) -> dict[int, np.ndarray]:
        """Indices into all frames, in block order, to rows of each block."""
        numbers = sorted(self.block_sizes)
        ends = list(itertools.accumulate(self.block_sizes[n] for n in numbers))
        starts = [0, *ends[:-1]]
        return {
            n: indices[(indices >= first) & (indices < end)] - first
            for n, first, end in zip(numbers, starts, ends, strict=True)
        }


def _gpus_per_actor(num_actors: int) -> float:
    return 1.0 if ray.cluster_resources().get("GPU", 0) >= num_actors else 0.0
