"""Utterances to frames, part by part: in the caller's process, or over Ray Data.

The pipeline is decode tasks -> encoder actors -> Parquet. A part is written atomically, and a
part that exists is skipped, so an interrupted extraction goes on where it stopped. Whatever works
on a part has one thread, so that its bytes depend neither on how many work nor on where.
"""

import json
import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from serkd.events import Observer
from serkd.features.encoders import (
    Encode,
    EncoderSpec,
    LogMelEncoder,
    PrefixEncoder,
    SuffixEncoder,
)
from serkd.features.parts import AudioPart, Part, Rows, split_audio, split_frames
from serkd.features.quarantine import BadFile, refuse_bad, write_json
from serkd.features.store import decode_rows, part_path, write_part

__all__ = [
    "AudioPart",
    "EncoderSpec",
    "Extraction",
    "LogMelEncoder",
    "Part",
    "PrefixEncoder",
    "SuffixEncoder",
    "extract_frames",
    "split_audio",
    "split_frames",
]

EXTRACT_INFO = "extract.json"
_MAX_THREADS = 8  # the interpreter's lock lets no more of them work on a small model
_log = logging.getLogger(__name__)

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


def extract_frames(
    stage: str,
    parts: Sequence[Part],
    encoder: EncoderSpec,
    folder: Path,
    *,
    num_actors: int,
    num_gpus: float,
    observer: Observer,
) -> Extraction:
    """Write every missing part below `folder`, and `extract.json`: what this run did.

    `num_actors` = 0 runs in this process, in as many threads as torch has.

    A corpus is extracted whole or not at all: without some utterances its folds would be others,
    and their scores could not be compared. Bad files therefore do not end the extraction, but are
    refused at its end, all at once; the parts without any of them stay, so that only the others
    are computed once the files are repaired.

    Raises:
        QuarantineError: files are missing, unreadable, or not those that the manifest describes;
            `quarantine.json` in `folder` lists them all.
        FloatingPointError: an encoder's output does not fit float16.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sizes = [part.num_utterances for part in parts]
    missing = [i for i in range(len(parts)) if not part_path(folder, i).exists()]
    num_stored = done = sum(sizes) - sum(sizes[i] for i in missing)
    observer.progress(stage, done, sum(sizes), "utterances")
    started = time.perf_counter()
    if num_actors and missing:
        finished = _over_ray_data(parts, missing, encoder, folder, num_actors, num_gpus)
    else:
        finished = _in_process(parts, missing, encoder, folder)
    bad: dict[int, list[BadFile]] = {}
    for number, found in finished:
        if found:
            bad[number] = found
        else:
            done += sizes[number]
            observer.progress(stage, done, sum(sizes), "utterances")
    refuse_bad([file for number in sorted(bad) for file in bad[number]], folder)
    audio_s = sum(parts[i].audio_s for i in missing)
    info = Extraction(done - num_stored, num_stored, audio_s, time.perf_counter() - started)
    if missing or not (folder / EXTRACT_INFO).exists():
        write_json(folder / EXTRACT_INFO, asdict(info))
        _log.info(
            "%s: %d utterances, %.2f h of speech in %.1f s",
            stage, info.num_utterances, audio_s / 3600, info.seconds,
        )  # fmt: skip
    return info


def _in_process(
    parts: Sequence[Part], missing: Sequence[int], encoder: EncoderSpec, folder: Path
) -> Finished:
    """Several parts at once, a thread each; threads that share one matrix product wait a lot."""
    if not missing:
        return
    num_threads = torch.get_num_threads()
    workers = min(num_threads, len(missing), _MAX_THREADS)
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            encode = pool.submit(encoder.build).result()  # it computes, so it has one thread too
            yield from pool.map(lambda i: _work(parts[i], i, encode, folder), missing)
    finally:
        torch.set_num_threads(num_threads)  # what threads that come later will have


def _work(part: Part, number: int, encode: Encode, folder: Path) -> tuple[int, list[BadFile]]:
    loaded = part.load()
    if not loaded.bad:
        _encode_part(encode, loaded.rows, part_path(folder, number))
    return number, loaded.bad


def _encode_part(encode: Encode, rows: Rows, path: Path) -> None:
    outputs = encode([array for _, array in rows])
    for (utt_id, _), output in zip(rows, outputs, strict=True):
        for name, values in output.items():
            if not np.isfinite(values).all():
                raise FloatingPointError(f"{utt_id}: {name} must be finite in float16, it is not")
    columns = {name: [output[name] for output in outputs] for name in outputs[0]}
    write_part(path, [utt_id for utt_id, _ in rows], columns)


def _over_ray_data(
    parts: Sequence[Part],
    missing: Sequence[int],
    encoder: EncoderSpec,
    folder: Path,
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
            fn_constructor_args=(encoder, str(folder)),
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

    def __init__(self, encoder: EncoderSpec, folder: str) -> None:
        torch.set_num_threads(1)
        self.encode = encoder.build()
        self.folder = Path(folder)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        if row["bad"] == "[]":
            rows = list(decode_rows(row["utt_ids"], row["blobs"], row))
            _encode_part(self.encode, rows, part_path(self.folder, int(row["part"])))
        return {"part": row["part"], "bad": row["bad"]}
