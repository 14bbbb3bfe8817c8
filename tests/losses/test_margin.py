"""AM-Softmax against the formula written out."""

import math

import pytest
import torch
import torch.nn.functional as F

from serkd.losses.margin import am_softmax


def _cosines(num_samples: int, num_classes: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(num_samples, num_classes, generator=generator, dtype=torch.float64) * 2 - 1


def _naive(cosines: list[list[float]], labels: list[int], scale: float, margin: float) -> float:
    total = 0.0
    for row, label in zip(cosines, labels, strict=True):
        true = math.exp(scale * (row[label] - margin))
        others = sum(math.exp(scale * cos) for j, cos in enumerate(row) if j != label)
        total -= math.log(true / (true + others))
    return total


@pytest.mark.parametrize("scale", [1.0, 15.0, 30.0])
@pytest.mark.parametrize("margin", [0.0, 0.2, 0.35])
def test_am_softmax_is_the_papers_formula(scale: float, margin: float) -> None:
    cosines, labels = _cosines(7, 4), torch.tensor([0, 1, 2, 3, 3, 0, 1])
    term = am_softmax(cosines, labels, scale=scale, margin=margin)
    expected = _naive(cosines.tolist(), labels.tolist(), scale, margin)
    assert term.count == 7
    assert float(term.total) == pytest.approx(expected, rel=1e-10)


def test_without_margin_am_softmax_is_cross_entropy_of_scaled_cosines() -> None:
    cosines, labels = _cosines(6, 5), torch.tensor([4, 0, 2, 2, 1, 3])
    term = am_softmax(cosines, labels, scale=10.0, margin=0.0)
    expected = F.cross_entropy(10.0 * cosines, labels, reduction="sum")
    assert float(term.total) == pytest.approx(float(expected), rel=1e-12)


def test_am_softmax_gradient_matches_finite_differences() -> None:
    cosines, labels = _cosines(4, 3).requires_grad_(), torch.tensor([0, 2, 1, 1])
    assert torch.autograd.gradcheck(
        lambda c: am_softmax(c, labels, scale=5.0, margin=0.3).total, (cosines,)
    )
