"""A training that dies and goes on equals one that never died, bit for bit."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch

from serkd import devices
from serkd.events import Observer
from serkd.train.checkpoint import FolderCheckpoints, TrainState
from serkd.train.loop import Trained, run_loop
from serkd.train.task import Task

# whatever draws random numbers is on, and three epochs leave one to lose and one to resume from
RANDOM: dict[str, dict[str, Any]] = {
    "extractor": {"extractor.fit.epochs": 3, "extractor.pooling": "attention"},
    "teacher_units": {"teacher.stage1.fit.epochs": 3},
    "teacher": {
        "teacher.stage2.fit.epochs": 3,
        "teacher.stage2.dropout": 0.3,
        "teacher.stage2.mask_start_share": 0.05,
    },
    "sped teacher": {
        "teacher.stage2.fit.epochs": 3,
        "teacher.stage2.dropout": 0.3,
        "backbone.layer_mix": "concat",
        "teacher.stage2.augment": {"speed": [0.9, 1.0, 1.25]},
    },
    "adapted teacher": {
        "teacher.stage2.fit.epochs": 3,
        "teacher.stage2.fit.layer_decay": 0.5,
        "backbone.layer_mix": True,
        "backbone.lora.rank": 2,
        "backbone.lora.dropout": 0.3,
    },
    "student": {
        "student.fit.epochs": 3,
        "student.dropout": 0.3,
        "curriculum.pacing": "root",
        "distill.supcon_weight": 0.3,
    },
    "guided student": {
        "student.fit.epochs": 3,
        "student.dropout": 0.3,
        "student.augment.noise_snr_db": [0.0, 20.0],
        "student.augment.time_shift_frames": 5,
        "student.augment.speed": 0.2,
        "student.augment.gain_db": 6.0,
        "student.augment.filter_db": 6.0,
        "student.augment.crop_frames": 30,
        "student.fit.ema_decay": 0.9,
        "distill.kd": "dkd",
        "distill.gamma": 0.3,
        "distill.supcon_views": 2,
        "curriculum.pacing": "linear",
        "curriculum.full_at": 1.0,
        "curriculum.scorer": "student_teacher_kl",
        "curriculum.temperature_curriculum": "instance",
        "curriculum.alpha_curriculum": "cosine",
        "curriculum.alpha_start": 0.2,
    },
    "guided and meta-taught student": {
        "student.fit.epochs": 3,
        "student.dropout": 0.3,
        "distill.gamma": 0.3,
        "curriculum.temperature_curriculum": "global",
        "meta.order": "finite",
        "meta.teacher_lr": 0.01,
    },
    "meta-taught student": {
        "student.fit.epochs": 3,
        "student.dropout": 0.3,
        "meta.order": "second",
        "meta.teacher_lr": 0.1,
    },
    "layers-taught student": {
        "student.fit.epochs": 3,
        "student.dropout": 0.3,
        "meta.order": "finite",
        "meta.trains": "last_n",
        "meta.teacher_lr": 0.01,
        "meta.rho": 0.5,
        "meta.every_steps": 3,  # an epoch has two steps
    },
}


class _KilledError(Exception):
    """Stands for the end of the process."""


class _DyingCheckpoints(FolderCheckpoints):
    """Dies at an epoch's end, just before or just after its state is kept."""

    def __init__(self, folder: Path, epoch: int, *, is_kept: bool) -> None:
        super().__init__(folder)
        self.epoch, self.is_kept = epoch, is_kept

    def save(self, state: TrainState | None, record: Mapping[str, Any]) -> None:
        if record["epoch"] < self.epoch or self.is_kept:
            super().save(state, record)
        if record["epoch"] == self.epoch:
            raise _KilledError


class Builder(Protocol):
    """The part of the `stored` fixture that is used here."""

    def build_task(self, name: str, changes: Mapping[str, Any]) -> Callable[[], Task]: ...


class _Epochs(Observer):
    def __init__(self) -> None:
        self.heard: list[int] = []

    def epoch(self, stage: str, record: Mapping[str, Any]) -> None:
        self.heard.append(record["epoch"])


def _without_seconds(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in history]


def _assert_same(found: Trained, expected: Trained) -> None:
    assert _without_seconds(found.history) == _without_seconds(expected.history)
    assert found.weights.keys() == expected.weights.keys()
    for name, weight in expected.weights.items():
        assert torch.equal(found.weights[name], weight), name


def _assert_same_state(found: FolderCheckpoints, expected: FolderCheckpoints) -> None:
    ours, theirs = found.load(), expected.load()
    assert ours is not None
    assert theirs is not None
    assert ours.tensors.keys() == theirs.tensors.keys()
    for name, value in theirs.tensors.items():
        assert torch.equal(ours.tensors[name], value), name


@pytest.mark.parametrize("is_kept", [True, False], ids=["after saving", "before saving"])
@pytest.mark.parametrize("name", RANDOM)
def test_a_killed_training_goes_on_as_if_nothing_had_happened(
    stored: Builder, tmp_path: Path, name: str, is_kept: bool
) -> None:
    build = stored.build_task(name.split()[-1], RANDOM[name])
    expected = run_loop(build(), FolderCheckpoints(tmp_path / "whole"), Observer())
    folder = tmp_path / "killed"
    with pytest.raises(_KilledError):
        run_loop(build(), _DyingCheckpoints(folder, 2, is_kept=is_kept), Observer())
    torch.manual_seed(123)  # the next process starts with other random numbers
    epochs = _Epochs()
    found = run_loop(build(), FolderCheckpoints(folder), epochs)
    _assert_same(found, expected)
    # optimizers, and a teacher that moves, too
    _assert_same_state(FolderCheckpoints(folder), FolderCheckpoints(tmp_path / "whole"))
    assert epochs.heard == [1, 2, 3]  # a watcher hears of the epochs before the crash as well


def test_a_training_that_went_on_in_another_precision_says_so(
    stored: Builder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As where the first machine had no bfloat16 and the second one has."""
    build = stored.build_task("student", {**RANDOM["student"], "student.precision": "bfloat16"})
    monkeypatch.setattr(devices, "_has_bfloat16", lambda: False)
    with pytest.raises(_KilledError):
        run_loop(build(), _DyingCheckpoints(tmp_path, 2, is_kept=True), Observer())
    for has_bfloat16 in (True, False):  # the second time there is nothing left to do
        monkeypatch.setattr(devices, "_has_bfloat16", lambda has=has_bfloat16: has)
        found = run_loop(build(), FolderCheckpoints(tmp_path), Observer())
        assert found.precision == "float32 and bfloat16"
    assert caplog.text.count("goes on in bfloat16, it began in float32") == 1


def test_training_twice_gives_the_same_bits(stored: Builder, tmp_path: Path) -> None:
    build = stored.build_task("student", RANDOM["student"])
    first, second = (run_loop(build(), FolderCheckpoints(tmp_path / n), Observer()) for n in "ab")
    _assert_same(second, first)


def test_a_finished_training_is_read_and_not_trained_again(stored: Builder, tmp_path: Path) -> None:
    build = stored.build_task("student", RANDOM["student"])
    checkpoints = FolderCheckpoints(tmp_path)
    expected = run_loop(build(), checkpoints, Observer())
    with torch.no_grad():
        task = build()
        for parameter in task.model.parameters():
            parameter.fill_(float("nan"))  # any step from here would raise
    _assert_same(run_loop(task, checkpoints, Observer()), expected)


def test_a_half_written_state_is_passed_over(stored: Builder, tmp_path: Path) -> None:
    """A process that dies while it writes leaves the state before."""
    build = stored.build_task("student", RANDOM["student"])
    expected = run_loop(build(), FolderCheckpoints(tmp_path / "whole"), Observer())
    folder = tmp_path / "killed"
    with pytest.raises(_KilledError):
        run_loop(build(), _DyingCheckpoints(folder, 2, is_kept=True), Observer())
    (folder / "writing").mkdir()
    (folder / "writing" / "state.safetensors").write_bytes(b"half")
    _assert_same(run_loop(build(), FolderCheckpoints(folder), Observer()), expected)


def test_the_last_state_is_there_until_the_next_one_is(
    stored: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that dies in the very rename that publishes a state."""
    build = stored.build_task("student", RANDOM["student"])
    with pytest.raises(_KilledError):
        run_loop(build(), _DyingCheckpoints(tmp_path, 1, is_kept=True), Observer())

    def die(self: Path, target: Path) -> None:
        raise _KilledError

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", die)
        with pytest.raises(_KilledError):
            run_loop(build(), FolderCheckpoints(tmp_path), Observer())
    state = FolderCheckpoints(tmp_path).load()
    assert state is not None
    assert [record["epoch"] for record in state.info["history"]] == [1]
