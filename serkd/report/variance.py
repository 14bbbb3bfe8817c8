"""Where the variance of results comes from, and what a design of folds and seeds can detect."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats


@dataclass(frozen=True)
class Components:
    """Variances: between folds, between seeds, and of what a seed does in one fold only."""

    fold: float
    seed: float
    residual: float


def variance_components(values: np.ndarray) -> Components:
    """Of a crossed (S, J) layout, seeds by folds, by analysis of variance.

    Random effects without replication (Searle, Casella & McCulloch 1992): mean squares
    equated to their expectations, negative estimates set to 0.

    Raises:
        ValueError: fewer than two seeds or folds.
    """
    values = np.asarray(values, float)
    if values.ndim != 2 or min(values.shape) < 2:
        raise ValueError(f"values must be at least 2 seeds by 2 folds, got shape {values.shape}")
    num_seeds, num_folds = values.shape
    by_fold, by_seed = values.mean(axis=0), values.mean(axis=1)
    rest = values - by_fold[None, :] - by_seed[:, None] + values.mean()
    residual = float((rest**2).sum()) / ((num_seeds - 1) * (num_folds - 1))
    return Components(
        fold=max(0.0, float(by_fold.var(ddof=1)) - residual / num_seeds),
        seed=max(0.0, float(by_seed.var(ddof=1)) - residual / num_folds),
        residual=residual,
    )


def detection_power(
    difference: float,
    fold_sd: float,
    seed_sd: float,
    num_folds: int,
    num_seeds: int,
    ratio: float,
    alpha: float = 0.05,
) -> float:
    """The chance that the corrected t-test over folds finds a true `difference`.

    `fold_sd` and `seed_sd` are of *differences* between two arms: over folds, and over seeds within
    a fold (averaged over `num_seeds`). `ratio` = n_test / n_train. The statistic is noncentral t
    with `num_folds` - 1 degrees of freedom (Johnson, Kotz & Balakrishnan 1995, ch. 31);
    scipy's has no value for one degree of freedom and a large shift.
    """
    freedom = num_folds - 1
    spread = math.sqrt(fold_sd**2 + seed_sd**2 / num_seeds)
    shift = difference / (spread * math.sqrt(1 / num_folds + ratio))
    critical = stats.t.ppf(1 - alpha / 2, freedom)

    above, below = stats.nct.sf(critical, freedom, shift), stats.nct.cdf(-critical, freedom, shift)
    if math.isfinite(above) and math.isfinite(below):
        return float(above + below)
    return _integrate_power(shift, critical, freedom)


def _integrate_power(shift: float, critical: float, freedom: int) -> float:
    """The same as an integral over the standard deviation that is estimated, to about 1e-6."""
    nodes, weights = np.polynomial.legendre.leggauss(1_000)
    bars = critical * np.sqrt(stats.chi2.ppf((nodes + 1) / 2, freedom) / freedom)
    found = stats.norm.sf(bars - shift) + stats.norm.cdf(-bars - shift)
    return float(weights @ found) / 2


def smallest_detectable(
    fold_sd: float,
    seed_sd: float,
    num_folds: int,
    num_seeds: int,
    ratio: float,
    power: float = 0.8,
    alpha: float = 0.05,
) -> float:
    """The difference that `detection_power` gives `power` for; what a plan of runs can hope to see.

    Raises:
        ValueError: fewer than two folds, no seed, no spread, or a power that alpha gives already.
    """
    if num_folds < 2 or num_seeds < 1:
        raise ValueError(
            f"a plan must have 2 folds and 1 seed at least, got {num_folds} and {num_seeds}"
        )
    if not fold_sd**2 + seed_sd**2 > 0:
        raise ValueError(f"a standard deviation must be above 0, got {fold_sd} and {seed_sd}")
    if not alpha < power < 1:
        raise ValueError(f"power must be between alpha = {alpha} and 1, got {power}")
    scale = math.sqrt((fold_sd**2 + seed_sd**2 / num_seeds) * (1 / num_folds + ratio))

    def lacking(shift: float) -> float:
        found = detection_power(shift * scale, fold_sd, seed_sd, num_folds, num_seeds, ratio, alpha)
        return found - power

    highest = 1.0
    while lacking(highest) < 0:
        highest *= 2
    return float(optimize.brentq(lacking, 0.0, highest, xtol=1e-12)) * scale
