"""What happens to one worker happens to all: numbers that are not finite, and deaths."""

from functools import partial
from pathlib import Path
from typing import Any

import accidents
import pytest
import ray
import ray.cloudpickle
import torch
from accidents import Accident, build_line, death, lone_nan, lone_overflow

from serkd import config
from serkd.errors import InputError
from serkd.events import Observer
from serkd.train.launch import train
from serkd.train.task import Task

ray.cloudpickle.register_pickle_by_value(accidents)  # workers cannot import tests
TWO = config.Train(num_workers=2)


def _records(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in history]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("accident", "precision"), [(lone_nan, "float32"), (lone_overflow, "bfloat16")]
)
def test_a_broken_number_on_one_worker_ends_the_training_on_all(
    ray_cluster: None, tmp_path: Path, accident: Accident, precision: str
) -> None:
    build = build_line(precision, accident)
    with pytest.raises(FloatingPointError, match=r"line: loss and gradient must be .*loss/square"):
        train("line", build, tmp_path, TWO, Observer())


@pytest.mark.slow
@pytest.mark.parametrize("accident", [lone_nan, lone_overflow])
def test_float16_skips_a_broken_step_on_all_workers(
    ray_cluster: None, tmp_path: Path, accident: Accident
) -> None:
    """As if that step of the epoch had not been; with the resources that they are given."""
    settings = config.Train(num_workers=2, resources_per_worker={"CPU": 0.5})
    trained = train("line", build_line("float16", accident), tmp_path, settings, Observer())
    skipped = [record["skipped_steps"] for record in trained.history]
    assert skipped == [0.0, 1.0, 0.0, 0.0]
    assert all(torch.isfinite(value).all() for value in trained.weights.values())


@pytest.mark.slow
def test_a_killed_worker_leaves_no_trace_in_the_result(ray_cluster: None, tmp_path: Path) -> None:
    marker = tmp_path / "killed"
    build = build_line(accident=partial(death, str(marker)))
    found = train("line", build, tmp_path / "killed_once", TWO, Observer())
    assert marker.exists()
    expected = train("line", build, tmp_path / "whole", TWO, Observer())
    assert _records(found.history) == _records(expected.history)
    for name, value in expected.weights.items():
        assert torch.equal(found.weights[name], value), name


@pytest.mark.parametrize(
    ("resources", "room"),
    [({"CPU": 2.0}, 1), ({"CPU": 1.0, "GPU": 1.0}, 0), ({"CPU": 0.5, "TPU": 1.0}, 0)],
)
def test_workers_that_the_cluster_cannot_hold_are_refused_before_any_work(
    ray_cluster: None, tmp_path: Path, resources: dict[str, float], room: int
) -> None:
    def build() -> Task:
        raise AssertionError("nothing may be built")

    settings = config.Train(num_workers=2, resources_per_worker=resources)
    with pytest.raises(InputError, match=rf"train\.num_workers .* = {room}, got 2; its nodes have"):
        train("line", build, tmp_path, settings, Observer())
