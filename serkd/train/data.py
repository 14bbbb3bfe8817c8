"""The training and dev utterances of one fold, with frames: what every task is given."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from serkd import config
from serkd.corpora.audio import Cut
from serkd.corpora.manifest import Manifest
from serkd.features.cache import StoredFrames, find_frames
from serkd.features.store import Frames
from serkd.train.metrics import compute_confusion, compute_metrics
from serkd.train.source import Source
from serkd.train.stream import open_source
from serkd.train.workers import Workers

_HERE, _WHOLE = config.Train(), Cut()
_GENDER_INDEX = {"female": 0, "male": 1, "unknown": -100}


@dataclass(frozen=True)
class FoldData:
    """Reads a column of stored frames; `manifest` has no test labels.

    Training utterances come first, dev utterances after them. `cut` is for those who read
    audio: frames are of no more of an utterance. `speeds` are the folders of the same frames
    of audio at other speeds.
    """

    manifest: Manifest
    train_ids: tuple[str, ...]
    dev_ids: tuple[str, ...]
    folder: Path
    column: str
    train: config.Train = _HERE
    cut: Cut = _WHOLE
    speeds: Mapping[float, Path] = field(default_factory=dict)

    @property
    def utt_ids(self) -> tuple[str, ...]:
        return (*self.train_ids, *self.dev_ids)

    @property
    def num_classes(self) -> int:
        return len(self.manifest.class_names)

    @cached_property
    def frames(self) -> Frames:
        return self._stored.read()

    @cached_property
    def labels(self) -> np.ndarray:
        """Class of each utterance, (U,) int64."""
        return np.array(self.manifest.labels(self.utt_ids), np.int64)

    @property
    def train_labels(self) -> np.ndarray:
        return self.labels[: len(self.train_ids)]

    @cached_property
    def genders(self) -> np.ndarray:
        """0 female, 1 male, -100 unknown (never in a loss), (U,) int64."""
        found = (self.manifest.by_id[utt_id].gender for utt_id in self.utt_ids)
        return np.array([_GENDER_INDEX[gender] for gender in found], np.int64)

    @cached_property
    def _stored(self) -> StoredFrames:
        return find_frames(self.folder, self.column, self.utt_ids)

    @cached_property
    def source(self) -> Source:
        """The frames for those who know in advance which they need: in memory if they fit.

        Every worker may need any of them, and has its share of `train.cache_gb`.
        """
        return open_source(self._stored, self._cache_gb)

    def sources_at_speeds(self) -> dict[float, Source]:
        """The training utterances at each of `speeds`."""
        stored = {
            speed: find_frames(folder, self.column, self.train_ids)
            for speed, folder in self.speeds.items()
        }
        return {speed: open_source(one, self._cache_gb) for speed, one in stored.items()}

    @property
    def _cache_gb(self) -> float:
        return self.train.cache_gb / self.train.num_workers / (1 + len(self.speeds))

    @property
    def train_lengths(self) -> np.ndarray:
        return self._stored.lengths[: len(self.train_ids)]

    @property
    def train_parts(self) -> np.ndarray:
        """Which training utterances are stored together, (U,)."""
        return self._stored.parts[: len(self.train_ids)]

    @property
    def dev_index(self) -> np.ndarray:
        return np.arange(len(self.train_ids), len(self.utt_ids))

    def dev_metrics(
        self, logits: np.ndarray, index: np.ndarray, workers: Workers
    ) -> dict[str, float]:
        """dev_uar, dev_war, dev_wf1 from every worker's logits (B, C) of its utterances (B,)."""
        confusion = compute_confusion(self.labels[index], logits.argmax(axis=1), self.num_classes)
        total = np.sum(workers.collect(confusion), axis=0)
        metrics = compute_metrics(total)
        return {f"dev_{name}": metrics[name] for name in ("uar", "war", "wf1")}


def frame_labels(utt_labels: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """An utterance's label for each of its frames, (total_frames,)."""
    return np.repeat(utt_labels, lengths)
