"""Adapters and mixtures of layers through the whole chain of stages."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from serkd.events import Observer
from serkd.features.backbone import Suffix
from serkd.stages.catalogue import EXTRACTOR, STAGE_1, TEACHER, TEACHER_OUTPUTS
from serkd.stages.context import Compute
from serkd.stages.graph import Graph
from serkd.stages.store import StageStore
from serkd.threads import set_threads

CHANGES: dict[str, Any] = {
    "backbone.lora.rank": 2,
    "backbone.lora.targets": "feed_forward",
    "backbone.layer_mix": True,
    "train.checkpoint_layers": True,
    "teacher.stage2.fit.layer_decay": 0.5,
}


@pytest.fixture(scope="module")
def graph(build_graph: Callable[..., Graph]) -> Graph:
    return build_graph(CHANGES)


@pytest.fixture(scope="module")
def published(
    graph: Graph, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Tensor]]:
    """Weights of the three models; the outputs of the last one are made, too."""
    set_threads(1)
    store = StageStore(tmp_path_factory.mktemp("store"))
    artifacts, _ = graph.run([TEACHER_OUTPUTS], store, Compute(), Observer())
    assert Path(artifacts[TEACHER_OUTPUTS].folder, "outputs.parquet").is_file()
    return {
        ref.stage: load_file(artifacts[ref].folder / "model.safetensors")
        for ref in (EXTRACTOR, STAGE_1, TEACHER)
    }


def _suffix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix("suffix."): v for k, v in weights.items() if k.startswith("suffix.")}


def test_published_weights_are_plain_and_only_what_was_adapted_has_moved(
    graph: Graph, published: dict[str, dict[str, Tensor]]
) -> None:
    pretrained = Suffix(graph.backbone, 0).state_dict()
    start = pretrained
    for stage in ("extractor", "teacher_units"):
        found = _suffix(published[stage])
        assert found.keys() == start.keys()
        for name, weight in start.items():
            is_adapted = "_dense.weight" in name
            assert torch.equal(found[name], weight) != is_adapted, (stage, name)


def test_stage_2_starts_from_stage_1_with_its_adapters_merged(
    published: dict[str, dict[str, Tensor]],
) -> None:
    start, found = (_suffix(published[stage]) for stage in ("teacher_units", "teacher"))
    for name, weight in start.items():
        if "_dense.weight" in name:
            # a rank of two, on top of whatever stage 1 had found
            assert torch.linalg.matrix_rank(found[name] - weight, atol=1e-5) <= 2
        else:
            assert torch.equal(found[name], weight)


def test_every_model_has_its_own_mixture_of_all_layers(
    graph: Graph, published: dict[str, dict[str, Tensor]]
) -> None:
    for weights in published.values():
        assert weights["mix.scores"].shape == (graph.backbone.num_layers + 1,)
        assert float(weights["mix.scores"].abs().max()) > 0  # it has learned
