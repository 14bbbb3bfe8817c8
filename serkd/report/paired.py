"""Arms against a reference, from their confusion counts: differences, tests, verdicts.

Counts are (S, J, G, C, C): seeds, folds, speakers, true and predicted classes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serkd.report.bootstrap import bootstrap_difference
from serkd.report.statistics import (
    MAX_PAIRS,
    NO_SPREAD,
    average_seeds,
    corrected_t_test,
    decide,
    equivalence_p,
    holm,
    pair_folds,
    paired_effect,
    sign_flip_p,
)
from serkd.report.variance import smallest_detectable, variance_components
from serkd.train.metrics import confusion_metric


def describe_values(counts: np.ndarray, folds: Sequence[str], metric: str) -> dict[str, Any]:
    """What an arm reached, over folds and over seeds, and where its variance comes from."""
    values = confusion_metric(counts.sum(axis=2), metric)  # (S, J)
    by_fold = average_seeds(values)
    components = None
    if min(values.shape) > 1:
        found = variance_components(values)
        components = {
            f"{name}_sd": math.sqrt(getattr(found, name)) for name in ("fold", "seed", "residual")
        }
    return {
        "by_fold": dict(zip(folds, map(float, by_fold), strict=True)),
        "by_seed": [float(value) for value in values.mean(axis=1)],
        "mean": float(by_fold.mean()),
        "sd": float(by_fold.std(ddof=1)) if len(by_fold) > 1 else None,
        "pooled": float(confusion_metric(counts.sum(axis=(1, 2)), metric).mean()),
        "components": components,
    }


def compare_counts(
    counts: np.ndarray, reference: np.ndarray, metric: str, ratio: float, margin: float
) -> dict[str, Any]:
    """Differences and tests of an arm: all but what depends on the other arms."""
    pair = [confusion_metric(each.sum(axis=2), metric) for each in (counts, reference)]
    differences = pair_folds(*pair)
    test = corrected_t_test(differences, ratio)
    interval, p = _resample_speakers(counts, reference, metric)
    pooled = [confusion_metric(each.sum(axis=(1, 2)), metric) for each in (counts, reference)]
    return {
        "difference": test.mean,
        "by_fold": [float(value) for value in differences],
        "fold_test": {"t": test.t, "p": test.p, "interval": [test.low, test.high]},
        "sign_flip_p": sign_flip_p(differences) if len(differences) <= MAX_PAIRS else math.nan,
        "effect": paired_effect(differences),
        "pooled_difference": float(pooled[0].mean() - pooled[1].mean()),
        "speaker_interval": list(interval),
        "p": p if len(differences) == 1 else test.p,
        "equivalence_p": equivalence_p(test, margin),
        "detectable": _detectable(differences, ratio),
    }


def _detectable(differences: np.ndarray, ratio: float) -> float:
    spread = float(np.std(differences, ddof=1)) if len(differences) > 1 else 0.0
    if spread <= NO_SPREAD:
        return math.nan
    # averaged over seeds already: what is left of their variance is part of the folds'
    return smallest_detectable(spread, 0.0, len(differences), 1, ratio)


def _resample_speakers(
    counts: np.ndarray, reference: np.ndarray, metric: str
) -> tuple[tuple[float, float], float]:
    """Interval and p of the difference on all folds together; NaN for one speaker."""
    if counts.shape[2] < 2:
        return (math.nan, math.nan), math.nan
    found = bootstrap_difference(counts.sum(axis=1), reference.sum(axis=1), metric)
    return found.interval(), found.p


def add_verdicts(
    tests: Sequence[dict[str, Any]], margin: float, *, is_one_fold: bool, num_tests: int
) -> None:
    """Holm's p over all arms, and the verdict of each.

    `num_tests` counts those that are not there yet too: their p is as good as 1.
    """
    missing = [1.0] * (num_tests - len(tests))
    different = holm([*(test["p"] for test in tests), *missing])
    # with one fold, equivalence is the speakers' interval inside the margin
    same = holm([*(0.0 if is_one_fold else test["equivalence_p"] for test in tests), *missing])
    for test, p, p_same in zip(tests, different, same, strict=False):
        low, high = test["speaker_interval"]
        test["holm_p"] = p
        test["verdict"] = decide(test["difference"], p, p_same, (low, high), margin)


def without_nan(value: Any) -> Any:  # noqa: ANN401  any tree of JSON
    """JSON has no NaN: what is not known is null."""
    if isinstance(value, dict):
        return {name: without_nan(each) for name, each in value.items()}
    if isinstance(value, list):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def find_notes(found: Mapping[str, Any]) -> list[str]:
    """What a reader must know to not read too much into it."""
    num_folds, smallest = len(found["folds"]), found["smallest_sign_flip_p"]
    notes = []
    if num_folds == 1:
        notes.append(
            "one fold: there is nothing to pair; verdicts rest on its speakers and say nothing "
            "of the chance in training; equivalent is said of each arm by itself"
        )
    elif smallest >= found["alpha"]:
        notes.append(
            f"with {found['num_pairs']} pairs no exact test can reach "
            f"p < {found['alpha']}: the smallest possible is {smallest:.4g}"
        )
    if num_folds > MAX_PAIRS:
        notes.append(f"exact sign flips are left out: more than {MAX_PAIRS} pairs")
    if found["num_speakers"] < 2:
        notes.append("one speaker: there is no interval over speakers, so no verdict")
    if found["split"] == "dev":
        notes.append("dev also chose the epochs: values on it are optimistic")
    if any(len(arm["seeds"]) == 1 for arm in found["arms"]):
        notes.append("an arm of one seed: its seed's luck is part of its difference")
    return notes
