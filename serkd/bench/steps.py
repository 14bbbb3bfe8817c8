"""Training steps of a teacher whose frames come in two ways; the ways take turns at every step."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from serkd import config
from serkd.corpora.audio import Cut
from serkd.corpora.manifest import Manifest
from serkd.events import Observer
from serkd.features.backbone import Backbone
from serkd.features.encoders import PrefixEncoder
from serkd.features.extract import Sink, extract_frames
from serkd.features.parts import split_audio
from serkd.features.store import stack_frames
from serkd.models.trunk import Trunk
from serkd.train.batches import plan_batches
from serkd.train.data import FoldData
from serkd.train.optim import learning_rate_factor, set_learning_rates
from serkd.train.source import MemorySource, Padded
from serkd.train.step import Stepper
from serkd.train.task import Step, seed_torch
from serkd.train.teacher import EmotionTask
from serkd.train.waveforms import hear_training
from serkd.train.workers import Workers

_SEED = 0


@dataclass
class Way:
    """A task, where its frames come from, and what its steps took and gave."""

    task: EmotionTask
    frames: Iterator[Padded]
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.task.model.train()
        self.stepper = Stepper(self.task, Workers())

    def take(self, batch: np.ndarray, number: int, total: int) -> None:
        """A step as in training, with the same dropout for all who take its number."""
        seed_torch(_SEED, number)
        fit = self.task.fit
        set_learning_rates(
            self.stepper.optimizer, learning_rate_factor((number + 1) / total, fit.warmup)
        )
        started = time.perf_counter()
        scalars = self.stepper.take(Step(Workers(), _SEED, 0, number, batch), [batch], self.frames)
        self.seconds.append(time.perf_counter() - started)
        self.losses.append(scalars["loss"])


def extract_prefix(
    backbone: Backbone, manifest: Manifest, utt_ids: Sequence[str], layers: Sequence[int], out: Path
) -> float:
    """Store layers of some utterances, as the stage does; seconds."""
    started = time.perf_counter()
    utterances = [manifest.by_id[utt_id] for utt_id in utt_ids]
    extract_frames(
        "bench",
        split_audio(utterances, Cut()),
        PrefixEncoder(backbone, max(layers), "cpu", tuple(layers)),
        {f"layer_{n}": Sink(out / f"layer_{n}", f"layer_{n}") for n in layers},
        num_actors=0,
        num_gpus=0.0,
        observer=Observer(),
    )
    return time.perf_counter() - started


def _build_task(data: FoldData, trunk: Trunk, batch_size: int) -> EmotionTask:
    settings = config.Stage2(fit=config.Stage2Fit(batch_size=batch_size))
    return EmotionTask(data, trunk, None, settings, _SEED, "cpu")


def _make_plan(task: EmotionTask, num_steps: int) -> list[np.ndarray]:
    plan: list[np.ndarray] = []
    while len(plan) < num_steps:
        plan += task.plan(len(plan), task.active(len(plan)))
    return plan[:num_steps]


def compare_prefix(data: FoldData, trunk: Trunk, batch_size: int, num_steps: int) -> dict[str, Way]:
    """Steps on stored frames, and on those that the frozen prefix computes in every step.

    What recomputes has decoded its audio before. Both have the same weights, batches and dropout.
    """
    tasks = {way: _build_task(data, trunk, batch_size) for way in ("stored", "recomputed")}
    plan = _make_plan(tasks["stored"], num_steps)
    source = hear_training(data, trunk, config.Augment(), _SEED, "cpu")
    for number in range(len(data.train_ids)):
        source.audio[number]
    ways = {
        "stored": Way(tasks["stored"], data.source.load(plan, 0)),
        "recomputed": Way(tasks["recomputed"], source.load(plan, 0)),
    }
    _take_turns(ways, [(batch, batch) for batch in plan])
    return ways


def compare_batches(
    data: FoldData, trunk: Trunk, durations: np.ndarray, batch_size: int, num_epochs: int
) -> dict[str, Way]:
    """Epochs in batches of similar length, and in random ones; frames are noise.

    `durations` (U,) are seconds, one for each of the fold's utterances.
    """
    lengths = count_frames(durations)
    rng = np.random.default_rng(_SEED)
    arrays = [rng.standard_normal((n, trunk.dim), np.float32).astype(np.float16) for n in lengths]
    source = MemorySource(stack_frames([str(i) for i in range(len(arrays))], arrays))
    plans = _plan_ways(lengths, batch_size, num_epochs)
    ways = {
        way: Way(_build_task(data, trunk, batch_size), source.load(plan, 0))
        for way, plan in plans.items()
    }
    _take_turns(ways, list(zip(*plans.values(), strict=True)))
    return ways


def _take_turns(ways: Mapping[str, Way], plan: Sequence[Sequence[np.ndarray]]) -> None:
    """All ways take a step, each with its own batch; who begins alternates."""
    for number, batches in enumerate(plan):
        turns = list(zip(ways.values(), batches, strict=True))
        for way, batch in turns if number % 2 == 0 else reversed(turns):
            way.take(batch, number, len(plan))


def count_frames(durations: np.ndarray) -> np.ndarray:
    """Frames of utterances of some seconds, (U,): 50 a second."""
    return np.maximum(1, (50 * durations).astype(int))


def _plan_ways(
    lengths: np.ndarray, batch_size: int, num_epochs: int
) -> dict[str, list[np.ndarray]]:
    """Batches of each way, equally many of each size."""
    index, rng = np.arange(len(lengths)), np.random.default_rng(_SEED)
    plans: dict[str, list[np.ndarray]] = {"bucketed": [], "random": []}
    for epoch in range(num_epochs):
        batches = plan_batches(lengths, index, batch_size, (_SEED, epoch))
        plans["bucketed"] += batches
        ends = np.cumsum([len(batch) for batch in batches])[:-1]
        plans["random"] += np.split(rng.permutation(index), ends)
    return plans


def padding_shares(lengths: np.ndarray, batch_size: int) -> dict[str, float]:
    """Frames of an epoch that are padding by all frames, of each way; `lengths` (U,)."""
    return {
        way: float(1 - lengths.sum() / sum(len(batch) * lengths[batch].max() for batch in plan))
        for way, plan in _plan_ways(lengths, batch_size, 1).items()
    }
