"""What one output part is made of, and what could not be read of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow.parquet as pq

from serkd.corpora.audio import Cut, change_speed, crop, read_audio
from serkd.corpora.manifest import Utterance
from serkd.errors import InputError
from serkd.features.quarantine import BadFile
from serkd.features.store import list_parts, read_part

# Parts are dealt over threads and actors, so there must be several even of a small corpus: 4
# minutes of speech, 17 MB of float32 in the object store.
_PART_SAMPLES = 4_194_304
_MAX_PART_UTTERANCES = 256
_FRAME_RATE_HZ = 50

Rows = list[tuple[str, np.ndarray]]


@dataclass(frozen=True)
class Loaded:
    """The arrays of a part by `utt_id`, and the files that gave none."""

    rows: Rows
    bad: list[BadFile] = field(default_factory=list)


class Part(Protocol):
    """What one output part is made of; small, and sent to the tasks that load it."""

    @property
    def num_utterances(self) -> int: ...

    @property
    def audio_s(self) -> float: ...

    def load(self) -> Loaded: ...


def read_waveform(utterance: Utterance, cut: Cut) -> np.ndarray:
    """The waveform (T,) at 16 kHz that frames are computed from.

    Raises:
        InputError: the file is missing, unreadable, or not the one that the manifest describes.
    """
    decoded = read_audio(Path(utterance.path))
    if decoded.sha256 != utterance.sha256:
        raise InputError(
            f"{utterance.path}: must be the audio that the manifest describes, but it has "
            "changed since; run `serkd prepare` again"
        )
    return cut.apply(decoded.waveform)


@dataclass(frozen=True)
class AudioPart:
    """Waveforms of some utterances, played `speed` times as fast."""

    utterances: tuple[Utterance, ...]
    cut: Cut
    speed: float = 1.0

    @property
    def num_utterances(self) -> int:
        return len(self.utterances)

    @property
    def audio_s(self) -> float:
        """Seconds of speech that are encoded, silence at their ends included."""
        return sum(min(u.duration_s, self.cut.max_duration_s) for u in self.utterances)

    def load(self) -> Loaded:
        """Decode every file, also behind a bad one."""
        loaded = Loaded([])
        for utterance in self.utterances:
            try:
                waveform = read_waveform(utterance, self.cut)
                # what a lower speed makes longer is cut: no backbone is given more
                changed = crop(change_speed(waveform, self.speed), self.cut.max_duration_s)
                loaded.rows.append((utterance.utt_id, changed))
            except InputError as error:
                loaded.bad.append(BadFile(utterance.utt_id, utterance.path, str(error)))
        return loaded


@dataclass(frozen=True)
class FramePart:
    """Stored frames of some utterances."""

    path: Path
    column: str

    @property
    def num_utterances(self) -> int:
        return pq.read_metadata(self.path).num_rows

    @property
    def audio_s(self) -> float:
        """Seconds of speech that the frames stand for."""
        num_frames = pq.read_table(self.path, columns=["num_frames"]).column("num_frames")
        return sum(num_frames.to_pylist()) / _FRAME_RATE_HZ

    def load(self) -> Loaded:
        return Loaded(list(read_part(self.path, self.column)))


def split_audio(utterances: Sequence[Utterance], cut: Cut, speed: float = 1.0) -> list[Part]:
    """Parts of bounded length, in the order of the utterances; depends on nothing else."""
    parts: list[Part] = []
    current: list[Utterance] = []
    samples = 0
    for utterance in utterances:
        if current and (
            samples + utterance.num_samples > _PART_SAMPLES or len(current) == _MAX_PART_UTTERANCES
        ):
            parts.append(AudioPart(tuple(current), cut, speed))
            current, samples = [], 0
        current.append(utterance)
        samples += utterance.num_samples
    return [*parts, AudioPart(tuple(current), cut, speed)] if current else parts


def split_frames(folder: Path, column: str) -> list[Part]:
    """One part for each stored part."""
    return [FramePart(path, column) for path in list_parts(folder)]
