"""Clustering shards: in this process, or actors that Ray Data feeds once.

Parts of the stored frames are dealt over the shards. A shard keeps the training frames of its
parts as float16, one block a part, as far as its cache goes, and reads the rest again in every
pass. The caller sees centroids and float64 sums only; one bounded sample of frames goes from shard
to shard, for the start.
"""

import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayActorError

from serkd.features.store import list_parts
from serkd.units.kmeans import Fitted, fit_lloyd, merge_sums
from serkd.units.seeding import sample_indices
from serkd.units.shards import BlockSizes, Shard, ShardActor

logger = logging.getLogger(__name__)
_ACTOR_CPUS = 0.5  # the other half of the CPUs reads Parquet
_MAX_DEATHS = 3  # of one shard's actors; then it is the machine and not chance


class Clustering:
    """The training frames of one layer, over shards that live as long as this object.

    `max_points` keeps a random sample of them, the same one for any number of shards.
    `cache_bytes` bounds what all shards together keep in memory. An actor that dies is replaced,
    and the centroids are the same, bit for bit, as if it had not.
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
        cache_bytes: float = float("inf"),
    ) -> None:
        parts = list(enumerate(str(path) for path in list_parts(folder)))
        count = max(1, min(num_actors, len(parts)))
        self.shards = [
            _Shard(dict(parts[i::count]), column, train_ids, cache_bytes / count, count, num_actors)
            for i in range(count)
        ]
        self.sizes: BlockSizes = {}
        self._fitted: dict[tuple[int, int, float, int], Fitted] = {}
        self._note(self._call("load"))
        if max_points is not None and max_points < self.num_frames:
            rng = np.random.default_rng(seed)
            indices = np.sort(rng.choice(self.num_frames, max_points, replace=False))
            self._note(self._call("restrict", self._locate(indices)))

    @property
    def num_frames(self) -> int:
        return sum(frames for frames, _ in self.sizes.values())

    def _note(self, sizes: Sequence[BlockSizes]) -> None:
        found = {n: size for part in sizes for n, size in part.items()}
        self.sizes = {n: found[n] for n in sorted(found) if found[n][0]}

    def _call(self, method: str, *arguments: object) -> list[Any]:
        pending = [shard.begin(method, *arguments) for shard in self.shards]
        return [shard.end(call) for shard, call in zip(self.shards, pending, strict=True)]

    def close(self) -> None:
        """End the actors."""
        for shard in self.shards:
            shard.close()

    def fit(
        self,
        num_clusters: int,
        *,
        max_iterations: int,
        tolerance: float,
        seed: int,
        also: Sequence[int] = (),
    ) -> Fitted:
        """Fit one scale.

        `also` are numbers of clusters that will be asked for next: they are fitted in the same
        passes over the frames and kept. Each result is that of a fit alone.

        Raises:
            InputError: fewer training frames than clusters.
        """
        settings = (max_iterations, tolerance, seed)
        if (num_clusters, *settings) not in self._fitted:
            wanted = [k for k in {num_clusters, *also} if (k, *settings) not in self._fitted]
            fitted = fit_lloyd(
                lambda centroids: merge_sums(self._call("add", centroids)),
                {k: self._start(k, seed) for k in sorted(wanted)},
                squares=sum(squares for _, squares in self.sizes.values()),
                max_iterations=max_iterations,
                tolerance=tolerance,
                seed=seed,
            )
            self._fitted |= {(k, *settings): found for k, found in fitted.items()}
        return self._fitted[num_clusters, *settings]

    def _start(self, num_clusters: int, seed: int) -> np.ndarray:
        """Found by the first shard: the sample does not pass through this process."""
        chosen = self._locate(sample_indices(self.num_frames, num_clusters, seed))
        found = [shard.begin("rows", chosen) for shard in self.shards]
        for shard, call in zip(self.shards, found, strict=True):
            shard.settle(call)
        first = self.shards[0]
        return first.end(first.begin("start", num_clusters, seed, *(c.result for c in found)))

    def _locate(self, indices: np.ndarray) -> dict[int, np.ndarray]:
        """Indices into all frames, in block order, to rows of each block."""
        ends = list(itertools.accumulate(frames for frames, _ in self.sizes.values()))
        starts = [0, *ends[:-1]]
        return {
            n: indices[(indices >= first) & (indices < end)] - first
            for n, first, end in zip(self.sizes, starts, ends, strict=True)
        }


class _Call:
    """A method under way: its name, arguments, and result (or the reference to it)."""

    def __init__(self, method: str, arguments: tuple[Any, ...], result: Any) -> None:  # noqa: ANN401
        self.method, self.arguments, self.result = method, arguments, result


class _Shard:
    """Calls a shard that is here, or one in an actor that is replaced when it dies."""

    def __init__(
        self,
        parts: dict[int, str],
        column: str,
        keep: Sequence[str],
        cache_bytes: float,
        num_shards: int,
        num_actors: int,
    ) -> None:
        self.settings = (parts, column, keep, cache_bytes)
        self.local = None if num_actors else Shard(*self.settings)
        self.actor: Any = None
        self.limits: _Call | None = None
        self.num_deaths = 0
        if num_actors:
            gpus = 1.0 if ray.cluster_resources().get("GPU", 0) >= num_shards else 0.0
            self.options = {"num_cpus": _ACTOR_CPUS, "num_gpus": gpus}
            self.settings = (parts, column, ray.put(list(keep)), cache_bytes)
            self._create()

    def _create(self) -> None:
        self.actor = ray.remote(ShardActor).options(**self.options).remote(*self.settings)

    def begin(self, method: str, *arguments: Any) -> _Call:  # noqa: ANN401
        if self.local is not None:
            return _Call(method, arguments, getattr(self.local, method)(*arguments))
        return _Call(method, arguments, getattr(self.actor, method).remote(*arguments))

    def settle(self, call: _Call) -> None:
        """Wait until a call is done; one whose actor died is made again by another."""
        if self.local is not None:
            return
        while True:
            try:
                ray.wait([call.result], fetch_local=False)
                ray.get(self.actor.__ray_ready__.remote())
                return
            except RayActorError as error:
                self._replace(call, error)

    def end(self, call: _Call) -> Any:  # noqa: ANN401
        """The result of a call."""
        if call.method == "restrict":
            self.limits = call
        if self.local is not None:
            return call.result
        while True:
            try:
                return ray.get(call.result)
            except RayActorError as error:
                self._replace(call, error)

    def _replace(self, call: _Call, error: RayActorError) -> None:
        """A new actor with the same frames; its first pass adds all of them, to the same bits."""
        self.num_deaths += 1
        if self.num_deaths > _MAX_DEATHS:
            raise error
        logger.warning("a clustering actor died in %s and is replaced", call.method)
        self._create()
        if call.method != "load":
            self.actor.load.remote()
        if self.limits is not None and call.method != "restrict":
            self.actor.restrict.remote(*self.limits.arguments)
        call.result = getattr(self.actor, call.method).remote(*call.arguments)

    def close(self) -> None:
        if self.actor is not None:
            ray.kill(self.actor)
            self.actor = None
