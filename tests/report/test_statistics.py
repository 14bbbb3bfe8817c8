"""Paired tests against scipy's, closed forms and worked examples."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from serkd.report.statistics import (
    average_seeds,
    corrected_t_test,
    decide,
    equivalence_p,
    holm,
    pair_folds,
    paired_effect,
    sign_flip_p,
    smallest_sign_flip_p,
)


def _differences(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.02, 0.03, count)


def test_seeds_are_averaged_within_folds_before_folds_are_paired() -> None:
    arm, reference = np.array([[0.5, 0.7], [0.6, 0.9]]), np.array([[0.4, 0.9]])
    assert average_seeds(arm) == pytest.approx([0.55, 0.8])
    assert pair_folds(arm, reference) == pytest.approx([0.15, -0.1])
    with pytest.raises(ValueError, match="the same folds, got 2 and 1"):
        pair_folds(arm, reference[:, :1])


@pytest.mark.parametrize("count", [2, 5, 12])
def test_without_a_correction_it_is_scipys_paired_t_test(count: int) -> None:
    reference = np.random.default_rng(1).random(count)
    arm = reference + _differences(count)
    expected = stats.ttest_rel(arm, reference)
    low, high = expected.confidence_interval(0.9)
    found = corrected_t_test(arm - reference, 0.0, level=0.9)
    assert (found.t, found.p) == pytest.approx((expected.statistic, expected.pvalue), abs=1e-9)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)


def test_the_correction_is_nadeau_and_bengios_formula() -> None:
    d, ratio = _differences(10), 0.25
    variance = (1 / 10 + ratio) * sum((x - sum(d) / 10) ** 2 for x in d) / 9
    found = corrected_t_test(d, ratio)
    assert found.t == pytest.approx(sum(d) / 10 / math.sqrt(variance), abs=1e-12)
    assert found.p == pytest.approx(2 * (1 - stats.t(9).cdf(abs(found.t))), abs=1e-9)


def _random_splits(rng: np.random.Generator, num_splits: int) -> np.ndarray:
    """(splits, 60) who of 60 is tested: a third, drawn anew for every split."""
    return np.argsort(rng.random((num_splits, 60)), axis=1) < 20


def _false_positives(ratio: float, num_experiments: int = 3_000) -> float:
    """How often two methods that are equally good differ at 5 % on overlapping training sets.

    Both predict a coordinate of every item by its mean over the training items; the coordinates are
    independent and of one distribution, so neither method is better.
    """
    rng, found = np.random.default_rng(7), 0
    for _ in range(num_experiments):
        data, tested = rng.normal(size=(2, 60)), _random_splits(rng, 10)
        means = np.where(tested, 0.0, data[:, None]).sum(axis=2) / 40  # (2, splits)
        errors = (data[:, None] - means[:, :, None]) ** 2
        losses = np.where(tested, errors, 0.0).sum(axis=2) / 20
        found += corrected_t_test(losses[0] - losses[1], ratio).p < 0.05
    return found / num_experiments


def test_with_overlapping_training_sets_only_the_corrected_test_keeps_its_level() -> None:
    assert _false_positives(20 / 40) <= 0.06
    assert _false_positives(0.0) >= 0.15


def test_equal_arms_and_arms_without_spread() -> None:
    same = corrected_t_test(np.zeros(4), 0.2)
    assert (same.p, same.low, same.high) == (1.0, 0.0, 0.0)
    assert equivalence_p(same, 0.01) == 0.0
    constant, one = corrected_t_test(np.full(4, 0.1), 0.2), corrected_t_test(np.array([0.1]), 0.2)
    for test in (constant, one):
        assert test.mean == pytest.approx(0.1)
        assert all(math.isnan(value) for value in (test.p, test.low, equivalence_p(test, 0.01)))
    assert math.isnan(paired_effect(np.full(4, 0.1)))
    assert sign_flip_p(np.zeros(4)) == 1.0


@pytest.mark.parametrize("margin", [0.005, 0.03, 0.1])
def test_two_one_sided_tests_are_scipys_and_agree_with_the_90_percent_interval(
    margin: float,
) -> None:
    d = _differences(8)
    found = equivalence_p(corrected_t_test(d, 0.0), margin)
    above = stats.ttest_1samp(d, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(d, margin, alternative="less").pvalue
    assert found == pytest.approx(max(above, below), abs=1e-9)
    inner = corrected_t_test(d, 0.0, level=0.9)
    assert (found < 0.05) == (-margin < inner.low and inner.high < margin)
    with pytest.raises(ValueError, match="margin must be above 0"):
        equivalence_p(inner, 0.0)


@pytest.mark.parametrize("count", [2, 3, 5, 6, 9])
@pytest.mark.parametrize("seed", [0, 1])
def test_sign_flips_are_scipys_exact_permutations(count: int, seed: int) -> None:
    d = _differences(count, seed)
    expected = stats.permutation_test(
        (d,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=False
    )
    assert sign_flip_p(d) == pytest.approx(expected.pvalue, abs=1e-12)


def test_sign_flips_count_ties_whatever_the_rounding() -> None:
    d = np.array([0.1, 0.2, -0.3, 0.1, 0.2, 0.0])
    whole = [1, 2, -3, 1, 2, 0]
    sums = [
        abs(sum(s * x for s, x in zip(signs, whole, strict=True)))
        for signs in itertools.product((1, -1), repeat=6)
    ]
    assert sign_flip_p(d) == np.mean(np.array(sums) >= abs(sum(whole)))


def test_a_difference_in_every_pair_reaches_the_smallest_p_and_no_less() -> None:
    for count in (1, 4, 5, 6, 24):
        assert sign_flip_p(np.linspace(0.01, 0.02, count)) == smallest_sign_flip_p(count)
    assert smallest_sign_flip_p(5) == 0.0625
    assert smallest_sign_flip_p(6) < 0.05
    with pytest.raises(ValueError, match="at most 40 pairs, got 41"):
        sign_flip_p(np.ones(41))


def test_holm_on_worked_examples() -> None:
    # R's p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    # a smaller p never gets a larger adjusted one, and none is above 1
    assert holm([0.02, 0.9, 0.021, 0.6]) == pytest.approx([0.08, 1.0, 0.08, 1.0])
    assert holm([0.03]) == [0.03]
    assert holm([math.nan, 0.01]) == pytest.approx([1.0, 0.02])


def test_the_effect_has_hedges_exact_factor() -> None:
    d = _differences(6)
    factor = math.gamma(5 / 2) / (math.sqrt(5 / 2) * math.gamma(4 / 2))
    assert paired_effect(d) == pytest.approx(d.mean() / d.std(ddof=1) * factor, abs=1e-12)
    # the usual approximation 1 - 3 / (4 m - 1)
    assert factor == pytest.approx(1 - 3 / 19, abs=2e-3)
    assert math.isnan(paired_effect(d[:2]))


def test_the_factor_makes_the_effect_unbiased() -> None:
    rng = np.random.default_rng(3)
    found = [paired_effect(rng.normal(0.8, 1.0, 6)) for _ in range(20_000)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize(
    ("difference", "p", "p_equivalent", "interval", "verdict"),
    [
        (0.03, 0.01, 0.9, (0.01, 0.05), "helps"),
        (-0.03, 0.01, 0.9, (-0.05, -0.01), "hurts"),
        (0.03, 0.06, 0.9, (0.01, 0.05), "undecided"),  # folds do not agree
        (0.03, 0.01, 0.9, (-0.001, 0.05), "undecided"),  # speakers do not agree
        (-0.03, 0.01, 0.9, (0.01, 0.05), "undecided"),  # one says better, the other worse
        (0.002, 0.4, 0.01, (-0.005, 0.009), "equivalent"),
        (0.005, 0.01, 0.01, (0.001, 0.009), "equivalent"),  # surely better, by nothing of interest
        (0.002, 0.4, 0.06, (-0.005, 0.009), "undecided"),
        (0.002, 0.4, 0.01, (-0.005, 0.011), "undecided"),
        (0.03, math.nan, math.nan, (0.01, 0.05), "undecided"),
        (0.0, 1.0, 0.0, (math.nan, math.nan), "undecided"),
    ],
)
def test_verdicts_follow_their_rules(
    difference: float, p: float, p_equivalent: float, interval: tuple[float, float], verdict: str
) -> None:
    assert decide(difference, p, p_equivalent, interval, margin=0.01) == verdict
