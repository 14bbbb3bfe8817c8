"""A sweep: Tune runs the trials, Optuna proposes them, stages are shared between them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import ray
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from serkd import runtime
from serkd.config import Experiment
from serkd.corpora.folds import Fold, select_folds
from serkd.devices import choose_device
from serkd.errors import InputError
from serkd.events import Observer
from serkd.search.ledger import Ledger
from serkd.search.record import LedgerCallback
from serkd.search.samplers import build_sampler
from serkd.search.space import Space
from serkd.search.suggest import suggest
from serkd.search.trial import TrialSpec, run_trial
from serkd.stages.catalogue import STAGES, STUDENT, find_prefix
from serkd.stages.context import Compute, Ref
from serkd.stages.graph import Graph
from serkd.stages.key import compute_key
from serkd.stages.store import StageStore
from serkd.storage.mirror import locate, name_storage

_DONE = ("finished", "pruned", "failed")
_SCALES = ("units.layers", "units.num_clusters")  # decide which scales there are


@dataclass(frozen=True)
class Sweep:
    """A sweep's files: ledger.jsonl, study.journal, tune/, tensorboard/."""

    name: str
    folder: Path
    space: Space
    base: Experiment

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.folder / "ledger.jsonl")

    def finished(self) -> list[dict[str, Any]]:
        """Trials that need not run again."""
        return [trial for trial in self.ledger.trials() if trial["state"] in _DONE]

    def best(self) -> dict[str, Any] | None:
        """The finished trial with the highest objective; a pruned one published no student."""
        finished = [trial for trial in self.ledger.trials() if trial["state"] == "finished"]
        return max(finished, key=lambda trial: trial["value"], default=None)


def open_sweep(name: str, space: Space, base: Experiment, storage: Path) -> Sweep:
    """The same space and base always have the same folder; more trials may be asked for later."""
    asked = {
        "space": space.model_dump(mode="json", exclude={"budget"}),
        "base": base.model_dump(mode="json"),
    }
    return Sweep(name, storage / "sweeps" / f"{name}-{compute_key(asked)[:8]}", space, base)


def run_sweep(
    sweep: Sweep,
    fold: Fold,
    storage: Path,
    observer: Observer,
    watch: Callable[[Path, str], Observer],
) -> list[dict[str, Any]]:
    """Run the trials that are still missing; returns all trials of the sweep.

    `watch` makes a further observer for a trial, from the folder for events and the trial's id.

    Raises:
        InputError: the backbone does not fit, or a trial cannot fit the cluster.
    """
    missing = sweep.space.budget.trials - len(sweep.finished())
    if missing <= 0:
        return sweep.ledger.trials()
    runtime.start_ray()
    concurrent = _max_concurrent(sweep)
    _prepare_shared(sweep, fold, StageStore(storage), observer)
    _close_lost(sweep)
    spec = TrialSpec(
        base=sweep.base,
        fold=fold,
        storage=name_storage(storage),
        num_threads=sweep.space.resources.cpu,
        events=(sweep.folder / "tensorboard").relative_to(storage).as_posix(),
        watch=watch,
    )
    _build_tuner(sweep, spec, missing, concurrent).fit()
    return sweep.ledger.trials()


def _close_lost(sweep: Sweep) -> None:
    """Trials that a killed driver left running are lost; others are proposed in their place."""
    for trial in sweep.ledger.trials():
        if trial["state"] == "running":
            sweep.ledger.append({"trial": trial["trial"], "state": "lost", "time": time.time()})


def choose_fold(folds: Sequence[Fold], names: Sequence[str]) -> Fold:
    """The fold that all trials of a sweep are run on."""
    if names == "all" or len(names) > 1:
        raise InputError(f"folds must be one fold's name in a search space, got {names!r}")
    (fold,) = select_folds(folds, names[0])
    return fold


def list_ignored(space: Space) -> list[str]:
    """Settings that `serkd plan` counts with and a sweep does not follow yet."""
    scheduler = space.scheduler
    ignored = {
        "constraints": bool(space.constraints),
        f"objective after {space.objective[0]}": len(space.objective) > 1,
        "seeds": space.seeds is not None,
        "scheduler.name: median": scheduler.name == "median",
        "scheduler.fidelity: fold": scheduler.name != "none" and scheduler.fidelity == "fold",
        "budget.hours": space.budget.hours is not None,
        "budget.disk_gb": space.budget.disk_gb is not None,
    }
    return [name for name, is_there in ignored.items() if is_there]


def _max_concurrent(sweep: Sweep) -> int:
    """How many trials fit the cluster, with the workers that each starts besides itself."""
    train, own = sweep.base.train, sweep.space.resources
    workers = train.num_workers if train.num_workers > 1 else 0
    needs = {"CPU": float(own.cpu), "GPU": float(own.gpu)}
    for name, value in (train.resources_per_worker or {"CPU": 1.0}).items():
        needs[name] = needs.get(name, 0.0) + workers * value
    cluster = ray.cluster_resources()
    fits = [cluster.get(name, 0) / need for name, need in needs.items() if need]
    if min(fits) < 1:
        asked = " and ".join(f"{need:g} {name}s" for name, need in needs.items())
        there = " and ".join(f"{cluster.get(name, 0):g}" for name in needs)
        raise InputError(f"a trial must fit the cluster: it needs {asked}, the cluster has {there}")
    return int(min(fits))


def _prepare_shared(sweep: Sweep, fold: Fold, store: StageStore, observer: Observer) -> None:
    """Compute the stages that no searched key touches once, with the whole machine."""
    graph = Graph(STAGES, sweep.base, fold)
    graph.check([STUDENT])
    shared = [ref for ref in graph.closure([STUDENT]) if not _is_touched(graph, ref, sweep.space)]
    device = choose_device(sweep.base.train.device)
    actors = runtime.cluster_actors(is_shared=store.mirror is None)
    compute = Compute(*actors, device=device)
    try:
        graph.run(shared, store, compute, observer)
    finally:
        compute.close()


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


def _build_tuner(sweep: Sweep, spec: TrialSpec, missing: int, concurrent: int) -> tune.Tuner:
    resources = sweep.space.resources
    place, filesystem = locate(sweep.folder / "tune")
    trainable = tune.with_resources(
        tune.with_parameters(run_trial, spec=spec), {"cpu": resources.cpu, "gpu": resources.gpu}
    )
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=build_search(sweep),
            scheduler=_build_scheduler(sweep),
            num_samples=missing,
            max_concurrent_trials=concurrent,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=f"run-{time.time_ns()}",
            storage_path=place,
            storage_filesystem=filesystem,
            callbacks=[LedgerCallback(sweep.ledger)],
            verbose=0,
        ),
    )


def build_search(sweep: Sweep) -> OptunaSearch:
    """Optuna over a journal that other tools can open; trials a crash left running are closed."""
    sweep.folder.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(sweep.folder / "study.journal")))
    study = optuna.create_study(
        storage=storage, study_name=sweep.name, direction="maximize", load_if_exists=True
    )
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    # another seed for each start, or a resumed random search would repeat itself
    seed = sweep.space.seed + len(study.get_trials(deepcopy=False))
    return OptunaSearch(
        partial(suggest, dimensions=sweep.space.space),
        metric=sweep.space.objective[0],
        mode="max",
        sampler=build_sampler(sweep.space.sampler, seed),
        study_name=sweep.name,
        storage=storage,
    )


def _build_scheduler(sweep: Sweep) -> TrialScheduler:
    scheduler = sweep.space.scheduler
    if scheduler.name != "asha":
        return FIFOScheduler()
    epochs = sweep.base.student.fit.epochs
    return AsyncHyperBandScheduler(
        time_attr="epoch",
        metric=sweep.space.objective[0],
        mode="max",
        # one more than there are: at max_t Tune would stop a trial before it publishes
        max_t=epochs + 1,
        grace_period=min(scheduler.grace_epochs, epochs),
        reduction_factor=scheduler.reduction_factor,
    )


def sharing(trials: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """(stage requests, stages computed) of all trials that got so far."""
    counted = [trial for trial in trials if "stage_requests" in trial]
    return (
        sum(trial["stage_requests"] for trial in counted),
        sum(trial["stages_computed"] for trial in counted),
    )
