"""Two gloo workers under Ray Train take the same steps as one process."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from serkd import config
from serkd.errors import InputError
from serkd.events import Observer
from serkd.train.loop import Task, Trained, train
from serkd.train.outputs import forward_pair, predict
from serkd.train.student import StudentTask
from serkd.train.teacher import EmotionTask

# the workers draw different random numbers, so nothing may be random; batches of 7 and 9 leave
# the workers with unequal shares
SAME: dict[str, dict[str, Any]] = {
    "student": {
        "student.dropout": 0.0,
        "student.augment.time_masks": 0,
        "student.augment.mel_masks": 0,
        "student.fit.epochs": 3,
        "student.fit.batch_size": 7,
        "distill.supcon_weight": 0.5,
        "distill.supcon_temperature": 0.1,
    },
    "teacher": {
        "teacher.stage2.dropout": 0.0,
        "teacher.stage2.mask_start_share": 0.0,
        "teacher.stage2.fit.epochs": 3,
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
    frames = task.data.frames
    return predict(forward_pair(task.model), frames, np.arange(len(frames)), task.device)[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", SAME)
def test_two_workers_learn_what_one_learns(
    stored: Builder, ray_cluster: None, tmp_path: Path, name: str
) -> None:
    build = stored.build_task(name, SAME[name])
    one, two = (
        train(name, build, tmp_path / str(n), config.Train(num_workers=n), Observer())
        for n in (1, 2)
    )
    assert len(one.history) == len(two.history) == 3
    for expected, found in zip(one.history, two.history, strict=True):
        assert found.keys() == expected.keys()
        for key in found.keys() - {"seconds"}:
            assert found[key] == pytest.approx(expected[key], abs=1e-4), key
    logits = [_logits(build(), trained) for trained in (one, two)]
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-3)


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
