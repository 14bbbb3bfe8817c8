"""The training and dev utterances of one fold, with frames: what every task is given."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from serkd.corpora.manifest import Manifest
from serkd.features.store import Frames, read_frames
from serkd.train.metrics import compute_confusion, compute_metrics
from serkd.train.workers import Workers

_GENDER_INDEX = {"female": 0, "male": 1, "unknown": -100}


@dataclass(frozen=True)
class FoldData:
    """Reads a column of stored frames; `manifest` has no test labels.

    Training utterances come first, dev utterances after them.
    """

    manifest: Manifest
    train_ids: tuple[str, ...]
    dev_ids: tuple[str, ...]
    folder: Path
    column: str

    @property
    def utt_ids(self) -> tuple[str, ...]:
        return (*self.train_ids, *self.dev_ids)

    @property
    def num_classes(self) -> int:
        return len(self.manifest.class_names)

    @cached_property
    def frames(self) -> Frames:
        keep = set(self.utt_ids)
        return read_frames(self.folder, self.column, keep).select(self.utt_ids)

    @cached_property
    def labels(self) -> np.ndarray:
        """Class of each utterance, (U,) int64."""
        return np.array(self.manifest.labels(self.utt_ids), np.int64)

    @cached_property
    def genders(self) -> np.ndarray:
        """0 female, 1 male, -100 unknown (never in a loss), (U,) int64."""
        found = (self.manifest.by_id[utt_id].gender for utt_id in self.utt_ids)
        return np.array([_GENDER_INDEX[gender] for gender in found], np.int64)

    @property
    def train_lengths(self) -> np.ndarray:
        return self.frames.lengths[: len(self.train_ids)]

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
