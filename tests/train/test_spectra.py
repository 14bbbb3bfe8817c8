"""Crops, tempo, shifts and noise on log-mel, against loops and against noise on the waveform."""

import numpy as np
import pytest
import torch
from torch import Tensor

from serkd import config
from serkd.features.logmel import compute_logmel, scale_power, unscale_power
from serkd.train.augment import add_noise as add_noise_to_waveform
from serkd.train.batches import valid_frames
from serkd.train.spectra import (
    add_noise,
    augment_logmel,
    change_level,
    change_tempo,
    crop_frames,
    shift_frames,
    shift_mels,
)

LENGTHS = np.array([9, 30, 1, 17])


def _batch(longest: int = 30) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(len(LENGTHS), longest, dtype=torch.bool)
    mask[:, : LENGTHS.max()] = valid_frames(LENGTHS)
    logmel = torch.zeros(len(LENGTHS), longest, 6)
    logmel[:, :30] = 0.3 * torch.randn(len(LENGTHS), 30, 6, generator=generator)
    return logmel * mask[..., None], mask


def _generators(seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng((seed, row)) for row in range(len(LENGTHS))]


def _find_shift(before: np.ndarray, after: np.ndarray) -> int:
    """By how many frames an utterance (F, N) was moved."""
    frames = np.arange(len(before))
    found = [
        shift
        for shift in range(-len(before), len(before) + 1)
        if np.array_equal(after, before[np.clip(frames - shift, 0, len(before) - 1)])
    ]
    return min(found, key=abs)


def test_a_shift_moves_frames_and_repeats_the_edge() -> None:
    logmel, mask = _batch()
    seen = set()
    for seed in range(200):
        moved = shift_frames(logmel, mask, 5, _generators(seed))
        for row, length in enumerate(LENGTHS):
            shift = _find_shift(logmel[row, :length].numpy(), moved[row, :length].numpy())
            assert abs(shift) <= min(5, length // 2)
            seen.add((row, shift))
        assert torch.equal(moved[~mask], logmel[~mask])
    # both ways, and as far as is allowed
    assert {shift for row, shift in seen if row == 1} == set(range(-5, 6))
    assert {shift for row, shift in seen if row == 0} == set(range(-4, 5))
    assert {shift for row, shift in seen if row == 2} == {0}


@pytest.mark.parametrize("snr_db", [0.0, 10.0])
def test_noise_has_the_ratio_asked_for(snr_db: float) -> None:
    logmel = torch.full((1, 400, 40), 0.5)
    mask = torch.ones(1, 400, dtype=torch.bool)
    noisy = add_noise(logmel, mask, (snr_db, snr_db), [np.random.default_rng(0)])
    added = unscale_power(noisy) - unscale_power(logmel)
    ratio = 10 * np.log10(float(unscale_power(logmel).mean() / added.mean()))
    assert ratio == pytest.approx(snr_db, abs=0.1)
    assert float(added.min()) >= 0


def test_noise_is_nearly_that_of_a_noisy_waveform() -> None:
    """The same mean level in every channel: a second of a tone, noise 10 dB below it."""
    time = np.arange(32_000) / 16_000
    waveform = np.sin(2 * np.pi * 1_000 * time).astype(np.float32)
    clean = torch.from_numpy(compute_logmel(waveform, 40, 100))
    by_wave = torch.from_numpy(
        compute_logmel(add_noise_to_waveform(waveform, 10.0, np.random.default_rng(0)), 40, 100)
    )
    mask = torch.ones(1, len(clean), dtype=torch.bool)
    by_energy = add_noise(clean[None], mask, (10.0, 10.0), [np.random.default_rng(0)])[0]
    levels = [10 * torch.log10(unscale_power(x).mean(dim=0)) for x in (by_wave, by_energy)]
    assert float((levels[0] - levels[1]).abs().median()) < 6.0  # dB; clean differs by over 40
    assert float((levels[0] - 10 * torch.log10(unscale_power(clean).mean(dim=0))).median()) > 20


def test_scaling_power_has_an_inverse() -> None:
    power = torch.logspace(-9, 5, 50)
    torch.testing.assert_close(unscale_power(scale_power(power)), power, rtol=1e-4, atol=0.0)


def test_a_crop_is_a_stretch_of_the_utterance_and_may_be_any() -> None:
    logmel, mask = _batch()
    seen = set()
    for seed in range(200):
        cropped, kept = crop_frames(logmel, mask, 10, _generators(seed))
        assert kept.sum(dim=1).tolist() == [min(10, length) for length in LENGTHS]
        for row, length in enumerate(LENGTHS):
            found = cropped[row][kept[row]]
            starts = [
                start
                for start in range(length - len(found) + 1)
                if torch.equal(found, logmel[row, start : start + len(found)])
            ]
            assert len(starts) == 1
            seen.add((row, starts[0]))
    assert {start for row, start in seen if row == 3} == set(range(8))
    assert {start for row, start in seen if row == 0} == {0}


def test_another_tempo_is_an_interpolation_at_another_rate() -> None:
    logmel, mask = _batch()
    changed, kept = change_tempo(logmel, mask, 0.5, _generators())
    lengths = kept.sum(dim=1).numpy()
    for row, length in enumerate(LENGTHS):
        factor = np.exp(np.random.default_rng((0, row)).uniform(-0.5, 0.5))
        assert lengths[row] == max(1, round(length * factor))
        places = np.minimum(np.arange(lengths[row]) / factor, length - 1)
        for mel in range(6):
            expected = np.interp(places, np.arange(length), logmel[row, :length, mel])
            np.testing.assert_allclose(changed[row, : lengths[row], mel], expected, atol=1e-5)
    assert lengths.tolist() != LENGTHS.tolist()


def test_a_shift_of_the_mels_is_an_interpolation_along_them() -> None:
    logmel, _ = _batch()
    moved = shift_mels(logmel, 3.0, _generators())
    for row in range(len(LENGTHS)):
        shift = np.random.default_rng((0, row)).uniform(-3, 3)
        for frame in (0, 8):
            expected = np.interp(np.arange(6) - shift, np.arange(6), logmel[row, frame])
            np.testing.assert_allclose(moved[row, frame], expected, atol=1e-5)


def test_a_filter_is_a_line_between_four_points_in_decibels_and_gain_is_a_fifth_number() -> None:
    logmel, _ = _batch()
    changed = change_level(logmel, 3.0, 9.0, _generators())
    power, found = (unscale_power(each.double()).numpy() for each in (logmel, changed))
    for row in range(len(LENGTHS)):
        rng = np.random.default_rng((0, row))
        gain = rng.uniform(-3, 3)
        points = rng.uniform(-9, 9, 4)
        decibels = gain + np.interp(np.arange(6), np.linspace(0, 5, 4), points)
        expected = power[row] * 10 ** (decibels / 10)
        np.testing.assert_allclose(found[row], expected, rtol=1e-4)


def test_silence_cannot_become_softer_than_the_logarithms_floor() -> None:
    silence = scale_power(torch.zeros(4, 5, 6))
    changed = change_level(silence, 6.0, 0.0, _generators())
    assert torch.equal(changed.amin(), silence.amin())
    assert changed.amax() > silence.amax()


SETTINGS = config.SpecAugment(
    crop_frames=16,
    speed=0.3,
    mel_shift_bins=2.0,
    gain_db=6.0,
    filter_db=6.0,
    time_mask_frames=5,
    mel_mask_bins=2,
    noise_snr_db=(0.0, 20.0),
    time_shift_frames=4,
)


def test_augmentation_is_an_utterances_own_whatever_the_padding_and_the_company() -> None:
    fill = torch.zeros(6)
    (logmel, mask), (padded, long_mask) = _batch(), _batch(50)
    whole, kept, _ = augment_logmel(logmel, mask, SETTINGS, fill, _generators())
    longer, also_kept, _ = augment_logmel(padded, long_mask, SETTINGS, fill, _generators())
    assert torch.equal(also_kept, kept)
    torch.testing.assert_close(longer[kept], whole[kept], rtol=1e-5, atol=1e-6)
    alone, own, _ = augment_logmel(logmel[1:2], mask[1:2], SETTINGS, fill, _generators()[1:2])
    torch.testing.assert_close(alone[own], whole[1][kept[1]], rtol=1e-5, atol=1e-6)
    again, *_ = augment_logmel(logmel, mask, SETTINGS, fill, _generators())
    assert torch.equal(again, whole)
    other, other_kept, _ = augment_logmel(logmel, mask, SETTINGS, fill, _generators(1))
    assert not (torch.equal(other_kept, kept) and torch.equal(other, whole))


def test_everything_off_changes_nothing() -> None:
    logmel, mask = _batch()
    off = config.SpecAugment(time_masks=0, mel_masks=0)
    found, kept, stretch = augment_logmel(logmel, mask, off, torch.zeros(6), _generators())
    assert torch.equal(found, logmel)
    assert torch.equal(kept, mask)
    assert stretch.tolist() == [[0.0, 1.0]] * len(logmel)


def test_the_stretch_is_what_is_left_after_all_that_moves_frames() -> None:
    """Told by frames that are numbered."""
    _, mask = _batch()
    numbered = torch.arange(30.0).expand(4, 30)[..., None].repeat(1, 1, 6)
    moves = {"crop_frames": 9, "speed": 0.4, "time_shift_frames": 3}
    settings = config.SpecAugment(**moves, time_masks=0, mel_masks=0)
    seen = set()
    for seed in range(50):
        found, kept, stretch = augment_logmel(
            numbered, mask, settings, torch.zeros(6), _generators(seed)
        )
        for row, length in enumerate(LENGTHS):
            values = found[row, kept[row], 0]
            expected = [float(values[0]) / length, (float(values[-1]) + 1) / length]
            np.testing.assert_allclose(stretch[row], expected, rtol=1e-5)
            assert 0.0 <= stretch[row, 0] < stretch[row, 1] <= 1.0
            seen.add((row, round(float(stretch[row, 0]), 3)))
    assert len(seen) > 40
