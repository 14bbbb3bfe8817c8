"""Stored frames of some utterances, of which only the parts used last are held.

Imports no torch: the processes that read ahead start faster.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from serkd.features.store import (
    Frames,
    list_parts,
    read_block,
    read_frames,
    read_layout,
    read_lengths,
)

_BLOB = pa.large_binary()


@dataclass(frozen=True)
class StoredFrames:
    """Where some utterances' frames lie: a column of the parts of a folder.

    `parts` (U,) are the numbers of parts, `rows` (U,) grow with the place in a part, `lengths` (U,)
    are frames.
    """

    folder: Path
    column: str
    utt_ids: tuple[str, ...]
    parts: np.ndarray
    rows: np.ndarray
    lengths: np.ndarray

    @cached_property
    def layout(self) -> tuple[np.dtype, int]:
        """Dtype and width of a frame."""
        layout = read_layout(list_parts(self.folder)[0])[self.column]
        return np.dtype(str(layout["dtype"])), int(layout["width"])

    @property
    def num_bytes(self) -> int:
        """Of all frames."""
        dtype, width = self.layout
        return int(self.lengths.sum()) * width * dtype.itemsize

    def read(self) -> Frames:
        """All of them, in memory."""
        keep = set(self.utt_ids)
        return read_frames(self.folder, self.column, keep).select(self.utt_ids)


def find_frames(folder: Path, column: str, utt_ids: Sequence[str] | None = None) -> StoredFrames:
    """Where the frames of some utterances lie; None = of all, sorted. Reads no frames."""
    found = read_lengths(folder)
    rows = {utt_id: row for row, utt_id in enumerate(found)}  # in the order of the parts
    chosen = tuple(sorted(found) if utt_ids is None else utt_ids)
    placed = [(found[i][0], rows[i], found[i][1]) for i in chosen]
    parts, places, lengths = np.array(placed, np.int64).T
    return StoredFrames(folder, column, chosen, parts, places, lengths)


class PartCache:
    """The frames of the parts that were used last, in at most `max_bytes` (or one part)."""

    def __init__(self, stored: StoredFrames, max_bytes: float) -> None:
        self.stored, self.max_bytes = stored, max_bytes
        self.paths = list_parts(stored.folder)
        self.keep = frozenset(stored.utt_ids)
        self.starts, self.part_bytes = self._place()
        self.blocks: OrderedDict[int, np.ndarray] = OrderedDict()
        self.num_reads = 0

    def _place(self) -> tuple[np.ndarray, np.ndarray]:
        """The first row of each utterance in its part's block, and the bytes of each block.

        `read_block` keeps the order in which they are stored.
        """
        stored = self.stored
        dtype, width = stored.layout
        starts = np.zeros(len(stored.utt_ids), np.int64)
        sizes = np.zeros(len(self.paths), np.int64)
        for row in np.argsort(stored.rows, kind="stable"):
            part = stored.parts[row]
            starts[row], sizes[part] = sizes[part], sizes[part] + stored.lengths[row]
        return starts, sizes * width * dtype.itemsize

    @property
    def num_bytes(self) -> int:
        """What is held."""
        return sum(block.nbytes for block in self.blocks.values())

    def __getitem__(self, utterance: int) -> np.ndarray:
        """Frames (F, D) of an utterance."""
        part = int(self.stored.parts[utterance])
        if part not in self.blocks:
            self._make_room(int(self.part_bytes[part]))
            self.blocks[part] = read_block(self.paths[part], self.stored.column, self.keep)
            self.num_reads += 1
        self.blocks.move_to_end(part)
        start = self.starts[utterance]
        return self.blocks[part][start : start + self.stored.lengths[utterance]]

    def _make_room(self, num_bytes: int) -> None:
        while self.blocks and self.num_bytes + num_bytes > self.max_bytes:
            self.blocks.popitem(last=False)


class PartReader:
    """Index arrays to their frames end to end, in an actor."""

    def __init__(self, stored: StoredFrames, max_bytes: float) -> None:
        self.cache = PartCache(stored, max_bytes)

    def __call__(self, table: pa.Table) -> pa.Table:
        blobs = [self._join(np.array(index)) for index in table.column("index").to_pylist()]
        return pa.table({"index": table.column("index"), "frames": pa.array(blobs, _BLOB)})

    def _join(self, index: np.ndarray) -> bytes:
        # part by part: a batch whose parts do not all fit reads each but once
        found: dict[int, bytes] = {}
        for i in index[np.argsort(self.cache.stored.parts[index], kind="stable")].tolist():
            found[i] = self.cache[i].tobytes()
        return b"".join(found[i] for i in index.tolist())
