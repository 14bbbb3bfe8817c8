"""The training loop on a model small enough to follow by hand."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from serkd import config
from serkd.events import Observer
from serkd.features.store import stack_frames
from serkd.losses.terms import Term
from serkd.train.checkpoint import FolderCheckpoints
from serkd.train.loop import run_loop
from serkd.train.optim import learning_rate_factor
from serkd.train.source import MemorySource, Padded
from serkd.train.task import Step, Task
from serkd.train.workers import Workers

Loss = Callable[["ToyTask", Tensor], Tensor]


def _squares(task: "ToyTask", inputs: Tensor) -> Tensor:
    return (task.model(inputs) - 3.0).square().sum()


class ToyTask(Task):
    """A line through points; dev UARs are given, one an epoch, and weights are noted."""

    name = "toy"
    selection = "dev_uar"
    device = torch.device("cpu")

    def __init__(self, fit: config.Fit, uars: Sequence[float], loss: Loss = _squares) -> None:
        self.fit, self.seed, self.uars, self.loss = fit, 0, list(uars), loss
        torch.manual_seed(0)
        self.model = nn.Linear(2, 1)
        self.inputs = torch.randn(16, 2)
        self.num_steps = 0
        self.before_steps: list[dict[str, Tensor]] = []
        self.after_epoch: list[dict[str, Tensor]] = []
        self.batches: list[list[int]] = []
        points = self.inputs.numpy()[:, None]
        self.source = MemorySource(stack_frames([str(i) for i in range(16)], list(points)))

    @property
    def lengths(self) -> np.ndarray:
        return np.arange(1, 17)

    @property
    def train_labels(self) -> np.ndarray:
        return np.arange(16) // 12  # twelve of one class, four of the other

    def parameter_groups(self) -> Sequence[tuple[str, nn.Module | nn.Parameter, float]]:
        return [("line", self.model, self.fit.lr)]

    def counts(self, index: np.ndarray, step: Step) -> dict[str, float]:
        return {"square": float(len(index))}

    def terms(self, index: np.ndarray, batch: Padded, step: Step) -> dict[str, Term]:
        self.num_steps += 1
        self.before_steps.append(self.weights())
        self.batches.append(index.tolist())
        return {"square": Term(self.loss(self, batch.frames[:, 0]), float(len(index)))}

    def weights(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.model.state_dict().items()}

    def evaluate(self, workers: Workers) -> dict[str, float]:
        self.after_epoch.append(self.weights())
        return {"dev_uar": self.uars[len(self.after_epoch) - 1]}


def _fit(epochs: int, patience: int | None = None, **settings: float) -> config.Fit:
    defaults: dict[str, Any] = {"batch_size": 8, "lr": 0.1}
    return config.Fit(epochs=epochs, patience=patience, **{**defaults, **settings})


def _same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_the_best_epochs_weights_are_returned_and_the_first_of_equals(tmp_path: Path) -> None:
    task = ToyTask(_fit(5), [0.2, 0.5, 0.7, 0.7, 0.6])
    trained = run_loop(task, FolderCheckpoints(tmp_path), Observer())
    assert _same(trained.weights, task.after_epoch[2])
    assert not _same(trained.weights, task.after_epoch[3])
    assert [record["dev_uar"] for record in trained.history] == task.uars


def test_the_last_epoch_is_returned_where_nothing_selects(tmp_path: Path) -> None:
    task = ToyTask(_fit(3), [0.9, 0.5, 0.1])
    task.selection = None
    trained = run_loop(task, FolderCheckpoints(tmp_path), Observer())
    assert _same(trained.weights, task.after_epoch[2])


def test_what_is_judged_and_returned_is_the_average_of_the_steps_weights(tmp_path: Path) -> None:
    task = ToyTask(_fit(3, ema_decay=0.3), [0.1, 0.9, 0.2])
    trained = run_loop(task, FolderCheckpoints(tmp_path), Observer())
    expected, *steps = task.before_steps[:5]  # two epochs have four steps
    for number, weights in enumerate(steps, start=1):
        decay = min(0.3, (1 + number) / (10 + number))
        expected = {k: decay * v + (1 - decay) * weights[k] for k, v in expected.items()}
    for name, value in expected.items():
        torch.testing.assert_close(task.after_epoch[1][name], value)
    assert _same(trained.weights, task.after_epoch[1])
    assert not _same(steps[-1], task.after_epoch[1])


@pytest.mark.parametrize(("patience", "expected"), [(None, 8), (1, 3), (2, 4), (3, 8)], ids=str)
def test_patience_counts_epochs_without_a_better_dev_uar(
    tmp_path: Path, patience: int | None, expected: int
) -> None:
    task = ToyTask(_fit(8, patience), [0.2, 0.5, 0.4, 0.5, 0.6, 0.3, 0.7, 0.2])
    trained = run_loop(task, FolderCheckpoints(tmp_path), Observer())
    assert len(trained.history) == expected
    # once more: an ended training stays ended
    again = ToyTask(_fit(8, patience), [math.nan] * 8)
    assert len(run_loop(again, FolderCheckpoints(tmp_path), Observer()).history) == expected


class PacedTask(ToyTask):
    """Has a half of its points in the first four epochs."""

    def active(self, epoch: int) -> np.ndarray:
        return np.arange(16 if epoch >= 4 else 8)


def test_patience_does_not_count_epochs_before_a_curriculum_has_come_to_all_data(
    tmp_path: Path,
) -> None:
    task = PacedTask(_fit(8, 2), [0.9, 0.5, 0.4, 0.5, 0.6, 0.3, 0.7, 0.2])
    history = run_loop(task, FolderCheckpoints(tmp_path), Observer()).history
    assert [record["data_share"] for record in history] == [0.5] * 4 + [1.0] * 2


def _breaks_at(step: int, broken: Callable[[Tensor], Tensor]) -> Loss:
    def loss(task: ToyTask, inputs: Tensor) -> Tensor:
        whole = _squares(task, inputs)
        return broken(whole) if task.num_steps == step else whole

    return loss


def _infinite_slope(loss: Tensor) -> Tensor:
    """A finite value whose gradient is not."""
    return loss + (loss - loss.detach()).clamp_min(0).sqrt()


@pytest.mark.parametrize(
    "broken",
    [lambda loss: loss * math.nan, lambda loss: loss * math.inf, _infinite_slope],
    ids=["nan", "inf", "gradient"],
)
def test_a_loss_that_is_not_finite_raises_before_any_weight_moves(
    tmp_path: Path, broken: Callable[[Tensor], Tensor]
) -> None:
    seen: list[dict[str, Tensor]] = []

    def loss(task: ToyTask, inputs: Tensor) -> Tensor:
        seen.append(task.weights())
        return _breaks_at(4, broken)(task, inputs)

    task = ToyTask(_fit(5, warmup=0.0), [0.0] * 5, loss)
    with pytest.raises(FloatingPointError, match="toy: loss and gradient must be finite"):
        run_loop(task, FolderCheckpoints(tmp_path), Observer())
    assert len(seen) == 4
    assert not _same(seen[2], seen[3])
    assert _same(seen[3], task.weights())


def test_one_step_is_that_of_adamw_on_the_mean_with_a_clipped_gradient(tmp_path: Path) -> None:
    # one epoch of one step, in the middle of the schedule: no step of any training has a rate of 0
    fit = _fit(1, warmup=0.0, batch_size=16, clip_norm=0.5, weight_decay=0.3)
    task, by_hand = ToyTask(fit, [0.0]), ToyTask(fit, [0.0])
    run_loop(task, FolderCheckpoints(tmp_path), Observer())
    lr = 0.1 * 0.5 * (1 + math.cos(math.pi * 0.5))
    weight, bias = by_hand.model.weight, by_hand.model.bias
    optimizer = torch.optim.AdamW(
        [{"params": [weight], "weight_decay": 0.3}, {"params": [bias], "weight_decay": 0.0}], lr=lr
    )
    (_squares(by_hand, by_hand.inputs) / 16).backward()
    norm = torch.nn.utils.clip_grad_norm_(by_hand.model.parameters(), 0.5)
    assert norm > 0.5
    optimizer.step()
    for name, value in by_hand.weights().items():
        torch.testing.assert_close(task.after_epoch[0][name], value)


def test_every_epoch_has_all_utterances_in_another_order(tmp_path: Path) -> None:
    task = ToyTask(_fit(6), [0.0] * 6)
    run_loop(task, FolderCheckpoints(tmp_path), Observer())
    epochs = [task.batches[i : i + 2] for i in range(0, 12, 2)]
    for batches in epochs:
        assert sorted(index for batch in batches for index in batch) == list(range(16))
    assert len({str(batches) for batches in epochs}) > 1


def test_batches_are_of_equal_classes_where_the_fit_says_so(tmp_path: Path) -> None:
    settings = _fit(4).model_copy(update={"batches": "class_balanced"})
    task = ToyTask(settings, [0.0] * 4)
    run_loop(task, FolderCheckpoints(tmp_path), Observer())
    assert len(task.batches) == 2 * 4
    assert all(sorted(i // 12 for i in batch) == [0] * 4 + [1] * 4 for batch in task.batches)
    assert {i for batch in task.batches for i in batch} == set(range(16))


def test_the_schedule_warms_up_linearly_and_ends_at_zero_as_a_cosine() -> None:
    warmup = 0.2
    found = [learning_rate_factor(t, warmup) for t in np.linspace(0, 1, 101)]
    np.testing.assert_allclose(found[:21], np.linspace(0, 1, 21), atol=1e-12)
    np.testing.assert_allclose(
        found[20:], 0.5 * (1 + np.cos(np.pi * np.linspace(0, 1, 81))), atol=1e-12
    )
    assert math.isfinite(learning_rate_factor(1.0, 1.0))


def test_history_says_what_was_trained_with_which_rate_on_which_share(tmp_path: Path) -> None:
    task = ToyTask(_fit(2), [0.1, 0.2])
    history = run_loop(task, FolderCheckpoints(tmp_path), Observer()).history
    expected = {"epoch", "loss", "loss/square", "grad_norm", "lr/line", "data_share", "dev_uar"}
    assert all(set(record) == expected | {"seconds"} for record in history)
    assert history[1]["loss"] < history[0]["loss"]
