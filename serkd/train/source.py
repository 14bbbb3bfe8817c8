"""Where a task's frames come from: batch after batch, padded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from serkd.features.store import Frames
from serkd.train.batches import pad_frames


@dataclass(frozen=True)
class Padded:
    """Frames (B, F, D) float32 on the CPU, zeros after the end, and the valid ones (B, F) bool."""

    frames: Tensor
    mask: Tensor

    def to(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Both on a device."""
        return self.frames.to(device), self.mask.to(device)


class Source(Protocol):
    """Utterances of known length, read in an order that is known in advance.

    `lengths` (U,) are frames; `parts` (U,) say which utterances are stored, and read, together.
    """

    @property
    def lengths(self) -> np.ndarray: ...

    @property
    def parts(self) -> np.ndarray: ...

    def load(self, plan: Sequence[np.ndarray], epoch: int | None) -> Iterator[Padded]:
        """The utterances of each index array of a plan, in its order.

        `epoch` is None in evaluation, where nothing is random; training may change utterances
        from epoch to epoch.
        """
        ...


class MemorySource:
    """Frames that are in memory."""

    def __init__(self, frames: Frames, parts: np.ndarray | None = None) -> None:
        self.frames = frames
        self.parts = np.zeros(len(frames), np.int64) if parts is None else parts

    @property
    def lengths(self) -> np.ndarray:
        return self.frames.lengths

    def load(self, plan: Sequence[np.ndarray], epoch: int | None) -> Iterator[Padded]:
        for index in plan:
            yield Padded(*pad_frames(self.frames, index))
