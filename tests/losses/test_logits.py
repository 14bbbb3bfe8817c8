"""Cross-entropy and distillation against torch's own."""

import pytest
import torch
import torch.nn.functional as F

from serkd.losses.logits import cross_entropy, distillation


def _logits(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64) * 3


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_cross_entropy_leaves_out_negative_labels(label_smoothing: float) -> None:
    logits, labels = _logits(5, 4), torch.tensor([2, -100, 0, -100, 3])
    known = labels >= 0
    term = cross_entropy(logits, labels, label_smoothing=label_smoothing)
    expected = F.cross_entropy(logits[known], labels[known], label_smoothing=label_smoothing)
    assert term.count == 3
    assert float(term.total / term.count) == pytest.approx(float(expected), abs=1e-12)


def test_cross_entropy_of_sealed_labels_only_is_zero_with_zero_gradient() -> None:
    logits = _logits(3, 4).requires_grad_()
    term = cross_entropy(logits, torch.full((3,), -100))
    term.total.backward()
    assert (term.total.item(), term.count) == (0.0, 0.0)
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_distillation_is_squared_temperature_times_kl(temperature: float) -> None:
    student, teacher = _logits(6, 5), _logits(6, 5, seed=1)
    term = distillation(student, teacher, temperature)
    expected = temperature**2 * F.kl_div(
        F.log_softmax(student / temperature, dim=-1),
        F.softmax(teacher / temperature, dim=-1),
        reduction="batchmean",
    )
    assert float(term.total / term.count) == pytest.approx(float(expected), rel=1e-10)


def test_distillation_gradients_match_finite_differences_for_student_and_teacher() -> None:
    student, teacher = _logits(3, 4).requires_grad_(), _logits(3, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda s, t: distillation(s, t, 2.0).total, (student, teacher))


def test_distillation_teaches_the_teacher() -> None:
    """Meta-knowledge needs the teacher's gradient, so nothing may detach it."""
    student, teacher = _logits(3, 4), _logits(3, 4, seed=1).requires_grad_()
    (gradient,) = torch.autograd.grad(distillation(student, teacher, 4.0).total, teacher)
    assert float(gradient.abs().max()) > 1e-3


def test_distillation_of_a_perfect_copy_is_zero_and_stays_finite_for_extreme_logits() -> None:
    sharp = torch.tensor([[1e4, -1e4, 0.0]])
    assert float(distillation(sharp, sharp, 1.0).total) == 0.0
    assert torch.isfinite(distillation(sharp, -sharp, 1.0).total)
