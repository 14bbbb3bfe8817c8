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

# a quiz takes half of the few training utterances, and with them half of the steps of an epoch
META: dict[str, Changes] = {
    "off": {"student.fit.epochs": 9},
    "second": {"meta.order": "second", "meta.every_steps": 5, "student.fit.epochs": 18},
    "finite": {"meta.order": "finite", "meta.every_steps": 5, "student.fit.epochs": 18},
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
    length: {"student.length": length, "student.num_frames": 8}
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
    "student.fit.lr": 1e-2,
    "student.fit.batch_size": 4,
    "student.fit.clip_norm": 5.0,
    "student.dropout": 0.0,
    "student.augment.time_masks": 0,
    "student.augment.mel_masks": 0,
    "distill.supcon_weight": 0.3,
    "curriculum.alpha_curriculum": "cosine",
    "curriculum.alpha_start": 0.2,
    "curriculum.full_at": 0.4,
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
    _train(stored, tmp_path, {**changes, "student.family": "conv_token"})


@pytest.mark.parametrize("names", [*itertools.product(FAMILY, LENGTH, ["dkd"])], ids=", ".join)
def test_every_length_goes_with_every_family(
    stored: Builder, tmp_path: Path, names: tuple[str, str, str]
) -> None:
    _train_family(stored, tmp_path, names)


@pytest.mark.parametrize("names", [*itertools.product(FAMILY, ["window"], LOSS)], ids=", ".join)
def test_every_loss_goes_with_every_family(
    stored: Builder, tmp_path: Path, names: tuple[str, str, str]
) -> None:
    _train_family(stored, tmp_path, names)


def _train_family(stored: Builder, folder: Path, names: tuple[str, str, str]) -> None:
    family, length, loss = names
    changes = {**FAMILY[family], **LENGTH[length], **LOSS[loss], **DATA["self-paced"]}
    many = {"student.num_frames": 60}  # for 80 tokens, few windows are enough
    changes |= many if family == "token" else {}
    _train(stored, folder, {**changes, **META["off"], **TEMPERATURE["instance"]})
