"""Two gloo workers under Ray Train take the same steps as one process."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from serkd import config
from serkd.errors import InputError
from serkd.events import Observer
from serkd.train.average import WeightAverage
from serkd.train.launch import train
from serkd.train.loop import Trained, _train_epoch
from serkd.train.outputs import forward_pair, predict
from serkd.train.step import Stepper
from serkd.train.student import StudentTask
from serkd.train.task import Task
from serkd.train.teacher import EmotionTask
from serkd.train.workers import Workers

# dropout is each worker's own, masks are not; batches of 7 and 9 leave the workers unequal shares
SAME: dict[str, dict[str, Any]] = {
    "student": {
        "student.dropout": 0.0,
        "student.fit.epochs": 3,
        "student.fit.batch_size": 7,
        "distill.supcon_weight": 0.5,
        "distill.supcon_temperature": 0.1,
    },
    "guided student": {
        "student.dropout": 0.0,
        "student.fit.epochs": 3,
        "student.fit.batch_size": 7,
        "student.fit.batches": "class_balanced",
        "distill.supcon_weight": 0.5,
        "distill.supcon_temperature": 0.1,
        "distill.supcon_views": 2,
        "distill.kd": "dkd",
        "distill.dkd_other_weight": 1.0,
        "distill.gamma": 0.3,
        "curriculum.pacing": "linear",
        "curriculum.full_at": 1.0,
        "curriculum.scorer": "student_teacher_kl",
        "curriculum.temperature_curriculum": "instance",
        "curriculum.temperature_full_at": 0.1,
        # Adam divides a gradient that is nearly rounding by its own size
        "curriculum.temperature_lr": 0.01,
        "curriculum.alpha_curriculum": "linear",
        "curriculum.alpha_start": 0.2,
    },
    "extractor": {"extractor.fit.epochs": 2, "extractor.fit.batch_size": 7},
    "teacher_units": {"teacher.stage1.fit.epochs": 2, "teacher.stage1.fit.batch_size": 7},
    "teacher": {
        "teacher.stage2.dropout": 0.0,
        "teacher.stage2.mask_start_share": 0.05,
        "teacher.stage2.unit_weight": 0.5,
        "teacher.stage2.fit.epochs": 3,
        "teacher.stage2.fit.batch_size": 7,
        "backbone.lora.rank": 2,
        "backbone.layer_mix": True,
    },
    "sped teacher": {
        "teacher.stage2.dropout": 0.0,
        "teacher.stage2.fit.epochs": 2,
        "teacher.stage2.fit.batch_size": 7,
        "backbone.layer_mix": "concat",
        "teacher.stage2.augment": {"speed": [0.9, 1.0, 1.25]},
    },
    "augmented teacher": {
        "teacher.stage2.dropout": 0.0,
        "teacher.stage2.mask_start_share": 0.05,
        "teacher.stage2.augment": {"noise_snr_db": [5, 15], "speed": [0.9, 1.1]},
        "teacher.stage2.fit.batches": "class_balanced",
        "teacher.stage2.fit.epochs": 2,
        "teacher.stage2.fit.batch_size": 7,
    },
}


class Builder(Protocol):
    """The part of the `stored` fixture that is used here."""

    def build_task(self, name: str, changes: Mapping[str, Any]) -> Callable[[], Task]: ...


def _logits(task: Task, trained: Trained) -> np.ndarray:
    """What the returned weights say of all utterances.

    Not the weights themselves: some have no influence, such as a bias in front of a softmax or of
    a normalisation, so that their gradient is rounding, which Adam scales up.
    """
    assert isinstance(task, StudentTask | EmotionTask)
    task.model.load_state_dict(trained.weights)
    task.model.eval()
    index = np.arange(len(task.data.utt_ids))
    return predict(forward_pair(task.model), task.source, index, task.device)[0]


def _with(build: Callable[[], Task], settings: config.Train) -> Callable[[], Task]:
    """A teacher's task that is trained, and judged, on an odd number of dev utterances."""
    assert isinstance(build, partial)
    data, *others = build.args
    return partial(build.func, replace(data, dev_ids=data.dev_ids[:-1], train=settings), *others)


def _assert_close(one: Trained, two: Trained, tolerance: float) -> None:
    assert len(one.history) == len(two.history) > 1
    for expected, found in zip(one.history, two.history, strict=True):
        assert found.keys() == expected.keys()
        for key in found.keys() - {"seconds"}:
            assert found[key] == pytest.approx(expected[key], abs=tolerance), key


@pytest.mark.slow
@pytest.mark.parametrize("name", SAME)
def test_two_workers_learn_what_one_learns(
    stored: Builder, ray_cluster: None, tmp_path: Path, name: str
) -> None:
    """The second time round, teachers are given their batches in micro-batches."""
    build = stored.build_task(name.split()[-1], SAME[name])
    found = []
    for number in (1, 2):
        settings = config.Train(num_workers=number, max_frames=[None, 200][number - 1])
        task = _with(build, settings)
        found.append(train(name, task, tmp_path / str(number), settings, Observer()))
    _assert_close(*found, tolerance=1e-4)
    if name in ("student", "guided student", "teacher"):
        logits = [_logits(build(), trained) for trained in found]
        np.testing.assert_allclose(logits[1], logits[0], atol=1e-3)


@pytest.mark.slow
def test_two_workers_of_lower_precision_learn_nearly_what_one_learns(
    stored: Builder, ray_cluster: None, tmp_path: Path
) -> None:
    """Even if they compute layers again where one keeps them."""
    changes = {**SAME["teacher_units"], "backbone.precision": "bfloat16"}
    build = stored.build_task("teacher_units", changes)
    assert isinstance(build, partial)
    data, scales, trunk, *others = build.args
    found = []
    for number in (1, 2):
        again = replace(trunk, checkpoint_layers=number == 2)
        task = partial(build.func, data, scales, again, *others)
        settings = config.Train(num_workers=number)
        found.append(train("units", task, tmp_path / str(number), settings, Observer()))
    for expected, other in zip(*(trained.history for trained in found), strict=True):
        assert other["loss"] == pytest.approx(expected["loss"], rel=0.01)


def test_more_workers_than_cpus_are_refused(
    stored: Builder, ray_cluster: None, tmp_path: Path
) -> None:
    build = stored.build_task("student", {})
    with pytest.raises(InputError, match=r"train\.num_workers must be at most .* = 2, got 3"):
        train("student", build, tmp_path, config.Train(num_workers=3), Observer())


def test_batches_too_small_to_go_round_are_refused(stored: Builder) -> None:
    """The smallest batch of several is half of `batch_size`: here one utterance for two workers."""
    changes = {"train.num_workers": 2, "student.fit.batch_size": 2}
    with pytest.raises(InputError, match=r"student\.fit\.batch_size must .* got 2"):
        stored.build_task("student", changes)


def test_an_epoch_with_too_little_to_go_round_is_refused(stored: Builder) -> None:
    """A curriculum's first share may be less than a worker's each."""
    task = stored.build_task("student", {})()
    stepper = Stepper(task, Workers())
    stepper.workers.size = 2
    task.plan = lambda epoch, active: [np.array([0])]  # type: ignore[method-assign]
    with pytest.raises(InputError, match=r"a batch of 1 for 2 workers .* curriculum\.start_share"):
        _train_epoch(task, stepper, WeightAverage(task.model, task.fit.ema_decay), 0)
