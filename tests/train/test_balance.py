"""The contract of class-balanced batches."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from serkd.train.batches import plan_batches

Batches = list[np.ndarray]


@settings(deadline=None, max_examples=200)
@given(
    class_sizes=st.lists(st.integers(0, 150), min_size=1, max_size=9).filter(any),
    batch_size=st.integers(1, 40),
    share=st.floats(0.01, 1.0),
    seed=st.integers(0, 1000),
)
def test_classes_are_equal_in_every_batch_and_over_the_epoch(
    class_sizes: list[int], batch_size: int, share: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(class_sizes)), class_sizes))
    lengths = rng.integers(1, 500, len(labels))
    active = np.sort(rng.choice(len(labels), max(1, int(share * len(labels))), False))
    batches = plan_batches(lengths, active, batch_size, (seed, 3), labels)

    present = np.unique(labels[active])
    counts = np.array([[(labels[b] == c).sum() for c in present] for b in batches])
    assert set(np.concatenate(batches)) <= set(active)
    assert {len(batch) for batch in batches} == {min(batch_size, len(active))}
    assert np.ptp(counts, axis=1).max() <= 1
    assert np.ptp(counts.sum(axis=0)) <= 1
    assert len(batches) == len(plan_batches(lengths, active, batch_size, (seed, 3)))

    uses = np.bincount(np.concatenate(batches), minlength=len(labels))
    for number, label in enumerate(present):
        members = active[labels[active] == label]
        assert np.ptp(uses[members]) <= 1  # none again before all of its class
        if len(members) >= counts[:, number].max():
            drawn = [batch[labels[batch] == label] for batch in batches]
            assert all(len(set(some)) == len(some) for some in drawn)

    again = plan_batches(lengths, active, batch_size, (seed, 3), labels)
    assert all((a == b).all() for a, b in zip(batches, again, strict=True))


def _padding(batches: Batches, lengths: np.ndarray) -> float:
    padded = sum(lengths[batch].max() * len(batch) for batch in batches)
    return 1 - sum(lengths[batch].sum() for batch in batches) / padded


def test_utterances_of_similar_length_meet_though_classes_are_rare_or_short() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), [1500, 500, 150, 100])
    lengths = rng.integers(40, 2_000, len(labels)) // np.where(labels == 1, 2, 1)
    active = np.arange(len(labels))
    balanced = plan_batches(lengths, active, 16, (0, 0), labels)
    at_random = np.split(rng.permutation(np.concatenate(balanced)), len(balanced))
    lone = [b for c in range(4) for b in plan_batches(lengths, active[labels == c], 16, (0, 0))]
    # the long half of the others is beside utterances of half the length
    assert _padding(lone, lengths) < 0.15 < _padding(balanced, lengths) < 0.3
    assert _padding(at_random, lengths) > 0.45
    lengths = rng.integers(40, 2_000, len(labels))
    alike = plan_batches(lengths, active, 16, (0, 0), labels)
    assert _padding(alike, lengths) < 0.15


def test_epochs_differ_and_small_batches_still_have_all_classes_in_turn() -> None:
    labels = np.repeat(np.arange(5), [40, 10, 30, 12, 8])
    lengths = np.full(100, 50)
    first, second = (plan_batches(lengths, np.arange(100), 2, (0, e), labels) for e in (0, 1))
    assert not np.array_equal(np.concatenate(first), np.concatenate(second))
    assert all(len(set(labels[batch])) == 2 for batch in first)
    assert np.bincount(labels[np.concatenate(first)]).tolist() == [20] * 5
