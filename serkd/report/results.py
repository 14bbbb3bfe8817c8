"""What an experiment reached: metrics per fold and pooled, for teacher and student."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serkd.config import Experiment
from serkd.corpora.folds import Fold
from serkd.errors import InputError
from serkd.recipe import build_experiment
from serkd.stages.catalogue import INNER_OUTPUTS, MODELS
from serkd.stages.context import Ref
from serkd.stages.graph import StageResult
from serkd.stages.store import Artifact
from serkd.train.metrics import compute_confusion, compute_metrics
from serkd.train.outputs import read_outputs


@dataclass(frozen=True)
class FinishedRun:
    """What a run's folder says: its experiment, and its results on dev."""

    experiment: Experiment
    results: dict[str, Any]

    @property
    def models(self) -> tuple[str, ...]:
        """Those of `MODELS` that it has."""
        return tuple(self.results["models"])


def is_run(folder: Path) -> bool:
    """Whether a run has finished in a folder."""
    return (folder / "experiment.json").is_file() and (folder / "results.json").is_file()


def read_run(folder: Path) -> FinishedRun:
    """A finished run.

    Raises:
        InputError: its files are not as serkd writes them.
    """
    described = folder / "experiment.json"
    experiment = build_experiment(read_json(described), {}, origin=str(described))
    results = read_json(folder / "results.json")
    for name in ("fold_choice", "models"):
        if name not in results:
            raise InputError(f"{folder / 'results.json'}: must have {name!r}: run it again")
    return FinishedRun(experiment, results)


def read_json(path: Path) -> dict[str, Any]:
    """A file that serkd wrote."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: must be the JSON that serkd wrote: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: must be the JSON that serkd wrote, got a {type(found).__name__}")
    return found


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


def dev_labels(fold: Fold) -> dict[str, str]:
    """Emotions of the fold's dev part, by utterance."""
    return {utt_id: fold.manifest.by_id[utt_id].emotion for utt_id in fold.dev}


def out_of_fold(artifacts: Mapping[Ref, Artifact]) -> dict[str, Any]:
    """`out_of_fold`: metrics of train by teachers of inner folds, where there are any."""
    if INNER_OUTPUTS not in artifacts:
        return {}
    return {"out_of_fold": _read_json(artifacts[INNER_OUTPUTS], "inner.json")["train"]}


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
