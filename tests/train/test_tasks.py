"""What each task counts in its loss, and which utterances it uses."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import pytest
import torch
from steps import compute_terms, make_step

from serkd.corpora.manifest import Manifest
from serkd.train.data import FoldData
from serkd.train.student import StudentTask
from serkd.train.task import Task
from serkd.train.teacher import ExtractorTask
from serkd.train.workers import Workers


class Builder(Protocol):
    """The part of the `stored` fixture that is used here."""

    def build_task(
        self, name: str, changes: Mapping[str, Any] | None = None
    ) -> Callable[[], Task]: ...


def _forget_genders(data: FoldData, unknown: set[str]) -> FoldData:
    rows = tuple(
        replace(u, gender="unknown") if u.utt_id in unknown else u for u in data.manifest.utterances
    )
    return replace(data, manifest=Manifest(rows, data.manifest.class_names))


def _extractor(stored: Builder, num_unknown: int) -> ExtractorTask:
    build = stored.build_task("extractor")
    assert isinstance(build, partial)
    data, *others = build.args
    data = _forget_genders(data, set(data.train_ids[:num_unknown]))
    return ExtractorTask(data, *others)


def test_an_unknown_gender_adds_nothing_to_the_extractors_loss(stored: Builder) -> None:
    """As if those utterances were not in the gender loss's batch, and with the same gradient."""
    mixed, reference = _extractor(stored, 3), _extractor(stored, 0)
    index = np.arange(8)
    found = compute_terms(mixed, index)["gender"]
    known = compute_terms(reference, index[3:])["gender"]
    assert found.count == known.count == 5
    torch.testing.assert_close(found.total, known.total)
    for task, term in ((mixed, found), (reference, known)):
        term.total.backward()
        assert isinstance(task, ExtractorTask)
    pairs = zip(mixed.model.parameters(), reference.model.parameters(), strict=True)
    for ours, expected in pairs:
        assert (ours.grad is None) == (expected.grad is None)
        if ours.grad is not None and expected.grad is not None:
            torch.testing.assert_close(ours.grad, expected.grad, atol=1e-5, rtol=1e-4)


def test_a_batch_of_unknown_genders_leaves_emotion_alone_to_be_learned(stored: Builder) -> None:
    task = _extractor(stored, 8)
    terms = compute_terms(task, np.arange(8))
    assert (terms["gender"].total.item(), terms["gender"].count) == (0.0, 0.0)
    assert terms["emotion"].count == 8
    assert terms["emotion"].total.item() > 0


def test_the_extractor_weighs_its_tasks_and_drops_gender_when_asked(stored: Builder) -> None:
    weights = {}
    for mode in ("mtl", "none"):
        changes = {"units.gender_mode": mode, "extractor.emotion_weight": 0.7}
        terms = compute_terms(stored.build_task("extractor", changes)(), np.arange(4))
        weights[mode] = {name: term.weight for name, term in terms.items()}
    assert weights["mtl"] == pytest.approx({"emotion": 0.7, "gender": 0.3})
    assert weights["none"] == {"emotion": 1.0}


def test_stage_1_counts_masked_frames_or_all_valid_ones(stored: Builder) -> None:
    index = np.arange(6)
    for frames in ("masked", "all"):
        task = stored.build_task("teacher_units", {"teacher.stage1.frames": frames})()
        terms = compute_terms(task, index)
        num_valid = int(task.lengths[index].sum())
        assert set(terms) == {"units_L2_K4", "units_L2_K8"}
        for term in terms.values():
            assert term.count == num_valid if frames == "all" else 0 < term.count < num_valid


def test_stage_1_weighs_scales_and_names_them_in_what_it_logs(stored: Builder) -> None:
    """Their order is that of `units.layers`, and within a layer that of `units.num_clusters`."""
    index, totals = np.arange(6), []
    weights = {"units_L2_K4": 0.5, "units_L2_K8": 3.0}
    for chosen in (None, list(weights.values())):
        changes = {"teacher.stage1.scale_weights": chosen, "teacher.stage1.frames": "all"}
        task = stored.build_task("teacher_units", changes)()
        terms = compute_terms(task, index)
        totals.append({n: t.weight * t.total.item() / t.count for n, t in terms.items()})
        accuracy = task.evaluate(Workers())
        names = [name.replace("units_", "dev_unit_accuracy/") for name in weights]
        assert list(accuracy) == names
    for name, weight in weights.items():
        assert totals[1][name] == pytest.approx(weight * totals[0][name], rel=1e-6)


@pytest.mark.parametrize("name", ["extractor", "teacher_units", "teacher"])
@pytest.mark.parametrize("decay", [1.0, 0.5])
@pytest.mark.parametrize("rank", [0, 2])
def test_learning_rates_decay_from_layer_to_layer_and_leave_none_out(
    stored: Builder, name: str, decay: float, rank: int
) -> None:
    section = {"extractor": "extractor", "teacher_units": "teacher.stage1"}.get(
        name, "teacher.stage2"
    )
    changes = {
        f"{section}.fit.layer_decay": decay,
        f"{section}.fit.backbone_lr": 0.01,
        "backbone.lora.rank": rank,
        "backbone.layer_mix": True,
    }
    task = stored.build_task(name, changes)()
    groups = task.parameter_groups()
    rates = {group: lr for group, _, lr in groups if group != "heads"}
    assert rates == ({"backbone": 0.01} if decay == 1.0 else {"layer_1": 0.005, "layer_2": 0.01})
    modules = [module for _, module, _ in groups if isinstance(module, torch.nn.Module)]
    trained = [id(p) for module in modules for p in module.parameters() if p.requires_grad]
    expected = [id(p) for p in task.model.parameters() if p.requires_grad]
    assert sorted(trained) == sorted(expected)


def _student(stored: Builder, **changes: object) -> StudentTask:
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    task = stored.build_task("student", dotted)()
    assert isinstance(task, StudentTask)
    return task


@pytest.mark.parametrize("control", ["curriculum", "anti", "random"])
@pytest.mark.parametrize("order", ["off", "second"])
def test_a_curriculum_shows_every_class_from_the_first_epoch(
    stored: Builder, control: str, order: str
) -> None:
    """Also while some speakers are kept aside for the quiz."""
    task = _student(
        stored,
        curriculum__pacing="linear",
        curriculum__control=control,
        curriculum__start_share=0.1,
        meta__order=order,
    )
    for epoch in range(task.fit.epochs):
        active = task.active(epoch)
        assert set(task.data.labels[active]) == set(range(task.data.num_classes))


def test_the_quiz_is_never_trained_on_and_shares_no_speaker_with_training(
    stored: Builder,
) -> None:
    task = _student(stored, meta__order="second")
    speakers = np.array([task.data.manifest.by_id[u].speaker_id for u in task.data.train_ids])
    trained = np.concatenate([task.active(epoch) for epoch in range(task.fit.epochs)])
    assert task.quiz.any()
    assert not task.quiz[trained].any()
    assert not set(speakers[task.quiz]) & set(speakers[trained])


def test_the_students_statistics_are_those_of_the_training_frames_only(stored: Builder) -> None:
    task = _student(stored)
    frames = task.data.frames
    values = np.concatenate([frames[i] for i in range(len(task.data.train_ids))])
    found = task.model.standardise
    np.testing.assert_allclose(found.mean, values.astype(np.float64).mean(axis=0), atol=1e-4)
    deviation = values.astype(np.float64).std(axis=0)
    np.testing.assert_allclose(found.deviation, deviation, rtol=1e-3, atol=1e-3)


def test_training_data_holds_no_test_utterance_and_no_test_label(stored: Builder) -> None:
    data = _student(stored).data
    with_label = {u.utt_id for u in data.manifest.utterances if u.emotion}
    assert with_label == set(data.train_ids) | set(data.dev_ids)
    assert set(data.frames.utt_ids) == with_label


@pytest.mark.parametrize("family", ["conv", "token"])
@pytest.mark.parametrize("order", ["second", "finite"])
def test_both_families_teach_their_teacher_through_the_whole_student(
    stored: Builder, family: str, order: str
) -> None:
    """Fused attention has no double backward, and the projector has no part in the lesson."""
    task = _student(stored, student__family=family, meta__order=order, meta__teacher_lr=0.5, seed=3)
    task.model.train()
    index = task.active(0)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    scalars = task.before_step(index, make_step(index))
    assert scalars["meta/quiz_loss"] > 0
    assert scalars["meta/teacher_drift"] > 0
    assert task.model.training
    for name, value in task.model.state_dict().items():
        assert torch.equal(value, before[name]), name  # the student itself has not moved
