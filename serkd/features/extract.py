"""Utterances to frames, part by part: in the caller's process, or over Ray Data.

The pipeline is decode tasks -> encoder actors -> Parquet. A part is written atomically, and a
part that exists is skipped, so an interrupted extraction goes on where it stopped. Whatever works
on a part has one thread, so that its bytes depend neither on how many work nor on where.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from serkd.events import Observer
from serkd.features.encoders import Encode, EncoderSpec
from serkd.features.parts import Part, Rows
from serkd.features.quarantine import BadFile, refuse_bad
from serkd.features.store import decode_rows, part_path, write_part
from serkd.files import write_json
from serkd.threads import set_threads, side_by_side

EXTRACT_INFO = "extract.json"
_MAX_THREADS = 8  # the interpreter's lock lets no more of them work on a small model

Finished = Iterator[tuple[int, list[BadFile]]]  # a part's number, and the files that spoilt it


@dataclass(frozen=True)
class Extraction:
    """What one run of an extraction did.

    `num_utterances` of `audio_s` seconds in `seconds`; `num_stored` more were there before.
    """

    num_utterances: int
    num_stored: int
    audio_s: float
    seconds: float

    @property
    def times_real_time(self) -> float:
        """Seconds of speech a second."""
        return self.audio_s / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Sink:
    """Where one of an encoder's outputs goes: a column of the parts in a folder."""

    folder: Path
    column: str


Sinks = Mapping[str, Sink]  # by the output's name


def extract_frames(
    stage: str,
    parts: Sequence[Part],
    encoder: EncoderSpec,
    sinks: Sinks,
    *,
    num_actors: int,
    num_gpus: float,
    observer: Observer,
) -> Extraction:
    """Write every missing part of every sink, and `extract.json` beside: what this run did.

    All outputs of a part come from one pass. `num_actors` = 0 runs in this process, in as many
    threads as torch has.

    A corpus is extracted whole or not at all: without some utterances its folds would be others,
    and their scores could not be compared. Bad files therefore do not end the extraction, but are
    refused at its end, all at once; the parts without any of them stay, so that only the others
    are computed once the files are repaired.

    Raises:
        QuarantineError: files are missing, unreadable, or not those that the manifest describes;
            `quarantine.json` in a sink's folder lists them all.
        FloatingPointError: an encoder's output does not fit float16.
    """
    folders = [sink.folder for sink in sinks.values()]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    missing = [i for i in range(len(parts)) if _open_sinks(sinks, i)]
    watch = _Progress(stage, parts, missing, observer)
    if num_actors and missing:
        finished = _over_ray_data(parts, missing, encoder, sinks, num_actors, num_gpus)
    else:
        finished = _in_process(parts, missing, encoder, sinks)
    bad: dict[int, list[BadFile]] = {}
    for number, found in finished:
        if found:
            bad[number] = found
        else:
            watch.advance(number)
    refuse_bad([file for number in sorted(bad) for file in bad[number]], folders)
    info = watch.info()
    for folder in folders:
        if missing or not (folder / EXTRACT_INFO).exists():
            write_json(folder / EXTRACT_INFO, asdict(info))
    return info


class _Progress:
    """Tells how far an extraction is, in utterances and hours of speech."""

    def __init__(
        self, stage: str, parts: Sequence[Part], missing: Sequence[int], observer: Observer
    ) -> None:
        self.stage, self.parts, self.observer = stage, parts, observer
        sizes = [part.num_utterances for part in parts]
        self.total = sum(sizes)
        self.num_stored = self.done = self.total - sum(sizes[i] for i in missing)
        self.audio_s = 0.0
        self.started = time.perf_counter()
        self._tell()

    def advance(self, number: int) -> None:
        self.done += self.parts[number].num_utterances
        self.audio_s += self.parts[number].audio_s
        self._tell()

    def _tell(self) -> None:
        speed = self.info().times_real_time
        note = f"{speed / 3600:.3f} h of speech/s" if self.audio_s else ""
        self.observer.progress(self.stage, self.done, self.total, "utterances", note)

    def info(self) -> Extraction:
        """Of what is done so far."""
        seconds = time.perf_counter() - self.started
        return Extraction(self.done - self.num_stored, self.num_stored, self.audio_s, seconds)


def _open_sinks(sinks: Sinks, number: int) -> dict[str, Sink]:
    """Those that lack a part."""
    return {
        name: sink for name, sink in sinks.items() if not part_path(sink.folder, number).exists()
    }


def _in_process(
    parts: Sequence[Part], missing: Sequence[int], encoder: EncoderSpec, sinks: Sinks
) -> Finished:
    """Several parts at once, a thread each."""
    if not missing:
        return
    with side_by_side(min(torch.get_num_threads(), len(missing), _MAX_THREADS)) as pool:
        encode = pool.submit(encoder.build).result()  # it computes, so it has one thread too
        yield from pool.map(lambda i: _work(parts[i], i, encode, sinks), missing)


def _work(part: Part, number: int, encode: Encode, sinks: Sinks) -> tuple[int, list[BadFile]]:
    loaded = part.load()
    if not loaded.bad:
        _encode_part(encode, loaded.rows, number, sinks)
    return number, loaded.bad


def _encode_part(encode: Encode, rows: Rows, number: int, sinks: Sinks) -> None:
    outputs = encode(rows)
    utt_ids = [utt_id for utt_id, _ in rows]
    for utt_id, output in zip(utt_ids, outputs, strict=True):
        for name, values in output.items():
            if not np.isfinite(values).all():
                raise FloatingPointError(f"{utt_id}: {name} must be finite in float16, it is not")
    for name, sink in _open_sinks(sinks, number).items():
        column = {sink.column: [output[name] for output in outputs]}
        write_part(part_path(sink.folder, number), utt_ids, column)


def _over_ray_data(
    parts: Sequence[Part],
    missing: Sequence[int],
    encoder: EncoderSpec,
    sinks: Sinks,
    num_actors: int,
    num_gpus: float,
) -> Finished:
    rows = [{"part": i} for i in missing]
    strategy = ray.data.ActorPoolStrategy(size=min(num_actors, len(missing)))
    dataset = (
        ray.data.from_items(rows, override_num_blocks=len(rows))
        # half a CPU each: decoding and encoding overlap without starving each other
        .map(_LoadPart(list(parts)), num_cpus=0.5)
        .map(
            _EncodeActor,
            fn_constructor_args=(encoder, sinks),
            compute=strategy,
            num_cpus=0.5,
            num_gpus=num_gpus,
        )
    )
    for row in dataset.iter_rows():
        yield int(row["part"]), [BadFile(**file) for file in json.loads(row["bad"])]


class _LoadPart:
    """Ray Data function: a part's number to its arrays, as blobs; none, if a file is bad."""

    def __init__(self, parts: list[Part]) -> None:
        self.parts = parts

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        loaded = self.parts[row["part"]].load()
        # Arrow needs a row to know a column's type
        nothing: Rows = [("", np.zeros(0, np.float32))]
        rows = nothing if loaded.bad else loaded.rows
        return {
            "part": row["part"],
            "bad": json.dumps([asdict(file) for file in loaded.bad]),
            "utt_ids": [utt_id for utt_id, _ in rows],
            "blobs": [np.ascontiguousarray(array).tobytes() for _, array in rows],
            "dtype": str(rows[0][1].dtype),
            "width": rows[0][1].shape[1] if rows[0][1].ndim == 2 else 0,
        }


class _EncodeActor:
    """Ray Data actor: a part's arrays to its file; returns the part's number and its bad files."""

    def __init__(self, encoder: EncoderSpec, sinks: Sinks) -> None:
        set_threads(1)
        self.encode = encoder.build()
        self.sinks = sinks

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        if row["bad"] == "[]":
            rows = list(decode_rows(row["utt_ids"], row["blobs"], row))
            _encode_part(self.encode, rows, int(row["part"]), self.sinks)
        return {"part": row["part"], "bad": row["bad"]}
