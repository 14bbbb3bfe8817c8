"""Clustering shards: in this process, or actors whose parts Ray Data deals to them.

Parts of the stored frames are dealt over the shards. A shard keeps the training frames of its
parts as float16, one block a part, as far as its cache goes, and reads the rest again in every
pass. The caller sees centroids and float64 sums only; a few thousand frames go from shard to shard,
as candidates for the start.
"""

import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import ray
import ray.data
from ray.exceptions import RayActorError

from serkd.features.store import list_parts
from serkd.units.handles import MAX_DEATHS, Call, ShardHandle
from serkd.units.kmeans import fit_lloyd
from serkd.units.nearest import Codebook, bfloat16_pays
from serkd.units.scale import Fitted
from serkd.units.seeding import Plan, find_start, plan_start
from serkd.units.shards import BlockSizes
from serkd.units.sums import Sums, merge_sums

logger = logging.getLogger(__name__)


class Clustering:
    """Shards that hold the training frames of one layer after another.

    Frames that fit into `cache_bytes` stay in this process, others are shared by `num_actors`
    actors, if that is more than 0. An actor that dies is replaced, and the centroids are the same,
    bit for bit, as if it had not. `has_gpus` says that actors have one each: then they are used
    for small data too, unless this process has a GPU itself.
    """

    def __init__(self, *, num_actors: int = 0, has_gpus: bool = False) -> None:
        self.num_actors, self.has_gpus = num_actors, has_gpus
        self.shards: list[ShardHandle] = []
        self.sizes: BlockSizes = {}
        self.squares: dict[str, float] = {}  # of the samples that shards keep
        self._drawn: tuple[tuple[int, int], int] | None = None  # their sizes and seed

    def load(
        self,
        folder: Path,
        column: str,
        train_ids: Sequence[str],
        *,
        max_points: int | None = None,
        seed: int = 0,
        cache_bytes: float = float("inf"),
    ) -> None:
        """Take the frames of some utterances, in place of those that were here.

        `max_points` keeps a random sample of them, the same one for any number of shards.
        `cache_bytes` bounds what all shards together keep in memory.
        """
        paths, self._drawn = list_parts(folder), None
        fits = sum(path.stat().st_size for path in paths) <= cache_bytes
        is_here = fits and (not self.has_gpus or faiss.get_num_gpus() > 0)
        count = 0 if is_here else min(self.num_actors, len(paths))
        self.open(count)
        parts = {number: str(path) for number, path in enumerate(paths)}
        if count:
            share = cache_bytes / len(self.shards)
            self._note(self._feed(parts, column, train_ids, share))
        else:
            self._note(self.call("load", parts, column, train_ids, cache_bytes))
        if max_points is not None and max_points < self.num_frames:
            rng = np.random.default_rng(seed)
            indices = np.sort(rng.choice(self.num_frames, max_points, replace=False))
            self._note(self.call("restrict", self.locate(indices)))

    def hold(self, blocks: Sequence[np.ndarray]) -> None:
        """Take frames (N, D) float16 that are in memory already, in this process."""
        self.open(0)
        self._drawn = None
        self._note(self.call("hold", dict(enumerate(blocks))))

    def open(self, count: int) -> None:
        """Have so many actors, or more; 0 is a shard in this process."""
        is_other = [bool(shard.actor) != bool(count) for shard in self.shards]
        if any(is_other) or len(self.shards) < max(1, count):
            self.close()
            self.shards = [ShardHandle(count) for _ in range(max(1, count))]

    def _feed(
        self, parts: Mapping[int, str], column: str, keep: Sequence[str], share: float
    ) -> list[BlockSizes]:
        """Have Ray Data deal the parts, again to all if an actor dies: the others wait for it."""
        kept = ray.put(list(keep))
        for attempt in itertools.count():
            try:
                found = self._feed_once(parts, column, kept, share)
                break
            except RayActorError:
                if attempt == MAX_DEATHS:
                    raise
                logger.warning("a clustering actor died while it was fed: all are fed again")
                for shard in self.shards:
                    shard.renew()
        for shard, (taken, _) in zip(self.shards, found, strict=True):
            shard.told = []
            shard.state = [Call("load", (taken, column, kept, share), None)]
            shard.num_deaths = 0
        return [sizes for _, sizes in found]

    def _feed_once(
        self, parts: Mapping[int, str], column: str, keep: ray.ObjectRef, share: float
    ) -> list[tuple[dict[int, str], BlockSizes]]:
        """Each actor gets about as many parts, and reads them as they come."""
        rows = [{"number": number, "path": path} for number, path in parts.items()]
        dealt = ray.data.from_items(rows, override_num_blocks=len(rows))
        pending = [
            shard.actor.feed.remote(split, column, keep, share)
            for shard, split in zip(
                self.shards, dealt.streaming_split(len(self.shards)), strict=True
            )
        ]
        left = pending
        while left:
            done, left = ray.wait(left)
            ray.get(done)
        return ray.get(pending)

    @property
    def num_frames(self) -> int:
        return sum(frames for frames, _ in self.sizes.values())

    def _note(self, sizes: Sequence[BlockSizes]) -> None:
        found = {n: size for part in sizes for n, size in part.items()}
        self.sizes = {n: found[n] for n in sorted(found) if found[n][0]}

    def call(self, method: str, *arguments: object) -> list[Any]:
        return self._end([shard.begin(method, *arguments) for shard in self.shards])

    def _end(self, pending: Sequence[Call]) -> list[Any]:
        return [shard.end(call) for shard, call in zip(self.shards, pending, strict=True)]

    def close(self) -> None:
        """End the actors."""
        for shard in self.shards:
            shard.close()
        self.shards.clear()

    def fit(
        self,
        scales: Sequence[int],
        *,
        max_iterations: int,
        tolerance: float,
        seed: int,
        balanced: bool = False,
    ) -> dict[int, Fitted]:
        """Fit several numbers of clusters in the same passes; each result is that of a fit alone.

        Raises:
            InputError: fewer training frames than clusters.
        """
        starts = {k: self._start(k, seed) for k in sorted(scales)}
        self._draw({})  # the samples would only take memory now
        fitted = fit_lloyd(
            lambda codebooks: merge_sums(self.call("add", codebooks, bfloat16_pays())),
            starts,
            squares=_sum_squares([self.sizes]),
            max_iterations=max_iterations,
            tolerance=tolerance,
            seed=seed,
            balanced=balanced,
        )
        for found in fitted.values():
            assert found.counts.sum() == self.num_frames, "a shard lost frames"
        return fitted

    def _start(self, num_clusters: int, seed: int) -> np.ndarray:
        """Found where the frames are: neither samples nor candidates pass through this process."""
        plan = plan_start(self.num_frames, num_clusters, seed)
        if self._drawn != (plan.size, seed):  # or those of the scale before will do
            self._draw({"refined": plan.refined, "scored": plan.scored})
            self._drawn = plan.size, seed
        return find_start(_Samples(self, plan), num_clusters, seed)

    def _draw(self, samples: Mapping[str, np.ndarray]) -> None:
        found = self.call("draw", {name: self.locate(at) for name, at in samples.items()})
        self.squares = {name: _sum_squares(part[name] for part in found) for name in samples}
        self._drawn = None

    def locate(self, indices: np.ndarray) -> dict[int, np.ndarray]:
        """Indices into all frames, in block order, to rows of each block."""
        ends = list(itertools.accumulate(frames for frames, _ in self.sizes.values()))
        starts = [0, *ends[:-1]]
        return {
            n: indices[(indices >= first) & (indices < end)] - first
            for n, first, end in zip(self.sizes, starts, ends, strict=True)
        }


def _sum_squares(parts: Iterable[BlockSizes]) -> float:
    """In the order of the blocks: the same bits for any number of shards."""
    found = {n: squares for part in parts for n, (_, squares) in part.items()}
    return sum(found[n] for n in sorted(found))


class _Samples:
    """The samples of a plan that lie in shards."""

    def __init__(self, clustering: Clustering, plan: Plan) -> None:
        self.clustering, self.plan = clustering, plan
        self.squares = clustering.squares

    def choose(self, num_clusters: int, num_starts: int, seed: int) -> list[np.ndarray]:
        """By the first shard."""
        shards = self.clustering.shards
        rows = self.clustering.locate(self.plan.candidates)
        picked = [shard.begin("pick", "scored", rows) for shard in shards]
        for shard, call in zip(shards, picked, strict=True):
            shard.settle(call)
        found = [call.result for call in picked]
        return shards[0].end(shards[0].begin("choose", num_clusters, num_starts, seed, *found))

    def add(self, sample: str, codebooks: Mapping[int, Codebook]) -> Mapping[int, Sums]:
        return merge_sums(self.clustering.call("add", codebooks, bfloat16_pays(), sample))
