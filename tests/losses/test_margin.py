"""AM- and AAM-Softmax against their formulas written out."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from serkd.losses.margin import aam_softmax, am_softmax
from serkd.losses.terms import Term


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


@pytest.mark.parametrize("scale", [1.0, 15.0, 30.0])
@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5])
def test_aam_softmax_turns_the_true_angle_by_the_margin(scale: float, margin: float) -> None:
    cosines, labels = _cosines(9, 4), torch.tensor([0, 1, 2, 3, 3, 0, 1, 2, 2])
    rows = torch.arange(9)
    angles = torch.acos(cosines[rows, labels])
    turned = cosines.clone()
    beyond = angles > math.pi - margin
    falling = cosines[rows, labels] + math.cos(margin) - 1.0
    turned[rows, labels] = torch.where(beyond, falling, torch.cos(angles + margin))
    expected = F.cross_entropy(scale * turned, labels, reduction="sum")
    term = aam_softmax(cosines, labels, scale=scale, margin=margin)
    assert term.count == 9
    assert float(term.total) == pytest.approx(float(expected), rel=1e-10)


@pytest.mark.parametrize("margin", [0.1, 0.5, 0.9])
def test_aam_softmax_falls_everywhere_and_never_jumps(margin: float) -> None:
    true = torch.linspace(-1.0, 1.0, 20_001, dtype=torch.float64)
    losses = torch.stack(
        [
            aam_softmax(
                torch.stack([one, torch.zeros_like(one)])[None], torch.tensor([0]),
                scale=10.0, margin=margin,
            ).total
            for one in true[::20]
        ]
    )  # fmt: skip
    steps = losses.diff()
    assert (steps < 0).all()
    assert steps.abs().max() < 10.0 * 0.002 * 40  # slopes are steep near a cosine of 1, not endless


def test_aam_softmax_gradient_matches_finite_differences() -> None:
    labels = torch.tensor([0, 2, 1, 1])
    cosines = _cosines(4, 3)
    cosines[3, 1] = -0.999  # beyond pi - margin
    assert torch.autograd.gradcheck(
        lambda c: aam_softmax(c, labels, scale=5.0, margin=0.3).total, (cosines.requires_grad_(),)
    )


@pytest.mark.parametrize("cosine", [-1.0, 1.0])
def test_aam_softmax_has_a_finite_gradient_at_the_ends(cosine: float) -> None:
    cosines = torch.full((1, 2), cosine, requires_grad=True)
    aam_softmax(cosines, torch.tensor([0]), scale=15.0, margin=0.2).total.backward()
    assert cosines.grad is not None and cosines.grad.isfinite().all()


@pytest.mark.parametrize("loss", [am_softmax, aam_softmax])
def test_class_weights_weigh_the_samples_of_a_class(loss: Callable[..., Term]) -> None:
    cosines, labels = _cosines(6, 3), torch.tensor([0, 0, 0, 0, 1, 2])
    weights = torch.tensor([0.5, 2.0, 2.0], dtype=torch.float64)
    term = loss(cosines, labels, scale=5.0, margin=0.2, class_weights=weights)
    alone = [loss(cosines[i : i + 1], labels[i : i + 1], scale=5.0, margin=0.2) for i in range(6)]
    expected = sum(float(weights[labels[i]]) * float(alone[i].total) for i in range(6))
    assert float(term.total) == pytest.approx(expected, rel=1e-10)
    assert term.count == pytest.approx(6.0)
