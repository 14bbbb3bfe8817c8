"""The student's own input: log-mel energies, computed without any backbone."""

from functools import cache

import numpy as np
import torch
from torch import Tensor

from serkd.corpora.audio import SAMPLE_RATE_HZ

_WINDOW_SAMPLES = 400  # 25 ms
_LEAST_LOG10 = -10.0


@cache
def _mel_filters(num_mels: int) -> Tensor:
    from transformers.audio_utils import mel_filter_bank

    filters = mel_filter_bank(
        num_frequency_bins=_WINDOW_SAMPLES // 2 + 1,
        num_mel_filters=num_mels,
        min_frequency=0.0,
        max_frequency=SAMPLE_RATE_HZ / 2,
        sampling_rate=SAMPLE_RATE_HZ,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(np.ascontiguousarray(filters.T, np.float32))


def compute_logmel(waveform: np.ndarray, num_mels: int, frame_rate_hz: int) -> np.ndarray:
    """Waveform (T,) at 16 kHz to (F, num_mels) float32, F = T·frame_rate/16000 rounded down.

    log10 energies above -10, scaled by a fixed (x + 4) / 4 as Whisper does: absolute level is
    kept, since loudness is a cue of emotion. Unlike Whisper, nothing depends on the clip's maximum.
    """
    hop = SAMPLE_RATE_HZ // frame_rate_hz
    samples = torch.from_numpy(np.ascontiguousarray(waveform, np.float32))
    if len(samples) <= _WINDOW_SAMPLES // 2:  # torch.stft cannot mirror less than half a window
        samples = torch.nn.functional.pad(samples, (0, _WINDOW_SAMPLES))
    window = torch.hann_window(_WINDOW_SAMPLES)
    spectrum = torch.stft(samples, _WINDOW_SAMPLES, hop, window=window, return_complex=True)
    num_frames = max(1, len(waveform) // hop)
    power = spectrum[:, :num_frames].abs().square()
    return scale_power(_mel_filters(num_mels) @ power).T.contiguous().numpy()


def scale_power(power: Tensor) -> Tensor:
    """Mel energies to the values that students are given."""
    return (power.log10().clamp_min(_LEAST_LOG10) + 4.0) / 4.0


def amplify(logmel: Tensor, decibels: Tensor) -> Tensor:
    """`scale_power` of the energies of `logmel` that many decibels higher: a sum of logarithms."""
    return (logmel + decibels / 40.0).clamp_min((_LEAST_LOG10 + 4.0) / 4.0)


def unscale_power(logmel: Tensor) -> Tensor:
    """Inverse of `scale_power`."""
    return torch.pow(10.0, 4.0 * logmel - 4.0)
