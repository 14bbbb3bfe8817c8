"""What an experiment reached: metrics per fold and pooled, for teacher and student."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serkd.corpora.protocols import Fold
from serkd.stages.catalogue import STUDENT, TEACHER_OUTPUTS
from serkd.stages.graph import Ref, StageResult
from serkd.stages.store import Artifact
from serkd.train.metrics import compute_confusion, compute_metrics
from serkd.train.outputs import read_outputs

MODELS = {"teacher": TEACHER_OUTPUTS, "student": STUDENT}
SPLITS = ("dev", "test")


def evaluate_fold(
    fold: Fold, artifacts: Mapping[Ref, Artifact], stages: Sequence[StageResult]
) -> dict[str, Any]:
    """Metrics of both models on dev and test. This is where test labels are read."""
    found: dict[str, Any] = {
        "stages": [_stage_row(stage) for stage in stages],
        "units": _unit_quality(artifacts),
        "parameters": {},
    }
    for model, ref in MODELS.items():
        outputs = read_outputs(artifacts[ref].folder / "outputs.parquet")
        found["parameters"][model] = _read_json(artifacts[ref], "model.json")["num_parameters"]
        found[model] = {}
        for split in SPLITS:
            utt_ids = getattr(fold, split)
            logits = outputs.select(utt_ids).logits
            labels = np.array(fold.manifest.labels(utt_ids))
            confusion = compute_confusion(labels, logits.argmax(axis=1), logits.shape[1])
            found[model][split] = compute_metrics(confusion)
    return found


def _unit_quality(artifacts: Mapping[Ref, Artifact]) -> dict[str, Any]:
    """Per scale "layer/K": purity, PNMI and occupancy on the training frames."""
    scales = {ref.scale: artifact for ref, artifact in artifacts.items() if ref.stage == "units"}
    return {
        f"{scale[0]}/{scale[1]}": _read_json(artifact, "quality.json")
        for scale, artifact in scales.items()
        if scale is not None
    }


def _read_json(artifact: Artifact, name: str) -> dict[str, Any]:
    return json.loads((artifact.folder / name).read_text(encoding="utf-8"))


def _stage_row(stage: StageResult) -> dict[str, Any]:
    return {
        "stage": str(stage.ref),
        "key": stage.key,
        "is_cached": stage.is_cached,
        "seconds": round(stage.seconds, 3),
    }


def pool_folds(folds: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Metrics of the summed confusion matrices, with mean and sd over folds (sd None for one)."""
    pooled: dict[str, Any] = {}
    for model in MODELS:
        pooled[model] = {}
        for split in SPLITS:
            parts = [fold[model][split] for fold in folds.values()]
            total = np.sum([part["confusion"] for part in parts], axis=0)
            pooled[model][split] = {**compute_metrics(total), **_spread(parts)}
    return pooled


def _spread(parts: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    spread: dict[str, float | None] = {}
    for name in ("war", "uar", "wf1"):
        values = [part[name] for part in parts]
        spread[f"{name}_mean"] = float(np.mean(values))
        spread[f"{name}_sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return spread
