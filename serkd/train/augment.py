"""Waveforms made noisier, faster or slower; an utterance's numbers are drawn for it alone."""

import numpy as np
import soxr

from serkd import config
from serkd.corpora.audio import SAMPLE_RATE_HZ, crop


def add_noise(waveform: np.ndarray, snr_db: float, rng: np.random.Generator) -> np.ndarray:
    """White Gaussian noise at `snr_db` below the mean power of the waveform (T,), float32.

    Nothing is clipped: samples may go beyond full scale. Digital silence stays silence.
    """
    power = float(np.square(waveform, dtype=np.float64).mean())
    noise = rng.standard_normal(len(waveform), np.float32)
    return waveform + np.float32(np.sqrt(power * 10 ** (-snr_db / 10))) * noise


def change_speed(waveform: np.ndarray, factor: float) -> np.ndarray:
    """A waveform (T,) played `factor` times as fast, (about T / factor,) float32.

    Tempo and pitch change together, as with a tape (Ko et al., Interspeech 2015, section 2.3).
    """
    if factor == 1.0:
        return waveform
    return soxr.resample(waveform, SAMPLE_RATE_HZ * factor, SAMPLE_RATE_HZ, quality="HQ")


def augment(
    waveform: np.ndarray, settings: config.Augment, max_duration_s: float, seed: tuple[int, ...]
) -> np.ndarray:
    """A waveform (T,) as `settings` want it, with numbers drawn from `seed` alone.

    What a lower speed makes longer than `max_duration_s` is cut to it: no backbone is given more.
    """
    rng = np.random.default_rng(seed)
    changed = change_speed(waveform, float(rng.choice(settings.speed)))
    changed = crop(changed, max_duration_s)
    if settings.noise_snr_db is None:
        return changed
    return add_noise(changed, rng.uniform(*settings.noise_snr_db), rng)
