"""A task's terms outside a loop."""

import numpy as np
import pytest

from serkd.losses.terms import Term
from serkd.train.task import Step, Task
from serkd.train.workers import Workers


def make_step(batch: np.ndarray, number: int = 0) -> Step:
    """A step of one worker on a whole batch."""
    return Step(Workers(), seed=0, epoch=0, number=number, batch=batch)


def compute_terms(task: Task, index: np.ndarray, number: int = 0) -> dict[str, Term]:
    """The terms of a batch, which count what the task says beforehand."""
    step = make_step(index, number)
    (batch,) = task.source.load([index], 0)
    terms = task.terms(index, batch, step)
    assert {n: t.count for n, t in terms.items()} == pytest.approx(task.counts(index, step))
    return terms
