"""An ablation from its file to its report: what ``serkd ablate`` does."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from serkd.config import Experiment
from serkd.corpora.protocols import read_folds
from serkd.errors import SweepError
from serkd.events import Observer
from serkd.files import write_json
from serkd.recipe import build_experiment
from serkd.report.answer import CELLS, PLAN, read_plan, write_report
from serkd.report.asked import (
    add_earlier,
    describe_data,
    describe_study,
    is_of_corpus,
    planned_cells,
)
from serkd.report.builtin import use_synthetic
from serkd.report.results import read_json
from serkd.report.run import describe_folds
from serkd.report.sealed import choose_experiment
from serkd.report.trained import Source, Trained
from serkd.search.ablation import require_fold_names
from serkd.search.cells import (
    Cell,
    arm_cells,
    best_trial,
    choose_folds,
    list_tuning_cells,
    tuning_cells,
    tuning_settings,
    unique_cells,
    with_settings,
)
from serkd.search.designs import ALL, Arm, Study, Wanted, read_study
from serkd.search.identity import experiment_key
from serkd.search.ledger import Ledger
from serkd.search.space import Resources
from serkd.stages.key import compute_key, used_values
from serkd.storage.sync import synced
from serkd.train.metrics import confusion_metric
from serkd.writable import check_folder
from serkd.yaml12 import format_value


def start_ablation(
    path: Path,
    values: Mapping[str, Any],
    storage: Path,
    observer: Observer,
    *,
    is_smoke: bool = False,
    wanted: Wanted = ALL,
) -> tuple[dict[str, Any], Path]:
    """Run the cells that are missing and write the report; returns it and the ablation's folder.

    Raises:
        InputError: an illegal file, folds or arms that there are not, or another driver.
        SweepError: cells all fail alike, or it was stopped; the report is of what there is.
    """
    check_folder("--storage", storage)
    command = _command(path, values, storage, is_smoke, wanted)
    values = use_synthetic(values, storage, observer) if is_smoke else values
    study = open_study(path, values, is_smoke=is_smoke, wanted=wanted)
    folds = read_folds(study.base.corpus, study.base.protocol)
    require_fold_names(study.file, [fold.name for fold in folds])
    folder = ablation_folder(study, storage)
    ledger = Ledger(folder / "ledger.jsonl")
    with synced(folder, has_owner=True), ledger.lock():
        write_json(folder / "folds.json", describe_folds(folds))
        facts = {**describe_data(study, folds), "command": command}
        file = study.file
        source = Trained(folder, folds, file.model, file.resources, observer)
        return run_study(study, facts, folder, source), folder


def refresh_report(folder: Path) -> dict[str, Any]:
    """Collect what is stored by now and write the report anew.

    Raises:
        InputError: not the folder of an ablation.
    """
    plan = read_plan(folder)
    first = build_experiment(plan["arms"][0]["experiment"], {}, origin=str(folder))
    folds = read_folds(first.corpus, first.protocol)
    source = Trained(folder, folds, plan["file"]["model"], Resources(), Observer())
    with synced(folder):
        # of a corpus that was prepared anew since there is nothing yet
        if is_of_corpus(plan, folds):
            collect(folder, planned_cells(plan), source)
        return write_report(folder)


def open_study(
    path: Path, values: Mapping[str, Any], *, is_smoke: bool, wanted: Wanted = ALL
) -> Study:
    """The file's arms; `best_of` reads a sweep's folder."""

    def find_best(folder: Path) -> Experiment:
        return choose_experiment(folder, None)

    return read_study(path, values, find_best, is_smoke=is_smoke, wanted=wanted)


def ablation_folder(study: Study, storage: Path) -> Path:
    """The same file and base have the same folder, whatever arms, folds and seeds are in it."""
    asked = {"base": experiment_key(study.base, study.file.model), "model": study.file.model}
    return storage / "sweeps" / f"{study.name}-{compute_key(asked)[:8]}"


def _command(
    path: Path, values: Mapping[str, Any], storage: Path, is_smoke: bool, wanted: Wanted
) -> str:
    words = ["serkd", "ablate", str(path)]
    words += [word for name in wanted.arms for word in ("--arm", name)]
    words += ["--seeds", ",".join(map(str, wanted.seeds))] if wanted.seeds else []
    for key, value in values.items():
        words += ["--set", f"{key}={format_value(value)}"]
    words += ["--smoke"] if is_smoke else []
    return shlex.join([*words, "--storage", str(storage)])


def run_study(
    study: Study, facts: Mapping[str, Any], folder: Path, source: Source
) -> dict[str, Any]:
    """Tune, run and collect all cells, then report; what is there already is not done again."""
    folds = choose_folds(study, facts["all_folds"])
    tuned = _tune(study, folds, folder, source)
    experiments = [with_settings(arm.experiment, tuned[arm.name]) for arm in study.arms]
    seeds, model = study.file.seeds, study.file.model
    groups = [arm_cells(experiment, folds, seeds, model) for experiment in experiments]
    described = describe_study(study, facts, folds, experiments, tuned, groups)
    described["tuning_cells"] = sorted(cell.name for cell in list_tuning_cells(study, folds))
    for arm, experiment in zip(described["arms"], experiments, strict=True):
        arm |= _cost(folder, experiment, source)
    plan = add_earlier(folder, study, described) if study.is_part else described
    write_json(folder / PLAN, plan)
    discard_stale(folder, planned_cells(plan), source)
    cells = unique_cells(groups)
    try:
        source.compute(cells, _name_arms(study.arms, (group.values() for group in groups)))
    except SweepError:
        _report(folder, plan, source)
        raise
    return _report(folder, plan, source)


def _name_arms(arms: Sequence[Arm], cells: Iterable[Iterable[Cell]]) -> dict[str, str]:
    """The first arm that each cell is of, by the cell's name."""
    found: dict[str, str] = {}
    for arm, group in zip(arms, cells, strict=True):
        for cell in group:
            found.setdefault(cell.name, arm.name)
    return found


def _report(folder: Path, plan: Mapping[str, Any], source: Source) -> dict[str, Any]:
    with synced(folder):
        collect(folder, planned_cells(plan), source)
        return write_report(folder)


def collect(folder: Path, cells: Iterable[Cell], source: Source) -> None:
    """Write down the outcomes that are there and were not written before."""
    for cell in cells:
        path = folder / CELLS / f"{cell.name}.json"
        if not path.is_file() and (outcome := source.outcome(cell)) is not None:
            write_json(path, outcome)


def discard_stale(folder: Path, cells: Iterable[Cell], source: Source) -> None:
    """Delete outcomes of other models than the cells have now, before they are trained anew.

    A corpus that was prepared anew, and a stage whose computation has changed, leave a cell its
    name.
    """
    for cell in cells:
        path = folder / CELLS / f"{cell.name}.json"
        if path.is_file() and read_json(path)["stages"][-1][1] != source.key(cell):
            path.unlink()


def _cost(folder: Path, experiment: Experiment, source: Source) -> dict[str, float | None]:
    """Measured once for every student: two measurements of one are no difference of arms."""
    path = folder / "cost.json"
    known = read_json(path) if path.is_file() else {}
    shape = compute_key(used_values(experiment, ("student",)))
    if shape not in known:
        known[shape] = source.cost(experiment)
        write_json(path, known)
    return cast("dict[str, float | None]", known[shape])


def _tune(
    study: Study, folds: Sequence[str], folder: Path, source: Source
) -> dict[str, dict[str, Any]]:
    """Each arm's nuisance settings: of its trials the one with the best mean on dev."""
    retune = study.file.retune
    if retune is None:
        return {arm.name: {} for arm in study.arms}
    trials = {arm.name: tuning_cells(arm, retune, folds, study.file.model) for arm in study.arms}
    groups = [[cell for trial in trials[arm.name] for cell in trial] for arm in study.arms]
    every = list_tuning_cells(study, folds)
    discard_stale(folder, every, source)
    source.compute(every, _name_arms(study.arms, groups))
    collect(folder, every, source)
    settings = tuning_settings(retune)
    chosen = {name: best_trial(_values(study, folder, arm)) for name, arm in trials.items()}
    return {name: settings[number or 0] for name, number in chosen.items()}


def _values(
    study: Study, folder: Path, trials: Sequence[Sequence[Cell]]
) -> list[list[float | None]]:
    def value(cell: Cell) -> float | None:
        path = folder / CELLS / f"{cell.name}.json"
        if not path.is_file():
            return None
        counts = np.sum(read_json(path)["confusions"], axis=0)
        return float(confusion_metric(counts, study.file.metric))

    return [[value(cell) for cell in trial] for trial in trials]
