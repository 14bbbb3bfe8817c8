"""A student's losses and curricula in real training steps."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import torch
from steps import compute_terms, make_step

from serkd import devices
from serkd.config import Experiment
from serkd.corpora.manifest import Manifest
from serkd.corpora.protocols import read_folds
from serkd.distill.curriculum import rank_within_class, score_divergence
from serkd.distill.objective import distillation_term
from serkd.errors import InputError
from serkd.events import Observer
from serkd.losses.logits import distillation
from serkd.recipe import build_experiment
from serkd.stages.catalogue import STAGES, STUDENT, TEACHER_OUTPUTS, needs_teacher
from serkd.stages.graph import Graph
from serkd.train.checkpoint import FolderCheckpoints
from serkd.train.loop import run_loop
from serkd.train.step import Stepper
from serkd.train.student import StudentTask
from serkd.train.task import Step, Task
from serkd.train.workers import Workers

MODES = pytest.mark.parametrize("mode", ["global", "instance"])
KINDS = pytest.mark.parametrize("kd", ["kl", "mse_logits", "dkd"])
SCORERS = (
    "teacher_cross_entropy",
    "teacher_entropy",
    "margin",
    "student_teacher_kl",
    "annotator_disagreement",
    "random",
)


class Builder(Protocol):
    """The part of the `stored` fixture that is used here."""

    def build_task(
        self, name: str, changes: Mapping[str, Any] | None = None
    ) -> Callable[[], Task]: ...


def _with_votes(manifest: Manifest, utt_ids: Sequence[str]) -> Manifest:
    """Three annotators, of whom up to two hear something else."""
    rng, chosen = np.random.default_rng(0), set(utt_ids)

    def vote(emotion: str) -> tuple[tuple[str, int], ...]:
        others = int(rng.integers(3))
        return tuple({emotion: 3 - others, "other": others}.items())[: 1 + (others > 0)]

    rows = (
        replace(u, votes=vote(u.emotion)) if u.utt_id in chosen else u for u in manifest.utterances
    )
    return Manifest(tuple(rows), manifest.class_names)


def _student(stored: Builder, **changes: object) -> StudentTask:
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    build = stored.build_task("student", dotted)
    assert isinstance(build, partial)
    data, *others = build.args
    with_votes = replace(data, manifest=_with_votes(data.manifest, data.train_ids))
    task = build.func(with_votes, *others, **build.keywords)
    assert isinstance(task, StudentTask)
    return task


def _late(index: np.ndarray) -> Step:
    """A step at which every schedule has come to its end."""
    return replace(make_step(index), progress=1.0)


def _softened_loss(task: StudentTask, index: np.ndarray, logits: torch.Tensor) -> float:
    """KD at the task's temperatures for fixed outputs of the student."""
    assert task.teacher is not None
    teacher = torch.from_numpy(task.teacher.logits[index])
    temperature = task.guidance.soften(logits, teacher, 1.0)
    return distillation(logits, teacher, temperature).total.item()


@MODES
def test_an_optimizer_step_raises_the_loss_through_the_temperature(
    stored: Builder, mode: str
) -> None:
    """The real step of the real optimizer: the student descends, its temperature climbs."""
    task = _student(stored, curriculum__temperature_curriculum=mode, student__dropout=0.0)
    index = np.arange(12)
    task.model.eval()
    (batch,) = task.source.load([index], 0)
    logits = task.model(batch.frames, batch.mask).logits.detach()
    before, stepper = _softened_loss(task, index, logits), Stepper(task, Workers())
    task.model.train()
    stepper.take(_late(index), [index], task.source.load([index], 0))
    assert _softened_loss(task, index, logits) > before
    task.model.eval()
    (now,) = (task.model(batch.frames, batch.mask).logits.detach(),)
    assert not torch.equal(now, logits)


@MODES
def test_at_the_beginning_lambda_is_0_and_the_loss_is_that_of_plain_distillation(
    stored: Builder, mode: str
) -> None:
    index = np.arange(8)
    plain = _student(stored, student__dropout=0.0)
    learned = _student(stored, curriculum__temperature_curriculum=mode, student__dropout=0.0)
    learned.model.load_state_dict(plain.model.state_dict())
    losses = [compute_terms(task, index)["kd"].total for task in (plain, learned)]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)
    losses[1].backward()
    for parameter in learned.guidance.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()
    assert learned.rate_factors(0.0) == {"temperature": 0.0}
    assert learned.rate_factors(1.0) == {"temperature": 1.0}


@KINDS
@pytest.mark.parametrize("views", [1, 2])
def test_terms_count_what_is_said_beforehand_and_are_finite(
    stored: Builder, kd: str, views: int
) -> None:
    task = _student(
        stored,
        distill__kd=kd,
        distill__gamma=0.3,
        distill__supcon_views=views,
        distill__supcon_weight=0.4,
        curriculum__temperature_curriculum="instance",
    )
    index = np.arange(9)
    terms = compute_terms(task, index)
    assert set(terms) == {"ce", "supcon", "kd", "hint"}
    assert all(torch.isfinite(term.total) for term in terms.values())
    assert terms["ce"].count == terms["kd"].count == terms["hint"].count == 9 * views


def test_one_knee_makes_the_hint_of_a_learning_and_of_a_fixed_teacher_alike(
    stored: Builder,
) -> None:
    index, hint = np.arange(9), {"distill__gamma": 0.3, "student__dropout": 0.0}
    learns = {"meta__order": "finite", "meta__trains": "last_n"}

    def total(**changes: object) -> float:
        task = _student(stored, **hint, **changes)
        return float(compute_terms(task, index)["hint"].total.detach())

    assert total(distill__hint_knee=1.0) == pytest.approx(total(**learns), rel=1e-5)
    assert total() > 1.01 * total(**learns)
    assert total(distill__hint_knee=1e-6) == pytest.approx(total(), rel=1e-4)


def test_two_views_are_augmented_apart_and_give_every_anchor_a_positive(stored: Builder) -> None:
    task = _student(stored, distill__supcon_views=2, distill__supcon_weight=0.5)
    labels = task.train_labels
    lone = np.array([np.flatnonzero(labels == c)[0] for c in range(task.data.num_classes)])
    (batch,) = task.source.load([lone], 0)
    logmel, mask, _ = task._augment(lone, batch, make_step(lone))
    assert len(logmel) == len(mask) == 2 * len(lone)
    first, second = logmel[::2], logmel[1::2]
    assert not torch.equal(first, second)
    assert torch.equal(mask[::2], mask[1::2])
    assert compute_terms(task, lone)["supcon"].count == 2 * len(lone)
    one_view = _student(stored, distill__supcon_weight=0.5)
    assert compute_terms(one_view, lone)["supcon"].count == 0


def test_alpha_moves_weight_from_the_task_to_the_teacher(stored: Builder) -> None:
    task = _student(
        stored, curriculum__alpha_curriculum="linear", curriculum__alpha_start=0.0,
        curriculum__alpha_end=1.0, distill__supcon_weight=0.25,
    )  # fmt: skip
    index = np.arange(6)
    (batch,) = task.source.load([index], 0)
    found = []
    for progress in (0.0, 0.4, 1.0):
        terms = task.terms(index, batch, replace(make_step(index), progress=progress))
        found.append({name: term.weight for name, term in terms.items()})
    assert found[0] == pytest.approx({"ce": 0.75, "supcon": 0.25})
    assert found[1] == pytest.approx({"ce": 0.45, "supcon": 0.15, "kd": 0.4})
    assert found[2] == pytest.approx({"kd": 1.0})


def test_what_is_learned_beside_the_student_is_not_published(
    stored: Builder, tmp_path: Path
) -> None:
    plain = _student(stored)
    task = _student(
        stored, distill__gamma=1.0, curriculum__temperature_curriculum="instance",
        curriculum__temperature_full_at=0.1,
    )  # fmt: skip
    before = {name: value.clone() for name, value in task.guidance.state_dict().items()}
    trained = run_loop(task, FolderCheckpoints(tmp_path), Observer())
    assert set(trained.weights) == set(plain.model.state_dict())
    after = task.guidance.state_dict()
    assert set(after) == {
        "temperature.layers.0.weight", "temperature.layers.0.bias",
        "temperature.layers.2.weight", "temperature.layers.2.bias",
        "projection.weight", "projection.bias",
    }  # fmt: skip
    assert not any(torch.equal(after[name], before[name]) for name in after)


def test_every_schedule_is_logged_in_every_epoch(
    stored: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = _student(
        stored, student__fit__epochs=4, curriculum__pacing="linear",
        curriculum__alpha_curriculum="linear", curriculum__alpha_start=0.1,
        curriculum__temperature_curriculum="global", curriculum__temperature_full_at=0.5,
    )  # fmt: skip
    taught: list[list[float]] = [[]]  # of each epoch
    soften, pop = task.guidance.soften, task.guidance.pop_temperature

    def listen(*inputs: Any) -> Any:  # noqa: ANN401
        found = soften(*inputs)
        taught[-1].append(float(torch.as_tensor(found).detach()))
        return found

    def turn(workers: Workers) -> dict[str, float]:
        taught.append([])
        return pop(workers)

    monkeypatch.setattr(task.guidance, "soften", listen)
    monkeypatch.setattr(task.guidance, "pop_temperature", turn)
    history = run_loop(task, FolderCheckpoints(tmp_path), Observer()).history
    for record, seen in zip(history, taught, strict=False):
        assert {"alpha", "lambda", "temperature", "data_share", "loss/kd"} <= set(record)
        assert 1.0 < min(seen) <= record["temperature"] <= max(seen) < 11.0
    assert history[-1]["temperature"] != pytest.approx(4.0, abs=1e-3)  # it is learned
    for name, sign in (("alpha", 1), ("lambda", -1), ("data_share", 1)):
        values = [sign * record[name] for record in history]
        assert values == sorted(values)
        assert values[0] < values[-1]
    assert history[-1]["lambda"] == pytest.approx(-1.0)


def test_terms_add_up_in_an_epoch_in_which_a_weight_was_zero(
    stored: Builder, tmp_path: Path
) -> None:
    task = _student(
        stored, student__fit__epochs=2, curriculum__alpha_curriculum="linear",
        curriculum__alpha_start=0.0,
    )  # fmt: skip
    assert "kd" not in task.guidance.weights(0.0)
    history = run_loop(task, FolderCheckpoints(tmp_path), Observer()).history
    for record in history:
        terms = [value for name, value in record.items() if name.startswith("loss/")]
        assert record["loss"] == pytest.approx(sum(terms), rel=1e-5)
    assert history[0]["loss/kd"] > 0


@pytest.mark.parametrize(
    ("pacing", "scorer", "is_said"),
    [("root", "margin", True), ("root", "random", False), ("none", "margin", False)],
)
def test_difficulty_by_a_teacher_of_the_same_utterances_is_said(
    stored: Builder, caplog: pytest.LogCaptureFixture, pacing: str, scorer: str, is_said: bool
) -> None:
    with caplog.at_level(logging.WARNING):
        _student(stored, curriculum__pacing=pacing, curriculum__scorer=scorer)
    assert ("teacher.inner_folds asks teachers who have not" in caplog.text) == is_said


@pytest.mark.parametrize(("pacing", "epochs"), [("step", 3), ("linear", 1)])
def test_the_last_epoch_has_all_however_late_that_is(
    stored: Builder, pacing: str, epochs: int
) -> None:
    task = _student(
        stored, student__fit__epochs=epochs, curriculum__pacing=pacing, curriculum__full_at=1.0
    )
    sizes = [len(task.active(epoch)) for epoch in range(epochs)]
    assert all(size < task.num_learned for size in sizes[:-1])
    assert sizes[-1] == task.num_learned == len(task.lengths)


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("control", ["curriculum", "anti", "random"])
def test_every_scorer_keeps_every_class_from_the_first_epoch(
    stored: Builder, scorer: str, control: str
) -> None:
    task = _student(
        stored, curriculum__pacing="linear", curriculum__start_share=0.1,
        curriculum__scorer=scorer, curriculum__control=control,
    )  # fmt: skip
    labels, sizes = task.train_labels, []
    for epoch in range(task.fit.epochs):
        active = task.active(epoch)
        assert set(labels[active]) == set(range(task.data.num_classes))
        assert len(set(active)) == len(active)
        sizes.append(len(active))
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] == len(labels)


def test_self_paced_order_follows_a_teacher_that_moves(stored: Builder) -> None:
    """Stored logits are those of a teacher that has moved on."""
    task = _student(
        stored, curriculum__pacing="linear", curriculum__scorer="student_teacher_kl",
        curriculum__start_share=0.4, meta__order="finite",
    )  # fmt: skip
    assert task.lesson is not None
    before = task.active(0)
    with torch.no_grad():
        for weight in task.lesson.teacher.weights():
            weight.copy_(5 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    after = task.active(0)
    index = np.arange(len(task.lengths))
    difficulty = score_divergence(task.lesson.teacher.predict(index), task._ask_student())
    learned = task.pace.learned
    position = task.pace._rank(difficulty)
    assert set(after) == set(learned[position < 0.4]) != set(before)


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_what_is_learned_beside_a_student_starts_alike_in_all_curricula(
    stored: Builder, gamma: float
) -> None:
    """Or arms that differ in one thing would differ in two."""
    starts = [
        _student(stored, distill__gamma=gamma, curriculum__temperature_curriculum=mode).guidance
        for mode in ("off", "global", "instance")
    ]
    found = [None if each.projection is None else each.projection.weight for each in starts]
    assert all((each is None) == (gamma == 0.0) for each in found)
    if gamma:
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])


def test_copies_of_an_utterance_in_a_batch_are_augmented_apart(stored: Builder) -> None:
    """Whichever workers have them, as if one worker had the batch."""
    task = _student(stored, student__augment__noise_snr_db=[0.0, 5.0])
    batch = np.array([4, 9, 4, 4, 9, 2])
    step = make_step(batch)
    rows = [rng.random() for rng in step.generators_of_rows(batch)]
    assert len(set(rows)) == len(batch)
    for rank in (0, 1):
        workers = Workers()
        workers.rank, workers.size = rank, 2
        shared = replace(step, workers=workers)
        own = [rng.random() for rng in shared.generators_of_rows(workers.share(batch))]
        assert own == rows[rank::2]
    (padded,) = task.source.load([batch], 0)
    heard = task._augment(batch, padded, step).logmel
    assert not torch.equal(heard[0], heard[2])
    assert not torch.equal(heard[2], heard[3])


@pytest.mark.parametrize("kd", ["kl", "dkd", "mse_logits"])
def test_losses_are_computed_in_float32_whatever_the_forward_pass_is(
    stored: Builder, monkeypatch: pytest.MonkeyPatch, kd: str
) -> None:
    """Logits of half precision, softened and subtracted, would lose a tenth of the gradient."""
    monkeypatch.setattr(devices, "_has_bfloat16", lambda: True)
    task = _student(stored, distill__kd=kd, distill__gamma=0.5, distill__supcon_weight=0.5)
    index = np.arange(12)
    (batch,) = task.source.load([index], 0)
    task.model.eval()
    logits: list[torch.Tensor] = []
    task.model.classifier.register_forward_hook(lambda m, a, output: logits.append(output))
    with torch.autocast("cpu", torch.bfloat16):
        terms = task.terms(index, batch, make_step(index))
    assert logits[0].dtype == torch.bfloat16
    assert {term.total.dtype for term in terms.values()} == {torch.float32}
    says = [torch.from_numpy(each[index]) for each in (task.teacher.logits, task.teacher.embedding)]
    labels = torch.from_numpy(task.train_labels[index])
    expected = distillation_term(
        task.distill, logits[0].float(), says[0], labels, task.distill.temperature
    )
    torch.testing.assert_close(terms["kd"].total, expected.total)


def test_self_paced_order_follows_the_student(stored: Builder) -> None:
    """Of the weights that it has when an epoch begins, and of all its training utterances."""
    task = _student(
        stored, curriculum__pacing="linear", curriculum__scorer="student_teacher_kl",
        curriculum__start_share=0.4,
    )  # fmt: skip
    assert task.teacher is not None
    found = []
    for _ in range(2):
        task.model.train()
        active = task.active(0)
        assert task.model.training
        with torch.no_grad():
            index = np.arange(len(task.lengths))
            (batch,) = task.source.load([index], 0)
            task.model.eval()
            logits = task.model(batch.frames, batch.mask).logits.numpy()
            difficulty = score_divergence(task.teacher.logits, logits)
            position = rank_within_class(difficulty, task.train_labels, "curriculum", task.seed)
            np.testing.assert_array_equal(active, np.flatnonzero(position < 0.4))
            for parameter in task.model.parameters():  # the student moves on
                parameter.add_(0.5 * torch.randn_like(parameter))
        found.append(active)
    assert not np.array_equal(*found)


def test_disagreement_is_refused_where_annotators_votes_are_not_known(tiny: Experiment) -> None:
    changes = {"curriculum.pacing": "linear", "curriculum.scorer": "annotator_disagreement"}
    experiment = build_experiment(tiny.model_dump(mode="json"), changes)
    fold = read_folds(experiment.corpus, experiment.protocol)[0]
    count = len(fold.train)
    with pytest.raises(InputError, match=f"every training utterance, {count} of {count} in fold"):
        Graph(STAGES, experiment, fold).check([STUDENT])
    voted = replace(fold, manifest=_with_votes(fold.manifest, fold.train))
    Graph(STAGES, experiment, voted).check([STUDENT])
    Graph(STAGES, experiment, fold).check([TEACHER_OUTPUTS])  # which does not read them


def test_votes_are_in_the_students_key_where_they_order_its_data(tiny: Experiment) -> None:
    for scorer, matters in (("annotator_disagreement", True), ("random", False)):
        changes = {"curriculum.pacing": "linear", "curriculum.scorer": scorer}
        experiment = build_experiment(tiny.model_dump(mode="json"), changes)
        fold = read_folds(experiment.corpus, experiment.protocol)[0]
        keys = [
            Graph(STAGES, experiment, replace(fold, manifest=manifest)).key(STUDENT)
            for manifest in (fold.manifest, _with_votes(fold.manifest, fold.train))
        ]
        assert (keys[0] != keys[1]) == matters


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, False),
        ({"distill.alpha": 0.5}, True),
        ({"distill.gamma": 0.1}, True),
        ({"curriculum.alpha_curriculum": "linear", "curriculum.alpha_end": 0.5}, True),
        ({"curriculum.alpha_end": 0.5}, False),
        ({"curriculum.pacing": "linear", "curriculum.scorer": "student_teacher_kl"}, True),
        ({"curriculum.pacing": "linear", "curriculum.scorer": "random"}, False),
        ({"curriculum.pacing": "linear", "curriculum.scorer": "annotator_disagreement"}, False),
    ],
    ids=str,
)
def test_a_teacher_is_trained_for_a_student_only_where_it_has_a_say(
    tiny: Experiment, changes: dict[str, Any], expected: bool
) -> None:
    values = {"distill.alpha": 0.0, **changes}
    experiment = build_experiment(tiny.model_dump(mode="json"), values)
    assert needs_teacher(experiment) == expected
