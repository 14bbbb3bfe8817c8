"""The one training loop, wherever it runs: epochs, the choice of one, states to go on from."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from serkd.errors import InputError
from serkd.events import Observer
from serkd.memory import keep_memory
from serkd.train.average import WeightAverage
from serkd.train.batches import split_batch
from serkd.train.checkpoint import Checkpoints, TrainState, join_parts
from serkd.train.optim import (
    learning_rate_factor,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rates,
)
from serkd.train.step import Stepper
from serkd.train.task import Step, Task, seed_torch
from serkd.train.workers import Workers

_AND = " and "  # between two precisions

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """The chosen epoch's weights on the CPU, and a record for each epoch.

    `precision` is that of the training's forward passes, on the processor that there was: of a
    training that went on elsewhere it may be two, "bfloat16 and float32".
    """

    weights: dict[str, Tensor]
    history: list[dict[str, Any]]
    precision: str


def run_loop(task: Task, checkpoints: Checkpoints, observer: Observer) -> Trained:
    """Train until the last epoch or until patience ends, going on from the last checkpoint.

    Dropout is seeded by (seed, epoch, rank), all else that is random by the seed and where it is
    used, so a resumed run equals an uninterrupted one.

    Raises:
        FloatingPointError: the loss or a gradient is not finite; no worker takes the step.
        InputError: an epoch has a batch with fewer utterances than there are workers.
    """
    keep_memory()
    workers = Workers()
    stepper = Stepper(task, workers)
    average = WeightAverage(task.model, task.fit.ema_decay)
    history: list[dict[str, Any]] = []
    precisions: list[str] = []
    best = task.model.state_dict()
    if state := checkpoints.load():
        task.model.load_state_dict(state.part("model"))
        task.load_extra_state(state.part("extra"))
        load_optimizer_tensors(stepper.optimizer, state.part("optimizer"))
        average.load_state(state.part("average"))
        stepper.load_state(state.info["stepper"])
        history, best = state.info["history"], state.part("best")
        precisions = state.info["precision"].split(_AND)
        for record in history:
            observer.epoch(task.name, record)
    while len(history) < task.fit.epochs and not _is_out_of_patience(task, history):
        epoch = len(history)
        precisions = _with_present(precisions, task)
        seed_torch(task.seed, epoch, workers.rank)
        record = {"epoch": epoch + 1, **_train_epoch(task, stepper, average, epoch)}
        with average.installed():
            record |= task.evaluate(workers)
            history.append(record)
            if _best_epoch(task, history) == epoch:
                best = {k: v.detach().cpu().clone() for k, v in task.model.state_dict().items()}
        checkpoints.save(_state(task, stepper, average, best, history, precisions), record)
        observer.epoch(task.name, record)
        observer.progress(task.name, epoch + 1, task.fit.epochs, "epochs")
    if not history:  # a model that is made, not trained
        precisions = _with_present(precisions, task)
        record = {"epoch": 0, **task.evaluate(workers)}
        history.append(record)
        checkpoints.save(_state(task, stepper, average, best, history, precisions), record)
        observer.epoch(task.name, record)
    weights = {k: v.detach().cpu() for k, v in best.items()}
    return Trained(weights, history, _AND.join(precisions))


def _with_present(precisions: list[str], task: Task) -> list[str]:
    """Those that a training had, and the one that it has now on this processor."""
    if task.precision in precisions:
        return precisions
    if precisions:
        before = _AND.join(precisions)
        logger.warning("%s: goes on in %s, it began in %s", task.name, task.precision, before)
    return [*precisions, task.precision]


def _state(
    task: Task,
    stepper: Stepper,
    average: WeightAverage,
    best: Mapping[str, Tensor],
    history: list[dict[str, Any]],
    precisions: Sequence[str],
) -> TrainState | None:
    if stepper.workers.rank:
        return None
    tensors = join_parts(
        model=task.model.state_dict(),
        best=best,
        extra=task.extra_state(),
        average=average.state(),
        optimizer=optimizer_tensors(stepper.optimizer),
    )
    precision = _AND.join(precisions)
    info = {"history": history, "stepper": stepper.state, "precision": precision}
    return TrainState(tensors, info)


def _best_epoch(task: Task, history: Sequence[Mapping[str, Any]]) -> int:
    if task.selection is None:
        return len(history) - 1
    values = [record[task.selection] for record in history]
    return values.index(max(values))


def _is_out_of_patience(task: Task, history: Sequence[Mapping[str, Any]]) -> bool:
    if task.fit.patience is None or not history or task.selection is None:
        return False
    waited = history[_best_epoch(task, history) + 1 :]
    # a curriculum that has not come to all data has its best before it
    return sum(record["data_share"] == 1.0 for record in waited) >= task.fit.patience


def _train_epoch(
    task: Task, stepper: Stepper, average: WeightAverage, epoch: int
) -> dict[str, float]:
    task.model.train()
    started = time.perf_counter()
    workers, active = stepper.workers, task.active(epoch)
    plan = task.plan(epoch, active)
    if min(map(len, plan)) < workers.size:
        raise InputError(
            f"{task.name}: every worker must have an utterance of every batch, got a batch of "
            f"{min(map(len, plan))} for {workers.size} workers in epoch {epoch + 1}; a "
            "smaller train.num_workers or, for a student, a larger curriculum.start_share may help"
        )
    shares = [workers.share(batch) for batch in plan]
    cut = [split_batch(task.source.lengths, share, task.max_frames) for share in shares]
    loaded = task.source.load([index for some in cut for index in some], epoch)
    totals: dict[str, list[float]] = {}
    for i, batch in enumerate(plan):
        # at the middle of a step no rate is 0: neither the first nor the last step is lost
        middle = (epoch + (i + 0.5) / len(plan)) / task.fit.epochs
        factor = learning_rate_factor(middle, task.fit.warmup)
        set_learning_rates(stepper.optimizer, factor, task.rate_factors(middle))
        done = (epoch + i / len(plan)) / task.fit.epochs
        step = Step(workers, task.seed, epoch, i, batch, done)
        scalars = task.before_step(shares[i], step) | stepper.take(step, cut[i], loaded)
        average.update()
        for name, value in scalars.items():
            totals.setdefault(name, []).append(value)
    # a term of weight 0 is left out of a step's loss, to which it adds nothing
    taken = len(totals.get("loss", ()))
    counts = {n: taken if n.startswith("loss/") and taken else len(v) for n, v in totals.items()}
    means = {name: sum(values) / counts[name] for name, values in totals.items()}
    if "skipped_steps" in totals:
        means["skipped_steps"] = sum(totals["skipped_steps"])
    return {
        **means,
        **{f"lr/{g['name']}": g["lr"] for g in stepper.optimizer.param_groups},
        "data_share": len(active) / task.num_learned,
        "seconds": time.perf_counter() - started,
    }
