"""A task on which workers meet with accidents."""

import os
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from serkd import config
from serkd.features.store import stack_frames
from serkd.losses.terms import Term
from serkd.train.source import MemorySource, Padded
from serkd.train.task import Step, Task
from serkd.train.workers import Workers

Accident = Callable[[Step, Tensor], Tensor]  # what becomes of a loss


def no_accident(step: Step, loss: Tensor) -> Tensor:
    return loss


def _is_at(step: Step, rank: int, epoch: int, number: int) -> bool:
    return (step.workers.rank, step.epoch, step.number) == (rank, epoch, number)


def lone_nan(step: Step, loss: Tensor) -> Tensor:
    """Rank 1 alone, in the last step of the second epoch."""
    return loss * float("nan") if _is_at(step, 1, 1, 1) else loss


def lone_overflow(step: Step, loss: Tensor) -> Tensor:
    """A gradient of rank 1 alone is infinite, the loss is not."""
    if not _is_at(step, 1, 1, 1):
        return loss
    return loss + (loss - loss.detach()).clamp_min(0).sqrt()


def death(marker: str, step: Step, loss: Tensor) -> Tensor:
    """Rank 1 is killed in the middle of the third epoch, once."""
    if _is_at(step, 1, 2, 1) and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return loss


class Line(Task):
    """A line through points, on the CPU; dev UARs rise and fall."""

    name = "line"
    selection = "dev_uar"
    device = torch.device("cpu")

    def __init__(self, precision: str, accident: Accident, epochs: int = 4) -> None:
        self.fit = config.Fit(epochs=epochs, batch_size=8, lr=0.1, warmup=0.0)
        self.seed, self.precision, self.accident = 0, precision, accident
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.2), nn.Linear(4, 1))
        values = torch.randn(16, 3).numpy()
        self.source = MemorySource(stack_frames([str(i) for i in range(16)], values[:, None]))

    @property
    def lengths(self) -> np.ndarray:
        return np.arange(1, 17)

    @property
    def train_labels(self) -> np.ndarray:
        return np.zeros(16, np.int64)

    def parameter_groups(self) -> Sequence[tuple[str, nn.Module | nn.Parameter, float]]:
        return [("line", self.model, self.fit.lr)]

    def counts(self, index: np.ndarray, step: Step) -> dict[str, float]:
        return {"square": float(len(index))}

    def terms(self, index: np.ndarray, batch: Padded, step: Step) -> dict[str, Term]:
        # small enough that no gradient overflows in float16 by itself
        loss = 0.01 * (self.model(batch.frames[:, 0]).float() - 0.3).square().sum()
        return {"square": Term(self.accident(step, loss), float(len(index)))}

    def evaluate(self, workers: Workers) -> dict[str, float]:
        """Of the weights, so that a resumed run must have the same ones."""
        self.model.eval()
        with torch.inference_mode():
            error = float((self.model(torch.ones(3)) - 2.0).abs())
        return {"dev_uar": 1.0 / (1.0 + error)}


def build_line(precision: str = "float32", accident: Accident = no_accident) -> Callable[[], Task]:
    """What a worker builds the task with."""
    return partial(Line, precision, accident)
