"""One trial: an experiment's stages on every fold with every seed, reported epoch by epoch."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from serkd.config import Experiment
from serkd.corpora.folds import Fold
from serkd.devices import choose_device
from serkd.events import Observer, Observers, Within
from serkd.recipe import build_experiment
from serkd.search.build import Builder, Legality
from serkd.search.constraints import MEASURED, Constraints
from serkd.search.curves import curves_path, write_curves
from serkd.search.identity import experiment_key
from serkd.search.reports import Reports
from serkd.search.space import Space
from serkd.search.study import ParamsJudge
from serkd.stages.catalogue import STAGES, STUDENT
from serkd.stages.context import Compute
from serkd.stages.graph import Graph
from serkd.stages.store import StageStore
from serkd.storage.mirror import open_storage
from serkd.storage.sync import push, synced
from serkd.threads import set_threads


def build_trial(base: Experiment, params: Mapping[str, Any]) -> Experiment:
    """The base with a trial's values."""
    return build_experiment(base.model_dump(mode="json"), params, origin="trial")


@dataclass(frozen=True)
class Plan:
    """Where each trial is run: its cells, in order, and how far its steps go."""

    folds: tuple[Fold, ...]
    seeds: tuple[int, ...]
    fidelity: str
    epochs: int  # most that any trial's student trains

    @property
    def cells(self) -> list[tuple[Fold, int]]:
        """All folds with one seed, then with the next: equal steps are on the same cells."""
        return [(fold, seed) for seed in self.seeds for fold in self.folds]

    def step(self, done: int, epoch: int = 0) -> int:
        """After `done` cells and so many epochs of the next.

        A student that ends early (fewer epochs, or patience) stands where its longest peers end.
        """
        return done * self.epochs + epoch if self.fidelity == "epoch" else done


def plan_trials(space: Space, base: Experiment, folds: Sequence[Fold]) -> Plan:
    """The cells of every trial of a space."""
    seeds = space.seeds or (base.seed,)
    return Plan(tuple(folds), seeds, space.scheduler.fidelity, _most_epochs(space, base))


def _most_epochs(space: Space, base: Experiment) -> int:
    searched = space.space.get("student.fit.epochs")
    return max([base.student.fit.epochs, *map(int, searched.examples() if searched else ())])


def count_steps(space: Space, base: Experiment, num_folds: int) -> int:
    """Of a trial that is not stopped, where a protocol has so many folds: see `Plan.step`."""
    cells = (num_folds if space.folds == "all" else len(space.folds)) * len(space.seeds or (0,))
    return cells * (_most_epochs(space, base) if space.scheduler.fidelity == "epoch" else 1)


class ExperimentJudge(ParamsJudge):
    """Constraints of a space; trials with the same students are the same."""

    def __init__(self, space: Space, base: Experiment, num_classes: int) -> None:
        self.builder = Builder(base, tuple(space.space))
        self.legality = Legality(self.builder, Constraints(space.constraints, num_classes))

    def find_broken(self, params: Mapping[str, Any]) -> str | None:
        return self.legality.find_problem(params)

    def name(self, params: Mapping[str, Any]) -> str:
        return experiment_key(self.builder.build(params))


class _Cell(Observer):
    """Listens to one cell and reports the mean over the cells before it and its best epoch."""

    def __init__(self, trial: "_Trial", done: int) -> None:
        self.trial, self.done = trial, done
        self.best: dict[str, float] | None = None
        self.epochs: list[Mapping[str, Any]] = []

    def stage(self, name: str, key: str, *, is_cached: bool, seconds: float) -> None:
        self.trial.reports.stage(name, key, is_cached=is_cached, seconds=seconds)

    def progress(self, stage: str, done: int, total: int, unit: str, note: str = "") -> None:
        self.trial.reports.beat()

    def epoch(self, stage: str, record: Mapping[str, Any]) -> None:
        if stage != str(STUDENT):
            self.trial.reports.beat()
            return
        self.epochs.append(record)
        scores = {name: float(v) for name, v in record.items() if name.startswith("dev_")}
        if self.best is None or not scores["dev_uar"] <= self.best["dev_uar"]:
            self.best = scores
        # the last epoch is told when the student is published: who is stopped publishes nothing
        if self.trial.plan.fidelity == "epoch" and record["epoch"] < self.trial.num_epochs:
            self.trial.report(self.done, record["epoch"], self.best)


class _Trial:
    """What the cells of one trial have in common."""

    def __init__(
        self, plan: Plan, objective: Sequence[str], experiment: Experiment, reports: Reports
    ) -> None:
        self.plan, self.objective, self.experiment = plan, objective, experiment
        self.reports, self.num_epochs = reports, experiment.student.fit.epochs
        self.bests: list[dict[str, float]] = []  # of the cells that are done

    @cached_property
    def fixed(self) -> dict[str, float]:
        """Objectives that are known without training."""
        count = len(self.plan.folds[0].manifest.class_names)
        return {
            name: float(MEASURED[name](self.experiment, count))
            for name in self.objective
            if name in MEASURED
        }

    def report(self, done: int, epoch: int, current: Mapping[str, float] | None) -> None:
        cells = [*self.bests, *([] if current is None else [current])]
        values = {
            name: self.fixed[name] if name in MEASURED else statistics.fmean(c[name] for c in cells)
            for name in self.objective
        }
        is_last = done == len(self.plan.cells)
        self.reports.step(self.plan.step(done, epoch), values, is_held=is_last)


@dataclass(frozen=True)
class TrainExperiment:
    """What all trials of a sweep run; sent to their actors.

    The folds come from the driver without a test label: no trial reads the manifest.
    """

    base: Experiment
    plan: Plan
    objective: tuple[str, ...]
    storage: str
    num_threads: int
    sweep: str  # its folder, below the storage
    watch: Callable[[Path, int], Observer]  # a further observer, given that and the trial's number

    def __call__(self, number: int, params: Mapping[str, Any], reports: Reports) -> None:
        set_threads(self.num_threads)
        experiment, storage = build_trial(self.base, params), open_storage(self.storage)
        folder = storage / self.sweep
        watcher = self.watch(folder, number)
        trial = _Trial(self.plan, self.objective, experiment, reports)
        graphs = [
            Graph(STAGES, experiment.model_copy(update={"seed": seed}), fold)
            for fold, seed in self.plan.cells
        ]
        for graph in graphs:
            graph.check([STUDENT])
        # gives its slot back where another process computes what it needs
        compute = Compute(device=choose_device(experiment.train.device), waits=False)
        store, curves = StageStore(storage), list[dict[str, Any]]()
        try:
            for done, graph in enumerate(graphs):
                cell = _Cell(trial, done)
                name = f"fold {graph.fold.name} seed {graph.experiment.seed}"
                beside = watcher if len(graphs) == 1 else Within(watcher, name)
                # the watcher hears of an epoch first: a stopped trial does not return from a report
                with synced(folder / "events" / f"trial-{number:05d}"):
                    found, _ = graph.run([STUDENT], store, compute, Observers([beside, cell]))
                    beside.models({STUDENT: found[STUDENT]}, graph.fold)
                assert cell.best is not None
                trial.bests.append(cell.best)
                about = {"trial": number, "fold": graph.fold.name, "seed": graph.experiment.seed}
                curves += [{**about, **record} for record in cell.epochs]
                trial.report(done + 1, 0, None)
        finally:
            compute.close()
        write_curves(curves_path(folder, number), curves)
        push(curves_path(folder, number))
