"""A contract: any loss, curriculum and family together train without a NaN and lower the loss."""

import itertools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from serkd.events import Observer
from serkd.train.checkpoint import FolderCheckpoints
from serkd.train.loop import run_loop
from serkd.train.outputs import forward_pair, predict
from serkd.train.student import StudentTask
from serkd.train.task import Task

Changes = Mapping[str, Any]

META: dict[str, Changes] = {
    order: {"meta.order": order, "meta.every_steps": 3} for order in ("off", "second", "finite")
}
DATA: dict[str, Changes] = {
    "all data": {"curriculum.pacing": "none"},
    "margin": {"curriculum.pacing": "linear", "curriculum.scorer": "margin"},
    "hard first": {
        "curriculum.pacing": "exponential",
        "curriculum.num_jumps": 3,
        "curriculum.scorer": "teacher_entropy",
        "curriculum.control": "anti",
    },
    "self-paced": {"curriculum.pacing": "root", "curriculum.scorer": "student_teacher_kl"},
}
TEMPERATURE: dict[str, Changes] = {
    mode: {"curriculum.temperature_curriculum": mode} for mode in ("off", "global", "instance")
}
LENGTH: dict[str, Changes] = {
    length: {"student.length": length, "student.num_frames": 24}
    for length in ("crop", "resample", "window")
}
FAMILY: dict[str, Changes] = {
    name: {"student.family": name} for name in ("conv", "token", "conv_token")
}
LOSS: dict[str, Changes] = {
    kd: {"distill.kd": kd, "distill.gamma": 0.2, "distill.supcon_views": views}
    for kd, views in (("kl", 1), ("mse_logits", 2), ("dkd", 2))
}
ALWAYS: Changes = {
    "student.fit.epochs": 14,
    "student.width": 8,
    "student.depth": 1,
    "student.logmel.frame_rate_hz": 100,
    "student.fit.lr": 5e-3,
    "student.fit.batch_size": 4,
    "student.fit.clip_norm": 5.0,
    "student.dropout": 0.0,
    "student.augment.time_masks": 0,
    "student.augment.mel_masks": 0,
    "distill.supcon_weight": 0.3,
    "curriculum.alpha_curriculum": "cosine",
    "curriculum.alpha_start": 0.2,
    "curriculum.full_at": 0.7,
}


class Builder(Protocol):
    """The part of the `stored` fixture that is used here."""

    def build_task(self, name: str, changes: Changes | None = None) -> Callable[[], Task]: ...


def _loss(task: StudentTask) -> float:
    """Cross-entropy and distillation on what is learned, whatever the curriculum is at."""
    assert task.teacher is not None
    task.model.eval()
    index = np.flatnonzero(~task.quiz)
    found, _ = predict(forward_pair(task.model), task.source, index, task.device)
    logits, teacher = torch.from_numpy(found), torch.from_numpy(task.teacher.logits[index])
    kd = F.kl_div(logits.log_softmax(-1), teacher.softmax(-1), reduction="batchmean")
    return float(F.cross_entropy(logits, torch.from_numpy(task.train_labels[index])) + kd)


def _train(stored: Builder, folder: Path, changes: Changes) -> None:
    task = stored.build_task("student", {**ALWAYS, **changes})()
    assert isinstance(task, StudentTask)
    before = _loss(task)
    task.selection = None  # the last epoch, not the one that is best on a few dev utterances
    history = run_loop(task, FolderCheckpoints(folder), Observer()).history
    state = FolderCheckpoints(folder).load()
    assert state is not None
    assert state.tensors["optimizer.0.step"] >= 20
    for record in history:
        assert all(math.isfinite(value) for value in record.values())
    assert _loss(task) < before


@pytest.mark.parametrize(
    "names", [*itertools.product(META, DATA, TEMPERATURE, LENGTH)], ids=", ".join
)
def test_every_curriculum_goes_with_every_other(
    stored: Builder, tmp_path: Path, names: tuple[str, str, str, str]
) -> None:
    meta, data, temperature, length = names
    changes = {**META[meta], **DATA[data], **TEMPERATURE[temperature], **LENGTH[length]}
    _train(stored, tmp_path, {**changes, "student.family": "token"})


@pytest.mark.parametrize("names", [*itertools.product(FAMILY, LENGTH, LOSS)], ids=", ".join)
def test_every_loss_goes_with_every_family(
    stored: Builder, tmp_path: Path, names: tuple[str, str, str]
) -> None:
    family, length, loss = names
    changes = {**FAMILY[family], **LENGTH[length], **LOSS[loss], **DATA["self-paced"]}
    _train(stored, tmp_path, {**changes, **META["second"], **TEMPERATURE["instance"]})
