"""A contract: every kind of teacher can learn sixteen utterances by heart."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import pytest
import torch

from serkd.models.heads import POOLINGS
from serkd.train.loop import Step
from serkd.train.optim import build_optimizer
from serkd.train.outputs import forward_pair, predict
from serkd.train.teacher import EmotionTask, balance_classes
from serkd.train.workers import Workers

LOSSES = ["am_softmax", "aam_softmax", "cross_entropy"]


class Builder(Protocol):
    """The part of the `stored` fixture that is used here."""

    def build_task(
        self, name: str, changes: Mapping[str, Any] | None = None
    ) -> Callable[[], Any]: ...


def _task(stored: Builder, **settings: object) -> EmotionTask:
    """Of four utterances of each emotion."""
    changes = {f"teacher.stage2.{name}": value for name, value in settings.items()}
    build = stored.build_task("teacher", {**changes, "teacher.stage2.dropout": 0.0})
    assert isinstance(build, partial)
    data, *others = build.args
    labels = data.labels[: len(data.train_ids)]
    chosen = np.concatenate([np.flatnonzero(labels == c)[:4] for c in range(data.num_classes)])
    few = replace(data, train_ids=tuple(data.train_ids[i] for i in chosen))
    return EmotionTask(few, *others)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("pooling", sorted(POOLINGS))
def test_sixteen_utterances_are_learned_by_heart(stored: Builder, pooling: str, loss: str) -> None:
    task = _task(stored, pooling=pooling, loss=loss, class_weights="balanced")
    index, step = np.arange(16), Step(Workers(), 0, 16)
    optimizer = build_optimizer([("all", task.model, 3e-3)], 0.0)
    losses: list[float] = []
    for _ in range(150):
        task.model.train()
        (term,) = task.terms(index, step).values()
        value = term.total / term.count
        losses.append(float(value.detach()))
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(task.model.parameters(), 1.0)
        optimizer.step()
        task.model.eval()
        logits, _ = predict(forward_pair(task.model), task.data.frames, index, task.device)
        are_known = logits.argmax(axis=1) == task.data.labels[index]
        if are_known.all() and losses[-1] < losses[0] / 2:
            return
    pytest.fail(f"{pooling}, {loss}: loss {losses[0]:.3f} to {losses[-1]:.3f}, not all learned")


def test_balanced_weights_make_classes_equal_and_keep_the_mean(stored: Builder) -> None:
    task = _task(stored, class_weights="balanced")
    few = replace(task.data, train_ids=task.data.train_ids[2:])  # two less of the first class
    weights = balance_classes(few).numpy()
    labels = few.labels[: len(few.train_ids)]
    sums = [weights[c] * (labels == c).sum() for c in range(4)]
    assert np.allclose(sums, len(labels) / 4)
    assert weights[labels].mean() == pytest.approx(1.0)
