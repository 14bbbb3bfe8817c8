"""Paired statistics of ablations: is one arm better than another, over folds and seeds?

Values are metrics of one arm, (S, J): S seeds by J folds. Folds are the pairs; seeds are averaged
within a fold first, since runs that differ in their seed alone are no new evidence about speakers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

HELPS, HURTS, EQUIVALENT, UNDECIDED = "helps", "hurts", "equivalent", "undecided"
ALPHA = 0.05
NO_SPREAD = 1e-12  # differences that agree to this are equal, apart from rounding
MAX_PAIRS = 40  # half of them are enumerated at a time: 2^20 sums


def average_seeds(values: np.ndarray) -> np.ndarray:
    """(S, J) to (J,): the mean over the seeds of each fold."""
    values = np.asarray(values, float)
    if values.ndim != 2:
        raise ValueError(f"values must be (seeds, folds), got shape {values.shape}")
    return values.mean(axis=0)


def pair_folds(arm: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(J,) differences arm - reference of two (S, J); the numbers of seeds may differ."""
    first, second = average_seeds(arm), average_seeds(reference)
    if first.shape != second.shape:
        raise ValueError(f"both arms must have the same folds, got {len(first)} and {len(second)}")
    return first - second


@dataclass(frozen=True)
class TTest:
    """Mean difference, its standard error, t, two-sided p and confidence interval.

    p is NaN and the interval is too where nothing can be estimated: fewer than two pairs, or equal
    differences that are not 0. Equal arms have p = 1.
    """

    mean: float
    error: float
    num_pairs: int
    t: float
    p: float
    low: float
    high: float


def corrected_t_test(differences: np.ndarray, ratio: float, level: float = 0.95) -> TTest:
    """Corrected resampled t-test over folds (Nadeau & Bengio, Machine Learning 52, 2003).

    The training sets of folds overlap, so their results are correlated and s²/J is too small a
    variance of the mean. The correction takes s² (1/J + ratio), `ratio` = n_test / n_train, with
    J - 1 degrees of freedom. ratio = 0 is the ordinary paired t-test.
    """
    d = np.asarray(differences, float)
    count, mean = len(d), float(np.mean(d))
    spread = float(np.std(d, ddof=1)) if count > 1 else math.nan
    if not spread > NO_SPREAD:
        is_zero = count > 1 and abs(mean) <= NO_SPREAD
        value = 0.0 if is_zero else math.nan
        return TTest(mean, value, count, value, 1.0 if is_zero else math.nan, value, value)
    error = spread * math.sqrt(1 / count + ratio)
    t = mean / error
    half = float(stats.t.ppf((1 + level) / 2, count - 1)) * error
    p = 2 * float(stats.t.sf(abs(t), count - 1))
    return TTest(mean, error, count, t, p, mean - half, mean + half)


def equivalence_p(test: TTest, margin: float) -> float:
    """Two one-sided tests (Schuirmann, J. Pharmacokinet. Biopharm. 15, 1987).

    p of "the difference is not inside ± margin". Below alpha exactly when the interval of level
    1 - 2 alpha lies inside.
    """
    if margin <= 0:
        raise ValueError(f"margin must be above 0, got {margin}")
    if not test.error > 0:
        return test.p if math.isnan(test.p) else float(abs(test.mean) >= margin)
    nearest = (margin - abs(test.mean)) / test.error
    return float(stats.t.sf(nearest, test.num_pairs - 1))


def sign_flip_p(differences: np.ndarray) -> float:
    """Exact two-sided sign-flip permutation test of the mean (Fisher 1935; Good 2005).

    Under the null hypothesis each difference is as likely with the other sign. All 2^J sums count:
    those of two halves are enumerated, then every pair of them by binary search.
    """
    d = np.asarray(differences, float)
    if len(d) > MAX_PAIRS:
        raise ValueError(f"an exact test must have at most {MAX_PAIRS} pairs, got {len(d)}")
    reached = abs(d.sum()) - 1e-9 * np.abs(d).sum()  # ties count, whatever the rounding
    if reached <= 0:
        return 1.0
    middle = len(d) // 2
    first, second = _signed_sums(d[:middle]), np.sort(_signed_sums(d[middle:]))
    above = len(second) - np.searchsorted(second, reached - first)
    return 2 * int(above.sum()) / 2 ** len(d)


def _signed_sums(values: np.ndarray) -> np.ndarray:
    """(2^n,): the sums of n values under every choice of signs."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def smallest_sign_flip_p(num_pairs: int) -> float:
    """No exact paired test reaches less: 2/2^J, which is 0.0625 for five pairs."""
    return min(1.0, 2.0 ** (1 - num_pairs))


def holm(p_values: Sequence[float]) -> list[float]:
    """Step-down adjusted p values (Holm, Scand. J. Statist. 6, 1979); NaN counts as 1."""
    filled = np.nan_to_num(np.asarray(p_values, float), nan=1.0)
    order = np.argsort(filled, kind="stable")
    factors = np.arange(len(filled), 0, -1)
    adjusted = np.empty(len(filled))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * filled[order]))
    return [float(p) for p in adjusted]


def paired_effect(differences: np.ndarray) -> float:
    """Standardised mean difference d_z = mean/sd, times Hedges' small-sample factor.

    d_z: Cohen 1988, §2.3.5. Factor: Γ(m/2) / (√(m/2) Γ((m-1)/2)), m = J - 1 (Hedges, J. Educ.
    Stat. 6, 1981), without which few pairs overstate it. NaN below three pairs or without spread.
    """
    d = np.asarray(differences, float)
    freedom = len(d) - 1
    if freedom < 2 or not (spread := float(np.std(d, ddof=1))) > NO_SPREAD:
        return math.nan
    logs = math.lgamma(freedom / 2) - math.lgamma((freedom - 1) / 2)
    return float(np.mean(d)) / spread * math.exp(logs) / math.sqrt(freedom / 2)


def decide(
    difference: float,
    p: float,
    p_equivalent: float,
    interval: tuple[float, float],
    margin: float,
    alpha: float = ALPHA,
) -> str:
    """The verdict on an arm; folds *and* speakers must agree on it. The first rule that holds:

    1. equivalent: `p_equivalent` < alpha and `interval` lies inside (-margin, margin). A difference
       that small is of no interest, even where it is surely not 0.
    2. helps: `p` < alpha, `difference` > 0 and `interval` lies above 0.
    3. hurts: `p` < alpha, `difference` < 0 and `interval` lies below 0.
    4. undecided: anything else. More folds, speakers or seeds could tell.

    `p` and `p_equivalent` come from folds (corrected for several arms), `interval` from resampling
    speakers. NaN is never significant.
    """
    low, high = interval
    if p_equivalent < alpha and -margin < low and high < margin:
        return EQUIVALENT
    if p < alpha and difference > 0 and low > 0:
        return HELPS
    if p < alpha and difference < 0 and high < 0:
        return HURTS
    return UNDECIDED
