"""What an ablation took and what went wrong: stages, sharing, epochs, failures."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serkd.search.replay import Replay

_LAST = 5  # a best epoch among so many last ones may not have been the best yet
_MAX_EXAMPLE = 300


def count_costs(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By stage: how often it was asked for, how many different ones there are, and what they took.

    `seconds` is what the different ones took, whoever computed them and when; `seconds_unshared`
    what it had been if every cell had computed all of its own.
    """
    stages: dict[str, dict[str, Any]] = {}
    for outcome in outcomes:
        for name, key, seconds in outcome["stages"]:
            known = stages.setdefault(name, {"requests": 0, "keys": {}})
            known["requests"] += 1
            known["keys"].setdefault(key, [0, seconds])[0] += 1
    rows = [_stage_row(name, known) for name, known in stages.items()]
    total = {
        field: sum(row[field] for row in rows)
        for field in ("requests", "distinct", "seconds", "seconds_unshared")
    }
    return {"num_cells": len(outcomes), "stages": rows, "total": total}


def _stage_row(name: str, known: Mapping[str, Any]) -> dict[str, Any]:
    times = [(count, seconds or 0.0) for count, seconds in known["keys"].values()]
    return {
        "stage": name,
        "requests": known["requests"],
        "distinct": len(times),
        "seconds": sum(seconds for _, seconds in times),
        "seconds_unshared": sum(count * seconds for count, seconds in times),
    }


def describe_training(
    arms: Mapping[str, Mapping[tuple[str, int], Mapping[str, Any]]],
) -> list[dict[str, Any]]:
    """Of every arm the mean curve on dev, and where its best epochs lie.

    An arm whose best epochs are its last ones was perhaps stopped too early: `num_late` counts
    those cells. What was made and not trained, in 0 epochs, has no curve.
    """
    return [
        {"name": name, **_curves(list(filter(_is_trained, outcomes.values())))}
        for name, outcomes in arms.items()
    ]


def _is_trained(outcome: Mapping[str, Any]) -> bool:
    return bool(outcome["curve"]) and outcome["max_epochs"] > 0


def _curves(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if not outcomes:
        return {"curve": [], "best_epochs": [], "num_late": 0, "max_epochs": None}
    curves = [[record["dev_uar"] for record in outcome["curve"]] for outcome in outcomes]
    best = [int(np.argmax(curve)) + 1 for curve in curves]
    longest = max(map(len, curves))
    # a run that stopped early keeps its best value, as its published weights do
    filled = [[*curve, *[max(curve)] * (longest - len(curve))] for curve in curves]
    most = max(outcome["max_epochs"] for outcome in outcomes)
    return {
        "curve": [float(value) for value in np.mean(filled, axis=0)],
        "best_epochs": best,
        "num_epochs": [len(curve) for curve in curves],
        "num_late": sum(epoch > most - min(_LAST, max(1, most // 5)) for epoch in best),
        "max_epochs": most,
    }


def group_failures(replay: Replay, missing: set[str]) -> list[dict[str, Any]]:
    """Cells that failed and were not had since, by the kind of error."""
    reasons = {
        str(trial.params["cell"]): str(trial.facts.get("reason", ""))
        for trial in replay.current()
        if trial.state == "failed"
    }
    kinds: dict[str, list[str]] = {}
    for cell in sorted(reasons.keys() & missing):
        kinds.setdefault(_kind(reasons[cell]), []).append(cell)
    return [
        {
            "kind": kind,
            "count": len(group),
            "cells": group,
            "example": reasons[group[0]][:_MAX_EXAMPLE],
        }
        for kind, group in sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def _kind(reason: str) -> str:
    """The exception's name."""
    match = re.match(r"[\w.]+", reason.strip())
    return match.group(0).rpartition(".")[2] if match else "unknown"
