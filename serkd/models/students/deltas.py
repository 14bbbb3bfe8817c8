"""How frames change: deltas over time."""

import torch
from torch import Tensor

from serkd.models.students.lengths import take_frames

_REACH = 2  # frames to either side


def compute_deltas(frames: Tensor, mask: Tensor) -> Tensor:
    """Slopes of (B, F, N) over the valid frames of (B, F), per frame; of the same shape.

    d_t = sum_n n·(x_{t+n} - x_{t-n}) / (2·sum_n n²) for n = 1, 2 (The HTK Book, equation 5.16),
    where the first and the last valid frame stand for what lies beyond them.
    """
    last = (mask.sum(dim=1, keepdim=True) - 1).clamp_min(0)
    place = torch.arange(frames.shape[1], device=frames.device)[None, :]
    total = torch.zeros_like(frames)
    for n in range(1, _REACH + 1):
        later = take_frames(frames, torch.minimum(place + n, last))
        earlier = take_frames(frames, torch.minimum((place - n).clamp_min(0), last))
        total = total + n * (later - earlier)
    return total / (2 * sum(n * n for n in range(1, _REACH + 1)))


def append_deltas(frames: Tensor, mask: Tensor) -> Tensor:
    """Frames (B, F, N), their deltas and the deltas of these; (B, F, 3·N)."""
    first = compute_deltas(frames, mask)
    return torch.cat([frames, first, compute_deltas(first, mask)], dim=-1)
