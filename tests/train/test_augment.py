"""Augmentation of waveforms: ratios, lengths, pitches, and that all of it can be repeated."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serkd import config
from serkd.corpora.audio import change_speed
from serkd.train.augment import add_noise, augment

RATE = 16_000


def _tone(hertz: float, seconds: float, amplitude: float = 0.1) -> np.ndarray:
    time = np.arange(int(RATE * seconds)) / RATE
    return (amplitude * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def _decibels(signal: np.ndarray, noise: np.ndarray) -> float:
    return 10 * float(np.log10(np.square(signal).mean() / np.square(noise).mean()))


@settings(deadline=None, max_examples=30)
@given(snr_db=st.floats(-10, 60), amplitude=st.floats(1e-3, 2.0))
def test_noise_is_white_and_lies_below_the_utterance_by_the_ratio(
    snr_db: float, amplitude: float
) -> None:
    tone = _tone(300, 2.0, amplitude).astype(np.float64)
    noise = add_noise(tone, snr_db, np.random.default_rng(0)) - tone
    assert _decibels(tone, noise) == pytest.approx(snr_db, abs=0.2)
    lags = np.correlate(noise[:4000], noise[:4000], "full")[3999:4020]
    assert np.abs(lags[1:]).max() < 0.1 * lags[0]


def test_noise_is_not_clipped_and_silence_stays_silence() -> None:
    loud = np.ones(RATE, np.float32)
    noisy = add_noise(loud, 0.0, np.random.default_rng(0))
    assert noisy.dtype == np.float32
    assert noisy.max() > 3.0
    silence = np.zeros(RATE, np.float32)
    np.testing.assert_array_equal(add_noise(silence, 0.0, np.random.default_rng(0)), silence)
    np.testing.assert_array_equal(change_speed(silence, 1.1), np.zeros(14_545, np.float32))


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.1, 1.37, 2.0])
def test_speed_shortens_by_the_factor_and_raises_the_pitch_by_it(factor: float) -> None:
    fast = change_speed(_tone(500, 2.0), factor)
    assert fast.dtype == np.float32
    assert abs(len(fast) - 2 * RATE / factor) <= 1
    spectrum = np.abs(np.fft.rfft(fast * np.hanning(len(fast))))
    found = spectrum.argmax() * RATE / len(fast)
    assert found == pytest.approx(500 * factor, abs=2.0)
    assert np.square(fast).mean() == pytest.approx(0.005, rel=0.02)


def test_an_utterance_is_changed_anew_in_every_epoch_and_always_the_same_way() -> None:
    tone = _tone(200, 1.0)
    both = config.Augment(noise_snr_db=(5.0, 20.0), speed=(0.9, 1.0, 1.1))
    seeds = list(product((0, 1), repeat=3))  # of (seed, epoch, utterance)
    found = [augment(tone, both, 30.0, seed).tobytes() for seed in seeds]
    assert len(set(found)) == len(seeds)
    assert found == [augment(tone, both, 30.0, seed).tobytes() for seed in seeds]


def test_all_speeds_and_ratios_are_drawn_within_their_ranges() -> None:
    tone = _tone(200, 1.0)
    speeds = config.Augment(speed=(0.8, 1.0, 1.25))
    lengths = [len(augment(tone, speeds, 30.0, (0, i))) for i in range(60)]
    assert set(lengths) == {20_000, 16_000, 12_800}
    noisy = config.Augment(noise_snr_db=(5.0, 25.0))
    ratios = [_decibels(tone, augment(tone, noisy, 30.0, (0, i)) - tone) for i in range(60)]
    assert 4.8 < min(ratios) < 9 < 21 < max(ratios) < 25.2


def test_slower_speech_is_cut_to_the_longest_allowed_and_no_change_is_none() -> None:
    tone = _tone(200, 1.0)
    assert len(augment(tone, config.Augment(speed=(0.5,)), 1.5, (0,))) == 24_000
    np.testing.assert_array_equal(augment(tone, config.Augment(), 30.0, (0,)), tone)
