"""Unit diagnostics against scikit-learn, scipy and closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import entropy
from sklearn.metrics import mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from serkd.units.quality import (
    compute_contingency,
    compute_occupancy,
    compute_pnmi,
    compute_purity,
    compute_quality,
)

_ids = arrays(np.int64, st.shared(st.integers(1, 80), key="n"), elements=st.integers(0, 6))


@settings(max_examples=200, deadline=None)
@given(units=_ids, labels=_ids)
def test_purity_and_pnmi_equal_scikit_learn(units: np.ndarray, labels: np.ndarray) -> None:
    table = compute_contingency(units, labels)
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


def test_ends_of_the_scale() -> None:
    labels = np.repeat([0, 1, 2], 20)
    copied = compute_contingency(2 - labels, labels)  # renamed labels say all
    assert (compute_purity(copied), compute_pnmi(copied)) == pytest.approx((1.0, 1.0))
    unrelated = compute_contingency(np.tile([0, 1], 30), labels)
    assert (compute_purity(unrelated), compute_pnmi(unrelated)) == pytest.approx((1 / 3, 0.0))


@settings(max_examples=100, deadline=None)
@given(units=_ids)
def test_occupancy_equals_scipy_entropy(units: np.ndarray) -> None:
    found = compute_occupancy(units, 7)
    counts = np.bincount(units, minlength=7)
    assert found["perplexity_share"] == pytest.approx(np.exp(entropy(counts)) / 7)
    assert found["largest_share"] == pytest.approx(counts.max() / len(units))
    assert found["num_unused"] == 7 - len(set(units.tolist()))


@pytest.mark.parametrize(
    ("counts", "perplexity", "largest", "unused"),
    [
        ([5, 5, 5, 5], 4.0, 0.25, 0),
        ([9, 0, 0, 0], 1.0, 1.0, 3),
        ([4, 2, 2, 0], 2**1.5, 0.5, 1),
        ([8, 4, 2, 2], 2**1.75, 0.5, 0),
    ],
)
def test_occupancy_has_its_closed_forms(
    counts: list[int], perplexity: float, largest: float, unused: int
) -> None:
    found = compute_occupancy(np.repeat(np.arange(4), counts), 4)
    assert found["perplexity_share"] == pytest.approx(perplexity / 4)
    assert found["largest_share"] == pytest.approx(largest)
    assert found["num_unused"] == unused


def test_each_labelling_is_judged_by_itself() -> None:
    rng = np.random.default_rng(0)
    labels = {"emotion": rng.integers(0, 4, 300), "gender": rng.integers(0, 2, 300)}
    units = labels["gender"] * 3 + rng.integers(0, 3, 300)  # all of gender, nothing of emotion
    found = compute_quality(units, labels, 8)
    assert (found["gender_purity"], found["gender_pnmi"]) == pytest.approx((1.0, 1.0))
    assert found["emotion_pnmi"] < 0.1
    expected = mutual_info_score(labels["emotion"], units) / entropy(np.bincount(labels["emotion"]))
    assert found["emotion_pnmi"] == pytest.approx(expected)
    assert (found["num_units"], found["num_unused"]) == (8, 2)
