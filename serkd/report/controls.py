"""A recipe and its controls, run and compared: what ``serkd run --with-controls`` does."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from serkd.config import Experiment
from serkd.events import Observer, Within
from serkd.files import write_json
from serkd.report.compare import compare_runs
from serkd.report.compare_tables import print_comparison
from serkd.report.run import run_experiment
from serkd.search.controls import RECIPE, build_controls
from serkd.stages.catalogue import MODELS, find_models
from serkd.storage.sync import push

_METRIC, _MARGIN = "uar", 0.01


class _Computing(Within):
    """Hears of a control's stages that are computed: the others were told of with the recipe's."""

    def stage(self, name: str, key: str, *, is_cached: bool, seconds: float) -> None:
        if not is_cached:
            super().stage(name, key, is_cached=is_cached, seconds=seconds)


def run_with_controls(
    experiment: Experiment, fold_choice: str, storage: Path, name: str, observer: Observer
) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """Run an experiment, then each control that is not the same as one before it.

    Returns the experiment's results, the comparison of the students and the experiment's folder.
    Every control has a run's folder of its own; the comparison is written as controls.json. One
    whose loss is not finite has `failed` with the reason and no folder, and the others go on.

    Raises:
        InputError: the experiment or a control cannot be run.
        FloatingPointError: the experiment's own loss is not finite.
    """
    controls = build_controls(experiment)  # all are legal before any is run
    results, folder = run_experiment(
        experiment, fold_choice, storage, name, observer, tuple(MODELS)
    )
    folders, failed = {RECIPE: folder}, {}
    for control in controls:
        if control.same_as is not None:
            continue
        try:
            _, folders[control.name] = run_experiment(
                control.experiment,
                fold_choice,
                storage,
                f"{name}-{control.name}",
                _Computing(observer, control.name),
                find_models(control.experiment),
            )
        except FloatingPointError as error:
            failed[control.name] = str(error)
    found = {
        "controls": [
            {
                "name": control.name,
                "changes": control.changes,
                "same_as": control.same_as,
                "run": None if name in failed else str(folders[name]),
                "failed": failed.get(name),
            }
            for control in controls
            for name in [control.same_as or control.name]
        ],
        "comparison": _compare(folders),
    }
    write_json(folder / "controls.json", found)
    push(folder / "controls.json")
    return results, found, folder


def _compare(folders: dict[str, Path]) -> dict[str, Any]:
    """Students against the recipe's, on dev."""
    runs = [str(folder) for folder in folders.values()]
    found = compare_runs(runs, "student", "dev", _METRIC, _MARGIN)
    for arm, name in zip(found["arms"], folders, strict=True):
        arm["name"] = name
    return found


def print_controls(console: Console, found: dict[str, Any], folder: Path) -> None:
    """What controls reached, their differences from the recipe, and which were not run."""
    print_comparison(console, found["comparison"], as_json=False)
    for control in found["controls"]:
        if control["same_as"] is not None:
            console.print(
                Text(f"{control['name']} is the same as {control['same_as']}: not run again")
            )
    for control in found["controls"]:
        if control["same_as"] is None:
            what = control["run"] or f"failed: {control['failed']}"
            console.print(Text(f"{control['name']:<15} {what}"), soft_wrap=True)
    console.print(f"controls     {folder / 'controls.json'}", soft_wrap=True)
