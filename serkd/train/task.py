"""What a training loop trains."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from serkd import config
from serkd.losses.terms import Term
from serkd.train.batches import plan_batches
from serkd.train.source import Padded, Source
from serkd.train.workers import Workers

_COPY_DRAW = 2  # beside what is drawn for utterances and the quiz


@dataclass(frozen=True)
class Step:
    """Where the loop is: `number` of the step in its epoch, and its global `batch`.

    `progress` is the share of training that is done before it.
    """

    workers: Workers
    seed: int
    epoch: int
    number: int
    batch: np.ndarray
    progress: float = 0.0

    def generators(self, index: np.ndarray) -> list[np.random.Generator]:
        """What is random about each utterance in this step, whichever worker has it."""
        where = (self.seed, self.epoch, self.number)
        return [np.random.default_rng((*where, int(utterance))) for utterance in index]

    def generators_of_rows(self, index: np.ndarray) -> list[np.random.Generator]:
        """The same for all of this worker's part of the batch, apart for copies of an utterance.

        Balanced batches have rare ones several times, and equal copies would teach nothing.
        """
        counted: Counter[int] = Counter()
        before = np.zeros(len(self.batch), np.int64)
        for row, utterance in enumerate(self.batch.tolist()):
            before[row] = counted[utterance]
            counted[utterance] += 1
        copies = self.workers.share(before).tolist()
        where = (self.seed, self.epoch, self.number)
        return [
            np.random.default_rng((*where, utterance, *((copy, _COPY_DRAW) if copy else ())))
            for utterance, copy in zip(index.tolist(), copies, strict=True)
        ]


class Task(ABC):
    """A model, its data, its loss and how it is judged."""

    name: str
    model: nn.Module
    source: Source
    fit: config.Fit
    seed: int
    selection: str | None = None  # metric that picks the epoch; None keeps the last one
    device: torch.device
    precision: str = "float32"  # of a training step's forward pass; evaluation is in float32
    max_frames: int | None = None  # padded frames in one forward pass; None = whole batches

    @property
    @abstractmethod
    def lengths(self) -> np.ndarray:
        """Frames of each training utterance, (U,)."""

    @property
    @abstractmethod
    def train_labels(self) -> np.ndarray:
        """Class of each training utterance, (U,); batches may be balanced over them."""

    @property
    def parts(self) -> np.ndarray | None:
        """Which training utterances are read together, (U,); None where the order is free."""
        return None

    @abstractmethod
    def parameter_groups(self) -> Sequence[tuple[str, nn.Module | nn.Parameter, float]]:
        """(name, module, peak learning rate)."""

    @abstractmethod
    def counts(self, index: np.ndarray, step: Step) -> dict[str, float]:
        """The counts of `terms`, which are needed before the first forward pass of a step.

        Only so is a batch's gradient the same however it is cut up.
        """

    @abstractmethod
    def terms(self, index: np.ndarray, batch: Padded, step: Step) -> dict[str, Term]:
        """The loss of a part of a batch: utterances `index` (B,), which are in `batch`."""

    @abstractmethod
    def evaluate(self, workers: Workers) -> dict[str, float]:
        """Metrics on dev, the same on every worker."""

    def active(self, epoch: int) -> np.ndarray:
        """The training utterances that an epoch uses."""
        return np.arange(len(self.lengths))

    @property
    def num_learned(self) -> int:
        """Training utterances that some epoch uses."""
        return len(self.lengths)

    def plan(self, epoch: int, active: np.ndarray) -> list[np.ndarray]:
        """The global batches of an epoch that uses `active`, the same on every worker."""
        return plan_batches(
            self.lengths,
            active,
            self.fit.batch_size,
            (self.seed, epoch),
            self.train_labels if self.fit.batches == "class_balanced" else None,
            self.parts,
        )

    def rate_factors(self, progress: float) -> dict[str, float]:
        """What the learning rates of some groups are multiplied by, beside the schedule."""
        return {}

    def extra_state(self) -> dict[str, Tensor]:
        """State of the task outside `model` that a resumed run needs."""
        return {}

    def load_extra_state(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of `extra_state`."""
        assert not tensors, f"{self.name} has no extra state to load"

    def before_step(self, index: np.ndarray, step: Step) -> dict[str, float]:
        """Called before each step with this worker's share; scalars to log."""
        return {}


def seed_torch(*parts: int) -> None:
    """Seed torch from several numbers, so that neighbours are unrelated."""
    torch.manual_seed(int(np.random.SeedSequence(parts).generate_state(1)[0]))
