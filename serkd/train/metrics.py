"""Metrics of predicted classes."""

from typing import Any

import numpy as np

METRICS = ("uar", "war", "wf1")


def compute_confusion(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts (C, C): rows are true classes, columns predicted ones."""
    table = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(table, (labels, predictions), 1)
    return table


def confusion_metric(confusion: np.ndarray, metric: str) -> np.ndarray:
    """(…,) of counts (…, C, C), none of them empty.

    WAR is accuracy, UAR the mean recall of the classes that occur, WF1 the F1 weighted by support.
    """
    support, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    total = support.sum(axis=-1)
    if metric == "war":
        return hits.sum(axis=-1) / total
    if metric == "uar":
        return (hits / np.maximum(support, 1)).sum(axis=-1) / (support > 0).sum(axis=-1)
    if metric == "wf1":
        f1 = 2 * hits / np.maximum(support + predicted, 1)
        return (support * f1).sum(axis=-1) / total
    raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")


def compute_metrics(confusion: np.ndarray) -> dict[str, Any]:
    """WAR, UAR and WF1, with every class's recall: None for a class that does not occur."""
    support, hits = confusion.sum(axis=1), np.diag(confusion)
    per_class: list[float | None] = [None] * len(support)
    for index in np.flatnonzero(support):
        per_class[index] = float(hits[index] / support[index])
    return {
        **{name: float(confusion_metric(confusion, name)) for name in ("war", "uar", "wf1")},
        "per_class_recall": per_class,
        "confusion": confusion.tolist(),
    }
