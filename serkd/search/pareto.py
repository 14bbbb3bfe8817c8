"""The front of several objectives."""

from collections.abc import Mapping, Sequence
from typing import Any

from serkd.search.space import DIRECTIONS


def find_front(
    trials: Sequence[Mapping[str, Any]], objective: Sequence[str]
) -> list[Mapping[str, Any]]:
    """The trials that no other is at least as good as in all objectives and better in one.

    Each has `values` by objective. In the order of the first objective, best first.
    """
    signs = [1.0 if DIRECTIONS[name] == "min" else -1.0 for name in objective]
    points = [
        tuple(sign * trial["values"][name] for sign, name in zip(signs, objective, strict=True))
        for trial in trials
    ]
    front = [
        i for i, point in enumerate(points) if not any(_dominates(other, point) for other in points)
    ]
    return [trials[i] for i in sorted(front, key=points.__getitem__)]


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
