"""Log-mel of training utterances, changed; an utterance's numbers are drawn for it alone."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from serkd import config
from serkd.features.logmel import scale_power, unscale_power
from serkd.train.batches import mask_logmel

Generators = Sequence[np.random.Generator]


def shift_frames(logmel: Tensor, mask: Tensor, most: int, generators: Generators) -> Tensor:
    """Move each utterance of (B, F, N) by up to `most` frames, and half its length, either way.

    Its first or last frame fills the gap; what is pushed out at the other end is lost.
    """
    lengths = mask.sum(dim=1)
    limits = torch.clamp(lengths // 2, max=most).tolist()
    drawn = [
        int(rng.integers(-limit, limit + 1)) for rng, limit in zip(generators, limits, strict=True)
    ]
    position = torch.arange(logmel.shape[1])[None, :] - torch.tensor(drawn)[:, None]
    source = torch.minimum(position.clamp_min(0), lengths[:, None] - 1)
    return torch.where(mask[..., None], _take(logmel, source), logmel)


def _take(logmel: Tensor, source: Tensor) -> Tensor:
    """Frames (B, F, N) in the order of `source` (B, F)."""
    return logmel.gather(1, source[..., None].expand(-1, -1, logmel.shape[2]))


def add_noise(
    logmel: Tensor, mask: Tensor, snr_db: tuple[float, float], generators: Generators
) -> Tensor:
    """White noise on (B, F, N) at a ratio drawn from a range, below the mean power of the valid.

    Energies are added: the filters have equal areas, so that white noise has the same mean in every
    channel, and a Gaussian's energy in one bin of a spectrum is exponential [our choice for whole
    channels, whose energy varies less].
    """
    noise = torch.zeros_like(logmel)
    for row, valid, rng in zip(noise, mask, generators, strict=True):
        ratio = 10 ** (-rng.uniform(*snr_db) / 10)
        shape = (int(valid.sum()), logmel.shape[2])
        row[valid] = torch.from_numpy(rng.standard_exponential(shape, np.float32)) * ratio
    power = unscale_power(logmel) * mask[..., None]
    mean = power.sum(dim=(1, 2)) / (mask.sum(dim=1) * logmel.shape[2])
    noisy = scale_power(power + noise * mean[:, None, None])
    return torch.where(mask[..., None], noisy, logmel)


def augment_logmel(
    logmel: Tensor,
    mask: Tensor,
    settings: config.SpecAugment,
    fill: Tensor,
    generators: Generators,
) -> Tensor:
    """(B, F, N) with valid frames (B, F) shifted, made noisy and masked with `fill` (N,)."""
    if settings.time_shift_frames:
        logmel = shift_frames(logmel, mask, settings.time_shift_frames, generators)
    if settings.noise_snr_db is not None:
        logmel = add_noise(logmel, mask, settings.noise_snr_db, generators)
    bands = [
        (1, settings.time_masks, settings.time_mask_frames),
        (2, settings.mel_masks, settings.mel_mask_bins),
    ]
    return mask_logmel(logmel, mask, bands, fill, generators)
