"""What a component, a factor or a key does to the metric, and what is best for its size."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serkd.report.arm_table import Pair, choose_rectangle
from serkd.report.paired import without_nan
from serkd.report.statistics import corrected_t_test, holm
from serkd.train.metrics import confusion_metric


def describe_factors(arms: Sequence[Mapping[str, Any]], metric: str) -> list[dict[str, Any]]:
    """Of every factor: its levels with the mean of the arms that have it, and its importance.

    The first of `arms` is the reference. What an arm does not say of a factor is as in the
    reference; arms that say nothing of any, such as controls, take no part.

    A level's `mean` is over the arms that share all *other* levels with an arm of every other level
    of this factor, so that levels differ in nothing else, and over the folds and seeds that all of
    those arms have finished: no level has an easier fold to itself. `importance` is the range of
    the means; the largest comes first. A level's `against_first` is its main effect: those arms
    against the ones of the first level, folds paired, with the corrected t-test and Holm's p over
    all effects.
    """
    names = list(dict.fromkeys(name for arm in arms for name in arm["levels"]))
    base = {name: arms[0]["levels"].get(name, "base") for name in names}
    known = [
        arm for i, arm in enumerate(arms) if arm["mean"] is not None and (arm["levels"] or not i)
    ]
    # of a factorial, a reference that is none of the combinations has no place in the grid
    in_grid = [arm for arm in known if set(arm["levels"]) == set(names)]
    known = in_grid if len(names) > 1 and len(in_grid) > 1 else known
    cells = [({**base, **arm["levels"]}, _cell_values(arm, metric)) for arm in known]
    found = []
    for name in names:
        levels = _level_means(cells, name)
        if len(levels) > 1:
            means = [level["mean"] for level in levels]
            found.append({"name": name, "levels": levels, "importance": max(means) - min(means)})
    _add_effects(found, known)
    return without_nan(sorted(found, key=lambda factor: -factor["importance"]))


def _add_effects(factors: Sequence[Mapping[str, Any]], arms: Sequence[Mapping[str, Any]]) -> None:
    """To every level but the first of each factor, how it differs from the first."""
    ratios = [test["test_to_train"] for arm in arms if (test := arm.get("against_reference"))]
    if not ratios:
        return
    effects = []
    for factor in factors:
        first, *others = factor["levels"]
        for level in others:
            pairs = [level["by_fold"][fold] - first["by_fold"][fold] for fold in first["by_fold"]]
            test = corrected_t_test(np.array(pairs), ratios[0])
            level["against_first"] = {
                "difference": test.mean,
                "interval": [test.low, test.high],
                "p": test.p,
            }
            effects.append(level["against_first"])
    for effect, p in zip(effects, holm([effect["p"] for effect in effects]), strict=True):
        effect["holm_p"] = p


def _level_means(
    cells: Sequence[tuple[Mapping[str, str], dict[Pair, float]]], name: str
) -> list[dict[str, Any]]:
    """`cells` are an arm's levels and its values; empty if no arms differ in `name` alone."""
    groups: dict[tuple[str, ...], dict[str, dict[Pair, float]]] = {}
    for levels, values in cells:
        others = tuple(level for each, level in levels.items() if each != name)
        groups.setdefault(others, {})[levels[name]] = values
    order = list(dict.fromkeys(level for group in groups.values() for level in group))
    whole = [group for group in groups.values() if len(group) == len(order)]
    compared = [group[level] for group in whole for level in order]
    pairs = [pair for pair in next(iter(compared), {}) if all(pair in each for each in compared)]
    folds, seeds = choose_rectangle(set(pairs))
    if not folds:
        return []
    found = []
    for level in order:
        by_fold = {
            fold: float(np.mean([group[level][fold, seed] for group in whole for seed in seeds]))
            for fold in dict.fromkeys(fold for fold, _ in pairs if fold in folds)
        }
        mean = float(np.mean(list(by_fold.values())))
        found.append({"level": level, "mean": mean, "by_fold": by_fold, "num_arms": len(whole)})
    return found


def _cell_values(arm: Mapping[str, Any], metric: str) -> dict[Pair, float]:
    """Of the finished cells, in the plan's order."""
    return {
        (cell["fold"], cell["seed"]): float(
            confusion_metric(np.sum(cell["confusions"], axis=0), metric)
        )
        for cell in arm["cells"]
        if cell["is_done"]
    }


def find_pareto(arms: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Arms by size and latency; `is_on_front`: no other is at least as good in all, better in one.

    What was not measured for every arm takes no part.
    """
    known = [arm for arm in arms if arm["mean"] is not None and arm["parameters"] is not None]
    costs = ["parameters"]
    if known and all(arm["latency_ms"] is not None for arm in known):
        costs.append("latency_ms")
    points = np.array([[-arm["mean"], *(arm[cost] for cost in costs)] for arm in known])
    return [
        {
            "name": arm["name"],
            "row": arm["row"],
            "mean": arm["mean"],
            "parameters": arm["parameters"],
            "macs": arm["macs"],
            "latency_ms": arm["latency_ms"],
            "is_on_front": not _is_dominated(points, i),
        }
        for i, arm in enumerate(known)
    ]


def _is_dominated(points: np.ndarray, i: int) -> bool:
    no_worse = (points <= points[i]).all(axis=1)
    return bool((no_worse & (points < points[i]).any(axis=1)).any())
