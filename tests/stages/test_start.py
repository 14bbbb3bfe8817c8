"""What stage 2 starts from: which stages it needs, and whose suffix it has."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from serkd.events import Observer
from serkd.features.backbone import Suffix
from serkd.stages.catalogue import EXTRACTOR, STAGE_1, TEACHER, TEACHER_OUTPUTS
from serkd.stages.context import Compute, Ref
from serkd.stages.frames import read_part
from serkd.stages.graph import Graph
from serkd.stages.store import StageStore

BuildGraph = Callable[..., Graph]
STARTS = ["units", "extractor", "backbone"]
# so slow that a suffix stays, to the digits compared, where it started
STILL = {"teacher.stage2.fit.backbone_lr": 1e-12, "teacher.stage2.fit.epochs": 1}


def test_stage_2_needs_nothing_that_it_does_not_start_from(build_graph: BuildGraph) -> None:
    needed = {
        start: [str(ref) for ref in build_graph({"teacher.start": start}).closure([TEACHER])]
        for start in STARTS
    }
    units = ["centroids 2/4", "centroids 2/8", "units 2/4", "units 2/8", "teacher_units"]
    assert needed == {
        "units": ["features 0", "extractor", "hidden 2", *units, "teacher"],
        "extractor": ["features 0", "extractor", "teacher"],
        "backbone": ["features 0", "teacher"],
    }


@pytest.mark.parametrize("start", ["extractor", "backbone"])
def test_settings_of_units_are_no_part_of_a_teacher_without_them(
    build_graph: BuildGraph, start: str
) -> None:
    others = {"units.num_clusters": [16], "teacher.stage1.fit.lr": 0.5, "units.source": "backbone"}
    first, second = (build_graph({"teacher.start": start, **more}) for more in ({}, others))
    assert first.key(TEACHER_OUTPUTS) == second.key(TEACHER_OUTPUTS)
    other = build_graph({"teacher.start": start, "extractor.emotion_weight": 0.5})
    assert (first.key(TEACHER) == other.key(TEACHER)) == (start == "backbone")


@pytest.mark.parametrize("start", STARTS)
def test_the_suffix_of_stage_2_is_the_one_that_it_starts_from(
    build_graph: BuildGraph, storage: Path, tmp_path: Path, start: str
) -> None:
    shutil.copytree(storage, tmp_path / "copy")
    store = StageStore(tmp_path / "copy")
    graph = build_graph({"teacher.start": start, **STILL})
    artifacts, _ = graph.run([TEACHER_OUTPUTS], store, Compute(), Observer())
    found = read_part(artifacts[TEACHER].folder / "model.safetensors", "suffix")
    suffixes = {"backbone": Suffix(graph.backbone, 0).state_dict()}
    for name, ref in (("units", STAGE_1), ("extractor", EXTRACTOR)):
        fitted = store.folder(ref.stage, build_graph().key(ref))
        suffixes[name] = read_part(fitted / "model.safetensors", "suffix")
    for name, expected in suffixes.items():
        is_same = all(torch.allclose(found[k], v, atol=1e-7, rtol=0) for k, v in expected.items())
        assert is_same == (name == start), name


def test_a_kept_stage_1_adds_units_to_the_inputs_and_nothing_to_the_teacher(
    build_graph: BuildGraph, storage: Path, tmp_path: Path
) -> None:
    shutil.copytree(storage, tmp_path / "copy")
    store, plain = StageStore(tmp_path / "copy"), build_graph()
    kept = build_graph({"teacher.stage2.unit_weight": 0.1})
    scales = [Ref("units", (2, 4)), Ref("units", (2, 8))]
    assert list(kept.inputs(TEACHER)) == [*plain.inputs(TEACHER), *scales]
    assert kept.key(STAGE_1) == plain.key(STAGE_1)
    artifacts, _ = kept.run([TEACHER_OUTPUTS], store, Compute(), Observer())
    shapes = []
    for folder in (artifacts[TEACHER].folder, store.folder("teacher", plain.key(TEACHER))):
        weights = load_file(folder / "model.safetensors")
        shapes.append({name: value.shape for name, value in weights.items()})
    assert shapes[0] == shapes[1]
    history = json.loads((artifacts[TEACHER].folder / "history.json").read_text())
    assert {"loss/emotion", "loss/units_L2_K4", "loss/units_L2_K8"} <= history[0].keys()


def test_stage_1_says_which_head_is_of_which_scale(
    build_graph: BuildGraph, storage: Path, tmp_path: Path
) -> None:
    """Layer by layer, each in the order in which the user names them."""
    shutil.copytree(storage, tmp_path / "copy")
    changes = {
        "units.layers": [2, 1],
        "units.num_clusters": [8, 4],
        "teacher.stage1.scale_weights": [1.0, 2.0, 3.0, 4.0],
        "units.gender_mode": "joint",
    }
    artifacts, _ = build_graph(changes).run(
        [STAGE_1], StageStore(tmp_path / "copy"), Compute(), Observer()
    )
    about = json.loads((artifacts[STAGE_1].folder / "scales.json").read_text())
    assert [tuple(one.values()) for one in about] == [
        (2, 8, 16, 1.0), (2, 4, 8, 2.0), (1, 8, 16, 3.0), (1, 4, 8, 4.0),
    ]  # fmt: skip
    weights = load_file(artifacts[STAGE_1].folder / "model.safetensors")
    assert [len(weights[f"heads.{i}.2.bias"]) for i in range(4)] == [16, 8, 16, 8]
    history = json.loads((artifacts[STAGE_1].folder / "history.json").read_text())
    names = [n for n in history[0] if n.startswith("dev_unit_accuracy/")]
    assert names == [f"dev_unit_accuracy/L{layer}_K{k}" for layer in (2, 1) for k in (8, 4)]
