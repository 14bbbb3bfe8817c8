"""Frames on disk: Parquet parts with one row per utterance.

A column (``layer_6``, ``logmel``, ``units``) holds an utterance's frames as one row-major blob,
which is several times faster to write and read than one row per frame; the schema's metadata says
its dtype and width.
"""

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_META = b"serkd"


@dataclass(frozen=True)
class Frames:
    """The frames of many utterances, end to end.

    `values` is (total_frames, D) or (total_frames,); utterance i owns the rows
    `offsets[i]:offsets[i + 1]`.
    """

    utt_ids: tuple[str, ...]
    values: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.utt_ids)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.values[self.offsets[i] : self.offsets[i + 1]]

    @cached_property
    def lengths(self) -> np.ndarray:
        """Frames of each utterance, (U,)."""
        return np.diff(self.offsets)

    def select(self, utt_ids: Sequence[str]) -> "Frames":
        """The frames of `utt_ids`, in that order."""
        index = {utt_id: i for i, utt_id in enumerate(self.utt_ids)}
        return stack_frames(utt_ids, [self[index[utt_id]] for utt_id in utt_ids])


def stack_frames(utt_ids: Sequence[str], arrays: Sequence[np.ndarray]) -> Frames:
    """One `Frames` from an array per utterance."""
    offsets = np.concatenate([[0], np.cumsum([len(array) for array in arrays])])
    return Frames(tuple(utt_ids), np.concatenate(arrays), offsets)


def part_path(folder: Path, part: int) -> Path:
    """Where part number `part` lies."""
    return folder / f"part-{part:05d}.parquet"


def list_parts(folder: Path) -> list[Path]:
    """The finished parts of a folder, in order."""
    return sorted(folder.glob("part-*.parquet"))


def write_part(
    path: Path, utt_ids: Sequence[str], columns: Mapping[str, Sequence[np.ndarray]]
) -> None:
    """Write one part atomically; `columns` maps a name to an (F, D) or (F,) array an utterance."""
    layout, arrays = {}, {"utt_id": pa.array(utt_ids, pa.string())}
    for name, values in columns.items():
        width = values[0].shape[1] if values[0].ndim == 2 else 0
        layout[name] = {"dtype": str(values[0].dtype), "width": width}
        blobs = [np.ascontiguousarray(value).tobytes() for value in values]
        arrays["num_frames"] = pa.array([len(value) for value in values], pa.int32())
        arrays[name] = pa.array(blobs, pa.large_binary())
    table = pa.table(arrays).replace_schema_metadata({_META: json.dumps(layout).encode()})
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        # features hardly compress, and reading them back is what sweeps do all day
        pq.write_table(table, file, compression="none", use_dictionary=False)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_part(path: Path, column: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (utt_id, frames) of one part."""
    table = _read_table(path, ["utt_id", column])
    yield from decode_rows(
        table.column("utt_id").to_pylist(),
        [blob.as_buffer() for blob in table.column(column)],
        _layout(table.schema)[column],
    )


def read_block(path: Path, column: str, keep: Collection[str]) -> np.ndarray:
    """The frames (N, D) of the kept utterances of one part, in the order in which they are stored.

    Blobs lie end to end, so there is one copy, and none of what is not kept.
    """
    table = _read_table(path, ["utt_id", "num_frames", column]).combine_chunks()
    layout = _layout(table.schema)[column]
    dtype, width = np.dtype(str(layout["dtype"])), int(layout["width"])
    blobs = table.column(column).chunk(0)
    _, ends, data = blobs.buffers()
    first, last = np.frombuffer(ends, np.int64)[[blobs.offset, blobs.offset + len(blobs)]]
    frames = np.frombuffer(data, np.uint8)[first:last].view(dtype).reshape(-1, width)
    is_kept = np.array([utt_id in keep for utt_id in table.column("utt_id").to_pylist()])
    if is_kept.all():
        return frames.copy()
    return frames[np.repeat(is_kept, table.column("num_frames").to_numpy())]


def _read_table(path: Path, columns: list[str]) -> pa.Table:
    with pq.ParquetFile(path) as file:
        return file.read(columns=columns)


def _layout(schema: pa.Schema) -> dict[str, dict[str, str | int]]:
    """Dtype and width of each column."""
    return json.loads(schema.metadata[_META])


def read_layout(path: Path) -> dict[str, dict[str, str | int]]:
    """Dtype and width of each column of a part."""
    return _layout(pq.read_schema(path))


def decode_rows(
    utt_ids: Sequence[str], blobs: Sequence[bytes | pa.Buffer], layout: Mapping[str, str | int]
) -> Iterator[tuple[str, np.ndarray]]:
    """Blobs back to arrays, without copying."""
    for utt_id, blob in zip(utt_ids, blobs, strict=True):
        flat = np.frombuffer(blob, dtype=str(layout["dtype"]))
        width = int(layout["width"])
        yield utt_id, flat.reshape(-1, width) if width else flat


def read_lengths(folder: Path) -> dict[str, tuple[int, int]]:
    """The number of its part, and of its frames, for each utterance; reads no frames."""
    found: dict[str, tuple[int, int]] = {}
    for number, path in enumerate(list_parts(folder)):
        table = _read_table(path, ["utt_id", "num_frames"])
        lengths = table.column("num_frames").to_pylist()
        ids = table.column("utt_id").to_pylist()
        found |= {i: (number, length) for i, length in zip(ids, lengths, strict=True)}
    return found


def read_frames(folder: Path, column: str, keep: Collection[str] | None = None) -> Frames:
    """Read a column of all parts; `keep` restricts the utterances. Sorted by `utt_id`."""
    rows = [
        (utt_id, array)
        for path in list_parts(folder)
        for utt_id, array in read_part(path, column)
        if keep is None or utt_id in keep
    ]
    rows.sort(key=lambda row: row[0])
    return stack_frames([utt_id for utt_id, _ in rows], [array for _, array in rows])
