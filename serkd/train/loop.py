"""The one training loop: in the caller's process, or on the workers of a Ray TorchTrainer."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
from torch import Tensor, nn

from serkd import config
from serkd.errors import InputError
from serkd.events import Observer
from serkd.losses.terms import Term
from serkd.train.batches import plan_batches
from serkd.train.checkpoint import (
    Checkpoints,
    FolderCheckpoints,
    RayCheckpoints,
    TrainState,
    join_parts,
    read_state,
)
from serkd.train.optim import (
    build_optimizer,
    gradients,
    learning_rate_factor,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rates,
)
from serkd.train.workers import Workers


@dataclass(frozen=True)
class Step:
    """Where the loop is: `number` of the batch in its epoch, and the size of the global batch."""

    workers: Workers
    number: int
    global_size: int


class Task(ABC):
    """What a loop trains: a model, its data, its loss and how it is judged."""

    name: str
    model: nn.Module
    fit: config.Fit
    seed: int
    selection: str | None = None  # metric that picks the epoch; None keeps the last one
    device: torch.device

    @property
    @abstractmethod
    def lengths(self) -> np.ndarray:
        """Frames of each training utterance, (U,)."""

    @abstractmethod
    def parameter_groups(self) -> Sequence[tuple[str, nn.Module | nn.Parameter, float]]:
        """(name, module, peak learning rate)."""

    @abstractmethod
    def terms(self, index: np.ndarray, step: Step) -> dict[str, Term]:
        """The loss of this worker's part of a batch; `index` (B,) into the training utterances."""

    @abstractmethod
    def evaluate(self, workers: Workers) -> dict[str, float]:
        """Metrics on dev, the same on every worker."""

    def active(self, epoch: int) -> np.ndarray:
        """The training utterances that an epoch uses."""
        return np.arange(len(self.lengths))

    def extra_state(self) -> dict[str, Tensor]:
        """State of the task outside `model` that a resumed run needs."""
        return {}

    def load_extra_state(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of `extra_state`."""
        assert not tensors, f"{self.name} has no extra state to load"

    def before_step(self, index: np.ndarray, step: Step) -> dict[str, float]:
        """Called before each step with the same batch; scalars to log."""
        return {}


@dataclass(frozen=True)
class Trained:
    """The chosen epoch's weights on the CPU, and a record for each epoch."""

    weights: dict[str, Tensor]
    history: list[dict[str, Any]]


def seed_torch(*parts: int) -> None:
    """Seed torch from several numbers, so that neighbours are unrelated."""
    torch.manual_seed(int(np.random.SeedSequence(parts).generate_state(1)[0]))


def run_loop(task: Task, checkpoints: Checkpoints, observer: Observer) -> Trained:
    """Train until the last epoch or until patience ends, going on from the last checkpoint.

    Everything random is seeded by (seed, epoch, rank), so a resumed run equals an uninterrupted
    one. Gradients are summed over the workers and divided by the global count, so any number of
    workers takes the same steps.

    Raises:
        FloatingPointError: the loss or a gradient is not finite; no worker takes the step.
    """
    workers = Workers()
    optimizer = build_optimizer(task.parameter_groups(), task.fit.weight_decay)
    history: list[dict[str, Any]] = []
    best = task.model.state_dict()
    if state := checkpoints.load():
        task.model.load_state_dict(state.part("model"))
        task.load_extra_state(state.part("extra"))
        load_optimizer_tensors(optimizer, state.part("optimizer"))
        history, best = state.info["history"], state.part("best")
        for record in history:
            observer.epoch(task.name, record)
    while len(history) < task.fit.epochs and not _is_out_of_patience(task, history):
        epoch = len(history)
        seed_torch(task.seed, epoch, workers.rank)
        record = {"epoch": epoch + 1, **_train_epoch(task, optimizer, workers, epoch)}
        record |= task.evaluate(workers)
        history.append(record)
        if _best_epoch(task, history) == epoch:
            best = {k: v.detach().cpu().clone() for k, v in task.model.state_dict().items()}
        checkpoints.save(_state(task, optimizer, best, history, workers), record)
        observer.epoch(task.name, record)
        observer.progress(task.name, epoch + 1, task.fit.epochs, "epochs")
    return Trained({k: v.detach().cpu() for k, v in best.items()}, history)


def _state(
    task: Task,
    optimizer: torch.optim.Optimizer,
    best: Mapping[str, Tensor],
    history: list[dict[str, Any]],
    workers: Workers,
) -> TrainState | None:
    if workers.rank:
        return None
    tensors = join_parts(
        model=task.model.state_dict(),
        best=best,
        extra=task.extra_state(),
        optimizer=optimizer_tensors(optimizer),
    )
    return TrainState(tensors, {"history": history})


def _best_epoch(task: Task, history: Sequence[Mapping[str, Any]]) -> int:
    if task.selection is None:
        return len(history) - 1
    values = [record[task.selection] for record in history]
    return values.index(max(values))


def _is_out_of_patience(task: Task, history: Sequence[Mapping[str, Any]]) -> bool:
    if task.fit.patience is None or not history or task.selection is None:
        return False
    return len(history) - 1 - _best_epoch(task, history) >= task.fit.patience


def _train_epoch(
    task: Task, optimizer: torch.optim.Optimizer, workers: Workers, epoch: int
) -> dict[str, float]:
    task.model.train()
    started = time.perf_counter()
    active = task.active(epoch)
    batches = plan_batches(task.lengths, active, task.fit.batch_size, (task.seed, epoch))
    totals: dict[str, list[float]] = {}
    for i, batch in enumerate(batches):
        progress = (epoch + (i + 1) / len(batches)) / task.fit.epochs
        set_learning_rates(optimizer, learning_rate_factor(progress, task.fit.warmup))
        step = Step(workers, i, len(batch))
        index = workers.share(batch)
        scalars = task.before_step(index, step)
        scalars |= _take_step(task, optimizer, task.terms(index, step), workers)
        for name, value in scalars.items():
            totals.setdefault(name, []).append(value)
    return {
        **{name: float(np.mean(values)) for name, values in totals.items()},
        **{f"lr/{g['name']}": g["lr"] for g in optimizer.param_groups},
        "data_share": len(active) / len(task.lengths),
        "seconds": time.perf_counter() - started,
    }


def _take_step(
    task: Task, optimizer: torch.optim.Optimizer, terms: Mapping[str, Term], workers: Workers
) -> dict[str, float]:
    names = sorted(terms)
    counts = workers.sum(torch.tensor([terms[name].count for name in names], dtype=torch.float64))
    divisors = counts.clamp_min(1.0).tolist()
    parts = [
        terms[n].weight * terms[n].total / divisor
        for n, divisor in zip(names, divisors, strict=True)
    ]
    optimizer.zero_grad()
    torch.stack(parts).sum().backward()
    flat = workers.sum(torch.cat([g.flatten() for g in gradients(optimizer)]))
    values = workers.sum(torch.stack(parts).detach().cpu().double()).tolist()
    norm = float(flat.norm())
    scalars = {"loss": sum(values), **{f"loss/{n}": v for n, v in zip(names, values, strict=True)}}
    if not math.isfinite(norm) or not math.isfinite(scalars["loss"]):
        raise FloatingPointError(
            f"{task.name}: loss and gradient must be finite, got {scalars}, norm {norm}"
        )
    _write_gradients(optimizer, flat * min(1.0, task.fit.clip_norm / (norm + 1e-6)))
    optimizer.step()
    return {**scalars, "grad_norm": norm}


def _write_gradients(optimizer: torch.optim.Optimizer, flat: Tensor) -> None:
    start = 0
    for gradient in gradients(optimizer):
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()


def train(
    stage: str,
    build_task: Callable[[], Task],
    work: Path,
    settings: config.Train,
    observer: Observer,
) -> Trained:
    """Train with the number of workers that `settings` asks for; `work` keeps the checkpoints.

    `build_task` is called where the loop runs, so it must be picklable and must seed itself.
    """
    if settings.num_workers == 1:
        return run_loop(build_task(), FolderCheckpoints(work / "checkpoints"), observer)
    trained = _train_on_ray(build_task, work, settings.num_workers)
    for record in trained.history:
        observer.epoch(stage, record)
    return trained


def _train_on_ray(build_task: Callable[[], Task], work: Path, num_workers: int) -> Trained:
    gpus = ray.cluster_resources().get("GPU", 0)
    if ray.cluster_resources().get("CPU", 0) < num_workers:
        raise InputError(
            "train.num_workers must be at most the cluster's CPUs = "
            f"{ray.cluster_resources().get('CPU', 0):g}, got {num_workers}"
        )
    use_gpu = gpus >= num_workers
    # counts and losses are summed as CPU tensors, which NCCL alone refuses
    backend = "cpu:gloo,cuda:nccl" if use_gpu else "gloo"
    trainer = ray.train.torch.TorchTrainer(
        _worker_loop,
        train_loop_config={"build_task": build_task},
        torch_config=ray.train.torch.TorchConfig(backend=backend),
        scaling_config=ray.train.ScalingConfig(num_workers=num_workers, use_gpu=use_gpu),
        # the same name and path resume: Ray Train hands the last checkpoint to the loop
        run_config=ray.train.RunConfig(
            name="ray_train",
            storage_path=str(work.resolve()),
            failure_config=ray.train.FailureConfig(max_failures=2),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
        ),
    )
    checkpoint = trainer.fit().checkpoint
    with checkpoint.as_directory() as folder:
        state = read_state(Path(folder))
    return Trained(state.part("best"), state.info["history"])


def _worker_loop(settings: Mapping[str, Any]) -> None:
    run_loop(settings["build_task"](), RayCheckpoints(), Observer())
