"""Batches: which utterances, and their frames padded."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from serkd.features.store import Frames

_POOL_BATCHES = 16  # lengths are sorted within so many shuffled batches: little padding, much noise


def plan_batches(
    lengths: np.ndarray, active: np.ndarray, batch_size: int, seed: Sequence[int]
) -> list[np.ndarray]:
    """Global batches of one epoch over the `active` utterances, the same on every worker.

    `lengths` (U,) are frames per utterance. Utterances of similar length meet in a batch. A last
    batch of less than half the size joins the one before it.
    """
    rng = np.random.default_rng(list(seed))
    shuffled = rng.permutation(active)
    pool = batch_size * _POOL_BATCHES
    ordered = np.concatenate(
        [
            chunk[np.argsort(lengths[chunk], kind="stable")]
            for chunk in (shuffled[i : i + pool] for i in range(0, len(shuffled), pool))
        ]
    )
    starts = list(range(0, len(ordered), batch_size))
    if len(starts) > 1 and 2 * (len(ordered) - starts[-1]) < batch_size:
        starts.pop()
    batches = np.split(ordered, starts[1:])
    return [batches[i] for i in rng.permutation(len(batches))]


def pad_frames(frames: Frames, index: np.ndarray) -> tuple[Tensor, Tensor]:
    """Frames of some utterances as float32 (B, F, D), zeros after the end, and validity (B, F)."""
    longest = int(frames.lengths[index].max())
    padded = np.zeros((len(index), longest, frames.values.shape[1]), np.float32)
    for row, i in enumerate(index):
        values = frames[int(i)]
        padded[row, : len(values)] = values
    return torch.from_numpy(padded), valid_frames(frames.lengths[index])


def pad_units(units: Frames, index: np.ndarray) -> Tensor:
    """Units of some utterances as int64 (B, F), 0 after the end."""
    longest = int(units.lengths[index].max())
    padded = np.zeros((len(index), longest), np.int64)
    for row, i in enumerate(index):
        values = units[int(i)]
        padded[row, : len(values)] = values
    return torch.from_numpy(padded)


def valid_frames(lengths: np.ndarray) -> Tensor:
    """Lengths (B,) to the mask (B, max length) of valid frames."""
    limits = torch.from_numpy(np.asarray(lengths, np.int64))
    return torch.arange(int(limits.max()))[None, :] < limits[:, None]


def draw_spans(mask: Tensor, start_share: float, span_frames: int) -> Tensor:
    """Random spans of valid frames to mask, (B, F) bool (HuBERT, arXiv 2106.07447, section III-C).

    Each valid frame starts a span with probability `start_share`; spans may overlap. An utterance
    of which nothing was drawn gets one frame, so that it always has a target.
    """
    starts = (torch.rand(mask.shape) < start_share) & mask
    masked = starts.clone()
    for offset in range(1, min(span_frames, mask.shape[1])):
        masked[:, offset:] |= starts[:, :-offset]
    masked &= mask
    empty = ~masked.any(dim=1)
    position = (torch.rand(len(mask)) * mask.sum(dim=1)).long()
    masked[empty, position[empty]] = True
    return masked


def mask_logmel(
    logmel: Tensor, mask: Tensor, bands: Sequence[tuple[int, int, int]], fill: Tensor
) -> Tensor:
    """SpecAugment (arXiv 1904.08779): set random bands of (B, F, N) to `fill` (N,).

    `bands` holds (dimension 1 = time or 2 = mel, how many, largest width).
    """
    hidden = torch.zeros_like(logmel, dtype=torch.bool)
    for dim, count, largest in bands:
        limits = mask.sum(dim=1) if dim == 1 else torch.full((len(logmel),), logmel.shape[2])
        for _ in range(count):
            width = (torch.rand(len(logmel)) * (torch.clamp(limits // 2, max=largest) + 1)).long()
            start = (torch.rand(len(logmel)) * (limits - width + 1)).long()
            position = torch.arange(logmel.shape[dim])[None, :]
            band = (position >= start[:, None]) & (position < (start + width)[:, None])
            hidden |= band[:, :, None] if dim == 1 else band[:, None, :]
    return torch.where(hidden, fill, logmel)
