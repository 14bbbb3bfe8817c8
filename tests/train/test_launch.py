"""What the workers of a training take of a cluster; the nodes are made up."""

import pytest
import ray

from serkd import config
from serkd.errors import InputError
from serkd.train.launch import _scale

GPU_NODES = [{"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 1.0}, {"CPU": 4.0}]


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [{"Alive": True, "Resources": resources} for resources in GPU_NODES]
    found.append({"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}})
    monkeypatch.setattr(ray, "nodes", lambda: found)


@pytest.mark.parametrize(
    ("settings", "needs"),
    [
        ({"num_workers": 2}, {"CPU": 1.0, "GPU": 1.0}),
        ({"num_workers": 3}, {"CPU": 1.0}),  # not enough GPUs for all, so none has one
        ({"num_workers": 2, "device": "cpu"}, {"CPU": 1.0}),
        ({"num_workers": 2, "device": "cuda"}, {"CPU": 1.0, "GPU": 1.0}),
        ({"num_workers": 4, "resources_per_worker": {"CPU": 4}}, {"CPU": 4.0}),
        ({"num_workers": 4, "resources_per_worker": {"GPU": 0.5}}, {"GPU": 0.5}),
    ],
)
def test_workers_take_a_gpu_each_or_what_they_are_told(
    nodes: None, settings: dict[str, object], needs: dict[str, float]
) -> None:
    scaling = _scale(config.Train.model_validate(settings))
    assert scaling.resources_per_worker == needs
    assert scaling.use_gpu == ("GPU" in needs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_workers": 3, "device": "cuda"}, r"workers of 1 CPU, 1 GPU = 2, got 3"),
        ({"num_workers": 6, "resources_per_worker": {"CPU": 4}}, r"workers of 4 CPU = 5, got 6"),
        ({"num_workers": 2, "resources_per_worker": {"CPU": 9}}, r"workers of 9 CPU = 0, got 2"),
    ],
)
def test_workers_that_no_node_can_hold_are_refused(
    nodes: None, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        _scale(config.Train.model_validate(settings))
