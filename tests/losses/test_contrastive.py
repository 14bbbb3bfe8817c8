"""Supervised contrastive loss against a double loop over anchors and keys."""

import math

import pytest
import torch

from serkd.losses.contrastive import supervised_contrastive
from serkd.losses.terms import Term

LABELS = torch.tensor([0, 1, 0, 2, 1, 0, 3, 1])  # classes 2 and 3 have one member each


def _projections(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(LABELS), 5, generator=generator, dtype=torch.float64)


def _whole(projections: torch.Tensor, labels: torch.Tensor, temperature: float) -> Term:
    return supervised_contrastive(projections, labels, projections, labels, temperature=temperature)


def _naive(vectors: list[list[float]], labels: list[int], temperature: float) -> list[float]:
    """Each anchor's -1/|P| sum over positives of log e^{z·z_p/t} / sum over the others."""
    unit = [[x / math.hypot(*vector) for x in vector] for vector in vectors]

    def similarity(i: int, j: int) -> float:
        return sum(a * b for a, b in zip(unit[i], unit[j], strict=True)) / temperature

    losses = []
    for i in range(len(unit)):
        others = [j for j in range(len(unit)) if j != i]
        positives = [j for j in others if labels[j] == labels[i]]
        denominator = sum(math.exp(similarity(i, j)) for j in others)
        shares = [math.log(math.exp(similarity(i, p)) / denominator) for p in positives]
        losses.append(-sum(shares) / len(positives) if positives else 0.0)
    return losses


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_supcon_equals_a_double_loop(temperature: float) -> None:
    projections = _projections()
    term = _whole(projections, LABELS, temperature)
    expected = _naive(projections.tolist(), LABELS.tolist(), temperature)
    assert float(term.total) == pytest.approx(sum(expected), rel=1e-9)
    assert term.count == 6  # the two anchors without a positive are not counted


def test_an_anchor_without_a_positive_adds_exactly_nothing() -> None:
    projections = _projections().requires_grad_()
    term = _whole(projections, torch.arange(len(LABELS)), 0.07)
    (gradient,) = torch.autograd.grad(term.total, projections)
    assert (term.total.item(), term.count) == (0.0, 0.0)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_a_batch_of_one_is_zero_and_has_a_finite_gradient() -> None:
    projection = torch.randn(1, 4).requires_grad_()
    term = _whole(projection, torch.tensor([2]), 0.07)
    (gradient,) = torch.autograd.grad(term.total, projection)
    assert term.total.item() == 0.0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_supcon_is_finite_where_all_projections_coincide() -> None:
    projections = torch.ones(4, 3, requires_grad=True)
    term = _whole(projections, torch.tensor([0, 0, 1, 2]), 0.05)
    (gradient,) = torch.autograd.grad(term.total, projections)
    assert term.total.item() == pytest.approx(2 * math.log(3), rel=1e-5)
    assert torch.isfinite(gradient).all()


def test_supcon_gradient_matches_finite_differences() -> None:
    projections = _projections().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: _whole(z, LABELS, 0.3).total, (projections,))


@pytest.mark.parametrize("split", [1, 3, 7])
def test_anchors_on_two_workers_with_all_keys_sum_to_the_whole(split: int) -> None:
    projections = _projections().requires_grad_()
    whole = _whole(projections, LABELS, 0.1)
    parts = [
        supervised_contrastive(
            projections[part], LABELS[part], projections, LABELS, temperature=0.1, offset=offset
        )
        for part, offset in ((slice(None, split), 0), (slice(split, None), split))
    ]
    assert sum(part.count for part in parts) == whole.count
    total = parts[0].total + parts[1].total
    torch.testing.assert_close(total, whole.total)
    expected, found = (torch.autograd.grad(t, projections)[0] for t in (whole.total, total))
    torch.testing.assert_close(found, expected)
