"""What a sweep would run, share, take and warn of; nothing is run."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from serkd.config import Experiment
from serkd.corpora.folds import Fold
from serkd.search.build import Builder, Legality
from serkd.search.calibrate import Calibration
from serkd.search.constraints import Constraints
from serkd.search.cost import Costs, read_past
from serkd.search.count import Counts, Tracer
from serkd.search.preview import preview_trials
from serkd.search.space import Space
from serkd.search.warn import list_warnings
from serkd.stages.catalogue import STAGES, STUDENT
from serkd.stages.graph import Graph
from serkd.stages.store import StageStore

_LOOKED_UP = 500  # students whose stages are looked for in the storage; all if there are fewer


@dataclass(frozen=True)
class Design:
    """What every trial is run on, and how many run at a time."""

    folds: Sequence[Fold]
    seeds: Sequence[int]
    parallel: int


def plan_sweep(
    space: Space, base: Experiment, folds: Sequence[Fold], storage: Path
) -> dict[str, Any]:
    """Counts, predicted time and disk, and warnings of a space on the folds that it names.

    Raises:
        InputError: no trial is legal.
    """
    builder = Builder(base, tuple(space.space))
    num_classes = len(folds[0].manifest.class_names)
    preview = preview_trials(space, Legality(builder, Constraints(space.constraints, num_classes)))
    parallel = max(1, (os.cpu_count() or 1) // space.resources.cpu)
    design = Design(folds, space.seeds or (base.seed,), parallel)
    counted = plan_experiments(preview.experiments, design, base, storage)
    facts = {
        "trials": len(preview.params),
        "is_exact": preview.is_exact,
        "refused": sum(preview.refused.values()),
        "folds": [fold.name for fold in folds],
        "seeds": list(design.seeds),
        "cells": len(preview.params) * len(folds) * len(design.seeds),
    }
    warnings = list_warnings(space, base, list(folds), preview, builder)
    over = list(_over_budget(space, counted))
    return {**facts, **counted, "warnings": warnings, "over_budget": over}


def plan_experiments(
    experiments: Iterable[Experiment], design: Design, base: Experiment, storage: Path
) -> dict[str, Any]:
    """Stages that some experiments ask for, how many are different, and what those will take."""
    experiments = list(experiments)
    tracer = Tracer()
    counts = tracer.trace(experiments)
    costs = Costs(read_past(storage), Calibration(base, design.folds[0]))
    stored = _count_stored(experiments, counts, design, storage)
    rows = _rows(counts, design, costs, stored)
    seconds = sum(row["seconds"] for row in rows)
    times = len(design.folds) * len(design.seeds)
    return {
        "distinct_trials": counts.num_experiments,
        "stage_requests": counts.requests * times,
        "distinct_stages": sum(row["distinct"] for row in rows),
        "stored_stages": None if stored is None else sum(stored.values()),
        "stages": rows,
        "device_hours": seconds / 3600,
        "parallel": design.parallel,
        "hours": seconds / 3600 / design.parallel,
        "disk_gb": sum(row["bytes"] for row in rows) / 1e9,
        "guessed": sorted(costs.guessed),
    }


def _rows(
    counts: Counts, design: Design, costs: Costs, stored: Counter[str] | None
) -> list[dict[str, Any]]:
    """By stage: requests, different ones, and what those that are not stored will take."""
    found: dict[str, dict[str, Any]] = {}
    times = len(design.folds) * len(design.seeds)
    for node, count in counts.nodes.items():
        zero = {"requests": 0, "distinct": 0, "seconds": 0.0, "bytes": 0.0}
        row = found.setdefault(node.ref.stage, zero)
        copies = counts.copies(node, len(design.folds), len(design.seeds))
        seconds, num_bytes = costs.predict(node)
        row["requests"] += count * times
        row["distinct"] += copies
        row["seconds"] += copies * seconds
        row["bytes"] += copies * num_bytes
    for stage, row in found.items():
        there = 0 if stored is None else stored[stage]
        for name in ("seconds", "bytes"):
            row[name] *= 1 - there / row["distinct"]
        row["stored"] = there
    return [{"stage": stage, **found[stage]} for stage in STAGES if stage in found]


def _count_stored(
    experiments: Sequence[Experiment], counts: Counts, design: Design, storage: Path
) -> Counter[str] | None:
    """Of the different stages, those that are in the storage; None if they are too many to ask."""
    if not (storage / "stages").is_dir():
        return Counter()
    if counts.num_experiments * len(design.folds) * len(design.seeds) > _LOOKED_UP:
        return None
    store, found = StageStore(storage), set()
    for experiment, fold, seed in product(experiments, design.folds, design.seeds):
        graph = Graph(STAGES, experiment.model_copy(update={"seed": seed}), fold)
        found |= {
            (ref.stage, key)
            for ref in graph.closure([STUDENT])
            if store.find(ref.stage, key := graph.key(ref)) is not None
        }
    return Counter(stage for stage, _ in found)


def _over_budget(space: Space, counted: dict[str, Any]) -> Iterable[str]:
    for name, unit in (("hours", "hours"), ("disk_gb", "GB")):
        limit = getattr(space.budget, name)
        if limit is not None and counted[name] > limit:
            yield f"budget.{name} is {limit:g}, the plan takes about {counted[name]:.3g} {unit}"
