"""A sweep from its file to its summary: what ``serkd sweep`` does."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serkd.corpora.folds import Fold
from serkd.corpora.protocols import read_folds
from serkd.errors import InputError
from serkd.events import Observer
from serkd.files import write_json
from serkd.report.run import describe_folds
from serkd.report.tensorboard import TensorBoard
from serkd.search.read import read_space
from serkd.search.tuner import (
    Sweep,
    choose_fold,
    list_ignored,
    open_sweep,
    run_sweep,
    sharing,
)
from serkd.storage.sync import synced

logger = logging.getLogger(__name__)


def start_sweep(
    path: Path,
    values: Mapping[str, Any],
    trials: int | None,
    storage: Path,
    observer: Observer,
    *,
    smoke: bool = False,
) -> dict[str, Any]:
    """Run the trials that are missing; returns and writes the summary (results.json).

    With `smoke`, in the file's reduced size.

    Raises:
        InputError: the space is not legal, or its first objective is not dev_uar.
    """
    space, base = read_space(path, values, smoke=smoke)
    if space.objective[0] != "dev_uar":
        raise InputError(f"{path}: objective must begin with dev_uar, got {space.objective[0]!r}")
    if ignored := list_ignored(space):
        logger.warning("%s: a sweep does not follow %s yet", path, ", ".join(ignored))
    if trials is not None:
        budget = space.budget.model_copy(update={"trials": trials})
        space = space.model_copy(update={"budget": budget})
    sweep = open_sweep(f"{path.stem}-smoke" if smoke else path.stem, space, base, storage)
    folds = read_folds(base.corpus, base.protocol)
    fold = choose_fold(folds, space.folds)
    with synced(sweep.folder, has_owner=True):
        return _work(sweep, folds, fold, storage, observer)


def _work(
    sweep: Sweep, folds: Sequence[Fold], fold: Fold, storage: Path, observer: Observer
) -> dict[str, Any]:
    space, base = sweep.space, sweep.base
    write_json(
        sweep.folder / "sweep.json",
        {"base": base.model_dump(mode="json"), "space": space.model_dump(mode="json")},
    )
    write_json(sweep.folder / "folds.json", describe_folds(folds))
    done = run_sweep(sweep, fold, storage, observer, watch_trial)
    _write_hparams(sweep, done)
    requests, computed = sharing(done)
    summary = {
        "name": sweep.name,
        "folder": str(sweep.folder),
        "objective": space.objective[0],
        "best": sweep.best(),
        "stage_requests": requests,
        "stages_computed": computed,
        "trials": done,
    }
    write_json(sweep.folder / "results.json", summary)
    return summary


def watch_trial(folder: Path, trial_id: str) -> Observer:
    """A trial's events, in a folder of its own."""
    return TensorBoard(folder / trial_id)


def _write_hparams(sweep: Sweep, trials: Sequence[Mapping[str, Any]]) -> None:
    """A row of the HPARAMS tab for every trial with a value, with its best one."""
    names = list(sweep.space.space)
    for trial in trials:
        if trial.get("value") is None:
            continue
        params = {name: trial["params"].get(name, "-") for name in names}
        board = TensorBoard(sweep.folder / "tensorboard" / "hparams" / str(trial["trial_id"]))
        board.hparams(params, {sweep.space.objective[0]: trial["value"]})
        board.close()
