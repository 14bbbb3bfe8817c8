"""One trial: an experiment's stages inside a Tune actor, reporting every student epoch."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune

from serkd.config import Experiment
from serkd.corpora.folds import Fold
from serkd.devices import choose_device
from serkd.events import Observer, Observers
from serkd.recipe import build_experiment
from serkd.search.suggest import decode_params
from serkd.stages.catalogue import STAGES, STUDENT
from serkd.stages.context import Compute
from serkd.stages.graph import Graph
from serkd.stages.store import StageStore
from serkd.storage.mirror import open_storage
from serkd.storage.sync import synced
from serkd.threads import set_threads


@dataclass(frozen=True)
class TrialSpec:
    """What all trials of a sweep share; sent to their actors.

    The fold comes from the driver without a test label: no trial reads the manifest.
    """

    base: Experiment
    fold: Fold
    storage: str
    num_threads: int
    events: str  # the folder for events, below the storage
    watch: Callable[[Path, str], Observer]  # a further observer, given that and the trial's id


class TuneReporter(Observer):
    """Reports the student's epochs to Tune: the best dev UAR so far, and what was shared.

    The last epoch is reported when the student is published: a scheduler that stops a trial at a
    rung would else throw a finished student away.
    """

    def __init__(self, num_stages: int, num_epochs: int) -> None:
        self.num_stages, self.num_epochs = num_stages, num_epochs
        self.best, self.last_epoch = -math.inf, 0
        self.num_computed = 0
        self.is_student_ready = False

    def stage(self, name: str, key: str, *, is_cached: bool, seconds: float) -> None:
        self.num_computed += not is_cached
        self.is_student_ready |= name == str(STUDENT)

    def epoch(self, stage: str, record: Mapping[str, Any]) -> None:
        if stage != str(STUDENT):
            return
        if not math.isfinite(record["dev_uar"]):
            raise FloatingPointError(f"dev_uar must be finite, got {record['dev_uar']}")
        self.best, self.last_epoch = max(self.best, record["dev_uar"]), record["epoch"]
        if self.last_epoch < self.num_epochs:
            self.report(is_finished=False)

    def report(self, *, is_finished: bool) -> None:
        """Tell Tune; it may end the trial here."""
        tune.report(
            {
                "epoch": self.last_epoch,
                "dev_uar": self.best,
                "is_finished": is_finished,
                "stage_requests": self.num_stages,
                # while the student itself trains, it has not been counted yet
                "stages_computed": self.num_computed + (not self.is_student_ready),
            }
        )


def build_trial(base: Experiment, params: Mapping[str, Any]) -> Experiment:
    """The base with a trial's (encoded) values."""
    return build_experiment(base.model_dump(mode="json"), decode_params(params), origin="trial")


def run_trial(params: Mapping[str, Any], spec: TrialSpec) -> None:
    """Tune's trainable."""
    set_threads(spec.num_threads)
    experiment = build_trial(spec.base, params)
    graph = Graph(STAGES, experiment, spec.fold)
    graph.check([STUDENT])
    reporter = TuneReporter(len(graph.closure([STUDENT])), experiment.student.fit.epochs)
    storage, trial_id = open_storage(spec.storage), tune.get_context().get_trial_id()
    events = storage / spec.events
    watcher = spec.watch(events, trial_id)
    compute = Compute(device=choose_device(experiment.train.device))
    # the watcher hears of an epoch first: a stopped trial does not return from its report
    observer = Observers([watcher, reporter])
    try:
        with synced(events / trial_id):
            graph.run([STUDENT], StageStore(storage), compute, observer)
        reporter.report(is_finished=True)
    finally:
        compute.close()
