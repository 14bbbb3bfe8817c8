"""A classifier fitted to embeddings that stand still, before what makes them is trained."""

import numpy as np
import torch
from torch import Tensor, nn


def fit_probe(
    classifier: nn.Linear,
    embeddings: np.ndarray,
    labels: np.ndarray,
    l2: float,
    class_weights: Tensor | None = None,
) -> None:
    """Set `classifier` to the logistic regression of `labels` (N,) on `embeddings` (N, E).

    It minimises the mean cross-entropy + l2 / 2 · |W|², without a penalty on the bias; with
    `class_weights` (C,), which are 1 on average over the samples, the weighted mean. Fine-tuning
    that starts from a random classifier distorts good features while it learns one; from a fitted
    one it keeps them (linear probing, then fine-tuning: Kumar et al., arXiv 2202.10054). A class
    without a sample keeps zero weights and the lowest bias.
    """
    from sklearn.linear_model import LogisticRegression  # as slow to import as torch; few need it

    samples = None if class_weights is None else class_weights.cpu().numpy()[labels]
    fitted = LogisticRegression(C=1 / (l2 * len(labels)), max_iter=1000, tol=1e-6)
    fitted.fit(embeddings.astype(np.float64), labels, samples)
    weight, bias = fitted.coef_, fitted.intercept_
    if len(fitted.classes_) == 2:  # of which it keeps the difference alone
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    with torch.no_grad():
        classifier.weight.zero_()
        classifier.bias.fill_(float(bias.min()))
        classes = torch.from_numpy(fitted.classes_)
        classifier.weight[classes] = torch.from_numpy(weight).to(classifier.weight)
        classifier.bias[classes] = torch.from_numpy(bias).to(classifier.bias)
