"""Metrics against scikit-learn."""

import warnings

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    recall_score,
)

from serkd.train.metrics import compute_confusion, compute_metrics

NUM_CLASSES = 5


def _draw(seed: int, occurring: list[int], predicted: list[int]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.choice(occurring, 200)
    guesses = rng.choice(predicted, 200)
    return labels, np.where(rng.random(200) < 0.4, labels, guesses)


@pytest.mark.parametrize(
    ("occurring", "predicted"),
    [
        ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4]),
        ([0, 1, 3], [0, 1, 2, 3, 4]),  # classes 2 and 4 do not occur but are predicted
        ([0, 1, 2, 3, 4], [2]),  # one class is hardly ever left
        ([1], [1]),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_metrics_equal_scikit_learns(occurring: list[int], predicted: list[int], seed: int) -> None:
    labels, predictions = _draw(seed, occurring, predicted)
    confusion = compute_confusion(labels, predictions, NUM_CLASSES)
    found = compute_metrics(confusion)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the classes that do not occur
        uar = balanced_accuracy_score(labels, predictions)
    assert found["war"] == pytest.approx(accuracy_score(labels, predictions), abs=1e-12)
    assert found["uar"] == pytest.approx(uar, abs=1e-12)
    expected = f1_score(labels, predictions, average="weighted", zero_division=0)
    assert found["wf1"] == pytest.approx(expected, abs=1e-12)
    np.testing.assert_array_equal(
        confusion, confusion_matrix(labels, predictions, labels=range(NUM_CLASSES))
    )
    classes = range(NUM_CLASSES)
    recalls = recall_score(labels, predictions, labels=classes, average=None, zero_division=0)
    for label, recall in zip(classes, found["per_class_recall"], strict=True):
        # a class without an utterance has no recall, rather than one of 0
        assert recall == (pytest.approx(recalls[label]) if label in labels else None)


def test_always_the_majority_class_is_chance_in_uar_only() -> None:
    labels = np.repeat([0, 1, 2, 3], [70, 10, 10, 10])
    found = compute_metrics(compute_confusion(labels, np.zeros_like(labels), 4))
    assert (found["war"], found["uar"]) == (pytest.approx(0.7), pytest.approx(0.25))
