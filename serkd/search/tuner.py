"""A sweep: Tune runs the trials, Optuna proposes them, stages are shared between them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from serkd import runtime
from serkd.config import Experiment
from serkd.corpora.folds import Fold
from serkd.devices import choose_device
from serkd.events import Observer
from serkd.search.asha import Rungs, asha_rungs, median_rungs
from serkd.search.capacity import count_slots, require_fit
from serkd.search.engine import Listener
from serkd.search.grid import list_cells
from serkd.search.ledger import Ledger
from serkd.search.limits import Limits
from serkd.search.prepare import compute_first, is_stored
from serkd.search.proposals import Listed, Proposal, Proposals
from serkd.search.replay import Replay
from serkd.search.runner import run_trials
from serkd.search.space import Scheduler, Space
from serkd.search.study import Search
from serkd.search.trial import ExperimentJudge, Plan, TrainExperiment, count_steps, plan_trials
from serkd.stages.catalogue import STAGES, STUDENT, find_prefix
from serkd.stages.context import Ref
from serkd.stages.graph import Graph
from serkd.stages.store import StageStore
from serkd.storage.mirror import name_storage

_SCALES = ("units.layers", "units.num_clusters")  # decide which scales there are


@dataclass(frozen=True)
class Sweep:
    """A sweep's files: sweep.json, ledger.jsonl, study.journal, logs/, tensorboard/."""

    name: str
    folder: Path
    space: Space
    base: Experiment

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.folder / "ledger.jsonl")

    def best(self) -> dict[str, Any] | None:
        """The finished trial with the highest objective; a pruned one published no student."""
        finished = [trial for trial in self.ledger.trials() if trial["state"] == "finished"]
        return max(finished, key=lambda trial: trial["value"], default=None)


def open_sweep(name: str, space: Space, base: Experiment, storage: Path) -> Sweep:
    """A sweep is named by its file; what the file says may change (see `reconcile`)."""
    return Sweep(name, storage / "sweeps" / name, space, base)


def run_sweep(
    sweep: Sweep,
    folds: Sequence[Fold],
    storage: Path,
    observer: Observer,
    watch: Callable[[Path, int], Observer],
    listeners: Sequence[Listener] = (),
) -> Replay:
    """Run the trials that are still missing; returns what the ledger then says.

    `watch` makes a further observer for a trial, from the sweep's folder and the trial's number.
    The caller holds the ledger's lock.

    Raises:
        InputError: the backbone does not fit, or a trial cannot fit the cluster.
        SweepError: see `run_trials`.
    """
    replay = sweep.ledger.replay()
    is_interrupted = any(trial.state == "running" for trial in replay.current())
    if len(replay.ended()) >= sweep.space.budget.trials and not is_interrupted:
        return replay
    runtime.start_ray()
    require_fit(sweep.space.resources, sweep.base.train)
    store, plan = StageStore(storage), plan_trials(sweep.space, sweep.base, folds)
    judge = ExperimentJudge(sweep.space, sweep.base, len(folds[0].manifest.class_names))
    sweep.ledger.append(
        {
            "event": "opened",
            "time": time.time(),
            "seed": sweep.space.seed,
            "seeds": plan.seeds,
            "folds": [fold.name for fold in plan.folds],
            "sampler": sweep.space.sampler,
        }
    )
    _prepare_shared(sweep, plan, store, observer)
    train = TrainExperiment(
        base=sweep.base,
        plan=plan,
        objective=sweep.space.objective,
        storage=name_storage(storage),
        num_threads=sweep.space.resources.cpu,
        sweep=sweep.folder.relative_to(storage).as_posix(),
        watch=watch,
    )
    budget = sweep.space.budget
    num_steps = count_steps(sweep.space, sweep.base, len(folds))
    return run_trials(
        sweep.folder,
        _list_proposals(sweep, replay, judge),
        train,
        sweep.space.resources,
        partial(count_slots, sweep.space.resources, sweep.base.train),
        rungs=choose_rungs(sweep.space.scheduler, num_steps),
        limits=Limits(budget.trials, budget.hours, budget.disk_gb, store.root),
        is_there=partial(is_stored, store),
        listeners=listeners,
    )


def _list_proposals(sweep: Sweep, replay: Replay, judge: ExperimentJudge) -> Proposals:
    """The cells of a grid, or what Optuna proposes."""
    space = sweep.space
    if space.sampler != "grid":
        return Search(space, sweep.name, sweep.folder / "study.journal", replay, judge)
    cells: dict[str, Proposal] = {}
    for params in list_cells(space.space):
        if judge.find_broken(params) is None:
            cells.setdefault(judge.name(params), Proposal(params))
    return Listed(list(cells.values())[: space.budget.trials])


def choose_rungs(scheduler: Scheduler, num_steps: int) -> Rungs | None:
    """Where trials are compared; None where none is stopped early."""
    if scheduler.name == "none":
        return None
    grace = scheduler.grace_epochs if scheduler.fidelity == "epoch" else 1
    if scheduler.name == "median":
        return median_rungs(grace, num_steps)
    return asha_rungs(grace, scheduler.reduction_factor, num_steps)


def _prepare_shared(sweep: Sweep, plan: Plan, store: StageStore, observer: Observer) -> None:
    """Compute the stages that no searched key touches once, with the whole machine."""
    graphs = [
        Graph(STAGES, sweep.base.model_copy(update={"seed": seed}), fold)
        for fold, seed in plan.cells
    ]
    for graph in graphs:
        graph.check([STUDENT])
    wanted = [
        (graph, [r for r in graph.closure([STUDENT]) if not _is_touched(graph, r, sweep.space)])
        for graph in graphs
    ]
    compute_first(wanted, store, choose_device(sweep.base.train.device), observer)


def _is_touched(graph: Graph, ref: Ref, space: Space) -> bool:
    stage = graph.stages[ref.stage]
    # which layer the frozen prefix ends at is a setting of the backbone
    is_prefix = ref == find_prefix(graph.experiment)
    uses = (*stage.uses, *(() if is_prefix else _SCALES[: len(ref.scale)]))
    if stage.reads_backbone:
        uses = (*uses, "backbone")
    if stage.fits != "none":
        uses = (*uses, "protocol", "corpus")
    touched = any(_overlap(used, dotted) for used in uses for dotted in space.space)
    return touched or any(_is_touched(graph, used, space) for used in graph.inputs(ref))


def _overlap(used: str, dotted: str) -> bool:
    return f"{dotted}.".startswith(f"{used}.") or f"{used}.".startswith(f"{dotted}.")


def sharing(trials: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """(stage requests, stages computed) of all trials that got so far."""
    return (
        sum(trial["stage_requests"] for trial in trials),
        sum(trial["stages_computed"] for trial in trials),
    )
