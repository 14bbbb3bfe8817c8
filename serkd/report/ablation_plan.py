"""What an ablation would run, share and be able to see: ``serkd plan`` of an ablation's file."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from serkd.config import Experiment
from serkd.config.active import find_inactive
from serkd.corpora.protocols import read_folds
from serkd.events import Observer
from serkd.report.ablate import open_study
from serkd.report.builtin import use_synthetic
from serkd.report.plan import ASSUMED_FOLD_SD, ASSUMED_SEED_SD, detect
from serkd.report.statistics import smallest_sign_flip_p
from serkd.search.ablation import require_fold_names
from serkd.search.cells import (
    Cell,
    arm_cells,
    choose_folds,
    find_arm_problems,
    list_tuning_cells,
    unique_cells,
)
from serkd.search.count import Tracer, closure
from serkd.search.designs import ALL, Study, Wanted
from serkd.stages.catalogue import MODELS
from serkd.yaml12 import format_value


def plan_ablation(
    path: Path, values: Mapping[str, Any], storage: Path, *, is_smoke: bool, wanted: Wanted = ALL
) -> dict[str, Any]:
    """Arms, cells and stages of `serkd ablate` with the same arguments, and what it can detect.

    Where arms are tuned, their settings are not known yet: cells are counted as they are.

    Raises:
        InputError: an illegal file, or folds or arms that there are not.
    """
    if is_smoke:
        values = use_synthetic(values, storage, Observer())
    study = open_study(path, values, is_smoke=is_smoke, wanted=wanted)
    every = read_folds(study.base.corpus, study.base.protocol)
    require_fold_names(study.file, [fold.name for fold in every])
    folds = choose_folds(study, [fold.name for fold in every])
    cells, tuning = list_cells(study, folds)
    chosen = [fold for fold in every if fold.name in folds]
    return {
        "question": study.file.question,
        "design": study.file.design,
        "arms": [_describe(arm.name, arm.also, arm.settings) for arm in study.arms],
        "folds": list(folds),
        "seeds": list(study.file.seeds),
        "num_cells": len(cells),
        "num_tuning_cells": len(tuning),
        "stages": count_stages([*cells, *tuning]),
        "detectable": detect(study.base, chosen, len(study.file.seeds)),
        "smallest_sign_flip_p": smallest_sign_flip_p(len(folds)),
        "warnings": [*_list_idle(study), *find_arm_problems(study, every)],
    }


def _list_idle(study: Study) -> Iterator[str]:
    """Settings of arms that change nothing beside the arm's others."""
    retuned = [*study.file.retune.space] if study.file.retune else []
    for arm in study.arms:
        for key, unless in find_inactive(arm.experiment, {*arm.settings, *retuned}).items():
            yield f"arm {arm.name!r}: {key} has no effect unless {unless}"


def _describe(name: str, also: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "also": list(also), "settings": dict(settings)}


def list_cells(study: Study, folds: Sequence[str]) -> tuple[list[Cell], list[Cell]]:
    """The cells of the arms, and those that tune them."""
    seeds, model = study.file.seeds, study.file.model
    cells = unique_cells([arm_cells(a.experiment, folds, seeds, model) for a in study.arms])
    return cells, list_tuning_cells(study, folds)


def count_stages(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """By stage: how often cells ask for it, and how many different ones there are."""
    tracer, requests = Tracer(), Counter[str]()
    distinct: dict[str, set[tuple[Any, ...]]] = {}
    sections = _Shared()
    for cell in cells:
        experiment = sections.share(cell.experiment)
        for node in closure(tracer.find(experiment, MODELS[cell.model])):
            stage = node.ref.stage
            requests[stage] += 1
            fold = cell.fold if node.has_fold else None
            seed = cell.seed if node.has_seed else None
            distinct.setdefault(stage, set()).add((node, fold, seed))
    return [
        {"stage": stage, "requests": count, "distinct": len(distinct[stage])}
        for stage, count in requests.items()
    ]


class _Shared:
    """Makes equal sections of experiments one object, by which the tracer knows them again."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Any] = {}

    def share(self, experiment: Experiment) -> Experiment:
        """The experiment, with the sections of those before it; its seed is left at 0."""
        update: dict[str, Any] = {"seed": 0}
        for name in type(experiment).model_fields:
            if name != "seed":
                section = getattr(experiment, name)
                update[name] = self._known.setdefault((name, repr(section)), section)
        return experiment.model_copy(update=update)


def print_ablation_plan(console: Console, plan: Mapping[str, Any], *, as_json: bool) -> None:
    """Arms and stages as tables, or all of it as JSON."""
    if as_json:
        print(json.dumps(plan, indent=2))
        return
    arms = Table(title=plan["question"], title_justify="left")
    for header in ("#", "arm", "settings"):
        arms.add_column(header, overflow="fold")
    for number, arm in enumerate(plan["arms"]):
        name = " = ".join([arm["name"], *arm["also"]])
        settings = ", ".join(f"{key}={format_value(v)}" for key, v in arm["settings"].items())
        arms.add_row(str(number), Text(name), Text(settings))
    console.print(arms)
    stages = Table()
    for header in ("stage", "requests", "computed"):
        stages.add_column(header, justify="left" if header == "stage" else "right")
    for row in plan["stages"]:
        stages.add_row(row["stage"], f"{row['requests']:,}", f"{row['distinct']:,}")
    console.print(stages)
    for line in _lines(plan):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def _lines(plan: Mapping[str, Any]) -> list[str]:
    num_arms, num_folds, num_seeds = (len(plan[name]) for name in ("arms", "folds", "seeds"))
    lines = [
        f"{num_arms} arms on {num_folds} fold(s) with {num_seeds} seed(s): "
        f"{plan['num_cells']:,} cells"
    ]
    warnings = [f"warning: {warning}" for warning in plan["warnings"]]
    if plan["num_tuning_cells"]:
        lines.append(f"and {plan['num_tuning_cells']:,} cells that tune them")
    if plan["detectable"] is None:
        lines.append("one fold: there is nothing to pair, and no difference is certain")
        return lines + warnings
    lines.append(
        f"differences of {100 * plan['detectable']:.1f} points and more are found in four of five "
        f"cases, before correcting for several arms (assumed: sd {100 * ASSUMED_FOLD_SD:g} over "
        f"folds, {100 * ASSUMED_SEED_SD:g} over seeds)"
    )
    if plan["smallest_sign_flip_p"] >= 0.05:
        lines.append(
            f"with {num_folds} folds no exact test reaches p < 0.05: the smallest is "
            f"{plan['smallest_sign_flip_p']:.4g}"
        )
    return lines + warnings
