"""The stage that cuts a teacher in two, and the student that teaches its last layers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from serkd.errors import InputError
from serkd.events import Observer
from serkd.stages.catalogue import STUDENT, TEACHER_HIDDEN, TEACHER_OUTPUTS
from serkd.stages.context import Compute
from serkd.stages.graph import Graph
from serkd.stages.store import StageStore
from serkd.train.outputs import read_outputs
from serkd.train.stored_teacher import StoredTop, read_teacher

BuildGraph = Callable[..., Graph]
LAST = {"meta.order": "second", "meta.trains": "last_n"}


def _closure(graph: Graph) -> set[str]:
    return {ref.stage for ref in graph.closure([STUDENT])}


def test_only_a_student_that_teaches_layers_needs_the_states_below_them(
    build_graph: BuildGraph,
) -> None:
    changes: list[dict[str, object]] = [{}, {"meta.trains": "last_n"}, {"meta.order": "finite"}]
    assert all("teacher_hidden" not in _closure(build_graph(change)) for change in changes)
    assert "teacher_hidden" in _closure(build_graph(LAST))


def test_students_that_teach_the_same_layers_share_the_states_below_them(
    build_graph: BuildGraph,
) -> None:
    first = build_graph(LAST)
    second = build_graph({**LAST, "meta.order": "finite", "meta.rho": 0.5, "student.fit.lr": 0.1})
    assert first.key(TEACHER_HIDDEN) == second.key(TEACHER_HIDDEN)
    assert first.key(STUDENT) != second.key(STUDENT)
    deeper = build_graph({**LAST, "meta.last_layers": 2})
    assert first.key(TEACHER_HIDDEN) != deeper.key(TEACHER_HIDDEN)


@pytest.mark.parametrize("last_layers", [1, 2])
def test_the_cut_teacher_says_what_the_whole_one_said(
    build_graph: BuildGraph, storage: Path, tmp_path: Path, last_layers: int
) -> None:
    """Of every utterance, up to the rounding of the stored states; then it moves."""
    shutil.copytree(storage, tmp_path / "copy")
    graph = build_graph({**LAST, "meta.last_layers": last_layers, "meta.teacher_lr": 1e-3})
    artifacts, _ = graph.run(
        [TEACHER_OUTPUTS, TEACHER_HIDDEN, STUDENT],
        StageStore(tmp_path / "copy"),
        Compute(),
        Observer(),
    )
    folder = artifacts[TEACHER_OUTPUTS].folder
    stored = read_outputs(folder / "outputs.parquet")
    teacher = read_teacher(folder, StoredTop(artifacts[TEACHER_HIDDEN].folder, graph.backbone))
    cpu, settings = torch.device("cpu"), graph.experiment.train
    moving = teacher.build(stored.utt_ids, 1e-3, cpu, settings)
    found = moving.predict(np.arange(len(stored.utt_ids)))
    np.testing.assert_allclose(found, stored.logits, atol=0.02 * stored.logits.std())
    history = json.loads((artifacts[STUDENT].folder / "history.json").read_text())
    assert {"teacher_dev_uar", "meta/quiz_loss", "meta/hypergradient_norm"} <= history[0].keys()
    drifts = [record["meta/teacher_drift"] for record in history]
    assert 0 < drifts[0] < drifts[-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"meta.last_layers": 3}, r"meta\.last_layers must be at most the 2 layers .*, got 3"),
        ({"backbone.frozen_layers": 1, "meta.last_layers": 2}, "at most the 1 layers"),
        ({"backbone.frozen_layers": 2}, "meta.trains must be 'head' when all layers are frozen"),
        ({"backbone.layer_mix": True}, r"meta\.last_layers must be 2, all layers .*, got 1"),
    ],
)
def test_layers_that_cannot_move_are_refused_before_any_work(
    build_graph: BuildGraph, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build_graph({**LAST, **changes}).check([STUDENT])
    build_graph({**LAST, **changes, "meta.order": "off"}).check([STUDENT])
