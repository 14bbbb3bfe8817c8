"""Log-mel against transformers' spectrogram and against a plain discrete Fourier transform."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from serkd.features.logmel import compute_logmel


def _speechlike(num_samples: int, seed: int = 0) -> np.ndarray:
    """Noise that swells and dies, over 60 dB."""
    rng = np.random.default_rng(seed)
    envelope = 10.0 ** rng.uniform(-3.5, -0.5, num_samples // 800 + 2)
    envelope = np.interp(np.arange(num_samples), np.arange(len(envelope)) * 800, envelope)
    return (rng.standard_normal(num_samples) * envelope).astype(np.float32)


def _filters(num_mels: int) -> np.ndarray:
    return mel_filter_bank(201, num_mels, 0.0, 8_000.0, 16_000, norm="slaney", mel_scale="slaney")


@pytest.mark.parametrize("frame_rate_hz", [50, 100])
@pytest.mark.parametrize("num_mels", [20, 40, 80])
def test_equals_transformers_spectrogram(num_mels: int, frame_rate_hz: int) -> None:
    waveform = _speechlike(24_123)
    energies = spectrogram(
        waveform.astype(np.float64),
        window_function(400, "hann"),
        frame_length=400,
        hop_length=16_000 // frame_rate_hz,
        power=2.0,
        mel_filters=_filters(num_mels),
        mel_floor=1e-10,
        log_mel="log10",
    )
    ours = compute_logmel(waveform, num_mels, frame_rate_hz)
    expected = ((energies + 4.0) / 4.0).T[: len(ours)]
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() < 1e-4


def test_one_frame_equals_a_fourier_sum_written_out() -> None:
    waveform, frame = _speechlike(8_000), 13
    centre = frame * 160
    piece = waveform[centre - 200 : centre + 200].astype(np.float64)
    n = np.arange(400)
    windowed = piece * (0.5 - 0.5 * np.cos(2 * np.pi * n / 400))
    waves = np.exp(-2j * np.pi * np.arange(201)[:, None] * n / 400)
    power = np.abs(waves @ windowed) ** 2
    expected = (np.log10(np.maximum(_filters(80).T @ power, 1e-10)) + 4.0) / 4.0
    assert np.abs(compute_logmel(waveform, 80, 100)[frame] - expected).max() < 1e-4


@settings(max_examples=200, deadline=None)
@given(num_samples=st.integers(1, 40_000), frame_rate_hz=st.sampled_from([50, 100]))
def test_frame_counts_for_any_length(num_samples: int, frame_rate_hz: int) -> None:
    logmel = compute_logmel(np.full(num_samples, 0.1, np.float32), 8, frame_rate_hz)
    assert logmel.shape == (max(1, num_samples * frame_rate_hz // 16_000), 8)
    assert logmel.dtype == np.float32
    assert np.isfinite(logmel).all()


def test_two_rates_see_the_same_instants() -> None:
    waveform = _speechlike(16_000)
    slow, fast = compute_logmel(waveform, 80, 50), compute_logmel(waveform, 80, 100)
    assert np.abs(slow - fast[::2]).max() < 1e-5


def test_absolute_level_is_kept() -> None:
    waveform = _speechlike(16_000)
    loud, soft = (compute_logmel(gain * waveform, 80, 100) for gain in (1.0, 0.25))
    # 20 log10(4) dB, in log10 of power, over the fixed scale of 4
    assert np.abs(loud - soft - np.log10(16.0) / 4.0).max() < 1e-4


def test_silence_is_the_floor() -> None:
    assert np.allclose(compute_logmel(np.zeros(4_000, np.float32), 80, 100), (-10.0 + 4.0) / 4.0)


def test_a_loud_moment_changes_nothing_elsewhere() -> None:
    waveform = _speechlike(16_000)
    louder = waveform.copy()
    louder[12_000:12_400] += 0.9
    before, after = compute_logmel(waveform, 80, 100), compute_logmel(louder, 80, 100)
    assert np.abs(before - after)[:70].max() < 1e-6
