"""Waveforms made noisier, faster or slower; an utterance's numbers are drawn for it alone."""

from collections.abc import Sequence

import numpy as np

from serkd import config
from serkd.corpora.audio import change_speed, crop

_STREAM = 0x617567  # apart from what else is drawn from (seed, epoch, number)


def add_noise(waveform: np.ndarray, snr_db: float, rng: np.random.Generator) -> np.ndarray:
    """White Gaussian noise at `snr_db` below the mean power of the waveform (T,), float32.

    Nothing is clipped: samples may go beyond full scale. Digital silence stays silence.
    """
    power = float(np.square(waveform, dtype=np.float64).mean())
    noise = rng.standard_normal(len(waveform), np.float32)
    return waveform + np.float32(np.sqrt(power * 10 ** (-snr_db / 10))) * noise


def draw_speed(speeds: Sequence[float], rng: np.random.Generator) -> float:
    """One of the factors, all as likely; the first number that is drawn for an utterance."""
    return float(rng.choice(speeds))


def audio_seed(seed: int, epoch: int, utterance: int) -> tuple[int, ...]:
    """Of what is random about the audio of an utterance in an epoch."""
    return seed, epoch, utterance, _STREAM


def augment(
    waveform: np.ndarray, settings: config.Augment, max_duration_s: float, seed: tuple[int, ...]
) -> np.ndarray:
    """A waveform (T,) as `settings` want it, with numbers drawn from `seed` alone.

    What a lower speed makes longer than `max_duration_s` is cut to it: no backbone is given more.
    """
    rng = np.random.default_rng(seed)
    changed = change_speed(waveform, draw_speed(settings.speed, rng))
    changed = crop(changed, max_duration_s)
    if settings.noise_snr_db is None:
        return changed
    return add_noise(changed, rng.uniform(*settings.noise_snr_db), rng)
