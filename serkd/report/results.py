"""What an experiment reached: metrics per fold and pooled, for teacher and student."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serkd.stages.catalogue import STUDENT, TEACHER_OUTPUTS
from serkd.stages.context import Ref
from serkd.stages.graph import StageResult
from serkd.stages.store import Artifact
from serkd.train.metrics import compute_confusion, compute_metrics
from serkd.train.outputs import read_outputs

MODELS = {"teacher": TEACHER_OUTPUTS, "student": STUDENT}


def evaluate(
    artifacts: Mapping[Ref, Artifact],
    labels: Mapping[str, str],
    class_names: Sequence[str],
    split: str,
) -> dict[str, Any]:
    """Metrics of those models that there are, on the utterances of `labels` (id to emotion)."""
    found: dict[str, Any] = {"parameters": {}}
    index = {name: i for i, name in enumerate(class_names)}
    truth = np.array([index[emotion] for emotion in labels.values()])
    for model, ref in MODELS.items():
        if ref not in artifacts:
            continue
        outputs = read_outputs(artifacts[ref].folder / "outputs.parquet")
        found["parameters"][model] = _read_json(artifacts[ref], "model.json")["num_parameters"]
        logits = outputs.select(list(labels)).logits
        confusion = compute_confusion(truth, logits.argmax(axis=1), len(class_names))
        found[model] = {split: compute_metrics(confusion)}
    return found


def unit_quality(artifacts: Mapping[Ref, Artifact]) -> dict[str, Any]:
    """Per scale "layer/K": what the units' stage found of the training frames."""
    return {
        "/".join(map(str, ref.scale)): _read_json(artifact, "quality.json")
        for ref, artifact in artifacts.items()
        if ref.stage == "units"
    }


def _read_json(artifact: Artifact, name: str) -> dict[str, Any]:
    return json.loads((artifact.folder / name).read_text(encoding="utf-8"))


def stage_row(stage: StageResult) -> dict[str, Any]:
    """How a stage was had, for results.json."""
    return {
        "stage": str(stage.ref),
        "key": stage.key,
        "is_cached": stage.is_cached,
        "seconds": round(stage.seconds, 3),
    }


def pool_folds(folds: Mapping[str, Mapping[str, Any]], split: str) -> dict[str, Any]:
    """Metrics of the summed confusion matrices, with mean and sd over folds (sd None for one)."""
    pooled: dict[str, Any] = {}
    for model in MODELS:
        parts = [fold[model][split] for fold in folds.values() if model in fold]
        if parts:
            total = np.sum([part["confusion"] for part in parts], axis=0)
            pooled[model] = {split: {**compute_metrics(total), **_spread(parts)}}
    return pooled


def _spread(parts: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    spread: dict[str, float | None] = {}
    for name in ("war", "uar", "wf1"):
        values = [part[name] for part in parts]
        spread[f"{name}_mean"] = float(np.mean(values))
        spread[f"{name}_sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return spread
