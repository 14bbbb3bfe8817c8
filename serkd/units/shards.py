"""The training frames of some parts, in a process: read or streamed in, cached, added up."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from ray.data import DataIterator

from serkd.features.store import read_block
from serkd.threads import set_threads
from serkd.units.nearest import Codebook
from serkd.units.seeding import seed_centroids
from serkd.units.sums import Sums, Tally, add_blocks, square_sum

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
        self.parts, self.column, self.keep = {}, column, frozenset(keep)
        self.cache_bytes = cache_bytes
        return dict(self._take(number, Path(path)) for number, path in parts.items())

    def _read(self, number: int) -> np.ndarray:
        return read_block(self.parts[number], self.column, self.keep)

    def _take(self, number: int, path: Path) -> tuple[int, tuple[int, float]]:
        """Have a part, and cache its frames if they fit; parts come in any order."""
        self.parts[number] = path
        block = self._read(number)
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
    """A shard in its own process, which shares the machine with others."""

    def __init__(self) -> None:
        super().__init__()
        set_threads(1)

    def feed(
        self, parts: DataIterator, column: str, keep: Sequence[str], cache_bytes: float
    ) -> tuple[dict[int, str], BlockSizes]:
        """Take what Ray Data deals to this shard; returns which parts, and the sizes of blocks.

        It deals the names of files: frames go from the file to this process, and through no other.
        """
        sizes = self.load({}, column, keep, cache_bytes)
        for row in parts.iter_rows():
            sizes |= [self._take(int(row["number"]), Path(row["path"]))]
        return {number: str(path) for number, path in self.parts.items()}, sizes
