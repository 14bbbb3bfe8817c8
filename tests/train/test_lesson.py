"""The teacher's step in a student's training, against the whole pilot step done by hand."""

import copy
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from steps import make_step
from torch import Tensor

from serkd.distill.objective import Target, student_terms, weigh_terms
from serkd.events import Observer
from serkd.losses.contrastive import supervised_contrastive
from serkd.models.student import StudentOutput
from serkd.train import student as student_module
from serkd.train.checkpoint import FolderCheckpoints
from serkd.train.loop import run_loop
from serkd.train.meta import Lesson
from serkd.train.source import Padded, Source
from serkd.train.step import Stepper
from serkd.train.student import StudentTask
from serkd.train.task import Step, Task
from serkd.train.workers import Workers

PILOT_LR = 0.5
DIFFERENCE = 1e-5  # over this little the hint's absolute differences are smooth, too
# the pilot's inputs are then the plain ones
PLAIN = {"student.augment.time_masks": 0, "student.augment.mel_masks": 0}


class Builder(Protocol):
    """The part of the `stored` fixture that is used here."""

    def build_task(
        self, name: str, changes: Mapping[str, Any] | None = None
    ) -> Callable[[], Task]: ...


@dataclass
class _DoubleSource:
    """Frames in float64."""

    inner: Source

    @property
    def lengths(self) -> np.ndarray:
        return self.inner.lengths

    @property
    def parts(self) -> np.ndarray:
        return self.inner.parts

    def load(self, plan: Sequence[np.ndarray], epoch: int | None) -> Iterator[Padded]:
        for batch in self.inner.load(plan, epoch):
            yield Padded(batch.frames.double(), batch.mask)


class _DoubleInputs:
    """What a moving teacher reads, in float64."""

    def __init__(self, inner: Any) -> None:  # noqa: ANN401
        self.inner, self.lengths, self.parts = inner, inner.lengths, inner.parts

    def __call__(self, index: np.ndarray, stretch: Tensor | None) -> tuple[Tensor, ...]:
        found = self.inner(index, stretch)
        return tuple(part.double() if part.is_floating_point() else part for part in found)


def _student(stored: Builder, trains: str, order: str = "second", **changes: object) -> StudentTask:
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    settings = {"meta.order": order, "meta.trains": trains, "meta.pilot_lr": PILOT_LR, **PLAIN}
    task = stored.build_task("student", {**settings, **dotted})()
    assert isinstance(task, StudentTask)
    return task


def _lesson(task: StudentTask) -> Lesson:
    assert task.lesson is not None
    return task.lesson


def _in_float64(task: StudentTask) -> StudentTask:
    teacher = _lesson(task).teacher
    for module in (task.model, task.guidance, teacher.model):
        module.double()
    task.source, teacher.inputs = _DoubleSource(task.source), _DoubleInputs(teacher.inputs)
    return task


def _batch(task: StudentTask) -> tuple[np.ndarray, Step]:
    index = task.active(0)[:12]
    return index, make_step(index)


def _take_gradient(task: StudentTask) -> list[Tensor]:
    """What the teacher descends, by the task's own code."""
    found: list[Tensor] = []
    _lesson(task).teacher.descend = found.extend  # type: ignore[method-assign]
    task.before_step(*_batch(task))
    return found


def _pilot_by_hand(task: StudentTask) -> float:
    """The quiz loss of a copied student after a step of SGD."""
    index, step = _batch(task)
    lesson = _lesson(task)
    asked = lesson.draw_quiz(len(index), step)
    assert lesson.quiz[asked].all()
    (batch, quiz) = task.source.load([index, asked], None)
    labels, asked_labels = (torch.from_numpy(task.data.labels[some]) for some in (index, asked))
    teacher = lesson.teacher.read(index)
    pilot = copy.deepcopy(task.model).eval()
    optimizer = torch.optim.SGD(pilot.parameters(), PILOT_LR)
    views = task.distill.supcon_views
    frames, mask = (t.repeat_interleave(views, dim=0) for t in (batch.frames, batch.mask))
    says = [said.repeat_interleave(views, dim=0) for said in teacher]
    _loss_by_hand(task, pilot(frames, mask), labels.repeat_interleave(views), *says).backward()
    optimizer.step()
    with torch.no_grad():
        return float(F.cross_entropy(pilot(quiz.frames, quiz.mask).logits, asked_labels))


def _loss_by_hand(
    task: StudentTask, output: StudentOutput, labels: Tensor, logits: Tensor, embedding: Tensor
) -> Tensor:
    """What a student learns, at the temperature that every temperature curriculum begins at."""
    settings, temperature = task.distill, task.distill.temperature
    keys = (output.projection, labels)
    contrast = supervised_contrastive(*keys, *keys, temperature=settings.supcon_temperature)
    task_loss = (1 - settings.supcon_weight) * F.cross_entropy(output.logits, labels)
    task_loss = task_loss + settings.supcon_weight * contrast.total / contrast.count
    if settings.kd == "mse_logits":
        kd = F.mse_loss(output.logits, logits)
    elif settings.kd == "dkd":
        weights = (settings.dkd_target_weight, settings.dkd_other_weight)
        kd = _dkd_by_hand(output.logits, logits, labels, temperature, *weights)
    else:
        softened = (output.logits / temperature, logits / temperature)
        kd = temperature**2 * F.kl_div(
            softened[0].log_softmax(-1), softened[1].softmax(-1), reduction="batchmean"
        )
    loss = (1 - settings.alpha) * task_loss + settings.alpha * kd
    if settings.gamma:
        guess = task.guidance.projection(output.embedding)  # type: ignore[misc]
        angle = 1 - F.cosine_similarity(guess, embedding)
        apart = (guess - embedding).abs()
        if _lesson(task).settings.trains == "last_n":  # else nothing learns through it
            apart = torch.where(apart < 1.0, apart.square() / 2, apart - 0.5)
        loss = loss + settings.gamma * (angle.mean() + apart.mean())
    return loss


def _dkd_by_hand(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, target: float, rest: float
) -> Tensor:
    """Zhao et al., CVPR 2022, equation 7, utterance by utterance."""
    values = []
    for ours, theirs, label in zip(student, teacher, labels.tolist(), strict=True):
        p, q = ((logits / temperature).softmax(0) for logits in (theirs, ours))
        others = torch.arange(len(p)) != label
        total = target * (p[label] * (p[label] / q[label]).log())
        total = total + target * ((1 - p[label]) * ((1 - p[label]) / (1 - q[label])).log())
        p_others, q_others = p[others] / p[others].sum(), q[others] / q[others].sum()
        values.append(total + rest * (p_others * (p_others / q_others).log()).sum())
    return temperature**2 * torch.stack(values).mean()


def _relative_error(task: StudentTask) -> float:
    """Of the task's gradient against differences of `_pilot_by_hand`.

    Along each weight's own gradient and in random directions, in all of its elements at once.
    """
    gradient = _take_gradient(task)
    weights = _lesson(task).teacher.weights()
    assert len(gradient) == len(weights)
    zeros = [torch.zeros_like(part) for part in gradient]
    generator = torch.Generator().manual_seed(0)
    directions = [
        [*zeros[:i], part, *zeros[i + 1 :]] for i, part in enumerate(gradient) if part.abs().max()
    ]
    for _ in range(5):
        drawn = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in gradient]
        directions.append(drawn)
    analytic, numeric = [], []
    for direction in directions:
        norm = torch.cat([part.flatten() for part in direction]).norm()
        unit = [part / norm for part in direction]
        analytic.append(float(sum((a * b).sum() for a, b in zip(gradient, unit, strict=True))))
        losses = []
        for sign in (1, -2, 1):  # there, to the other side, and back
            with torch.no_grad():
                for weight, part in zip(weights, unit, strict=True):
                    weight.add_(sign * DIFFERENCE * part)
            losses.append(_pilot_by_hand(task))
        numeric.append((losses[0] - losses[1]) / (2 * DIFFERENCE))
    size = np.linalg.norm(numeric)
    assert size > 1e-6
    return float(np.linalg.norm(np.subtract(analytic, numeric)) / size)


FAMILY = pytest.mark.parametrize("family", ["conv", "token", "conv_token"])
TRAINS = pytest.mark.parametrize("trains", ["head", "last_n"])


@TRAINS
@FAMILY
def test_the_second_order_step_is_the_gradient_of_the_whole_pilot_step(
    stored: Builder, trains: str, family: str
) -> None:
    task = _in_float64(_student(stored, trains, student__family=family))
    with torch.no_grad():  # some weights begin at 0, and what is behind them is not asked
        for weight in task.model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, dtype=weight.dtype))
    assert _relative_error(task) < 1e-4


# each goes on what is learned of the teacher in another way
OBJECTIVES: dict[str, dict[str, object]] = {
    "squares": {"distill__kd": "mse_logits"},
    "decoupled": {"distill__kd": "dkd"},
    "hint": {"distill__gamma": 0.7},
    "two views": {"distill__supcon_views": 2},
    "one learned temperature": {"curriculum__temperature_curriculum": "global"},
    "learned temperatures": {"curriculum__temperature_curriculum": "instance"},
    "all is task": {"curriculum__alpha_curriculum": "linear", "curriculum__alpha_start": 0.01},
}


@TRAINS
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_so_it_is_whatever_the_student_learns_of_its_teacher(
    stored: Builder, trains: str, objective: str
) -> None:
    task = _in_float64(_student(stored, trains, **OBJECTIVES[objective]))
    if objective == "all is task":
        task.distill = task.distill.model_copy(update={"alpha": 0.01})  # as it is at the start
    assert _relative_error(task) < 1e-4


@TRAINS
def test_the_teachers_own_loss_has_the_share_rho(stored: Builder, trains: str) -> None:
    """Whatever the pilot's rate, which the quiz's gradient is proportional to."""
    quiz = _flat(_take_gradient(_in_float64(_student(stored, trains))))
    task = _in_float64(_student(stored, trains, meta__rho=0.3))
    teacher, (index, _) = _lesson(task).teacher, _batch(task)
    logits = teacher.model(*teacher.inputs(index, None)).logits
    loss = F.cross_entropy(logits, torch.from_numpy(task.data.labels[index]))
    own = _flat(torch.autograd.grad(loss, teacher.weights(), materialize_grads=True))
    expected = 0.7 * quiz + 0.3 * quiz.norm() * own / own.norm()
    error = (_flat(_take_gradient(task)) - expected).norm() / expected.norm()
    assert float(error) < 1e-9
    assert float(expected @ quiz / expected.norm() / quiz.norm()) < 0.999  # they point apart


def _flat(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts])


@TRAINS
def test_a_teacher_that_the_loss_detaches_is_noticed(
    stored: Builder, monkeypatch: pytest.MonkeyPatch, trains: str
) -> None:
    """The check above must not agree with the code by finding nothing on both sides."""

    def detached(*args: Any, target: Target, **others: Any) -> Any:  # noqa: ANN401
        fixed = replace(target, logits=target.logits.detach())
        return student_terms(*args, target=fixed, **others)

    monkeypatch.setattr(student_module, "student_terms", detached)
    assert _relative_error(_in_float64(_student(stored, trains))) > 0.9


@TRAINS
@FAMILY
@pytest.mark.parametrize("gamma", [0.0, 1.0], ids=["no hint", "hint"])
@pytest.mark.parametrize("is_double", [True, False], ids=["float64", "float32"])
def test_finite_differences_are_the_second_order_step_to_five_percent(
    stored: Builder, trains: str, family: str, is_double: bool, gamma: float
) -> None:
    changes = {"student__family": family, "meta__pilot_lr": 1e-3, "distill__gamma": gamma}
    found = []
    for order in ("second", "finite"):
        task = _student(stored, trains, order, **changes)
        parts = _take_gradient(_in_float64(task) if is_double else task)
        found.append(torch.cat([part.flatten() for part in parts]))
    exact, finite = found
    assert float((finite - exact).norm() / exact.norm()) < 0.05


@TRAINS
@pytest.mark.parametrize("order", ["second", "finite"])
def test_a_pilot_leaves_no_trace_in_the_student_or_its_optimizer(
    stored: Builder, trains: str, order: str
) -> None:
    """Not in weights, statistics, moments, gradients or random numbers, to the bit."""
    states = []
    for has_pilot in (True, False):
        task = _student(stored, trains, order, student__dropout=0.3)
        _lesson(task).teacher.descend = lambda gradient: None  # type: ignore[method-assign]
        stepper, (index, _) = Stepper(task, Workers()), _batch(task)
        task.model.train()
        torch.manual_seed(0)
        for number in range(3):
            step = make_step(index, number)
            if has_pilot:
                assert task.before_step(index, step)
                assert task.model.training
            stepper.take(step, [index], task.source.load([index], 0))
        moments = stepper.optimizer.state_dict()["state"]
        states.append([*task.model.state_dict().values()])
        states[-1] += [value for entry in moments.values() for value in entry.values()]
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


@TRAINS
def test_steps_teach_the_teacher_and_say_how_far_it_moved(stored: Builder, trains: str) -> None:
    # layers want a lower rate than a head
    rate = {"head": 1e-3, "last_n": 1e-4}[trains]
    task = _student(stored, trains, meta__teacher_lr=rate)
    index, step = _batch(task)
    task.model.train()
    records = [task.before_step(index, step) for _ in range(8)]
    assert records[-1]["meta/quiz_loss"] < records[0]["meta/quiz_loss"]
    assert records[-1]["meta/teacher_drift"] > records[0]["meta/teacher_drift"] > 0
    assert all(record["meta/hypergradient_norm"] > 0 for record in records)
    assert "teacher_dev_uar" in task.evaluate(Workers())


def test_the_pilot_learns_from_what_the_student_will_be_given(
    stored: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bands are masked; the quiz is asked of whole utterances."""
    bands = {"student__augment__time_masks": 3, "student__augment__mel_masks": 3}
    task = _student(stored, "head", order="finite", **bands)
    index, step = _batch(task)
    heard: list[Tensor] = []
    forward = task.model.forward

    def listen(logmel: Tensor, mask: Tensor) -> Any:  # noqa: ANN401
        heard.append(logmel)
        return forward(logmel, mask)

    monkeypatch.setattr(task.model, "forward", listen)
    task.before_step(index, step)
    (batch,) = task.source.load([index], 0)
    task.terms(index, batch, step)
    pilot, quiz, up, down, real = heard
    assert not torch.equal(real, batch.frames)
    assert all(torch.equal(given, real) for given in (pilot, up, down))
    (asked,) = task.source.load([_lesson(task).draw_quiz(len(index), step)], 0)
    assert torch.equal(quiz, asked.frames)


@pytest.mark.parametrize("views", [1, 2])
def test_layers_that_learn_hear_the_stretch_that_the_student_hears(
    stored: Builder, monkeypatch: pytest.MonkeyPatch, views: int
) -> None:
    """In its own step and in the student's; without a crop it is all of every utterance."""
    changes = {"student__augment__crop_frames": 20, "student__augment__speed": 0.2}
    for given in ({**changes, "student__augment__time_shift_frames": 6}, {}):
        task = _student(stored, "last_n", order="finite", distill__supcon_views=views, **given)
        index, step = _batch(task)
        teacher, heard = _lesson(task).teacher, []
        forward = teacher.model.forward

        def listen(
            hidden: Tensor,
            mask: Tensor,
            forward: Any = forward,  # noqa: ANN401
            heard: list[Tensor] = heard,
        ) -> Any:  # noqa: ANN401
            heard.append(hidden[mask])
            return forward(hidden, mask)

        monkeypatch.setattr(teacher.model, "forward", listen)
        task.before_step(index, step)
        (batch,) = task.source.load([index], 0)
        task.terms(index, batch, step)
        augmented = task._augment(index, batch, step)
        expected = []
        for i, (start, end) in zip(
            np.repeat(index, views), augmented.stretch.tolist(), strict=True
        ):
            (frames, _) = teacher.inputs(np.array([i]), None)
            count = frames.shape[1]
            expected.append(frames[0, math.floor(start * count) : math.ceil(end * count)])
            seconds = (end - start) * int(task.lengths[i]) / task.settings.input_rate_hz
            # 20 frames at 100 Hz, of which a shift may push some out
            assert seconds <= (0.21 if given else 60.0)
            assert given or (start, end) == (0.0, 1.0)
        assert len(heard) == 3  # before the lesson, for its gradient, and for the student
        for found in heard:
            torch.testing.assert_close(found, torch.cat(expected))


def test_the_teacher_learns_every_so_many_steps(stored: Builder) -> None:
    """Of all steps, though epochs have two each."""
    task = _student(stored, "head", meta__every_steps=3)
    index, _ = _batch(task)
    scalars = [task.before_step(index, make_step(index, number % 2)) for number in range(7)]
    taught = ["meta/quiz_loss" in found for found in scalars]
    assert taught == [True, False, False, True, False, False, True]


def test_the_student_learns_from_the_teacher_as_it_is_now(stored: Builder) -> None:
    """Stored logits are those of a teacher that has moved on."""
    task = _student(stored, "head", meta__teacher_lr=0.5)
    index, step = _batch(task)
    (batch,) = task.source.load([index], 0)
    task.model.eval()
    before = task.terms(index, batch, step)["kd"].total.item()
    task.before_step(index, step)
    task.model.eval()
    output = task.model(batch.frames, batch.mask)
    now = _lesson(task).teacher.read(index).logits
    terms = student_terms(
        output,
        torch.from_numpy(task.data.labels[index]),
        task.distill,
        weigh_terms(task.distill, has_teacher=True),
        target=Target(now, task.distill.temperature),
        keys=(output.projection, torch.from_numpy(task.data.labels[index]), 0),
    )
    after = task.terms(index, batch, step)["kd"].total.item()
    assert after == pytest.approx(terms["kd"].total.item(), rel=1e-6)
    assert after != pytest.approx(before, rel=1e-3)


def test_without_meta_its_other_settings_change_nothing(stored: Builder, tmp_path: Any) -> None:  # noqa: ANN401
    others = {
        "meta.trains": "last_n",
        "meta.rho": 0.5,
        "meta.quiz_share": 0.4,
        "meta.pilot_lr": 9.0,
    }
    trained = []
    for number, changes in enumerate(({}, others)):
        task = stored.build_task("student", changes)()
        trained.append(run_loop(task, FolderCheckpoints(tmp_path / str(number)), Observer()))
    assert not [name for name in trained[0].history[0] if "meta" in name or "teacher" in name]
    pairs = zip(trained[0].weights.values(), trained[1].weights.values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_teacher_that_has_not_moved_says_what_it_said(stored: Builder) -> None:
    lesson = _lesson(_student(stored, "head"))
    assert lesson.evaluate()["teacher_dev_uar"] == pytest.approx(lesson.start_dev_uar)


@pytest.mark.parametrize(
    ("start", "value", "is_said"),
    [
        (0.70, 0.61, False),
        (0.70, 0.59, True),
        (0.31, 0.29, False),  # four classes: chance is 0.25
        (0.31, 0.25, True),
        (0.26, 0.25, False),
    ],
)
def test_a_collapse_of_the_teacher_is_said_and_a_small_loss_is_not(
    stored: Builder,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    start: float,
    value: float,
    is_said: bool,
) -> None:
    lesson = _lesson(_student(stored, "head"))
    lesson.start_dev_uar = start
    monkeypatch.setattr(lesson, "_dev_uar", lambda logits: value)
    with caplog.at_level(logging.WARNING):
        lesson.evaluate()
    assert ("collapsed" in caplog.text) == is_said


@pytest.mark.parametrize(("share", "is_said"), [(0.1, True), (0.3, False)])
def test_a_quiz_that_takes_much_more_than_asked_is_said(
    stored: Builder, caplog: pytest.LogCaptureFixture, share: float, is_said: bool
) -> None:
    """Two speakers of equal size: one is asked, and the other learned from."""
    with caplog.at_level(logging.WARNING):
        lesson = _lesson(_student(stored, "head", meta__quiz_share=share))
    assert lesson.quiz.mean() == 0.5
    message = f"the quiz has 50 % of train, meta.quiz_share asks for {100 * share:.0f} %"
    assert (message in caplog.text) == is_said
