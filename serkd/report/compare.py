"""Runs against a reference run: what ``serkd compare`` computes.

Only the files of predictions are read (`serkd.report.predictions`); on test those exist for runs
that ``serkd test`` has opened.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from serkd.errors import InputError
from serkd.report.arms import Arm, choose_model, count_arm, read_arms
from serkd.report.bootstrap import RESAMPLES
from serkd.report.paired import (
    add_verdicts,
    compare_counts,
    describe_values,
    find_notes,
    without_nan,
)
from serkd.report.statistics import ALPHA, smallest_sign_flip_p
from serkd.stages.catalogue import MODELS
from serkd.train.metrics import METRICS

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
    tests = [compare_counts(each, counts[0], metric, ratio, margin) for each in counts[1:]]
    is_one_fold = len(arms[0].folds) == 1
    add_verdicts(tests, margin, is_one_fold=is_one_fold, num_tests=len(tests))
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
        "num_pairs": len(arms[0].folds),
        "smallest_sign_flip_p": smallest_sign_flip_p(len(arms[0].folds)),
        "arms": rows,
    }
    return without_nan({**found, "notes": find_notes(found)})


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
    return {
        "name": arm.name,
        "runs": [str(run.folder) for run in arm.runs],
        "seeds": [run.facts["experiment"]["seed"] for run in arm.runs],
        **describe_values(counts, arm.folds, metric),
    }
