"""Utterances to frames, part by part: in the caller's process, or over Ray Data.

The pipeline is decode tasks -> encoder actors -> Parquet. A part is written atomically, and a
part that exists is skipped, so an interrupted extraction goes on where it stopped.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import ray
import torch

from serkd.corpora.audio import crop, read_audio
from serkd.corpora.manifest import Utterance
from serkd.errors import InputError
from serkd.events import Observer
from serkd.features.backbone import Backbone, Prefix, Suffix
from serkd.features.logmel import compute_logmel
from serkd.features.store import list_parts, part_path, read_part, write_part

_PART_SAMPLES = 16_000_000  # 64 MB of float32 in the object store, 17 minutes of speech
_MAX_PART_UTTERANCES = 1024

Rows = list[tuple[str, np.ndarray]]
Encode = Callable[[np.ndarray], Mapping[str, np.ndarray]]


class Part(Protocol):
    """What one output part is made of; small, and sent to the tasks that load it."""

    def load(self) -> Rows: ...


@dataclass(frozen=True)
class AudioPart:
    """Waveforms of some utterances."""

    utterances: tuple[Utterance, ...]
    max_duration_s: float

    def load(self) -> Rows:
        return [(u.utt_id, self._waveform(u)) for u in self.utterances]

    def _waveform(self, utterance: Utterance) -> np.ndarray:
        decoded = read_audio(Path(utterance.path))
        if decoded.sha256 != utterance.sha256:
            raise InputError(
                f"{utterance.path}: must be the audio that the manifest describes, but it has "
                "changed since; run `serkd prepare` again"
            )
        return crop(decoded.waveform, self.max_duration_s)


@dataclass(frozen=True)
class FramePart:
    """Stored frames of some utterances."""

    path: Path
    column: str

    def load(self) -> Rows:
        return list(read_part(self.path, self.column))


def split_audio(utterances: Sequence[Utterance], max_duration_s: float) -> list[Part]:
    """Parts of bounded length, in the order of the utterances; depends on nothing else."""
    parts: list[Part] = []
    current: list[Utterance] = []
    samples = 0
    for utterance in utterances:
        if current and (
            samples + utterance.num_samples > _PART_SAMPLES or len(current) == _MAX_PART_UTTERANCES
        ):
            parts.append(AudioPart(tuple(current), max_duration_s))
            current, samples = [], 0
        current.append(utterance)
        samples += utterance.num_samples
    return [*parts, AudioPart(tuple(current), max_duration_s)] if current else parts


def split_frames(folder: Path, column: str) -> list[Part]:
    """One part for each stored part."""
    return [FramePart(path, column) for path in list_parts(folder)]


@dataclass(frozen=True)
class PrefixEncoder:
    """Builds the encoder of waveforms by a backbone's frozen prefix."""

    backbone: Backbone
    frozen_layers: int
    device: str

    def build(self) -> Encode:
        prefix = Prefix(self.backbone, self.frozen_layers).to(self.device)
        return lambda waveform: {f"layer_{self.frozen_layers}": _half(prefix(waveform))}


@dataclass(frozen=True)
class SuffixEncoder:
    """Builds the encoder of layer-n frames by a (fine-tuned) suffix, to some of its layers."""

    backbone: Backbone
    frozen_layers: int
    weights: Mapping[str, torch.Tensor]
    layers: tuple[int, ...]
    device: str

    def build(self) -> Encode:
        suffix = Suffix(self.backbone, self.frozen_layers).eval()
        suffix.load_state_dict(self.weights)
        suffix.to(self.device)

        @torch.inference_mode()
        def encode(frames: np.ndarray) -> dict[str, np.ndarray]:
            hidden = torch.from_numpy(frames.astype(np.float32)).to(self.device)[None]
            states = suffix(hidden, torch.ones(hidden.shape[:2], dtype=torch.bool))
            return {f"layer_{n}": _half(states[n - self.frozen_layers][0]) for n in self.layers}

        return encode


@dataclass(frozen=True)
class LogMelEncoder:
    """Builds the encoder of waveforms to log-mel."""

    num_mels: int
    frame_rate_hz: int

    def build(self) -> Encode:
        return lambda waveform: {
            "logmel": compute_logmel(waveform, self.num_mels, self.frame_rate_hz).astype(np.float16)
        }


class EncoderSpec(Protocol):
    """A picklable recipe of an encoder; `build` runs where the encoder will be used."""

    def build(self) -> Encode: ...


def _half(states: torch.Tensor) -> np.ndarray:
    return states.cpu().numpy().astype(np.float16)


def extract_frames(
    stage: str,
    parts: Sequence[Part],
    encoder: EncoderSpec,
    folder: Path,
    *,
    num_actors: int,
    num_gpus: float,
    observer: Observer,
) -> None:
    """Write every missing part below `folder`; `num_actors` = 0 runs in this process.

    Raises:
        InputError: a file is missing, unreadable, or not the one that the manifest describes.
        FloatingPointError: an encoder's output does not fit float16.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [i for i in range(len(parts)) if not part_path(folder, i).exists()]
    done = len(parts) - len(missing)
    observer.progress(stage, done, len(parts), "parts")
    if num_actors and missing:
        finished = _over_ray_data(parts, missing, encoder, folder, num_actors, num_gpus)
    else:
        finished = _in_process(parts, missing, encoder, folder)
    for _ in finished:
        done += 1
        observer.progress(stage, done, len(parts), "parts")


def _in_process(
    parts: Sequence[Part], missing: Sequence[int], encoder: EncoderSpec, folder: Path
) -> Iterator[int]:
    if not missing:
        return
    encode = encoder.build()
    for i in missing:
        _encode_part(encode, parts[i].load(), part_path(folder, i))
        yield i


def _encode_part(encode: Encode, rows: Rows, path: Path) -> None:
    outputs = [encode(array) for _, array in rows]
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
) -> Iterator[int]:
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
        if row["problem"]:
            raise InputError(row["problem"])
        yield int(row["part"])


class _LoadPart:
    """Ray Data function: a part's number to its arrays, as blobs."""

    def __init__(self, parts: list[Part]) -> None:
        self.parts = parts

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            rows, problem = self.parts[row["part"]].load(), ""
        except InputError as error:  # as data: Ray would wrap it beyond recognition
            rows, problem = [("", np.zeros(0, np.float32))], str(error)
        return {
            "part": row["part"],
            "problem": problem,
            "utt_ids": [utt_id for utt_id, _ in rows],
            "blobs": [np.ascontiguousarray(array).tobytes() for _, array in rows],
            "dtype": str(rows[0][1].dtype),
            "width": rows[0][1].shape[1] if rows[0][1].ndim == 2 else 0,
        }


class _EncodeActor:
    """Ray Data actor: a part's arrays to its file; returns the part's number only."""

    def __init__(self, encoder: EncoderSpec, folder: str) -> None:
        torch.set_num_threads(1)
        self.encode = encoder.build()
        self.folder = Path(folder)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        from serkd.features.store import decode_rows

        if not row["problem"]:
            loaded = list(decode_rows(row["utt_ids"], row["blobs"], row))
            _encode_part(self.encode, loaded, part_path(self.folder, int(row["part"])))
        return {"part": row["part"], "problem": row["problem"]}
