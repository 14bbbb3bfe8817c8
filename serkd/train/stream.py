"""Frames that do not fit into memory: read by Ray Data while the batches before are used."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import ray.data

from serkd.features.cache import PartReader, StoredFrames
from serkd.features.store import Frames
from serkd.train.batches import pad_frames
from serkd.train.source import MemorySource, Padded, Source

_AHEAD = 2  # batches that wait to be used
_BLOCK_BYTES = 16_000_000  # frames of the batches that are sent together


def open_source(stored: StoredFrames, cache_gb: float) -> Source:
    """Frames in memory, or streamed where they are larger than that."""
    max_bytes = cache_gb * 1e9
    if stored.num_bytes <= max_bytes:
        return MemorySource(stored.read(), stored.parts)
    return StreamedSource(stored, max_bytes / 2)  # the other half is batches on their way


class StreamedSource:
    """Frames on disk, in the order of a plan, within `max_bytes` of parts in the reader.

    One Ray Data pipeline for each epoch reads ahead, so that reading and training overlap. It has
    no CPU of its own: the workers of a training may have them all, and it would wait for ever.
    """

    def __init__(self, stored: StoredFrames, max_bytes: float) -> None:
        self.stored, self.max_bytes = stored, max_bytes

    @property
    def lengths(self) -> np.ndarray:
        return self.stored.lengths

    @property
    def parts(self) -> np.ndarray:
        return self.stored.parts

    def load(self, plan: Sequence[np.ndarray], epoch: int | None) -> Iterator[Padded]:
        rows = self._pipeline(plan).iter_batches(
            batch_size=1, batch_format="pyarrow", prefetch_batches=_AHEAD
        )
        for index, row in zip(plan, rows, strict=True):
            yield Padded(*pad_frames(self._decode(row, index), np.arange(len(index))))

    def _pipeline(self, plan: Sequence[np.ndarray]) -> ray.data.Dataset:
        dtype, width = self.stored.layout
        num_frames = sum(int(self.lengths[index].sum()) for index in plan)
        num_blocks = num_frames * width * dtype.itemsize // _BLOCK_BYTES + 1
        context = ray.data.DataContext.get_current().copy()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        with ray.data.DataContext.current(context):
            items = [{"index": index.tolist()} for index in plan]
            planned = ray.data.from_items(items, override_num_blocks=min(num_blocks, len(plan)))
            return planned.map_batches(
                PartReader,
                fn_constructor_args=(self.stored, self.max_bytes),
                batch_size=1,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=1),
                num_cpus=0,
            )

    def _decode(self, row: pa.Table, index: np.ndarray) -> Frames:
        assert row.column("index").to_pylist() == [index.tolist()]
        dtype, width = self.stored.layout
        values = np.frombuffer(row.column("frames")[0].as_buffer(), dtype).reshape(-1, width)
        offsets = np.concatenate([[0], np.cumsum(self.lengths[index])])
        return Frames(tuple(map(str, index)), values, offsets)
