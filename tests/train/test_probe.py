"""The classifier that a fit starts from, against the conditions of its optimum."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import nn

from serkd.train.probe import fit_probe


def _samples(num_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(num_classes, size=120)
    centres = rng.normal(size=(num_classes, 6))
    return (centres[labels] + rng.normal(size=(120, 6))).astype(np.float32), labels


@pytest.mark.parametrize("l2", [0.01, 1.0])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_the_regularised_losss_gradient_vanishes(l2: float, is_weighted: bool) -> None:
    embeddings, labels = _samples(4)
    weights = None
    if is_weighted:
        counts = np.bincount(labels, minlength=4)
        weights = torch.from_numpy(len(labels) / (4 * counts)).float()
    classifier = nn.Linear(6, 4)
    fit_probe(classifier, embeddings, labels, l2, weights)
    logits = classifier(torch.from_numpy(embeddings))
    loss = F.cross_entropy(logits, torch.from_numpy(labels), weights)
    (loss + l2 / 2 * classifier.weight.square().sum()).backward()
    assert classifier.weight.grad is not None
    assert classifier.bias.grad is not None
    assert classifier.weight.grad.abs().max() < 1e-4
    assert classifier.bias.grad.abs().max() < 1e-4
    assert classifier.weight.abs().max() > 0.05


def test_two_classes_have_the_probabilities_of_the_binary_regression() -> None:
    embeddings, labels = _samples(2)
    classifier = nn.Linear(6, 2)
    fit_probe(classifier, embeddings, labels, 0.1)
    reference = LogisticRegression(C=1 / 12.0, tol=1e-6).fit(embeddings, labels)
    with torch.no_grad():
        found = classifier(torch.from_numpy(embeddings)).softmax(dim=1).numpy()
    np.testing.assert_allclose(found, reference.predict_proba(embeddings), atol=1e-4)


def test_a_class_without_a_sample_is_never_the_answer() -> None:
    embeddings, labels = _samples(4)
    labels = np.where(labels == 2, 3, labels)
    classifier = nn.Linear(6, 4)
    fit_probe(classifier, embeddings, labels, 0.01)
    with torch.no_grad():
        answers = classifier(torch.from_numpy(embeddings)).argmax(dim=1).numpy()
    assert set(answers) == {0, 1, 3}
    assert (answers == labels).mean() > 0.7
