"""Log-mel of training utterances, changed; an utterance's numbers are drawn for it alone."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from serkd import config
from serkd.features.logmel import amplify, scale_power, unscale_power
from serkd.models.students.lengths import take_frames
from serkd.train.batches import mask_logmel

_FILTER_POINTS = 4

Generators = Sequence[np.random.Generator]


class Augmented(NamedTuple):
    """Log-mel (B, F, N), its valid frames (B, F), and the `stretch` (B, 2) of each that is heard.

    The stretch is where it begins and ends, as float64 shares of the utterance as it was given.
    """

    logmel: Tensor
    mask: Tensor
    stretch: Tensor


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
    return torch.where(mask[..., None], take_frames(logmel, source), logmel)


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


def crop_frames(
    logmel: Tensor, mask: Tensor, num_frames: int, generators: Generators
) -> tuple[Tensor, Tensor]:
    """A stretch of `num_frames` frames of each of (B, F, N), or all of it, and what is valid."""
    lengths = mask.sum(dim=1)
    spare = (lengths - num_frames).clamp_min(0).tolist()
    start = [int(rng.integers(most + 1)) for rng, most in zip(generators, spare, strict=True)]
    place = torch.arange(min(num_frames, logmel.shape[1]))[None, :]
    position = place + torch.tensor(start)[:, None]
    kept = place < lengths.clamp_max(num_frames)[:, None]
    return take_frames(logmel, torch.minimum(position, lengths[:, None] - 1)), kept


def change_tempo(
    logmel: Tensor, mask: Tensor, most: float, generators: Generators
) -> tuple[Tensor, Tensor]:
    """Each of (B, F, N) longer or shorter by a factor of exp(-most) to exp(most), and its mask.

    Frames are interpolated linearly. Pitch stays, unlike with Ko et al.'s speed perturbation
    (Interspeech 2015), and nothing but log-mel is needed.
    """
    lengths = mask.sum(dim=1)
    factor = torch.tensor([rng.uniform(-most, most) for rng in generators]).exp()
    changed = (lengths * factor).round().long().clamp_min(1)
    place = torch.arange(int(changed.max()))[None, :]
    last = (lengths - 1)[:, None]
    position = torch.minimum(place / factor[:, None], last.double()).to(logmel.dtype)
    below = position.floor().long()
    part = (position - below)[..., None]
    above = torch.minimum(below + 1, last)
    mixed = (1 - part) * take_frames(logmel, below) + part * take_frames(logmel, above)
    return mixed, place < changed[:, None]


def shift_mels(logmel: Tensor, most: float, generators: Generators) -> Tensor:
    """Each of (B, F, N) up or down by up to `most` bins, interpolated; the edge fills the gap.

    A warp of the whole mel axis by one ratio, about what a longer or shorter vocal tract does to it
    (vocal tract length perturbation, Jaitly & Hinton 2013), as a shift on the logarithmic part
    [our simplification].
    """
    shift = torch.tensor([rng.uniform(-most, most) for rng in generators], dtype=logmel.dtype)
    position = (torch.arange(logmel.shape[2]) - shift[:, None]).clamp(0, logmel.shape[2] - 1)
    below = position.floor().long()
    above = (below + 1).clamp_max(logmel.shape[2] - 1)
    part = (position - below)[:, None]

    def take(index: Tensor) -> Tensor:
        return logmel.gather(2, index[:, None].expand(-1, logmel.shape[1], -1))

    return (1 - part) * take(below) + part * take(above)


def change_level(
    logmel: Tensor, gain_db: float, filter_db: float, generators: Generators
) -> Tensor:
    """Each of (B, F, N) by up to `gain_db` decibels, and by up to `filter_db` more along the mels.

    The filter is a line from one to the next of four points at equal distances on the mel axis
    (FilterAugment, arXiv 2110.03282, linear type), the same throughout an utterance [our choice of
    points].
    """
    most = np.array([gain_db, *[filter_db] * _FILTER_POINTS])
    drawn = torch.from_numpy(np.stack([rng.uniform(-most, most) for rng in generators]))
    gain, points = drawn[:, None, :1], drawn[:, None, 1:]
    curve = F.interpolate(points, logmel.shape[2], mode="linear", align_corners=True)
    return amplify(logmel, (gain + curve).to(logmel.dtype))


def augment_logmel(
    logmel: Tensor,
    mask: Tensor,
    settings: config.SpecAugment,
    fill: Tensor,
    generators: Generators,
) -> Augmented:
    """(B, F, N) with valid frames (B, F) cut, changed and masked with `fill` (N,)."""
    lengths = mask.sum(dim=1, keepdim=True)
    # which frame each is goes through all that moves frames, as one more channel
    place = torch.arange(logmel.shape[1], dtype=logmel.dtype).expand(logmel.shape[:2])
    logmel = torch.cat([logmel, place[..., None]], dim=2)
    if settings.crop_frames is not None:
        logmel, mask = crop_frames(logmel, mask, settings.crop_frames, generators)
    if settings.speed:
        logmel, mask = change_tempo(logmel, mask, settings.speed, generators)
    if settings.time_shift_frames:
        logmel = shift_frames(logmel, mask, settings.time_shift_frames, generators)
    logmel, place = logmel[..., :-1], logmel[..., -1]
    last = place.gather(1, mask.sum(dim=1, keepdim=True) - 1)
    stretch = torch.cat([place[:, :1], last + 1], dim=1).double() / lengths
    if settings.mel_shift_bins:
        logmel = shift_mels(logmel, settings.mel_shift_bins, generators)
    if settings.gain_db or settings.filter_db:
        logmel = change_level(logmel, settings.gain_db, settings.filter_db, generators)
    if settings.noise_snr_db is not None:
        logmel = add_noise(logmel, mask, settings.noise_snr_db, generators)
    bands = [
        (1, settings.time_masks, settings.time_mask_frames),
        (2, settings.mel_masks, settings.mel_mask_bins),
    ]
    return Augmented(mask_logmel(logmel, mask, bands, fill, generators), mask, stretch)
