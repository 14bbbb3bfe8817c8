"""A sweep from its file to its summary: what ``serkd sweep`` does."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from serkd.corpora.folds import Fold, select_folds
from serkd.corpora.protocols import read_folds
from serkd.events import Observer
from serkd.files import write_json
from serkd.report.boards import Boards, watch_trial
from serkd.report.builtin import use_synthetic
from serkd.report.hparams import HParams
from serkd.report.run import describe_folds
from serkd.search.engine import Listener
from serkd.search.read import read_space
from serkd.search.reconcile import reconcile, retry_failed
from serkd.search.replay import Replay
from serkd.search.space import Space
from serkd.search.status import find_status
from serkd.search.tuner import Sweep, open_sweep, run_sweep, sharing
from serkd.storage.sync import synced
from serkd.writable import check_folder

_TELL_EVERY_S = 1.0


def start_sweep(
    path: Path,
    values: Mapping[str, Any],
    trials: int | None,
    storage: Path,
    observer: Observer,
    *,
    smoke: bool = False,
    name: str | None = None,
    retry: Literal["failed"] | None = None,
    agrees: Callable[[str], bool] = lambda text: False,
) -> dict[str, Any]:
    """Run the trials that are missing; returns and writes the summary (results.json).

    The sweep is called `name`, or as its file. With `smoke`, in the file's reduced size and, unless
    `values` name another, on the built-in corpus. With `retry`, what failed is run again. `agrees`
    is asked before a changed file sets results aside.

    Raises:
        InputError: the file or the cluster, another driver of the same sweep, or no consent.
        SweepError: all trials fail alike, or the disk is full.
    """
    check_folder("--storage", storage)
    values = use_synthetic(values, storage, observer) if smoke else values
    space, base = read_space(path, values, smoke=smoke)
    if trials is not None:
        budget = space.budget.model_copy(update={"trials": trials})
        space = space.model_copy(update={"budget": budget})
    sweep = open_sweep(name or (f"{path.stem}-smoke" if smoke else path.stem), space, base, storage)
    all_folds = read_folds(base.corpus, base.protocol)
    folds = choose_folds(all_folds, space)
    with synced(sweep.folder, has_owner=True), sweep.ledger.lock():
        reconcile(sweep, all_folds, agrees)
        write_json(sweep.folder / "folds.json", describe_folds(all_folds))
        if retry == "failed":
            retry_failed(sweep)
        rows = HParams(sweep.folder / "tensorboard" / "hparams", space.space, space.objective)
        boards = Boards(sweep.folder, sweep.ledger.replay(), rows)
        listeners: list[Listener] = [boards, Progress(space.budget.trials, observer)]
        replay = run_sweep(sweep, folds, storage, observer, watch_trial, listeners)
        return _summarise(sweep, replay)


def choose_folds(folds: Sequence[Fold], space: Space) -> list[Fold]:
    """The folds that every trial is run on."""
    if space.folds == "all":
        return list(folds)
    return [fold for name in space.folds for fold in select_folds(folds, name)]


def _summarise(sweep: Sweep, replay: Replay) -> dict[str, Any]:
    done = [trial.row() for trial in replay.current()]
    requests, computed = sharing(done)
    summary = {
        "name": sweep.name,
        "folder": str(sweep.folder),
        "objective": sweep.space.objective[0],
        "best": sweep.best(),
        "stopped": replay.stopped,
        "stage_requests": requests,
        "stages_computed": computed,
        "trials": done,
    }
    write_json(sweep.folder / "results.json", summary)
    return summary


class Progress:
    """Tells the observer how a sweep of `total` trials stands, about once a second."""

    def __init__(self, total: int, observer: Observer) -> None:
        self.total, self.observer, self.told = total, observer, -math.inf

    def __call__(self, record: Mapping[str, Any], replay: Replay) -> None:
        # counting ten thousand trials takes longer than most records take to come
        if record["event"] == "closed" or time.monotonic() - self.told > _TELL_EVERY_S:
            self.told = time.monotonic()
            self.observer.sweep(find_status(replay, self.total))
