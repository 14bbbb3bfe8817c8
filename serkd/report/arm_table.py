"""The arms of an ablation side by side: what each reached, and how it differs from the first."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serkd.report.bootstrap import RESAMPLES
from serkd.report.outcome import stack_counts
from serkd.report.paired import (
    add_verdicts,
    compare_counts,
    describe_values,
    find_notes,
    without_nan,
)
from serkd.report.statistics import ALPHA, smallest_sign_flip_p
from serkd.train.metrics import compute_metrics, confusion_metric

Pair = tuple[str, int]
Outcomes = Mapping[Pair, Mapping[str, Any]]  # of one arm, by fold and seed


def choose_rectangle(pairs: set[Pair]) -> tuple[list[str], list[int]]:
    """Folds and seeds of which every combination is there, as many as can be; folds go first.

    Seeds that ran on most folds are taken one after the other; a tie goes to more folds.
    """
    seeds = sorted({seed for _, seed in pairs}, key=lambda s: (-sum(p[1] == s for p in pairs), s))
    best: tuple[list[str], list[int]] = ([], [])
    for count in range(1, len(seeds) + 1):
        chosen = seeds[:count]
        found = {fold for fold, _ in pairs}
        folds = sorted(fold for fold in found if all((fold, s) in pairs for s in chosen))
        size, most = len(folds) * count, len(best[0]) * len(best[1])
        if size > most or (size == most and len(folds) > len(best[0])):
            best = folds, sorted(chosen)
    return best


def compare_arms(
    plan: Mapping[str, Any], arms: Mapping[str, Outcomes], split: str
) -> dict[str, Any]:
    """What an ablation's plan asks of the outcomes of its arms; the first one is the reference.

    An arm is compared on the folds and seeds that it and the reference have both finished. One that
    has none counts in Holm's correction all the same, so that verdicts do not grow milder later.
    """
    file, folds, seeds = plan["file"], plan["folds"], plan["file"]["seeds"]
    model, metric, margin = file["model"], file["metric"], file["margin"]
    speakers = sorted(
        {name for arm in arms.values() for o in arm.values() for name, _ in o["speakers"]}
    )
    reference, *_ = arms.values()
    rows, tests = [], []
    for number, (name, outcomes) in enumerate(arms.items()):
        row = {"name": name, **_describe(outcomes, folds, speakers, metric)}
        if number:
            row["against_reference"] = _against(
                outcomes, reference, folds, speakers, metric, margin
            )
            tests.append(row["against_reference"])
        rows.append(row)
    add_verdicts([t for t in tests if t], margin, is_one_fold=len(folds) == 1, num_tests=len(tests))
    num_pairs = max((len(test["folds"]) for test in tests if test), default=len(folds))
    found = {
        "split": split,
        "model": model,
        "metric": metric,
        "margin": margin,
        "alpha": ALPHA,
        "resamples": RESAMPLES,
        "folds": list(folds),
        "seeds": list(seeds),
        "num_speakers": len(speakers),
        "num_utterances": _num_utterances(reference),
        "num_pairs": num_pairs,
        "smallest_sign_flip_p": smallest_sign_flip_p(num_pairs),
        "arms": rows,
    }
    return without_nan({**found, "notes": find_notes(found)})


def _num_utterances(outcomes: Outcomes) -> int:
    """That the reference is judged by, each once."""
    by_fold = {fold: int(np.sum(o["confusions"])) for (fold, _), o in outcomes.items()}
    return sum(by_fold.values())


def _ordered(folds: Sequence[str], chosen: Sequence[str]) -> list[str]:
    return [fold for fold in folds if fold in chosen]


def _describe(
    outcomes: Outcomes, folds: Sequence[str], speakers: Sequence[str], metric: str
) -> dict[str, Any]:
    """Values on the largest complete layout; counts of everything that is there."""
    chosen, seeds = choose_rectangle(set(outcomes))
    chosen = _ordered(folds, chosen)
    described: dict[str, Any] = {"num_cells": len(outcomes), "folds": chosen, "seeds": seeds}
    if not chosen:
        return {**described, "mean": None, "sd": None, "pooled": None, "components": None}
    counts = stack_counts(outcomes, chosen, seeds, speakers)
    total = counts.sum(axis=(0, 1, 2))
    metrics = compute_metrics(total)
    return {
        **described,
        **describe_values(counts, chosen, metric),
        "metrics": {name: metrics[name] for name in ("uar", "war", "wf1")},
        "per_class_recall": metrics["per_class_recall"],
        "confusion": metrics["confusion"],
        "by_gender": _by_gender(outcomes, counts, speakers, metric),
    }


def _by_gender(
    outcomes: Outcomes, counts: np.ndarray, speakers: Sequence[str], metric: str
) -> dict[str, float]:
    """The metric of each gender's utterances, all folds and seeds together."""
    genders = dict(pair for outcome in outcomes.values() for pair in outcome["speakers"])
    found = {}
    for gender in sorted(set(genders.values())):
        own = [i for i, name in enumerate(speakers) if genders.get(name) == gender]
        total = counts[:, :, own].sum(axis=(0, 1, 2))
        if total.sum():
            found[gender] = float(confusion_metric(total, metric))
    return found


def _against(
    outcomes: Outcomes,
    reference: Outcomes,
    folds: Sequence[str],
    speakers: Sequence[str],
    metric: str,
    margin: float,
) -> dict[str, Any] | None:
    """None where no fold and seed is finished in both."""
    chosen, seeds = choose_rectangle(set(outcomes) & set(reference))
    chosen = _ordered(folds, chosen)
    if not chosen:
        return None
    judged = {n for f in chosen for n, _ in outcomes[f, seeds[0]]["speakers"]}
    own = [name for name in speakers if name in judged]
    counts, others = (stack_counts(each, chosen, seeds, own) for each in (outcomes, reference))
    sizes = counts[0].sum(axis=(1, 2, 3))
    trained = [outcomes[fold, seeds[0]]["num_train"] for fold in chosen]
    ratio = float(np.mean(sizes / np.array(trained)))
    test = compare_counts(counts, others, metric, ratio, margin)
    if len(chosen) == 1 < len(folds):
        test["p"] = math.nan  # speakers of the first fold say nothing of the folds to come
    return {**test, "folds": chosen, "seeds": seeds, "test_to_train": ratio}
