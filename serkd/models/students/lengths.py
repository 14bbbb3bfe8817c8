"""Series of any length made series of one fixed length; padding never counts."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# frames (B, F, N) and valid (B, F) to windows (B, W, num_frames, N) and which are one's own (B, W)
Fixed = tuple[Tensor, Tensor]


def crop_frames(frames: Tensor, mask: Tensor, num_frames: int) -> Fixed:
    """The first `num_frames` frames, with zeros after a shorter utterance's end."""
    series = (frames * mask[..., None])[:, :num_frames]
    series = F.pad(series, (0, 0, 0, num_frames - series.shape[1]))
    return series[:, None], torch.ones(len(series), 1, dtype=torch.bool, device=mask.device)


def resample_frames(frames: Tensor, mask: Tensor, num_frames: int) -> Fixed:
    """All of an utterance in `num_frames` steps from its first to its last frame, linearly."""
    last = mask.sum(dim=1, keepdim=True) - 1
    share = torch.linspace(0.0, 1.0, num_frames, device=frames.device)
    position = share[None] * last
    below = position.floor().long()
    above = torch.minimum(below + 1, last)
    part = (position - below)[..., None].to(frames.dtype)
    series = (1 - part) * take_frames(frames, below) + part * take_frames(frames, above)
    return series[:, None], torch.ones(len(series), 1, dtype=torch.bool, device=mask.device)


def window_frames(frames: Tensor, mask: Tensor, num_frames: int) -> Fixed:
    """Windows that overlap by half or more, evenly from an utterance's first to its last frame.

    An utterance of at most `num_frames` frames is one window, with zeros after its end. Which
    windows are an utterance's own depends on its length alone.
    """
    hop, lengths = max(1, num_frames // 2), mask.sum(dim=1)
    spare = (lengths - num_frames).clamp_min(0)
    gaps = torch.div(spare + hop - 1, hop, rounding_mode="floor")
    number = torch.arange(int(gaps.max()) + 1, device=mask.device)
    start = torch.div(number * spare[:, None], gaps[:, None].clamp_min(1), rounding_mode="floor")
    position = start[..., None] + torch.arange(num_frames, device=mask.device)
    inside = (position < lengths[:, None, None])[..., None]
    index = torch.minimum(position, lengths[:, None, None] - 1)
    windows = take_frames(frames, index.flatten(1)).unflatten(1, index.shape[1:])
    return windows * inside, number <= gaps[:, None]


def take_frames(frames: Tensor, index: Tensor) -> Tensor:
    """Frames (B, F, N) in the order of `index` (B, G); (B, G, N)."""
    return frames.gather(1, index[..., None].expand(-1, -1, frames.shape[2]))


LENGTHS: dict[str, Callable[[Tensor, Tensor, int], Fixed]] = {
    "crop": crop_frames,
    "resample": resample_frames,
    "window": window_frames,
}
