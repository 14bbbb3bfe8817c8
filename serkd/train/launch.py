"""Where a training loop runs: in the caller's process, or on the workers of a Ray TorchTrainer."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from serkd import config
from serkd.errors import InputError
from serkd.events import Observer
from serkd.storage.mirror import find_mirror
from serkd.train.checkpoint import FolderCheckpoints, RayCheckpoints, read_state
from serkd.train.loop import Trained, run_loop
from serkd.train.task import Task

_HERE, _ON_RAY = "checkpoints", "ray_train"  # folders below that of the work


def has_checkpoint(work: Path) -> bool:
    """Whether a training in this folder has finished an epoch, from which it would go on."""
    return any((work / _HERE).glob("epoch-*")) or any((work / _ON_RAY).glob("checkpoint_*"))


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
        return run_loop(build_task(), FolderCheckpoints(work / _HERE), observer)
    trained = _train_on_ray(build_task, work, settings)
    for record in trained.history:
        observer.epoch(stage, record)
    return trained


def _train_on_ray(build_task: Callable[[], Task], work: Path, settings: config.Train) -> Trained:
    if find_mirror(work) is not None and sum(node["Alive"] for node in ray.nodes()) > 1:
        raise InputError(
            "train.num_workers must be 1 where --storage is an object store and the cluster has "
            f"several machines, got {settings.num_workers}: workers read the same folder"
        )
    scaling = _scale(settings)
    # counts and losses are summed as CPU tensors, which NCCL alone refuses
    backend = "cpu:gloo,cuda:nccl" if scaling.use_gpu else "gloo"
    trainer = ray.train.torch.TorchTrainer(
        _worker_loop,
        train_loop_config={"build_task": build_task},
        torch_config=ray.train.torch.TorchConfig(backend=backend),
        scaling_config=scaling,
        # the same name and path resume: Ray Train hands the last checkpoint to the loop
        run_config=ray.train.RunConfig(
            name=_ON_RAY,
            storage_path=str(work.resolve()),
            failure_config=ray.train.FailureConfig(max_failures=2),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.WorkerGroupError as error:
        # others that waited for the worker whose input is wrong have broken too
        problems = [e for e in error.worker_failures.values() if isinstance(e, InputError)]
        if problems:
            raise problems[0] from error
        raise
    if result.return_value is not None:
        raise FloatingPointError(result.return_value)
    with result.checkpoint.as_directory() as folder:
        state = read_state(Path(folder))
    return Trained(state.part("best"), state.info["history"], state.info["precision"])


def _scale(settings: config.Train) -> ray.train.ScalingConfig:
    """What the workers take of the cluster.

    Raises:
        InputError: the cluster cannot hold them all at once, so they would wait for ever.
    """
    count, asked = settings.num_workers, settings.resources_per_worker
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    needs = asked or {"CPU": 1.0, **({} if settings.device == "cpu" else {"GPU": 1.0})}
    if asked is None and settings.device == "auto" and count_fitting(nodes, needs) < count:
        needs = {"CPU": 1.0}
    if (most := count_fitting(nodes, needs)) < count:
        have = "; ".join(
            ", ".join(f"{node.get(name, 0):g} {name}" for name in needs) for node in nodes
        )
        raise InputError(
            f"train.num_workers must be at most the cluster's room for workers of "
            f"{', '.join(f'{value:g} {name}' for name, value in needs.items())} = {most}, "
            f"got {count}; its nodes have {have}"
        )
    return ray.train.ScalingConfig(
        num_workers=count, use_gpu="GPU" in needs, resources_per_worker=needs
    )


def count_fitting(nodes: Sequence[Mapping[str, float]], needs: Mapping[str, float]) -> int:
    """How many workers, or trials, the nodes hold; each is on one node.

    A third of a GPU goes three times into one: shares are rounded before they are counted.
    """
    return sum(
        min(int(node.get(name, 0) / need + 1e-6) for name, need in needs.items()) for node in nodes
    )


def _worker_loop(settings: Mapping[str, Any]) -> str | None:
    """Train, or return what is not finite."""
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        run_loop(settings["build_task"](), RayCheckpoints(), Observer())
    except FloatingPointError as error:
        # raised by all workers at once; Ray Train would go on from the last epoch, to the same end
        return str(error)
    return None
