"""One step: cut up, in lower precisions, and with numbers that are not finite."""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import torch
from accidents import Line, no_accident
from steps import compute_terms, make_step
from torch import Tensor, nn

from serkd import config, devices
from serkd.events import Observer
from serkd.features.backbone import Suffix
from serkd.train.batches import split_batch
from serkd.train.checkpoint import FolderCheckpoints
from serkd.train.loop import run_loop
from serkd.train.step import LossScale, Stepper
from serkd.train.task import Step, Task
from serkd.train.workers import Workers

CUT: dict[str, dict[str, Any]] = {
    "extractor": {"extractor.emotion_weight": 0.6},
    "teacher_units": {},
    "teacher": {
        "teacher.stage2.dropout": 0.0,
        "teacher.stage2.mask_start_share": 0.05,
        "teacher.stage2.class_weights": "balanced",
        "teacher.stage2.unit_weight": 0.5,
    },
}


class Builder(Protocol):
    """The part of the `stored` fixture that is used here."""

    def build_task(
        self, name: str, changes: Mapping[str, Any] | None = None
    ) -> Callable[[], Any]: ...


def _take(task: Task, cut: list[np.ndarray]) -> tuple[dict[str, float], list[Tensor | None]]:
    """Scalars and gradients of one step on a batch that is cut up."""
    torch.manual_seed(0)
    task.model.train()
    stepper = Stepper(task, Workers())
    if stepper.scale is not None:
        stepper.scale.value = 64.0
    step = make_step(np.concatenate(cut))
    scalars = stepper.take(step, cut, task.source.load(cut, 0))
    return scalars, [p.grad for p in task.model.parameters()]


@pytest.mark.parametrize("name", CUT)
def test_micro_batches_add_up_to_the_gradient_of_the_whole_batch(
    stored: Builder, name: str
) -> None:
    """With masks, balanced classes and two losses; and no forward pass is larger than allowed."""
    build = stored.build_task(name, CUT[name])
    index = np.arange(9)
    whole, expected = _take(build(), [index])
    task = build()
    lengths = task.source.lengths
    bound = int(2.5 * np.median(lengths[index]))
    cut = split_batch(lengths, index, bound)
    assert len(cut) > 3
    assert sorted(np.concatenate(cut)) == index.tolist()
    for some in cut:
        assert len(some) == 1 or len(some) * lengths[some].max() <= bound
    found, gradients = _take(task, cut)
    assert found == pytest.approx(whole, rel=1e-4)
    for ours, reference in zip(gradients, expected, strict=True):
        assert (ours is None) == (reference is None)
        if ours is not None and reference is not None:
            torch.testing.assert_close(ours, reference, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", CUT)
def test_no_forward_pass_has_more_frames_than_allowed(
    stored: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Not in training, evaluation or the statistics before it; longer utterances go alone."""
    shapes: list[torch.Size] = []
    forward = Suffix.forward

    def watch(self: Suffix, hidden: Tensor, mask: Tensor | None) -> list[Tensor]:
        shapes.append(hidden.shape)
        return forward(self, hidden, mask)

    monkeypatch.setattr(Suffix, "forward", watch)
    build = stored.build_task(name)
    assert isinstance(build, partial)
    data, *others = build.args
    bound = int(2.5 * np.median(data.source.lengths))
    bounded = replace(data, train=config.Train(max_frames=bound))
    run_loop(
        build.func(bounded, *others, **build.keywords), FolderCheckpoints(tmp_path), Observer()
    )
    sizes = [batch * frames for batch, frames, _ in shapes if batch > 1]
    assert 0.5 * bound < max(sizes) <= bound


def test_an_utterance_longer_than_the_bound_is_alone() -> None:
    lengths = np.array([100, 10, 10, 10, 30])
    cut = split_batch(lengths, np.arange(5), 40)
    assert [some.tolist() for some in cut] == [[1, 2, 3], [4], [0]]
    assert [some.tolist() for some in split_batch(lengths, np.arange(5), None)] == [[*range(5)]]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_every_step_of_a_lower_precision_uses_the_weights_of_its_time(precision: str) -> None:
    """An autocast context keeps the casts of the weights that it saw first."""
    task = Line(precision, no_accident)
    seen: list[Tensor] = []
    outputs: list[Tensor] = []

    def look(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Linear)
        exact = nn.functional.linear(args[0].float(), module.weight, module.bias)
        outputs.append((output.float() - exact).abs().max() / exact.abs().max())
        seen.append(module.weight.detach().clone())
        assert output.dtype == getattr(torch, precision)

    task.model[0].register_forward_hook(look)
    task.model.train()
    stepper, index = Stepper(task, Workers()), np.arange(8)
    for number in range(4):
        step = make_step(index, number)
        stepper.take(step, [index], task.source.load([index], 0))
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(seen))
    assert max(outputs) < 0.02


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["extractor", "teacher_units", "teacher"])
def test_lower_precisions_take_nearly_the_same_step_and_evaluate_in_float32(
    stored: Builder, name: str, precision: str
) -> None:
    index = np.arange(8)
    exact, less = (
        stored.build_task(name, {"backbone.precision": p})() for p in ("float32", precision)
    )
    whole, _ = _take(exact, [index])
    found, gradients = _take(less, [index])
    assert found["loss"] == pytest.approx(whole["loss"], rel=0.02)
    assert found["grad_norm"] == pytest.approx(whole["grad_norm"], rel=0.1)
    assert all(g is None or g.dtype == torch.float32 for g in gradients)
    less.model.load_state_dict(exact.model.state_dict())
    assert less.evaluate(Workers()) == exact.evaluate(Workers())


@pytest.mark.parametrize("family", ["conv", "token", "conv_token"])
def test_a_student_in_bfloat16_takes_nearly_the_same_step_and_evaluates_in_float32(
    stored: Builder, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setattr(devices, "_has_bfloat16", lambda: True)
    index, settings = np.arange(8), {"student.family": family, "student.dropout": 0.0}
    exact, less = (
        stored.build_task("student", {**settings, "student.precision": p})()
        for p in ("float32", "bfloat16")
    )
    whole, gradients = _take(exact, [index])
    found, rough = _take(less, [index])
    assert found["loss"] == pytest.approx(whole["loss"], rel=0.02)
    a, b = (torch.cat([g.flatten() for g in each if g is not None]) for each in (gradients, rough))
    assert b.dtype == torch.float32
    assert float((a - b).norm() / a.norm()) < 0.1
    assert float(nn.functional.cosine_similarity(a, b, dim=0)) > 0.995
    less.model.load_state_dict(exact.model.state_dict())
    assert less.evaluate(Workers()) == exact.evaluate(Workers())


@pytest.mark.parametrize("has_bfloat16", [True, False])
@pytest.mark.parametrize(
    ("name", "key"), [("student", "student.precision"), ("teacher", "backbone.precision")]
)
def test_a_processor_without_bfloat16_is_not_made_to_imitate_it(
    stored: Builder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    key: str,
    has_bfloat16: bool,
) -> None:
    monkeypatch.setattr(devices, "_has_bfloat16", lambda: has_bfloat16)
    task, plain = stored.build_task(name, {key: "bfloat16"})(), stored.build_task(name)()
    assert has_bfloat16 == (not caplog.messages)
    found, exact = _take(task, [np.arange(8)]), _take(plain, [np.arange(8)])
    assert has_bfloat16 == (found[0]["loss"] != exact[0]["loss"])


@pytest.mark.parametrize(
    ("machine", "is_handed_over", "has_instructions", "expected"),
    [
        ("x86_64", True, True, True),
        ("x86_64", True, False, False),  # AVX-512 alone, where oneDNN imitates bfloat16
        ("AMD64", True, False, False),
        ("x86_64", False, False, False),
        ("aarch64", True, False, True),  # torch has asked for ARM's own instructions
        ("aarch64", False, False, False),
    ],
)
def test_a_processor_has_bfloat16_where_it_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch,
    machine: str,
    is_handed_over: bool,
    has_instructions: bool,
    expected: bool,
) -> None:
    monkeypatch.setattr(devices.platform, "machine", lambda: machine)
    monkeypatch.setattr(
        torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: is_handed_over, raising=False
    )
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_instructions)
    assert devices._has_bfloat16() is expected


def _overflows(count: int, step: Step, loss: Tensor) -> Tensor:
    """The first steps of a training, which have an infinite gradient."""
    is_one = 2 * step.epoch + step.number < count
    return loss + (loss - loss.detach()).clamp_min(0).sqrt() if is_one else loss


def test_float16_skips_overflows_halves_its_scale_and_goes_on(tmp_path: Path) -> None:
    task = Line("float16", partial(_overflows, 3))
    before = {k: v.clone() for k, v in task.model.state_dict().items()}
    checkpoints = FolderCheckpoints(tmp_path)
    trained = run_loop(task, checkpoints, Observer())
    assert [record["skipped_steps"] for record in trained.history] == [2.0, 1.0, 0.0, 0.0]
    assert all(math.isfinite(record["loss"]) for record in trained.history)
    assert trained.history[0]["dev_uar"] != trained.history[1]["dev_uar"]
    state = checkpoints.load()
    assert state is not None
    assert state.info["stepper"] == {"value": 2.0**13, "steady_steps": 5, "skips": 0}
    assert any(not torch.equal(trained.weights[name], value) for name, value in before.items())


def test_float16_gives_up_after_twenty_overflows_in_a_row(tmp_path: Path) -> None:
    task = Line("float16", partial(_overflows, 99), epochs=20)
    with pytest.raises(FloatingPointError, match="20 steps in a row"):
        run_loop(task, FolderCheckpoints(tmp_path), Observer())


def test_a_loss_scale_doubles_after_two_thousand_steps_and_comes_back_from_a_state() -> None:
    scale = LossScale()
    for _ in range(2_000):
        scale.keep()
    assert (scale.value, scale.steady_steps) == (2.0**17, 0)
    scale.skip()
    scale.keep()
    stepper = Stepper(Line("float16", no_accident), Workers())
    stepper.scale = scale
    other = Stepper(Line("float16", no_accident), Workers())
    other.load_state(stepper.state)
    assert other.scale == scale == LossScale(2.0**16, 1, 0)


@pytest.mark.parametrize("name", ["extractor", "teacher_units", "teacher", "student"])
def test_masks_do_not_depend_on_who_has_an_utterance(stored: Builder, name: str) -> None:
    """Parts of a batch have the terms that the whole has."""
    changes = {
        "teacher.stage2.mask_start_share": 0.1,
        "teacher.stage2.dropout": 0.0,
        "student.dropout": 0.0,
        "distill.supcon_weight": 0.0,
    }
    task = stored.build_task(name, changes)()
    task.model.eval()
    index = np.arange(9)
    whole = compute_terms(task, index)
    parts = [compute_terms(task, some) for some in (index[::2], index[1::2])]
    for term, total in whole.items():
        assert sum(part[term].count for part in parts) == pytest.approx(total.count)
        summed = sum(float(part[term].total.detach()) for part in parts)
        assert summed == pytest.approx(float(total.total.detach()), rel=1e-4)
    later = compute_terms(task, index, number=1)
    if name != "extractor":  # which masks nothing
        assert any(not torch.equal(later[n].total, whole[n].total) for n in whole)
