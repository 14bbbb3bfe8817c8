"""Batches: which utterances, and their frames padded."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from serkd.features import batching
from serkd.features.store import Frames
from serkd.train.balance import draw_balanced

_EVALUATED = 32  # utterances of a batch
_POOL_BATCHES = 16  # lengths are sorted within so many shuffled batches: little padding, much noise
_WINDOW = 1_024  # utterances of parts that are read at about the same time


def plan_batches(
    lengths: np.ndarray,
    active: np.ndarray,
    batch_size: int,
    seed: Sequence[int],
    labels: np.ndarray | None = None,
    parts: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Global batches of one epoch over the `active` utterances, the same on every worker.

    `lengths` (U,) are frames per utterance. Utterances of similar length meet in a batch. With
    the classes `labels` (U,), batches are balanced: see `draw_balanced`. Without, every utterance
    comes once, and a last batch of less than half the size joins the one before it; then, with
    `parts` (U,), utterances of a part come at about the same time: parts are shuffled, and
    utterances within windows of several.
    """
    rng = np.random.default_rng(list(seed))
    if labels is not None:
        count = max(1, (2 * len(active) + batch_size) // (2 * batch_size))  # as many as without
        batches = draw_balanced(lengths, labels, active, count, batch_size, _POOL_BATCHES, rng)
        return _shuffle(batches, len(batches), rng)
    shuffled = rng.permutation(active)
    per_window = -(-len(active) // batch_size)
    if parts is not None:
        rank = rng.permutation(int(parts.max()) + 1)
        shuffled = shuffled[np.argsort(rank[parts[shuffled]], kind="stable")]
        per_window = max(_POOL_BATCHES, _WINDOW // batch_size)
    windows = [rng.permutation(some) for some in _cut(shuffled, batch_size * per_window)]
    return _shuffle(_deal_once(lengths, windows, batch_size), per_window, rng)


def _deal_once(
    lengths: np.ndarray, windows: Sequence[np.ndarray], batch_size: int
) -> list[np.ndarray]:
    pools = [pool for window in windows for pool in _cut(window, batch_size * _POOL_BATCHES)]
    ordered = np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools])
    batches = _cut(ordered, batch_size)
    if len(batches) > 1 and 2 * len(batches[-1]) < batch_size:
        batches[-2:] = [np.concatenate(batches[-2:])]
    return batches


def _shuffle(
    batches: list[np.ndarray], per_window: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Batches in random order, each within its window of so many."""
    return [
        batches[start + int(i)]
        for start in range(0, len(batches), per_window)
        for i in rng.permutation(len(batches[start : start + per_window]))
    ]


def plan_evaluation(
    lengths: np.ndarray, parts: np.ndarray, index: np.ndarray, max_frames: int | None
) -> list[np.ndarray]:
    """Batches of the utterances `index`: little padding, and parts one after the other."""
    by_part = index[np.argsort(parts[index], kind="stable")]
    return [
        batch
        for pool in _cut(by_part, _WINDOW)
        for some in _cut(pool[np.argsort(lengths[pool], kind="stable")], _EVALUATED)
        for batch in split_batch(lengths, some, max_frames)
    ]


def split_batch(lengths: np.ndarray, index: np.ndarray, max_frames: int | None) -> list[np.ndarray]:
    """A batch in parts of at most `max_frames` padded frames; longer utterances are alone."""
    if max_frames is None:
        return [index]
    parts = batching.plan_batches(lengths[index].tolist(), max_frames)
    return [index[np.array(part)] for part in parts]


def _cut(index: np.ndarray, size: int) -> list[np.ndarray]:
    return np.split(index, range(size, len(index), size))


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


def draw_spans(
    lengths: np.ndarray,
    start_share: float,
    span_frames: int,
    generators: Sequence[np.random.Generator],
) -> Tensor:
    """Random spans of valid frames to mask, (B, F) bool (HuBERT, arXiv 2106.07447, section III-C).

    Each frame of utterances of `lengths` (B,) starts a span with probability `start_share`; spans
    may overlap. An utterance of which nothing was drawn gets one frame, so that it always has a
    target. Each utterance has its own generator.
    """
    starts = np.zeros((len(lengths), int(lengths.max())), bool)
    lone = np.zeros_like(starts)
    for row, other, length, rng in zip(starts, lone, lengths, generators, strict=True):
        row[:length] = rng.random(length) < start_share
        other[rng.integers(length)] = not row.any()
    masked = starts.copy()
    for offset in range(1, min(span_frames, starts.shape[1])):
        masked[:, offset:] |= starts[:, :-offset]
    return torch.from_numpy(masked | lone) & valid_frames(lengths)


def mask_logmel(
    logmel: Tensor,
    mask: Tensor,
    bands: Sequence[tuple[int, int, int]],
    fill: Tensor,
    generators: Sequence[np.random.Generator],
) -> Tensor:
    """SpecAugment (arXiv 1904.08779): set random bands of (B, F, N) to `fill` (N,).

    `bands` holds (dimension 1 = time or 2 = mel, how many, largest width). Each utterance has its
    own generator.
    """
    hidden = torch.zeros_like(logmel, dtype=torch.bool)
    num_drawn = 2 * sum(count for _, count, _ in bands)
    drawn = torch.from_numpy(np.stack([rng.random(num_drawn) for rng in generators]))
    columns = iter(drawn.unbind(dim=1))
    for dim, count, largest in bands:
        limits = mask.sum(dim=1) if dim == 1 else torch.full((len(logmel),), logmel.shape[2])
        for _ in range(count):
            width = (next(columns) * (torch.clamp(limits // 2, max=largest) + 1)).long()
            start = (next(columns) * (limits - width + 1)).long()
            position = torch.arange(logmel.shape[dim])[None, :]
            band = (position >= start[:, None]) & (position < (start + width)[:, None])
            hidden |= band[:, :, None] if dim == 1 else band[:, None, :]
    return torch.where(hidden, fill, logmel)
