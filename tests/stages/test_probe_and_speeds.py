"""A teacher that is a probe of what it starts from; one that hears an utterance several times."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression

from serkd.events import Observer
from serkd.stages.catalogue import STAGE_1, TEACHER, TEACHER_OUTPUTS
from serkd.stages.context import Compute, Ref
from serkd.stages.graph import Graph
from serkd.stages.store import Artifact, StageStore
from serkd.train.outputs import Outputs, read_outputs

BuildGraph = Callable[..., Graph]
PROBE = {
    "teacher.stage2.loss": "cross_entropy",
    "teacher.stage2.probe_l2": 0.05,
    "teacher.stage2.fit.epochs": 0,
    "teacher.stage2.augment.speed": [0.8, 1.0, 1.25],
}


@pytest.fixture
def store(storage: Path, tmp_path: Path) -> StageStore:
    shutil.copytree(storage, tmp_path / "copy")
    return StageStore(tmp_path / "copy")


def _run(graph: Graph, store: StageStore) -> dict[Ref, Artifact]:
    return graph.run([TEACHER_OUTPUTS], store, Compute(), Observer())[0]


def _answers(graph: Graph, store: StageStore) -> Outputs:
    return read_outputs(_run(graph, store)[TEACHER_OUTPUTS].folder / "outputs.parquet")


@pytest.mark.parametrize("start", ["units", "backbone"])
def test_a_stage_2_of_no_epochs_is_the_logistic_regression_on_what_it_starts_from(
    build_graph: BuildGraph, store: StageStore, start: str
) -> None:
    graph = build_graph({**PROBE, "teacher.start": start})
    made = _run(graph, store)
    weights = load_file(made[TEACHER].folder / "model.safetensors")
    if start == "units":
        before = load_file(made[STAGE_1].folder / "model.safetensors")
        suffix = {name: value for name, value in before.items() if name.startswith("suffix.")}
        assert suffix
        assert all(torch.equal(weights[name], value) for name, value in suffix.items())
    (record,) = json.loads((made[TEACHER].folder / "history.json").read_text())
    assert record["epoch"] == 0
    # embeddings of the same teacher at each speed that it was fitted on
    train = sorted(graph.fold.train)
    embeddings = []
    for speed in (0.8, 1.0, 1.25):
        alone = build_graph({**PROBE, "teacher.start": start, "teacher.answer_speeds": [speed]})
        embeddings.append(_answers(alone, store).select(train).embedding)
    labels = np.tile(graph.fold.manifest.labels(train), 3)
    found = np.concatenate(embeddings).astype(np.float64)
    expected = LogisticRegression(C=1 / (0.05 * len(labels)), max_iter=1000, tol=1e-6)
    expected.fit(found, labels)
    logits = found @ weights["classifier.weight"].double().numpy().T
    ours = logits + weights["classifier.bias"].double().numpy()
    ours = np.exp(ours - np.logaddexp.reduce(ours, axis=1, keepdims=True))
    np.testing.assert_allclose(ours, expected.predict_proba(found), atol=5e-3)


def test_an_answer_is_the_mean_over_speeds(build_graph: BuildGraph, store: StageStore) -> None:
    alone = [
        _answers(build_graph({"teacher.answer_speeds": [speed]}), store) for speed in (0.9, 1.0)
    ]
    both = _answers(build_graph({"teacher.answer_speeds": [1.0, 0.9]}), store)
    assert both.utt_ids == alone[0].utt_ids == alone[1].utt_ids
    for name in ("logits", "embedding"):
        first, second = (getattr(each, name) for each in alone)
        assert np.abs(first - second).max() > 1e-3
        np.testing.assert_allclose(getattr(both, name), (first + second) / 2, atol=1e-5)


def test_speeds_of_answers_leave_the_teacher_itself_as_it_is(build_graph: BuildGraph) -> None:
    plain, several = build_graph(), build_graph({"teacher.answer_speeds": [0.9, 1.0]})
    assert plain.key(TEACHER) == several.key(TEACHER)
    assert plain.key(TEACHER_OUTPUTS) != several.key(TEACHER_OUTPUTS)
