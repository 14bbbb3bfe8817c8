"""How many actors a cluster takes, and how urgent its workers are."""

import os

import pytest
import ray

from serkd import runtime


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({"CPU": 8.0}, (8, 0.0)),
        ({"CPU": 0.5}, (1, 0.0)),
        # one per GPU, however many CPUs: the others would wait for a GPU for ever
        ({"CPU": 32.0, "GPU": 2.0}, (2, 1.0)),
    ],
)
def test_actors_are_as_many_as_can_run_at_once(
    monkeypatch: pytest.MonkeyPatch, resources: dict[str, float], expected: tuple[int, float]
) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: resources)
    monkeypatch.setattr(ray, "available_resources", lambda: resources)
    assert runtime.cluster_actors(is_shared=True) == expected


@pytest.mark.parametrize(("num_nodes", "expected"), [(1, (8, 0.0)), (2, (0, 0.0))])
def test_machines_without_a_common_folder_get_no_actors(
    monkeypatch: pytest.MonkeyPatch, num_nodes: int, expected: tuple[int, float]
) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 9.0})
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 8.0})
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True}] * num_nodes + [{"Alive": False}])
    assert runtime.cluster_actors(is_shared=False) == expected


def test_workers_are_as_urgent_as_who_started_them(ray_cluster: None) -> None:
    """At Ray's niceness of 15 they would wait for every other job of the machine."""
    assert ray.get(ray.remote(lambda: os.nice(0)).remote()) == os.nice(0)
