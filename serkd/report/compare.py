"""Runs against a reference run: what ``serkd compare`` computes.

Only the files of predictions are read (`serkd.report.predictions`); on test those exist for runs
that ``serkd test`` has opened.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serkd.errors import InputError
from serkd.report.arms import Arm, choose_model, count_arm, read_arms
from serkd.report.bootstrap import RESAMPLES, bootstrap_difference
from serkd.report.statistics import (
    ALPHA,
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
    smallest_sign_flip_p,
)
from serkd.report.variance import smallest_detectable, variance_components
from serkd.stages.catalogue import MODELS
from serkd.train.metrics import METRICS, confusion_metric

_SPLITS = ("dev", "test")


def compare_runs(
    texts: Sequence[str], model: str | None, split: str, metric: str, margin: float
) -> dict[str, Any]:
    """Compare arms with the first of them (`read_arms` says how they are written).

    `model` None is the student where every run has one, else the teacher. Differences are arm minus
    reference. `fold_test` is over folds, seeds averaged; `speaker_interval` is of the difference on
    all folds' utterances together. `p` is of the fold test, with one fold of the speakers, since
    nothing else is left; the verdict is by Holm's p over the arms. `detectable` is the difference
    that this many folds find in four of five cases, by the sd of these differences.

    Raises:
        InputError: an option that is not allowed, or runs that cannot be compared.
    """
    _check_options(model, split, metric, margin)
    arms = read_arms(texts, split)
    model = choose_model(arms, model)
    counts = [count_arm(arm, arms[0], model) for arm in arms]
    ratio = _test_ratio(arms[0], counts[0])
    rows = [_describe(arm, each, metric) for arm, each in zip(arms, counts, strict=True)]
    tests = [_against(each, counts[0], metric, ratio, margin) for each in counts[1:]]
    _add_verdicts(tests, margin, is_one_fold=len(arms[0].folds) == 1)
    for row, test in zip(rows[1:], tests, strict=True):
        row["against_reference"] = test
    found = {
        "split": split,
        "model": model,
        "metric": metric,
        "margin": margin,
        "alpha": ALPHA,
        "resamples": RESAMPLES,
        "protocol": arms[0].facts["protocol"],
        "folds": arms[0].folds,
        "test_to_train": ratio,
        "num_speakers": counts[0].shape[2],
        "num_utterances": int(counts[0][0].sum()),
        "smallest_sign_flip_p": smallest_sign_flip_p(len(arms[0].folds)),
        "arms": rows,
    }
    return _without_nan({**found, "notes": _notes(found)})


def _check_options(model: str | None, split: str, metric: str, margin: float) -> None:
    legal: list[tuple[str, object, Sequence[str]]] = [
        ("--split", split, _SPLITS),
        ("--metric", metric, METRICS),
    ]
    if model is not None:
        legal.append(("--model", model, tuple(MODELS)))
    for option, value, allowed in legal:
        if value not in allowed:
            raise InputError(f"{option} must be one of {', '.join(allowed)}, got {value!r}")
    if not 0 < margin < 1:
        raise InputError(f"--margin must be between 0 and 1 (0.01 is one point), got {margin}")


def _test_ratio(reference: Arm, counts: np.ndarray) -> float:
    """Utterances that a fold is judged by to those it is trained on; the mean over folds."""
    sizes = counts[0].sum(axis=(1, 2, 3))
    trained = [reference.facts["num_train"][fold] for fold in reference.folds]
    return float(np.mean(sizes / np.array(trained)))


def _describe(arm: Arm, counts: np.ndarray, metric: str) -> dict[str, Any]:
    values = confusion_metric(counts.sum(axis=2), metric)  # (S, J)
    by_fold = average_seeds(values)
    components = None
    if min(values.shape) > 1:
        found = variance_components(values)
        components = {
            f"{name}_sd": math.sqrt(getattr(found, name)) for name in ("fold", "seed", "residual")
        }
    return {
        "name": arm.name,
        "runs": [str(run.folder) for run in arm.runs],
        "seeds": [run.facts["experiment"]["seed"] for run in arm.runs],
        "by_fold": dict(zip(arm.folds, map(float, by_fold), strict=True)),
        "by_seed": [float(value) for value in values.mean(axis=1)],
        "mean": float(by_fold.mean()),
        "sd": float(by_fold.std(ddof=1)) if len(by_fold) > 1 else None,
        "pooled": float(confusion_metric(counts.sum(axis=(1, 2)), metric).mean()),
        "components": components,
    }


def _against(
    counts: np.ndarray, reference: np.ndarray, metric: str, ratio: float, margin: float
) -> dict[str, Any]:
    """Everything but what depends on the other arms."""
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


def _add_verdicts(tests: Sequence[dict[str, Any]], margin: float, *, is_one_fold: bool) -> None:
    """Holm's p over all arms, and the verdict of each."""
    different = holm([test["p"] for test in tests])
    # with one fold, equivalence is the speakers' interval inside the margin
    same = [0.0 if is_one_fold else test["equivalence_p"] for test in tests]
    for test, p, p_same in zip(tests, different, holm(same), strict=True):
        low, high = test["speaker_interval"]
        test["holm_p"] = p
        test["verdict"] = decide(test["difference"], p, p_same, (low, high), margin)


def _without_nan(value: Any) -> Any:  # noqa: ANN401  any tree of JSON
    """JSON has no NaN: what is not known is null."""
    if isinstance(value, dict):
        return {name: _without_nan(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _notes(found: Mapping[str, Any]) -> list[str]:
    """What a reader must know to not read too much into it."""
    num_folds, smallest = len(found["folds"]), found["smallest_sign_flip_p"]
    notes = []
    if num_folds == 1:
        notes.append(
            "one fold: there is nothing to pair; verdicts rest on its speakers and say nothing "
            "of the chance in training"
        )
    elif smallest >= found["alpha"]:
        notes.append(
            f"with {num_folds} pairs no exact test can reach p < {found['alpha']}: the smallest "
            f"possible is {smallest:.4g}"
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
