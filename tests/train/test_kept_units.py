"""Stage 1's loss as a regulariser of stage 2."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import torch
from steps import compute_terms

from serkd.events import Observer
from serkd.train.checkpoint import FolderCheckpoints
from serkd.train.loop import run_loop
from serkd.train.outputs import forward_pair, predict
from serkd.train.teacher import EmotionTask

SCALES = {"units_L2_K4": 4, "units_L2_K8": 8}


class Builder(Protocol):
    """The part of the `stored` fixture that is used here."""

    def build_task(
        self, name: str, changes: Mapping[str, Any] | None = None
    ) -> Callable[[], Any]: ...


def _task(stored: Builder, unit_weight: float, **settings: object) -> EmotionTask:
    changes = {f"teacher.stage2.{name}": value for name, value in settings.items()}
    return stored.build_task("teacher", {**changes, "teacher.stage2.unit_weight": unit_weight})()


@pytest.mark.parametrize("pooling", ["mean", "attentive_statistics"])
def test_its_loss_is_that_of_every_valid_frame_one_by_one(stored: Builder, pooling: str) -> None:
    task, index = _task(stored, 0.3, pooling=pooling), np.array([0, 5, 9])
    task.model.eval()  # no dropout: a second forward pass must be the same
    terms = compute_terms(task, index)
    assert set(terms) == {"emotion", *SCALES}
    assert task.units is not None
    for scale, (name, num_units) in enumerate(SCALES.items()):
        losses = []
        for i in index:  # alone, so that no frame is padding
            (lone,) = task.source.load([np.array([i])], None)
            hidden, mask = lone.to(task.device)
            first, _, last = task.units.heads[scale]
            frames = task.suffix(hidden, mask)[-1][0]
            logits = last(torch.tanh(first(frames))).detach().double()
            shares = torch.exp(logits) / torch.exp(logits).sum(dim=1, keepdim=True)
            units = task.units.targets.units[scale][int(i)]
            losses += [-math.log(share[unit]) for share, unit in zip(shares, units, strict=True)]
        term = terms[name]
        assert term.count == len(losses) == int(task.lengths[index].sum())
        expected = 0.3 * sum(losses) / len(losses) / math.log(num_units)
        assert term.weight * term.total.item() / term.count == pytest.approx(expected, rel=1e-4)


def test_it_leaves_the_emotions_loss_as_it_is(stored: Builder) -> None:
    found = []
    for weight in (0.0, 2.0):
        torch.manual_seed(0)
        found.append(compute_terms(_task(stored, weight), np.arange(8))["emotion"].total)
    assert torch.equal(*found)


def _train(stored: Builder, unit_weight: float, folder: Path, **settings: object) -> Any:  # noqa: ANN401
    task = _task(stored, unit_weight, **settings)
    return run_loop(task, FolderCheckpoints(folder / f"{unit_weight}"), Observer())


def test_a_vanishing_weight_gives_the_teacher_without_it(stored: Builder, tmp_path: Path) -> None:
    settings: dict[str, object] = {"fit.epochs": 1, "fit.backbone_lr": 1e-3}
    trained = [_train(stored, weight, tmp_path, **settings) for weight in (0.0, 1e-9, 1.0)]
    plain, least, much = (found.weights for found in trained)
    assert plain.keys() == least.keys()  # unit heads are no part of a teacher
    # of outputs, since Adam moves parameters on which nothing depends by their gradient's noise
    task = _task(stored, 0.0)
    logits = []
    for weights in (plain, least, much):
        task.model.load_state_dict(weights)
        found, _ = predict(
            forward_pair(task.model.eval()), task.source, task.data.dev_index, task.device
        )
        logits.append(found)
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-3)
    assert np.abs(logits[2] - logits[0]).max() > 1e-2
    losses = [found.history[0]["loss"] for found in trained]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    assert losses[2] > losses[0] + 0.1


def test_unit_heads_go_on_learning_and_survive_an_interruption(
    stored: Builder, tmp_path: Path
) -> None:
    whole = _train(stored, 0.5, tmp_path / "whole", **{"fit.epochs": 2})

    class Stop(Observer):
        def epoch(self, stage: str, record: Mapping[str, Any]) -> None:
            raise KeyboardInterrupt

    checkpoints = FolderCheckpoints(tmp_path / "cut")
    first = _task(stored, 0.5, **{"fit.epochs": 2})
    before = {k: v.clone() for k, v in first.extra_state().items()}
    with pytest.raises(KeyboardInterrupt):
        run_loop(first, checkpoints, Stop())
    assert any(not torch.equal(v, before[k]) for k, v in first.extra_state().items())
    resumed = run_loop(_task(stored, 0.5, **{"fit.epochs": 2}), checkpoints, Observer())
    for name, value in whole.weights.items():
        assert torch.equal(resumed.weights[name], value), name
