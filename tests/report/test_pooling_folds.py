"""Results: metrics of the stored outputs, and of all folds together."""

import statistics
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, recall_score

from serkd.report.results import pool_folds
from serkd.stages.catalogue import MODELS
from serkd.train.metrics import compute_confusion, compute_metrics

NUM_CLASSES = 4
SPLITS = ("dev", "test")
Predicted = dict[tuple[str, str], list[tuple[np.ndarray, np.ndarray]]]


def _folds() -> tuple[dict[str, Any], Predicted]:
    """Three folds of unequal size and difficulty, and the predictions behind them."""
    rng = np.random.default_rng(0)
    predicted: Predicted = {(m, s): [] for m in MODELS for s in SPLITS}
    folds: dict[str, Any] = {}
    for fold, (size, skill) in enumerate([(40, 0.2), (90, 0.5), (200, 0.7)]):
        folds[str(fold)] = {model: {} for model in MODELS}
        for (model, split), parts in predicted.items():
            labels = rng.integers(NUM_CLASSES, size=size)
            guesses = rng.integers(NUM_CLASSES, size=size)
            predictions = np.where(rng.random(size) < skill, labels, guesses)
            parts.append((labels, predictions))
            confusion = compute_confusion(labels, predictions, NUM_CLASSES)
            folds[str(fold)][model][split] = compute_metrics(confusion)
    return folds, predicted


def test_pooled_metrics_are_those_of_all_folds_predictions_together() -> None:
    folds, predicted = _folds()
    pooled = {split: pool_folds(folds, split) for split in SPLITS}
    for (model, split), parts in predicted.items():
        labels, predictions = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        found = pooled[split][model][split]
        expected = {
            "war": accuracy_score(labels, predictions),
            "uar": balanced_accuracy_score(labels, predictions),
            "wf1": f1_score(labels, predictions, average="weighted"),
        }
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, abs=1e-12)
        recalls = recall_score(labels, predictions, average=None)
        assert found["per_class_recall"] == pytest.approx(recalls.tolist(), abs=1e-12)
        assert np.sum(found["confusion"]) == len(labels)


def test_spread_over_folds_is_the_sample_deviation_and_none_for_one_fold() -> None:
    folds, _ = _folds()
    pooled = pool_folds(folds, "test")["student"]["test"]
    for name in ("war", "uar", "wf1"):
        values = [fold["student"]["test"][name] for fold in folds.values()]
        assert pooled[f"{name}_mean"] == pytest.approx(statistics.mean(values))
        assert pooled[f"{name}_sd"] == pytest.approx(statistics.stdev(values))
    alone = pool_folds({"1": folds["1"]}, "test")["student"]["test"]
    assert alone["uar"] == alone["uar_mean"] == folds["1"]["student"]["test"]["uar"]
    assert alone["uar_sd"] is None
