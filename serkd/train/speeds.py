"""Training frames of a speed that is drawn for each utterance in each epoch, read from the disk."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from serkd import config
from serkd.models.trunk import Trunk
from serkd.train.augment import audio_seed, draw_speed
from serkd.train.data import FoldData
from serkd.train.source import Padded, Source
from serkd.train.waveforms import hear_training


class SpeedSource:
    """Training utterances at a speed drawn for each, anew in every epoch.

    Speeds are few, so the frozen prefix was run on each of them once. The numbers drawn, and so the
    frames to their rounding in float16, are those of `WaveformSource`. Evaluation reads the
    `stored` frames of audio as it is; `at_speeds` hold the training utterances, its first ones, at
    all other factors of `speeds`.
    """

    def __init__(
        self,
        stored: Source,
        at_speeds: Mapping[float, Source],
        speeds: Sequence[float],
        seed: int,
    ) -> None:
        self.stored, self.speeds, self.seed = stored, speeds, seed
        self.sources = {1.0: stored, **at_speeds}

    @property
    def lengths(self) -> np.ndarray:
        """The most frames of each utterance, (U,); `load` says how many there are."""
        longest = self.stored.lengths.copy()
        for source in self.sources.values():
            known = longest[: len(source.lengths)]
            np.maximum(known, source.lengths, out=known)
        return longest

    @property
    def parts(self) -> np.ndarray:
        return self.stored.parts

    def load(self, plan: Sequence[np.ndarray], epoch: int | None) -> Iterator[Padded]:
        if epoch is None:
            yield from self.stored.load(plan, None)
            return
        drawn = [self._draw(index, epoch) for index in plan]
        read = {
            speed: source.load(_of_speed(plan, drawn, speed), epoch)
            for speed, source in self.sources.items()
        }
        for speeds in drawn:
            yield _join({speed: next(read[speed]) for speed in set(speeds.tolist())}, speeds)

    def _draw(self, index: np.ndarray, epoch: int) -> np.ndarray:
        """The speed of each utterance, (B,)."""
        seeds = [audio_seed(self.seed, epoch, int(i)) for i in index]
        return np.array([draw_speed(self.speeds, np.random.default_rng(seed)) for seed in seeds])


def _of_speed(
    plan: Sequence[np.ndarray], drawn: Sequence[np.ndarray], speed: float
) -> list[np.ndarray]:
    """The part of each batch that has a speed, of batches that have some."""
    parts = [index[speeds == speed] for index, speeds in zip(plan, drawn, strict=True)]
    return [part for part in parts if len(part)]


def _join(found: Mapping[float, Padded], speeds: np.ndarray) -> Padded:
    """The utterances of each speed, put into the order of a batch, whose speeds are (B,)."""
    longest = max(padded.mask.shape[1] for padded in found.values())
    width = max(padded.frames.shape[2] for padded in found.values())
    frames = torch.zeros(len(speeds), longest, width)
    mask = torch.zeros(len(speeds), longest, dtype=torch.bool)
    for speed, padded in found.items():
        rows, length = torch.from_numpy(np.flatnonzero(speeds == speed)), padded.mask.shape[1]
        frames[rows, :length], mask[rows, :length] = padded.frames, padded.mask
    return Padded(frames, mask)


def change_training(
    data: FoldData, trunk: Trunk, settings: config.Augment, seed: int, device: str
) -> Source:
    """The frames of a fold, those of train from changed audio."""
    if settings.noise_snr_db is not None:
        return hear_training(data, trunk, settings, seed, device)
    return SpeedSource(data.source, data.sources_at_speeds(), settings.speed, seed)
