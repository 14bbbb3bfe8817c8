"""Ray Tune runs the trials: it places, reuses and watches actors; what runs is the engine's say.

Optuna is asked through our own searcher, and not through Tune's `OptunaSearch`: that one cannot run
a trial of a killed driver again under its number, proposes one trial at a time unless told, and
leaves trials in its study that nobody will finish. `Tuner.restore` is not needed: every start makes
a new `Tuner` for what the ledger says is missing.
"""

import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from serkd.errors import SweepError
from serkd.search.asha import Rungs
from serkd.search.engine import Engine, Listener
from serkd.search.ledger import Ledger
from serkd.search.limits import Limits
from serkd.search.proposals import Proposals
from serkd.search.replay import Replay
from serkd.search.reports import TOLD, Job, Train, run_in_actor
from serkd.search.space import Resources
from serkd.storage.mirror import find_mirror, locate, name_storage

_COUNT_EVERY_S = 10.0
# what Ray says when it kills for want of memory; of any death it says that it may have been for it
_NO_MEMORY = re.compile(r"low on memory|out of memory", re.IGNORECASE)


def run_trials(
    folder: Path,
    proposals: Proposals,
    train: Train,
    resources: Resources,
    slots: Callable[[], int],
    *,
    rungs: Rungs | None = None,
    limits: Limits | None = None,
    is_there: Callable[[str], bool] = lambda key: False,
    listeners: Sequence[Listener] = (),
) -> Replay:
    """Run what the ledger in `folder` lacks of `proposals`, until each trial has ended.

    Ray is running. `train` is a function in an importable module, or something picklable, of a
    trial's number, its parameters and its reports. `rungs` say which trials are stopped early;
    without them none is. `slots` says how many trials fit the cluster now. `is_there` says
    whether a stage that a trial waits for is stored. `listeners` hear of every record.

    The caller holds the ledger's lock. After Ctrl-C or SIGTERM, running trials end at their next
    report, when their checkpoint is stored, and the replay that is returned has pending trials;
    a second Ctrl-C raises KeyboardInterrupt.

    Raises:
        SweepError: all trials fail alike, or the disk is full.
        LedgerError: a record could not be written.
    """
    engine = Engine(
        Ledger(folder / "ledger.jsonl"),
        proposals,
        resources,
        _remember(slots),
        rungs,
        limits or Limits(),
        is_there,
        listeners,
    )
    scratch = folder / "tune"
    mirror = find_mirror(folder)
    inside = "." if mirror is None else mirror.path_of(folder)
    job = Job(train, name_storage(folder), f"{inside}/logs")
    try:
        with _environment(slots()), _kills_for_memory_are_deaths(), _drain_on_signals(engine):
            _build_tuner(engine, job, scratch).fit()
        if engine.broken is None:
            engine.record("closed", reason=engine.halted or engine.draining)
    except Exception:
        if engine.broken is not None:
            raise engine.broken from None
        raise
    finally:
        engine.ledger.close()
        shutil.rmtree(scratch, ignore_errors=True)
    if engine.broken is not None:
        raise engine.broken
    if engine.halted is not None:
        raise SweepError(f"{engine.halted}\nlogs of trials are in {folder / 'logs'}")
    return engine.replay


def _build_tuner(engine: Engine, job: Job, scratch: Path) -> tune.Tuner:
    resources = engine.resources
    place, filesystem = locate(scratch)
    trainable = tune.with_resources(
        tune.with_parameters(run_in_actor, job=job), {"cpu": resources.cpu, "gpu": resources.gpu}
    )
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=_Feed(engine),
            scheduler=_Gate(engine),
            num_samples=-1,  # the feed says when it is over
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=f"run-{time.time_ns()}",
            storage_path=place,
            storage_filesystem=filesystem,
            callbacks=[_Watcher(engine)],
            stop=_Brake(engine),
            verbose=0,
        ),
    )


class _Feed(Searcher):
    """Hands trials out."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(metric=None, mode=None)
        self.engine = engine

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        trial = self.engine.next_trial(trial_id)
        if trial is None:
            return Searcher.FINISHED if self.engine.is_over else None
        return {"number": trial.number, "params": json.dumps(trial.params)}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The callback tells the engine."""

    def save(self, checkpoint_path: str) -> None:
        """The ledger is what a search goes on from."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""


class _Gate(FIFOScheduler):
    """Lets trials go on, or not."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine

    def on_trial_result(
        self, tune_controller: object, trial: TuneTrial, result: dict[str, Any]
    ) -> str:
        if TOLD not in result:  # Tune's own last one, when the function has returned
            return str(TrialScheduler.STOP)
        goes_on = self.engine.reported(trial.trial_id, json.loads(result[TOLD]))
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)


class _Watcher(tune.Callback):
    """Tells how trials start and end."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def on_trial_start(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: object
    ) -> None:
        self.engine.started(trial.trial_id)

    def on_trial_complete(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: object
    ) -> None:
        self.engine.ended(trial.trial_id)

    def on_trial_error(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: object
    ) -> None:
        # Tune's own way to it looks where the file will be, once it has been copied
        error = Path(trial.error_file or "")
        said = error.read_text(encoding="utf-8").splitlines() if error.is_file() else ["unknown"]
        told = next(filter(_NO_MEMORY.search, said), None)
        self.engine.died(trial.trial_id, told or said[-1], is_out_of_memory=told is not None)


class _Brake(tune.Stopper):
    """Stops everything when the engine says so."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.engine.halted is not None


def _remember(slots: Callable[[], int]) -> Callable[[], int]:
    """The cluster is asked for its size every few seconds, not at every step of Tune's."""
    last = [0.0, 0]

    def remembered() -> int:
        if not last[1] or time.monotonic() - last[0] > _COUNT_EVERY_S:
            last[:] = [time.monotonic(), max(1, slots())]
        return int(last[1])

    return remembered


@contextmanager
def _environment(slots: int) -> Iterator[None]:
    """Tune's settings that are read from the environment, as long as the sweep runs."""
    wanted = {
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours drains
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_MAX_PENDING_TRIALS_PG": str(max(1, slots)),
        "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # nothing is restored from it
    }
    before: Mapping[str, str | None] = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _kills_for_memory_are_deaths() -> Iterator[None]:
    """Tune takes a worker that Ray killed for want of memory for one that died.

    Ray tells of it by an OutOfMemoryError. Tune expects errors of actors and of tasks, in several
    places; this one, which is neither, would end the whole experiment (seen with Ray 2.60).
    """
    killed: Any = ray.exceptions.OutOfMemoryError
    before = killed.__bases__
    killed.__bases__, killed._preempted = (ray.exceptions.RayActorError,), False
    try:
        yield
    finally:
        killed.__bases__ = before
        del killed._preempted


@contextmanager
def _drain_on_signals(engine: Engine) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM drains, the second stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: object) -> None:
        if engine.draining is not None:
            raise KeyboardInterrupt
        engine.drain("stopped by Ctrl-C" if number == signal.SIGINT else "stopped by SIGTERM")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
