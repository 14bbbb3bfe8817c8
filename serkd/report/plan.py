"""A plan in full, and its table: what ``serkd plan`` does."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from serkd.config import Experiment
from serkd.corpora.folds import Fold, select_folds
from serkd.corpora.protocols import read_folds
from serkd.events import Observer
from serkd.report.builtin import use_synthetic
from serkd.report.variance import smallest_detectable
from serkd.search.plan import plan_sweep
from serkd.search.read import read_space

# of differences between two arms' UAR, where nothing is known yet [our guess, from small corpora]
ASSUMED_FOLD_SD, ASSUMED_SEED_SD = 0.03, 0.02


def make_plan(
    path: Path, values: Mapping[str, Any], trials: int | None, storage: Path, *, smoke: bool
) -> dict[str, Any]:
    """What `serkd sweep` would run with the same arguments.

    Raises:
        InputError: the file is wrong, or no trial is legal.
    """
    values = use_synthetic(values, storage, Observer()) if smoke else values
    space, base = read_space(path, values, smoke=smoke)
    if trials is not None:
        budget = space.budget.model_copy(update={"trials": trials})
        space = space.model_copy(update={"budget": budget})
    folds = read_folds(base.corpus, base.protocol)
    chosen = (
        folds
        if space.folds == "all"
        else [fold for name in space.folds for fold in select_folds(folds, name)]
    )
    plan = plan_sweep(space, base, chosen, storage)
    return {"space": path.stem, **plan, "detectable": detect(base, chosen, len(plan["seeds"]))}


def detect(base: Experiment, folds: Sequence[Fold], num_seeds: int) -> float | None:
    """The smallest difference of dev UAR between two arms that a corrected t-test sees.

    At 80 % power and 5 % error; None where there is one fold only. Dev is what arms are compared
    on here, so the ratio is dev's to train's.
    """
    if len(folds) < 2:
        return None
    ratio = sum(len(fold.dev) / len(fold.train) for fold in folds) / len(folds)
    return smallest_detectable(ASSUMED_FOLD_SD, ASSUMED_SEED_SD, len(folds), num_seeds, ratio)


def print_plan(console: Console, plan: Mapping[str, Any], *, as_json: bool) -> None:
    """The plan as a table, or as JSON."""
    if as_json:
        print(json.dumps(plan, indent=2))
        return
    console.print(_table(plan))
    for line in _lines(plan):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def _table(plan: Mapping[str, Any]) -> Table:
    table = Table(title=f"plan of {plan['space']}", title_justify="left")
    table.add_column("stage")
    for header in ("requests", "computed", "stored already", "hours", "GB"):
        table.add_column(header, justify="right")
    for row in plan["stages"]:
        table.add_row(
            row["stage"],
            f"{row['requests']:,}",
            f"{row['distinct'] - row['stored']:,}",
            f"{row['stored']:,}",
            f"{row['seconds'] / 3600:.3g}",
            f"{row['bytes'] / 1e9:.3g}",
        )
    return table


def _lines(plan: Mapping[str, Any]) -> list[str]:
    exact = "" if plan["is_exact"] else " (as if drawn at random: the sampler learns from results)"
    computed = plan["distinct_stages"] - (plan["stored_stages"] or 0)
    lines = [
        f"{plan['trials']:,} trials, {plan['distinct_trials']:,} different, on "
        f"{len(plan['folds'])} fold(s) with {len(plan['seeds'])} seed(s): {plan['cells']:,} "
        f"cells{exact}",
        f"{plan['stage_requests']:,} stage requests, {computed:,} computations",
        f"about {plan['hours']:.3g} h with {plan['parallel']} trial(s) at a time, "
        f"{plan['device_hours']:.3g} h in all, if none is stopped early; about "
        f"{plan['disk_gb']:.3g} GB",
    ]
    if plan["guessed"]:
        lines.append(
            f"guessed from this machine's speed alone, as none was computed in this storage: "
            f"{', '.join(plan['guessed'])}"
        )
    if plan["detectable"] is None:
        lines.append("one fold tells which trial is better on it, not whether that is chance")
    else:
        lines.append(
            f"differences of {100 * plan['detectable']:.1f} points of UAR and more can be told "
            f"from chance (assumed: sd {100 * ASSUMED_FOLD_SD:g} over folds, "
            f"{100 * ASSUMED_SEED_SD:g} over seeds)"
        )
    lines += [f"warning: {warning}" for warning in plan["warnings"]]
    return lines + [f"over budget: {line}" for line in plan["over_budget"]]
