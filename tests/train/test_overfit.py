"""A contract: every kind of teacher, through both stages, learns sixteen utterances by heart."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from steps import compute_terms
from torch import Tensor

from serkd.models.heads import POOLINGS
from serkd.stages.frames import read_part
from serkd.train.data import FoldData
from serkd.train.optim import build_optimizer
from serkd.train.outputs import forward_pair, predict
from serkd.train.task import Task
from serkd.train.teacher import EmotionTask, UnitsTask, balance_classes

Suffixes = Mapping[str, Mapping[str, Tensor]]

LOSSES: dict[str, dict[str, str]] = {
    "am_softmax": {"loss": "am_softmax"},
    "aam_softmax": {"loss": "aam_softmax"},
    "cross_entropy": {"loss": "cross_entropy"},
    "weighted": {"loss": "cross_entropy", "class_weights": "balanced"},
}
COUNTS = (6, 5, 3, 2)  # utterances of each emotion, so that weights are not 1


class Builder(Protocol):
    """The part of the `stored` fixture that is used here."""

    def build_task(
        self, name: str, changes: Mapping[str, Any] | None = None
    ) -> Callable[[], Any]: ...


def _take_few(data: FoldData) -> FoldData:
    """Sixteen utterances to learn, of what the fold may learn from and be judged by."""
    found = [np.flatnonzero(data.labels == c)[:count] for c, count in enumerate(COUNTS)]
    few = replace(data, train_ids=tuple(data.utt_ids[i] for i in np.concatenate(found)))
    assert [int((few.train_labels == c).sum()) for c in range(4)] == list(COUNTS)
    return few


def _build(stored: Builder, name: str, **settings: object) -> Callable[[], Any]:
    """A task on the sixteen; `settings` are those of its section."""
    section = {"teacher": "teacher.stage2", "teacher_units": "teacher.stage1"}[name]
    changes = {f"{section}.{key}": value for key, value in settings.items()}
    build = stored.build_task(name, changes)
    assert isinstance(build, partial)
    data, *others = build.args
    return partial(build.func, _take_few(data), *others)


def _descend(task: Task) -> Callable[[], float]:
    """A step on all sixteen; returns the loss before it."""
    optimizer, numbers = build_optimizer([("all", task.model, 3e-3)], 0.0), itertools.count()

    def take_step() -> float:
        task.model.train()
        terms = compute_terms(task, np.arange(16), next(numbers)).values()
        loss = torch.stack([term.weight * term.total / term.count for term in terms]).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(task.model.parameters(), 1.0)
        optimizer.step()
        return float(loss.detach())

    return take_step


@pytest.fixture(scope="module")
def stage_1(stored: Builder, tmp_path_factory: pytest.TempPathFactory) -> Suffixes:
    """Suffixes that learned the units of the sixteen's masked frames, or of all."""
    folder: Path = tmp_path_factory.mktemp("stage_1")
    found = {}
    for frames in ("masked", "all"):
        task: UnitsTask = _build(stored, "teacher_units", frames=frames)()
        take_step = _descend(task)
        losses = [take_step() for _ in range(40)]
        # what is hidden must be guessed, what is not can be copied
        assert np.mean(losses[-5:]) < losses[0] * {"masked": 1.0, "all": 0.1}[frames]
        save_file(task.model.state_dict(), folder / frames)
        found[frames] = read_part(folder / frames, "suffix")
    return found


@pytest.mark.parametrize("frames", ["masked", "all"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("pooling", sorted(POOLINGS))
def test_sixteen_utterances_are_learned_by_heart(
    stored: Builder, stage_1: Suffixes, pooling: str, loss: str, frames: str
) -> None:
    build = _build(stored, "teacher", pooling=pooling, dropout=0.0, **LOSSES[loss])
    task = _start_from(build, stage_1[frames])
    take_step = _descend(task)
    losses: list[float] = []
    for _ in range(150):
        losses.append(take_step())
        task.model.eval()
        logits, _ = predict(forward_pair(task.model), task.source, np.arange(16), task.device)
        are_known = logits.argmax(axis=1) == task.data.train_labels
        if are_known.all() and losses[-1] < losses[0] / 2:
            return
    pytest.fail(f"{pooling}, {loss}: loss {losses[0]:.3f} to {losses[-1]:.3f}, not all learned")


def _start_from(build: Callable[[], Any], suffix: Mapping[str, Tensor]) -> EmotionTask:
    assert isinstance(build, partial)
    data, trunk, start, *others = build.args
    assert start is None
    task = EmotionTask(data, trunk, suffix, *others)
    assert all(torch.equal(value, suffix[key]) for key, value in task.suffix.state_dict().items())
    return task


def test_balanced_weights_make_classes_equal_and_keep_the_mean(stored: Builder) -> None:
    build = stored.build_task("teacher")
    assert isinstance(build, partial)
    few = _take_few(build.args[0])
    weights, labels = balance_classes(few).numpy(), few.train_labels
    assert np.allclose([weights[c] * (labels == c).sum() for c in range(4)], 16 / 4)
    assert weights[labels].mean() == pytest.approx(1.0)
