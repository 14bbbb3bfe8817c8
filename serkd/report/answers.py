"""What a sweep found: best settings, what mattered, edges, and the best trial as a recipe."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from serkd.config import Experiment
from serkd.errors import InputError
from serkd.recipe import build_experiment
from serkd.report.results import read_json
from serkd.search.importance import compute_importance, list_edges
from serkd.search.ledger import Ledger
from serkd.search.pareto import find_front
from serkd.search.space import DIRECTIONS, Space
from serkd.section import validate
from serkd.yaml12 import format_yaml

_SHOWN = 5


@dataclass(frozen=True)
class Swept:
    """A sweep as its folder has it, finished or not."""

    folder: Path
    space: Space
    base: Mapping[str, Any]
    trials: Sequence[Mapping[str, Any]]  # that ended with a value, best first

    def build(self, trial: Mapping[str, Any]) -> Experiment:
        """The experiment of a trial, with the first of the sweep's seeds."""
        seeds = {} if self.space.seeds is None else {"seed": self.space.seeds[0]}
        return build_experiment(self.base, {**trial["params"], **seeds}, origin=str(self.folder))


def read_sweep(folder: Path) -> Swept:
    """Read a sweep's files.

    Raises:
        InputError: not a sweep's folder, or no trial has finished.
    """
    if not (folder / "sweep.json").is_file():
        raise InputError(f"{folder}: must be the folder of a sweep, it has no sweep.json")
    about = read_json(folder / "sweep.json")
    if not {"space", "base"} <= about.keys():
        raise InputError(f"{folder / 'sweep.json'}: must be what `serkd sweep` wrote")
    space = validate(Space, about["space"], "sweep.json")
    finished = [t for t in Ledger(folder / "ledger.jsonl").trials() if t["state"] == "finished"]
    if not finished:
        raise InputError(f"{folder}: must have a finished trial, it has none")
    sign = 1 if DIRECTIONS[space.objective[0]] == "min" else -1
    ordered = sorted(finished, key=lambda trial: (sign * trial["value"], trial["trial"]))
    return Swept(folder, space, about["base"], ordered)


def find_answers(folder: Path) -> dict[str, Any]:
    """Best settings, importance with bands, and edges; of several objectives, the front."""
    swept = read_sweep(folder)
    space, trials = swept.space, swept.trials
    rows = compute_importance(
        space.space,
        [trial["params"] for trial in trials],
        [trial["value"] for trial in trials],
        maximise=DIRECTIONS[space.objective[0]] == "max",
    )
    front = find_front(trials, space.objective) if space.is_pareto else []
    return {
        "sweep": folder.name,
        "objective": list(space.objective),
        "num_finished": len(trials),
        "best": [dict(trial) for trial in trials[:_SHOWN]],
        "front": [dict(trial) for trial in front],
        "importance": [asdict(row) for row in rows],
        "edges": dict(list_edges(space.space, trials[0]["params"])),
    }


def write_recipe(folder: Path, number: int | None, out: Path) -> Experiment:
    """Write a trial (the best one by default) as a recipe that `serkd run` takes.

    Raises:
        InputError: no such finished trial.
    """
    swept = read_sweep(folder)
    numbers = {trial["trial"]: trial for trial in swept.trials}
    number = swept.trials[0]["trial"] if number is None else number
    if number not in numbers:
        raise InputError(f"--trial must be a finished trial of {folder}, got {number}")
    trial = numbers[number]
    experiment = swept.build(trial)
    value = f"{swept.space.objective[0]} {trial['value']:.4f}"
    head = (
        f"# Trial {number} of the sweep {folder.resolve().name}: {value} on fold(s) "
        f"{swept.space.folds if swept.space.folds == 'all' else ', '.join(swept.space.folds)}, "
        f"best of {len(swept.trials)}.\n"
    )
    out.write_text(head + format_yaml(experiment.model_dump(mode="json")), encoding="utf-8")
    return experiment


def print_answers(console: Console, found: Mapping[str, Any], *, as_json: bool) -> None:
    """Tables, or JSON."""
    if as_json:
        print(json.dumps(found, indent=2))
        return
    console.print(_trial_table(found))
    if found["importance"]:
        console.print(_importance_table(found))
    else:
        console.print("importance needs 8 finished trials or more", highlight=False)
    for key, words in found["edges"].items():
        console.print(f"warning: {key}: {words}", soft_wrap=True, markup=False, highlight=False)


def _trial_table(found: Mapping[str, Any]) -> Table:
    rows = found["front"] or found["best"]
    what = "the front" if found["front"] else f"the best of {found['num_finished']}"
    table = Table(title=f"{found['sweep']}: {what}", title_justify="left")
    table.add_column("trial", justify="right")
    for name in found["objective"]:
        table.add_column(name, justify="right")
    table.add_column("settings", overflow="fold")
    for row in rows:
        values = row.get("values") or {found["objective"][0]: row["value"]}
        shown = [f"{values[name]:.6g}" if name in values else "" for name in found["objective"]]
        settings = "  ".join(f"{key}={json.dumps(v)}" for key, v in row["params"].items())
        table.add_row(str(row["trial"]), *shown, settings)
    return table


def _importance_table(found: Mapping[str, Any]) -> Table:
    table = Table(
        title=f"what decided {found['objective'][0]} (PED-ANOVA, 5-95 % of resamplings)",
        title_justify="left",
    )
    table.add_column("setting")
    for header in ("share", "band", "trials"):
        table.add_column(header, justify="right")
    for row in found["importance"]:
        band = f"{row['low']:.2f} - {row['high']:.2f}"
        table.add_row(row["key"], f"{row['share']:.2f}", band, str(row["num_trials"]))
    return table
