"""What stages will take: seconds and bytes, from those that were computed before."""

import json
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serkd.search.count import Node

# settings that decide how long a stage takes; the longer the list of equal ones, the better
_COSTLY = (
    "epochs",
    "batch_size",
    "family",
    "width",
    "depth",
    "num_frames",
    "frame_rate_hz",
    "order",
    "trains",
    "every_steps",
    "supcon_views",
    "frozen_layers",
    "precision",
    "frames",
    "rank",
    "max_iterations",
    "max_points",
)
_CLUSTERED = ("centroids",)  # their time grows with the number of clusters


@dataclass(frozen=True)
class Past:
    """A stage that was computed: its settings, scale, time and size."""

    config: Mapping[str, Any]
    scale: tuple[int, ...]
    seconds: float
    num_bytes: int


def read_past(storage: Path) -> dict[str, list[Past]]:
    """All stages of a storage folder, by name."""
    found: dict[str, list[Past]] = {}
    for path in sorted((storage / "stages").glob("*/*/stage.json")):
        info = json.loads(path.read_text(encoding="utf-8"))
        fields = info["fields"]
        past = Past(
            fields["config"], tuple(fields.get("scale", ())), info["seconds"], info["bytes"]
        )
        found.setdefault(info["stage"], []).append(past)
    return found


class Costs:
    """Predictions: like the most similar stages of the past; `calibrated` where there is none."""

    def __init__(
        self,
        past: Mapping[str, list[Past]],
        calibrated: Callable[[Node], tuple[float, float]],
    ) -> None:
        self.past, self.calibrated = past, calibrated
        self.guessed: set[str] = set()  # stages without a past
        self._known: dict[tuple[Any, ...], tuple[float, float]] = {}
        self._parts: dict[int, tuple[Mapping[str, Any], tuple[tuple[str, Any], ...]]] = {}

    def predict(self, node: Node) -> tuple[float, float]:
        """(seconds, bytes) of computing a node once."""
        parts = [self._part(used) for used in node.uses]
        key = (node.ref.stage, node.ref.scale, *parts)
        if key not in self._known:
            costly = dict(item for part in parts for item in part)
            past = self.past.get(node.ref.stage)
            if past:
                self._known[key] = _predict_like(past, costly, node)
            else:
                self.guessed.add(node.ref.stage)
                self._known[key] = self.calibrated(node)
        return self._known[key]

    def _part(self, used: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
        """What decides the time, of a part of a node's settings; those are the same objects."""
        if id(used) not in self._parts:
            self._parts[id(used)] = (used, tuple(_costly(used).items()))
        return self._parts[id(used)][1]


def flatten(uses: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """All settings of a node in one mapping."""
    return {dotted: value for each in uses for dotted, value in each.items()}


def _costly(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        dotted: value
        for dotted, value in config.items()
        if dotted.rpartition(".")[2] in _COSTLY and not isinstance(value, list | dict)
    }


def _predict_like(past: list[Past], costly: Mapping[str, Any], node: Node) -> tuple[float, float]:
    alike = [sum(each.config.get(k) == v for k, v in costly.items()) for each in past]
    nearest = [each for each, count in zip(past, alike, strict=True) if count == max(alike)]
    seconds = statistics.median(each.seconds * _ratio(each, costly, node) for each in nearest)
    return seconds, statistics.median(each.num_bytes for each in nearest)


def _ratio(past: Past, costly: Mapping[str, Any], node: Node) -> float:
    """Time grows with epochs, and with clusters."""
    ratio = 1.0
    for dotted, value in costly.items():
        if dotted.endswith(".epochs") and past.config.get(dotted):
            ratio *= value / past.config[dotted]
    if node.ref.stage in _CLUSTERED and len(past.scale) > 1:
        ratio *= node.ref.scale[1] / past.scale[1]
    return ratio
