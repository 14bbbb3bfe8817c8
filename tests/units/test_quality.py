"""Unit diagnostics against scikit-learn, scipy, closed forms, and units that are made to tell."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import entropy
from sklearn.metrics import mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from serkd.features.store import Frames, stack_frames
from serkd.units.quality import (
    Labels,
    compute_lengths,
    compute_occupancy,
    compute_pnmi,
    compute_purity,
    compute_quality,
    compute_told,
    compute_utterance_entropy,
    count_pairs,
)

_ids = arrays(np.int64, st.shared(st.integers(1, 80), key="n"), elements=st.integers(0, 6))


@settings(max_examples=200, deadline=None)
@given(units=_ids, labels=_ids)
def test_purity_and_pnmi_equal_scikit_learn(units: np.ndarray, labels: np.ndarray) -> None:
    table = count_pairs(labels, units.astype(np.int16), 7)
    reference = contingency_matrix(labels, units)  # without the rows and columns nobody uses
    assert np.array_equal(table[table.any(axis=1)][:, table.any(axis=0)], reference)
    assert compute_purity(table) == pytest.approx(reference.max(axis=0).sum() / len(units))
    of_labels = entropy(np.bincount(labels))
    if of_labels > 0:
        expected = mutual_info_score(labels, units) / of_labels
        assert compute_pnmi(table) == pytest.approx(expected, abs=1e-9)
        assert -1e-9 <= compute_pnmi(table) <= 1 + 1e-9
    else:
        assert compute_pnmi(table) == 0.0


def test_many_labels_and_units_do_not_overflow_narrow_ids() -> None:
    units, labels = np.array([32_000, 31_999], np.int16), np.array([0, 999], np.int64)
    table = count_pairs(labels, units, 32_767)
    assert table.shape == (1000, 32_767)
    assert (table[0, 32_000], table[999, 31_999], table.sum()) == (1, 1, 2)


def test_ends_of_the_scale() -> None:
    labels = np.repeat([0, 1, 2], 20)
    copied = count_pairs(labels, 2 - labels, 3)  # renamed labels say all
    assert (compute_purity(copied), compute_pnmi(copied)) == pytest.approx((1.0, 1.0))
    unrelated = count_pairs(labels, np.tile([0, 1], 30), 2)
    assert (compute_purity(unrelated), compute_pnmi(unrelated)) == pytest.approx((1 / 3, 0.0))


@settings(max_examples=100, deadline=None)
@given(units=_ids)
def test_occupancy_equals_scipy_entropy(units: np.ndarray) -> None:
    counts = np.bincount(units, minlength=7)
    found = compute_occupancy(counts)
    assert found["perplexity_share"] == pytest.approx(np.exp(entropy(counts)) / 7)
    assert found["largest_share"] == pytest.approx(counts.max() / len(units))
    assert found["num_unused"] == 7 - len(set(units.tolist()))
    most = sorted(counts, reverse=True)[: int(found["num_for_half"])]
    assert 2 * sum(most) >= len(units) > 2 * sum(most[:-1])


@pytest.mark.parametrize(
    ("counts", "perplexity", "largest", "unused", "for_half"),
    [
        ([5, 5, 5, 5], 4.0, 0.25, 0, 2),
        ([9, 0, 0, 0], 1.0, 1.0, 3, 1),
        ([4, 2, 2, 0], 2**1.5, 0.5, 1, 1),
        ([2, 4, 2, 8], 2**1.75, 0.5, 0, 1),
    ],
)
def test_occupancy_has_its_closed_forms(
    counts: list[int], perplexity: float, largest: float, unused: int, for_half: int
) -> None:
    found = compute_occupancy(np.array(counts))
    assert found["perplexity_share"] == pytest.approx(perplexity / 4)
    assert found["largest_share"] == pytest.approx(largest)
    assert (found["num_unused"], found["num_for_half"]) == (unused, for_half)


def test_a_unit_that_swallows_frames_is_dominant() -> None:
    assert compute_occupancy(np.array([200, *[10] * 99]))["num_dominant"] == 1
    assert compute_occupancy(np.array([100, *[10] * 99]))["num_dominant"] == 0


def test_lengths_are_those_of_itertools_and_end_with_the_utterance() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 2, n).astype(np.int16) for n in (1, 30, 7, 55)]
    rows += [np.zeros(4, np.int16), np.zeros(3, np.int16)]  # two runs, not one of seven
    runs = [len(list(run)) for row in rows for _, run in itertools.groupby(row)]
    found = compute_lengths(stack_frames([str(i) for i in range(6)], rows))
    assert found["run_mean_frames"] == pytest.approx(np.mean(runs))
    assert found["run_median_frames"] == pytest.approx(np.median(runs))
    assert found["run_p95_frames"] == pytest.approx(np.percentile(runs, 95))


def test_utterance_entropy_is_the_mean_of_scipys() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 9, n) for n in (1, 30, 7, 55)]
    expected = np.mean([entropy(np.bincount(row)) for row in rows])
    found = compute_utterance_entropy(stack_frames(list("abcd"), rows))
    assert found == pytest.approx(expected)


NUM_UTTERANCES, NUM_SPEAKERS, K = 480, 12, 40


def _labels(seed: int = 0) -> Labels:
    rng = np.random.default_rng(seed)
    speaker = np.arange(NUM_UTTERANCES) % NUM_SPEAKERS
    emotion = rng.integers(0, 4, NUM_UTTERANCES)
    return Labels(emotion, speaker % 2, speaker, np.zeros(NUM_UTTERANCES, np.int64))


def _speak(favourites: np.ndarray, share: float, seed: int = 1) -> Frames:
    """30 frames an utterance: its favourite unit with probability `share`, else any of K.

    As in speech, an utterance has a few units of its own: its frames are not independent.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for favourite in favourites:
        others = rng.choice(rng.integers(0, K, 6), 30)
        rows.append(np.where(rng.random(30) < share, favourite, others).astype(np.int16))
    return stack_frames([f"u{i}" for i in range(len(rows))], rows)


def test_units_by_chance_tell_nothing_though_pnmi_does() -> None:
    labels = _labels()
    found = compute_quality(_speak(labels.emotion, 0.0), labels, K)
    # the more labels, the more a table of counts seems to tell
    assert found["speaker_pnmi"] > 1.5 * found["emotion_pnmi"] > 0.01
    for name in ("emotion", "gender", "speaker"):
        assert abs(found[f"{name}_told"]) < 0.02, name
    assert found["warnings"] == []


def test_what_is_told_grows_to_one() -> None:
    labels = _labels()
    told = [
        compute_told(_speak(labels.speaker, share), labels.speaker, labels.slot, K, seed=0)
        for share in (0.0, 0.3, 0.6, 1.0)
    ]
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)


def test_units_of_the_speaker_are_warned_of_and_those_of_the_emotion_are_not() -> None:
    labels = _labels()
    of_speaker = compute_quality(_speak(labels.speaker, 0.5), labels, K)
    (warning,) = of_speaker["warnings"]
    assert warning.startswith("units mostly encode the speaker: beyond chance they tell 0.")
    of_emotion = compute_quality(_speak(labels.emotion, 0.5), labels, K)
    assert of_emotion["emotion_told"] > 0.1 > of_emotion["speaker_told"]
    assert of_emotion["warnings"] == []


def test_knowing_gender_is_not_held_against_units() -> None:
    """It is meant: but the speakers of a gender must not be told apart."""
    labels = _labels()
    units = _speak(labels.gender, 0.9)
    found = compute_quality(units, labels, K)
    assert found["gender_told"] > 0.5
    assert found["speaker_pnmi"] > 0.15  # through the gender alone
    assert abs(found["speaker_told"]) < 0.05
    assert found["warnings"] == []


def test_a_shuffled_gender_in_the_ids_is_not_held_against_the_clusters() -> None:
    labels = _labels()
    dealt = np.random.default_rng(5).permutation(NUM_SPEAKERS) % 2
    slot = dealt[labels.speaker]
    units = _speak(labels.emotion, 0.5)
    said = Frames(
        units.utt_ids,
        (units.values + K * np.repeat(slot, units.lengths)).astype(np.int16),
        units.offsets,
    )
    labels = Labels(labels.emotion, labels.gender, labels.speaker, slot)
    found = compute_quality(said, labels, 2 * K)
    assert found["speaker_pnmi"] > 0.2
    assert abs(found["speaker_told"]) < 0.05
    assert found["warnings"] == []
