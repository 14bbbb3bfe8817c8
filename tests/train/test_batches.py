"""Batches, padding, span masks and SpecAugment."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serkd.features.store import stack_frames
from serkd.train.batches import (
    draw_spans,
    mask_logmel,
    pad_frames,
    pad_units,
    plan_batches,
    valid_frames,
)


@settings(deadline=None, max_examples=200)
@given(
    num_utterances=st.integers(1, 700),
    batch_size=st.integers(1, 40),
    share=st.floats(0.01, 1.0),
    seed=st.integers(0, 1000),
)
def test_an_epoch_uses_each_active_utterance_exactly_once(
    num_utterances: int, batch_size: int, share: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 500, num_utterances)
    active = np.sort(rng.choice(num_utterances, max(1, int(share * num_utterances)), False))
    batches = plan_batches(lengths, active, batch_size, (seed, 3))
    np.testing.assert_array_equal(np.sort(np.concatenate(batches)), active)
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= 1.5 * batch_size
    if len(sizes) > 1:
        assert 2 * min(sizes) >= batch_size
    again = plan_batches(lengths, active, batch_size, (seed, 3))
    assert all((a == b).all() for a, b in zip(batches, again, strict=True))


def test_epochs_differ_and_batches_hold_utterances_of_similar_length() -> None:
    rng = np.random.default_rng(0)
    lengths, active = rng.integers(20, 2_000, 512), np.arange(512)
    first, second = (plan_batches(lengths, active, 32, (0, epoch)) for epoch in (0, 1))
    assert not np.array_equal(np.concatenate(first), np.concatenate(second))

    def padding(batches: list[np.ndarray]) -> float:
        padded = sum(lengths[batch].max() * len(batch) for batch in batches)
        return 1 - lengths.sum() / padded

    assert padding(first) < 0.15 < padding(np.array_split(rng.permutation(512), 16))


def test_padding_keeps_every_value_and_adds_zeros() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(n, 3)).astype(np.float16) for n in (4, 1, 6)]
    frames = stack_frames(["a", "b", "c"], arrays)
    padded, mask = pad_frames(frames, np.array([2, 0]))
    assert padded.shape == (2, 6, 3)
    for row, array in enumerate((arrays[2], arrays[0])):
        np.testing.assert_array_equal(padded[row, mask[row]].numpy(), array.astype(np.float32))
    assert torch.equal(padded[~mask], torch.zeros(2, 3))
    units = stack_frames(["a", "b"], [np.array([5, 7], np.int32), np.array([9], np.int32)])
    assert pad_units(units, np.array([1, 0])).tolist() == [[9, 0], [5, 7]]


def _generators(count: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng((seed, i)) for i in range(count)]


@settings(deadline=None, max_examples=100)
@given(
    lengths=st.lists(st.integers(1, 120), min_size=1, max_size=8),
    start_share=st.floats(0.0, 1.0),
    span=st.integers(1, 150),
    seed=st.integers(0, 1000),
)
def test_spans_cover_valid_frames_only_and_every_utterance(
    lengths: list[int], start_share: float, span: int, seed: int
) -> None:
    mask = valid_frames(np.array(lengths))
    masked = draw_spans(np.array(lengths), start_share, span, _generators(len(lengths), seed))
    assert not (masked & ~mask).any()
    assert masked.any(dim=1).all()
    if start_share == 0.0:
        assert (masked.sum(dim=1) == 1).all()
    if start_share == 1.0:
        assert torch.equal(masked, mask)


def test_spans_are_whole_unless_the_utterance_ends() -> None:
    """But for an utterance of which nothing was drawn, which gets a single frame."""
    lengths, span = np.full(50, 200), 10
    masked = draw_spans(lengths, 0.02, span, _generators(50)).numpy()
    assert 0.1 < masked.mean() < 0.3  # about 1 - 0.98^10
    for row in masked:
        edges = np.flatnonzero(np.diff(row, prepend=False, append=False))
        for start, end in edges.reshape(-1, 2):
            assert end - start >= span or end == len(row) or row.sum() == 1


BANDS = [(1, 2, 20), (2, 2, 6)]  # (time or mel, how many, largest width)
FILL = torch.linspace(50, 60, 16)  # values that no frame has


def _logmel(extra: int, garbage: float) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = np.array([30, 7, 52])
    mask = valid_frames(np.array([*lengths, 52 + extra]))[:3]
    values = torch.full((*mask.shape, 16), garbage)
    generator = torch.Generator().manual_seed(0)
    values[mask] = torch.randn(int(lengths.sum()), 16, generator=generator)
    return values, mask


def test_specaugment_of_valid_frames_does_not_depend_on_padding() -> None:
    (plain, mask), (padded, long_mask) = _logmel(0, 0.0), _logmel(9, 1e6)
    expected = mask_logmel(plain, mask, BANDS, FILL, _generators(3))[mask]
    found = mask_logmel(padded, long_mask, BANDS, FILL, _generators(3))[long_mask]
    torch.testing.assert_close(found, expected)


def test_specaugment_hides_whole_bands_behind_the_fill_and_nothing_else() -> None:
    logmel, mask = _logmel(0, 1e6)
    widest = torch.zeros(2, dtype=torch.int64)
    for seed in range(30):
        augmented = mask_logmel(logmel, mask, BANDS, FILL, _generators(3, seed))
        for row in range(len(logmel)):
            before, after = logmel[row, mask[row]], augmented[row, mask[row]]
            hidden = before != after
            assert torch.equal(after, torch.where(hidden, FILL, before))
            whole_frames, whole_bins = hidden.all(dim=1), hidden.all(dim=0)
            assert torch.equal(hidden, whole_frames[:, None] | whole_bins[None, :])
            # no band is wider than asked, nor than half of the utterance
            assert whole_frames.sum() <= 2 * min(20, len(before) // 2)
            assert whole_bins.sum() <= 2 * 6
            widest = torch.maximum(widest, torch.stack([whole_frames.sum(), whole_bins.sum()]))
    assert (widest > torch.tensor([20, 6])).all()  # two bands, not one


@pytest.mark.parametrize("bands", [[], [(1, 0, 20), (2, 0, 6)]])
def test_no_bands_change_nothing(bands: list[tuple[int, int, int]]) -> None:
    logmel, mask = _logmel(0, 0.0)
    assert torch.equal(mask_logmel(logmel, mask, bands, FILL, _generators(3)), logmel)
