"""Variance components and power, against sums of squares, scipy and simulation."""

import numpy as np
import pytest
from scipy import stats

from serkd.report.statistics import corrected_t_test
from serkd.report.variance import (
    _integrate_power,
    detection_power,
    smallest_detectable,
    variance_components,
)


def _results(
    rng: np.random.Generator, num_seeds: int, num_folds: int, sds: tuple[float, float, float]
) -> np.ndarray:
    fold, seed, residual = sds
    return (
        0.7
        + rng.normal(0, fold, (1, num_folds))
        + rng.normal(0, seed, (num_seeds, 1))
        + rng.normal(0, residual, (num_seeds, num_folds))
    )


def test_components_are_those_of_the_sums_of_squares() -> None:
    values = _results(np.random.default_rng(0), 3, 5, (0.1, 0.05, 0.02))
    seeds, folds = values.shape
    grand = values.sum() / values.size
    of_folds = seeds * sum((values[:, j].mean() - grand) ** 2 for j in range(folds))
    of_seeds = folds * sum((values[i].mean() - grand) ** 2 for i in range(seeds))
    rest = ((values - grand) ** 2).sum() - of_folds - of_seeds
    error = rest / ((seeds - 1) * (folds - 1))
    found = variance_components(values)
    assert found.residual == pytest.approx(error, abs=1e-12)
    assert found.fold == pytest.approx((of_folds / (folds - 1) - error) / seeds, abs=1e-12)
    assert found.seed == pytest.approx((of_seeds / (seeds - 1) - error) / folds, abs=1e-12)


def test_components_tell_fold_and_seed_variance_apart() -> None:
    rng, sds = np.random.default_rng(1), (0.08, 0.05, 0.03)
    found = [variance_components(_results(rng, 5, 6, sds)) for _ in range(2_000)]
    for name, sd in zip(("fold", "seed", "residual"), sds, strict=True):
        assert np.mean([getattr(c, name) for c in found]) == pytest.approx(sd**2, rel=0.1)


def test_no_component_is_negative_and_one_seed_has_none() -> None:
    noise = np.random.default_rng(2).normal(size=(3, 4))
    level = noise - noise.mean(axis=0)  # all folds equal on average: less than by chance
    assert variance_components(level).fold == 0.0
    with pytest.raises(ValueError, match=r"2 seeds by 2 folds, got shape \(1, 5\)"):
        variance_components(np.ones((1, 5)))


def test_power_is_how_often_the_test_finds_a_true_difference() -> None:
    rng = np.random.default_rng(3)
    expected = detection_power(0.03, 0.02, 0.02, num_folds=6, num_seeds=2, ratio=0.0)
    spread = np.sqrt(0.02**2 + 0.02**2 / 2)
    found = [corrected_t_test(rng.normal(0.03, spread, 6), 0.0).p < 0.05 for _ in range(4_000)]
    assert 0.5 < expected < 0.95
    assert np.mean(found) == pytest.approx(expected, abs=0.03)


def test_without_a_difference_power_is_alpha() -> None:
    assert detection_power(0.0, 0.02, 0.01, 5, 3, ratio=0.25) == pytest.approx(0.05, abs=1e-9)


@pytest.mark.parametrize("power", [0.3, 0.8, 0.95])
def test_the_smallest_detectable_difference_has_the_power_asked_for(power: float) -> None:
    design = (0.02, 0.03, 5, 3, 1 / 3)
    found = smallest_detectable(*design, power=power)
    assert detection_power(found, *design) == pytest.approx(power, abs=1e-9)


def test_many_folds_detect_what_the_normal_approximation_says() -> None:
    found = smallest_detectable(0.02, 0.0, num_folds=4_000, num_seeds=1, ratio=0.0)
    normal = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * 0.02 / np.sqrt(4_000)
    assert found == pytest.approx(normal, rel=1e-3)


def test_seeds_help_against_the_seeds_variance_only() -> None:
    def detectable(fold_sd: float, seed_sd: float, num_seeds: int) -> float:
        return smallest_detectable(fold_sd, seed_sd, 5, num_seeds, 0.25)

    assert detectable(0.0, 0.02, 4) == pytest.approx(detectable(0.0, 0.02, 1) / 2)
    assert detectable(0.02, 0.0, 4) == pytest.approx(detectable(0.02, 0.0, 1))


@pytest.mark.parametrize(("shift", "freedom"), [(0.0, 1), (1.5, 1), (4.0, 2), (3.0, 9)])
def test_the_integral_for_power_equals_the_noncentral_t(shift: float, freedom: int) -> None:
    critical = stats.t.ppf(0.975, freedom)
    expected = stats.nct.sf(critical, freedom, shift) + stats.nct.cdf(-critical, freedom, shift)
    assert _integrate_power(shift, critical, freedom) == pytest.approx(expected, abs=1e-5)


def test_two_folds_detect_something_large() -> None:
    """One degree of freedom, where scipy's noncentral t gives up."""
    found = smallest_detectable(0.03, 0.02, num_folds=2, num_seeds=1, ratio=0.5)
    assert 0.3 < found < 1.0
    assert detection_power(found, 0.03, 0.02, 2, 1, 0.5) == pytest.approx(0.8, abs=1e-3)


def test_plans_that_have_no_answer_are_refused() -> None:
    for design, said in (
        ((0.1, 0.1, 1, 1, 0.2), "2 folds and 1 seed at least, got 1 and 1"),
        ((0.0, 0.0, 5, 1, 0.2), "standard deviation must be above 0"),
        ((0.1, 0.1, 5, 1, 0.2, 0.05), "power must be between"),
    ):
        with pytest.raises(ValueError, match=said):
            smallest_detectable(*design)
