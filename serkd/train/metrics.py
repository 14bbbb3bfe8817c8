"""Metrics of predicted classes."""

from typing import Any

import numpy as np


def compute_confusion(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts (C, C): rows are true classes, columns predicted ones."""
    table = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(table, (labels, predictions), 1)
    return table


def compute_metrics(confusion: np.ndarray) -> dict[str, Any]:
    """WAR (accuracy), UAR (mean recall of the classes that occur), WF1 (F1 weighted by support).

    Per-class recall is None for a class that does not occur.
    """
    support, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    hits = np.diag(confusion)
    occurs = support > 0
    recall = hits[occurs] / support[occurs]
    f1 = 2 * hits / np.maximum(support + predicted, 1)
    per_class: list[float | None] = [None] * len(support)
    for index, value in zip(np.flatnonzero(occurs), recall, strict=True):
        per_class[index] = float(value)
    return {
        "war": float(hits.sum() / support.sum()),
        "uar": float(recall.mean()),
        "wf1": float((support / support.sum() * f1).sum()),
        "per_class_recall": per_class,
        "confusion": confusion.tolist(),
    }
