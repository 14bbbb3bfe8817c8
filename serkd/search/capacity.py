"""How many trials fit the cluster at once."""

from collections.abc import Mapping

import ray

from serkd import config
from serkd.errors import InputError
from serkd.search.space import Resources
from serkd.train.launch import count_fitting


def trial_needs(own: Resources, train: config.Train) -> dict[str, float]:
    """What a trial takes with the workers that it starts besides itself."""
    needs = {"CPU": float(own.cpu), "GPU": float(own.gpu)}
    if train.num_workers > 1:
        for name, value in (train.resources_per_worker or {"CPU": 1.0}).items():
            needs[name] = needs.get(name, 0.0) + train.num_workers * value
    return {name: value for name, value in needs.items() if value}


def count_slots(own: Resources, train: config.Train | None = None) -> int:
    """How many trials run at a time: by node where a trial is one process, else by the sum.

    Asks the cluster every time: nodes come and go.
    """
    needs = trial_needs(own, train or config.Train())
    if train is None or train.num_workers == 1:
        return count_fitting(_nodes(), needs)
    there = ray.cluster_resources()
    return int(min(there.get(name, 0.0) / value for name, value in needs.items()))


def require_fit(own: Resources, train: config.Train | None = None) -> int:
    """How many trials run at a time; at least one, or the plan is refused before any work.

    A cluster that grows on demand is asked for what its configuration allows.

    Raises:
        InputError: not even one trial fits.
    """
    slots = count_slots(own, train)
    if slots > 0:
        return slots
    needs = trial_needs(own, train or config.Train())
    there = ray.cluster_resources()
    limits = _configured()
    if limits and all(limits.get(name, 0) >= value for name, value in needs.items()):
        return 1
    asked = ", ".join(f"{value:g} {name}" for name, value in needs.items())
    have = ", ".join(f"{there.get(name, 0):g} {name}" for name in needs)
    raise InputError(
        f"resources: a trial must fit the cluster: it needs {asked}, the cluster has {have} "
        f"on {len(_nodes())} node(s)"
    )


def _nodes() -> list[Mapping[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _configured() -> Mapping[str, float]:
    """The most that an autoscaling cluster may grow to; nothing for others."""
    from ray._private.state import state

    return state.get_max_resources_from_cluster_config() or {}
