"""The random teacher: shaped as the trained one, drawn anew, told nothing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from serkd.corpora.manifest import Manifest
from serkd.events import Observer
from serkd.features.backbone import Suffix
from serkd.stages.catalogue import RANDOM_TEACHER, STUDENT, TEACHER_OUTPUTS
from serkd.stages.context import Compute, Ref
from serkd.stages.graph import Graph
from serkd.stages.store import Artifact, StageStore
from serkd.threads import set_threads
from serkd.train.outputs import read_outputs

BuildGraph = Callable[..., Graph]
RANDOM = {"distill.teacher": "random", "student.fit.epochs": 1}


def _run(graph: Graph, folder: Path, target: Ref) -> dict[Ref, Artifact]:
    artifacts, _ = graph.run([target], StageStore(folder), Compute(), Observer())
    return artifacts


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    set_threads(1)
    return tmp_path_factory.mktemp("random")


@pytest.fixture(scope="module")
def made(build_graph: BuildGraph, store: Path) -> dict[Ref, Artifact]:
    return _run(build_graph(RANDOM), store, STUDENT)


def test_nothing_is_trained_for_it(made: dict[Ref, Artifact]) -> None:
    stages = {ref.stage for ref in made}
    assert stages == {"features", "logmel", "random_teacher", "teacher_outputs", "student"}


def test_it_has_the_shape_of_the_trained_one_and_no_weight_of_the_pre_trained(
    made: dict[Ref, Artifact], storage: Path, build_graph: BuildGraph
) -> None:
    graph = build_graph()
    trained = load_file(
        StageStore(storage).get("teacher", graph.key(Ref("teacher"))).folder / "model.safetensors"
    )
    drawn = load_file(made[RANDOM_TEACHER].folder / "model.safetensors")
    assert {k: v.shape for k, v in drawn.items()} == {k: v.shape for k, v in trained.items()}
    pretrained = Suffix(graph.backbone, 0).state_dict()
    matrices = [name for name, value in pretrained.items() if value.ndim > 1]
    assert matrices
    for name in matrices:
        found, before = drawn[f"suffix.{name}"], pretrained[name]
        correlation = torch.corrcoef(torch.stack([found.flatten(), before.flatten()]))[0, 1]
        assert abs(float(correlation)) < 6 / found.numel() ** 0.5, name


def test_it_says_something_else_of_every_utterance(made: dict[Ref, Artifact]) -> None:
    """Or it would be label smoothing by another name."""
    logits = read_outputs(made[TEACHER_OUTPUTS].folder / "outputs.parquet").logits
    assert np.isfinite(logits).all()
    assert logits.std(axis=0).min() > 0.05


# what of stage 2 reads labels before its first step
READERS = {
    "class weights": {"teacher.stage2.class_weights": "balanced"},
    "probe": {
        "teacher.stage2.loss": "cross_entropy",
        "teacher.stage2.probe_l2": 0.1,
        "teacher.stage2.fit.epochs": 0,
    },
}


@pytest.mark.parametrize("reader", READERS)
def test_it_knows_no_label(
    manifest: Manifest, build_graph: BuildGraph, tmp_path: Path, reader: str
) -> None:
    """Labels dealt anew give the same weights, under a key of their own."""
    emotions = [u.emotion for u in manifest.utterances]
    rows = [
        replace(u, emotion=emotion)
        for u, emotion in zip(manifest.utterances, emotions[1:] + emotions[:1], strict=True)
    ]
    changes, dealt = {**RANDOM, **READERS[reader]}, replace(manifest, utterances=tuple(rows))
    graphs = [build_graph(changes), build_graph(changes, changed_manifest=dealt)]
    found = [_run(graph, tmp_path, RANDOM_TEACHER)[RANDOM_TEACHER] for graph in graphs]
    files = [one.folder / "model.safetensors" for one in found]
    pair = [load_file(path) for path in files]
    assert all(torch.equal(pair[0][name], pair[1][name]) for name in pair[0])
    assert files[0].parent.name != files[1].parent.name


def test_every_key_above_it_says_which_teacher_it_is_and_its_seed(build_graph: BuildGraph) -> None:
    graphs = [build_graph(c) for c in ({}, RANDOM, {**RANDOM, "seed": 1})]
    for ref in (TEACHER_OUTPUTS, STUDENT):
        assert len({graph.key(ref) for graph in graphs}) == 3
    # but a trained teacher is the same whatever else there is
    assert graphs[0].key(Ref("teacher")) == graphs[1].key(Ref("teacher"))
