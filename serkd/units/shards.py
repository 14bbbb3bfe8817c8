"""The training frames of some parts, in a process: read or streamed in, cached, added up."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import ray

from serkd.features.store import decode_rows, read_layout, read_part
from serkd.threads import set_threads
from serkd.units.nearest import Codebook
from serkd.units.seeding import seed_centroids
from serkd.units.sums import Sums, Tally, add_blocks, square_sum

Rows = list[tuple[str, np.ndarray]]
BlockSizes = dict[int, tuple[int, float]]  # frames and sum of squares of each block


class Shard:
    """The training frames of some parts; `cache` maps a part's number to (N, D) float16."""

    def __init__(self) -> None:
        self.parts: dict[int, Path] = {}
        self.column = ""
        self.keep: frozenset[str] = frozenset()
        self.cache_bytes = 0.0
        self.cache: dict[int, np.ndarray] = {}
        self.streamed: list[int] = []  # parts that do not fit
        self.chosen: dict[int, np.ndarray] | None = None  # rows of each block; None = all
        self.tallies: dict[int, Tally] = {}

    def load(
        self, parts: Mapping[int, str], column: str, keep: Sequence[str], cache_bytes: float
    ) -> BlockSizes:
        """Read the parts and forget what was here before; returns the size of each block."""
        self.cache, self.streamed, self.chosen, self.tallies = {}, [], None, {}
        self.parts = {number: Path(path) for number, path in parts.items()}
        self.column, self.keep, self.cache_bytes = column, frozenset(keep), cache_bytes
        return dict(self._take(number, block) for number, block in self._read_all())

    def _read_all(self) -> Iterator[tuple[int, np.ndarray]]:
        """Every part once, in any order."""
        return ((number, self._read(number)) for number in self.parts)

    def _read(self, number: int) -> np.ndarray:
        return self._join(list(read_part(self.parts[number], self.column)))

    def _join(self, rows: Rows) -> np.ndarray:
        """The kept utterances' frames, in the order of their ids."""
        kept = sorted((row for row in rows if row[0] in self.keep), key=lambda row: row[0])
        return np.concatenate([frames for _, frames in kept]) if kept else np.zeros((0, 0), "f2")

    def _take(self, number: int, block: np.ndarray) -> tuple[int, tuple[int, float]]:
        """Cache a block if it fits; blocks are seen in any order."""
        used = sum(cached.nbytes for cached in self.cache.values())
        if used + block.nbytes <= self.cache_bytes:
            self.cache[number] = block
        else:
            self.streamed.append(number)
        return number, (len(block), square_sum(block))

    def restrict(self, chosen: Mapping[int, np.ndarray]) -> BlockSizes:
        """Use only the given rows of each block from now on."""
        self.chosen = {n: chosen.get(n, np.zeros(0, np.int64)) for n in self.parts}
        self.cache = {n: block[self.chosen[n]] for n, block in self.cache.items()}
        return {n: (len(block), square_sum(block)) for n, block in self.blocks()}

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """All blocks: the cached ones, then the others, each read while the one before is used."""
        yield from sorted(self.cache.items())
        with ThreadPoolExecutor(1) as reader:
            ahead = [(n, reader.submit(self._read, n)) for n in self.streamed[:1]]
            for following in [*self.streamed[1:], None]:
                if not ahead:
                    return
                number, pending = ahead.pop()
                block = pending.result()
                if following is not None:
                    ahead.append((following, reader.submit(self._read, following)))
                yield number, block if self.chosen is None else block[self.chosen[number]]

    def rows(self, chosen: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Some rows of this shard's blocks."""
        wanted = {n: rows for n, rows in chosen.items() if n in self.parts and len(rows)}
        return {n: block[wanted[n]] for n, block in self.blocks() if n in wanted}

    def start(self, num_clusters: int, seed: int, *found: dict[int, np.ndarray]) -> np.ndarray:
        """The centroids (K, D) to start from, of the rows that all shards found."""
        rows = {n: block for part in found for n, block in part.items()}
        return seed_centroids(np.concatenate([rows[n] for n in sorted(rows)]), num_clusters, seed)

    def add(self, codebooks: Mapping[int, Codebook]) -> dict[int, Sums]:
        """One pass: see `add_blocks`."""
        return add_blocks(self.blocks(), codebooks, self.tallies)


class ShardActor(Shard):
    """A shard in its own process, fed by Ray Data."""

    def _read_all(self) -> Iterator[tuple[int, np.ndarray]]:
        set_threads(1)
        if not self.parts:
            return
        numbers = {str(path): number for number, path in self.parts.items()}
        missing = {n: _num_rows(path) for n, path in self.parts.items()}
        rows: dict[int, Rows] = {number: [] for number in self.parts}
        dataset = ray.data.read_parquet(
            list(numbers), columns=["utt_id", self.column], include_paths=True
        )
        layout = read_layout(next(iter(self.parts.values())))[self.column]
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            utt_ids, blobs = batch["utt_id"].to_pylist(), batch[self.column]
            decoded = decode_rows(utt_ids, [blob.as_buffer() for blob in blobs], layout)
            for path, (utt_id, frames) in zip(batch["path"].to_pylist(), decoded, strict=True):
                number = numbers[path]
                missing[number] -= 1
                if utt_id in self.keep:
                    rows[number].append((utt_id, frames.copy()))
                if not missing[number]:  # the whole part has come
                    yield number, self._join(rows.pop(number))


def _num_rows(path: Path) -> int:
    return pq.read_metadata(path).num_rows
