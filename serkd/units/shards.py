"""The training frames of some parts, in a process: read or streamed in, cached, added up."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
from ray.data import DataIterator

from serkd.features.store import read_block
from serkd.threads import set_threads
from serkd.units.nearest import Codebook
from serkd.units.seeding import choose_starts
from serkd.units.sums import Sums, Tally, add_blocks, square_sum

Rows = Mapping[int, np.ndarray]  # a block's number to rows of it
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
        self.samples: dict[str, _Sample] = {}

    def load(
        self, parts: Mapping[int, str], column: str, keep: Sequence[str], cache_bytes: float
    ) -> BlockSizes:
        """Read the parts and forget what was here before; returns the size of each block."""
        self.cache, self.streamed, self.chosen = {}, [], None
        self.tallies, self.samples = {}, {}
        self.parts, self.column, self.keep = {}, column, frozenset(keep)
        self.cache_bytes = cache_bytes
        sizes: BlockSizes = {}
        for number, path in parts.items():
            sizes |= self._take(number, Path(path))
        return sizes

    def hold(self, blocks: Mapping[int, np.ndarray]) -> BlockSizes:
        """Take blocks that are in memory already."""
        self.load({}, "", (), 0.0)
        self.cache = dict(blocks)
        return _measure(blocks)

    def _read(self, number: int) -> np.ndarray:
        return read_block(self.parts[number], self.column, self.keep)

    def _take(self, number: int, path: Path) -> BlockSizes:
        """Have a part, and cache its frames if they fit; parts come in any order."""
        self.parts[number] = path
        block = self._read(number)
        if not self._cache_if_it_fits(number, block):
            self.streamed.append(number)
        return _measure({number: block})

    def _cache_if_it_fits(self, number: int, block: np.ndarray) -> bool:
        used = sum(cached.nbytes for cached in self.cache.values())
        if used + block.nbytes > self.cache_bytes:
            return False
        self.cache[number] = block
        return True

    def restrict(self, chosen: Rows) -> BlockSizes:
        """Use only the given rows of each block from now on; more of the blocks may fit then."""
        nothing = np.zeros(0, np.int64)
        self.chosen = {n: chosen.get(n, nothing) for n in (*self.cache, *self.streamed)}
        for number in self.cache:  # one by one, so that there are never two of all
            self.cache[number] = self.cache[number][self.chosen[number]]
        sizes = _measure(self.cache)
        for number, block in self._stream(self.streamed):
            sizes |= _measure({number: block})
            self._cache_if_it_fits(number, block)
        self.streamed = [n for n in self.streamed if n not in self.cache]
        return sizes

    def __contains__(self, number: int) -> bool:
        return number in self.parts or number in self.cache

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """All blocks: the cached ones, then the others, each read while the one before is used."""
        yield from sorted(self.cache.items())
        yield from self._stream(self.streamed)

    def _stream(self, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        with ThreadPoolExecutor(1) as reader:
            ahead = [(n, reader.submit(self._read, n)) for n in numbers[:1]]
            for following in [*numbers[1:], None]:
                if not ahead:
                    return
                number, pending = ahead.pop()
                block = pending.result()
                if following is not None:
                    ahead.append((following, reader.submit(self._read, following)))
                yield number, block if self.chosen is None else block[self.chosen[number]]

    def draw(self, samples: Mapping[str, Rows]) -> dict[str, BlockSizes]:
        """Keep some rows of blocks under a name, in place of what was kept; returns their sizes."""
        self.samples = {
            name: _Sample({n: at for n, at in rows.items() if n in self and len(at)})
            for name, rows in samples.items()
        }
        if any(sample.rows for sample in self.samples.values()):
            for number, block in self.blocks():
                for sample in self.samples.values():
                    sample.take(number, block)
            pa.default_memory_pool().release_unused()
        return {name: _measure(sample.blocks) for name, sample in self.samples.items()}

    def pick(self, name: str, rows: Rows) -> dict[int, np.ndarray]:
        """Those of a sample's frames that are some rows of blocks."""
        return self.samples[name].pick(rows)

    def choose(
        self, num_clusters: int, num_starts: int, seed: int, *picked: Mapping[int, np.ndarray]
    ) -> list[np.ndarray]:
        """`choose_starts` among the candidates that all shards picked."""
        found = {n: block for part in picked for n, block in part.items()}
        candidates = np.concatenate([found[n] for n in sorted(found)])
        return choose_starts(candidates, num_clusters, num_starts, seed)

    def add(
        self, codebooks: Mapping[int, Codebook], has_bfloat16: bool, sample: str | None = None
    ) -> dict[int, Sums]:
        """One pass over all frames, or over those of a sample: see `add_blocks`."""
        if sample is None:
            blocks, tallies = self.blocks(), self.tallies
        else:
            found = self.samples[sample]
            blocks, tallies = iter(sorted(found.blocks.items())), found.tallies
        return add_blocks(blocks, codebooks, tallies, has_bfloat16=has_bfloat16)


def _measure(blocks: Mapping[int, np.ndarray]) -> BlockSizes:
    return {n: (len(block), square_sum(block)) for n, block in blocks.items()}


class _Sample:
    """Some rows of blocks, kept beside them; `rows` are sorted."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.blocks: dict[int, np.ndarray] = {}
        self.tallies: dict[int, Tally] = {}

    def take(self, number: int, block: np.ndarray) -> None:
        if number in self.rows:
            self.blocks[number] = block[self.rows[number]]

    def pick(self, rows: Rows) -> dict[int, np.ndarray]:
        return {
            n: self.blocks[n][np.searchsorted(self.rows[n], wanted)]
            for n, wanted in rows.items()
            if n in self.rows and len(wanted)
        }


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
            sizes |= self._take(int(row["number"]), Path(row["path"]))
        pa.default_memory_pool().release_unused()  # it would keep what reading took
        return {number: str(path) for number, path in self.parts.items()}, sizes
