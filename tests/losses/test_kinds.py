"""The other kinds of distillation and the hint against their definitions written out."""

import math

import pytest
import torch
import torch.nn.functional as F

from serkd.losses.hint import embedding_hint
from serkd.losses.logits import decoupled_distillation, distillation, logit_mse

LABELS = [2, 0, 1, 1, 3, 0]


def _logits(seed: int, num_classes: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(LABELS), num_classes, generator=generator, dtype=torch.float64) * 3


def _softmax(scores: list[float]) -> list[float]:
    powers = [math.exp(score) for score in scores]
    return [power / sum(powers) for power in powers]


def _divergence(teacher: list[float], student: list[float]) -> float:
    return sum(t * math.log(t / s) for t, s in zip(teacher, student, strict=True))


def _naive_dkd(
    student: list[float], teacher: list[float], label: int, temperature: float
) -> tuple[float, float]:
    """TCKD and NCKD of one utterance from probabilities (Zhao et al., CVPR 2022)."""
    p_s, p_t = (_softmax([x / temperature for x in row]) for row in (student, teacher))
    target = _divergence([p_t[label], 1 - p_t[label]], [p_s[label], 1 - p_s[label]])
    others = [c for c in range(len(p_s)) if c != label]
    q_s, q_t = ([p[c] / (1 - p[label]) for c in others] for p in (p_s, p_t))
    return target, _divergence(q_t, q_s)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize(("target_weight", "other_weight"), [(1.0, 8.0), (0.3, 0.0), (0.0, 2.0)])
def test_dkd_is_its_definition(
    temperature: float, target_weight: float, other_weight: float
) -> None:
    student, teacher = _logits(0), _logits(1)
    term = decoupled_distillation(
        student,
        teacher,
        torch.tensor(LABELS),
        temperature,
        target_weight=target_weight,
        other_weight=other_weight,
    )
    expected = 0.0
    for s, t, label in zip(student.tolist(), teacher.tolist(), LABELS, strict=True):
        target, other = _naive_dkd(s, t, label, temperature)
        expected += temperature**2 * (target_weight * target + other_weight * other)
    assert term.count == len(LABELS)
    assert float(term.total) == pytest.approx(expected, rel=1e-9)


def test_dkd_adds_up_to_kl_with_the_weights_that_kl_has() -> None:
    """KL = TCKD + (1 - p_label of the teacher)·NCKD, for each utterance."""
    student, teacher, labels = _logits(0), _logits(1), torch.tensor(LABELS)
    for row, label in enumerate(LABELS):
        one = slice(row, row + 1)
        share = float((teacher[row] / 2.0).softmax(dim=0)[label])
        term = decoupled_distillation(
            student[one], teacher[one], labels[one], 2.0, target_weight=1, other_weight=1 - share
        )
        kl = distillation(student[one], teacher[one], 2.0)
        assert float(term.total) == pytest.approx(float(kl.total), rel=1e-9)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_dkd_is_finite_for_certain_teachers_and_students(num_classes: int) -> None:
    """The published form takes logarithms of shares that are 0 in float32."""
    student = (1e4 * F.one_hot(torch.tensor([0, 1]), num_classes).float()).requires_grad_()
    teacher = 1e4 * F.one_hot(torch.tensor([1, 1]), num_classes).float()
    term = decoupled_distillation(
        student, teacher, torch.tensor([1, 0]), 1.0, target_weight=1.0, other_weight=8.0
    )
    (gradient,) = torch.autograd.grad(term.total, student)
    assert torch.isfinite(term.total)
    assert torch.isfinite(gradient).all()


def test_dkd_gradients_match_finite_differences_for_student_teacher_and_temperature() -> None:
    inputs = (_logits(0).requires_grad_(), _logits(1).requires_grad_())
    temperature = torch.full((len(LABELS), 1), 2.0, dtype=torch.float64).requires_grad_()
    labels = torch.tensor(LABELS)
    assert torch.autograd.gradcheck(
        lambda s, t, temp: (
            decoupled_distillation(s, t, labels, temp, target_weight=1.0, other_weight=2.0).total
        ),
        (*inputs, temperature),
    )


def test_each_utterance_may_have_a_temperature_of_its_own() -> None:
    student, teacher = _logits(0), _logits(1)
    temperatures = torch.linspace(1.0, 6.0, len(LABELS), dtype=torch.float64)[:, None]
    found = distillation(student, teacher, temperatures)
    rows = [
        distillation(student[i : i + 1], teacher[i : i + 1], float(temperatures[i])).total
        for i in range(len(LABELS))
    ]
    assert float(found.total) == pytest.approx(float(torch.stack(rows).sum()), rel=1e-12)


def test_logit_mse_is_torchs_and_teaches_the_teacher() -> None:
    student, teacher = _logits(0).requires_grad_(), _logits(1).requires_grad_()
    term = logit_mse(student, teacher)
    expected = F.mse_loss(student, teacher)
    assert float(term.total.detach()) / term.count == pytest.approx(float(expected.detach()))
    assert torch.autograd.gradcheck(lambda s, t: logit_mse(s, t).total, (student, teacher))


def test_kl_at_a_high_temperature_is_the_logits_mean_square_up_to_their_means() -> None:
    """Hinton et al., section 2.1: temperature²·KL → sum of squares of centred logits / 2C."""
    student, teacher = (x - x.mean(dim=1, keepdim=True) for x in (_logits(0), _logits(1)))
    kl = distillation(student, teacher, 1e4)
    assert float(kl.total) == pytest.approx(float(logit_mse(student, teacher).total) / 2, rel=1e-3)


def test_the_hint_is_cosine_and_mean_absolute_difference() -> None:
    guess, embedding = _logits(0), _logits(1)
    expected = 0.0
    for a, b in zip(guess.tolist(), embedding.tolist(), strict=True):
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        expected += 1 - dot / (math.hypot(*a) * math.hypot(*b))
        expected += sum(abs(x - y) for x, y in zip(a, b, strict=True)) / len(a)
    term = embedding_hint(guess, embedding)
    assert float(term.total) == pytest.approx(expected, rel=1e-10)
    assert float(embedding_hint(guess, guess).total) == pytest.approx(0.0, abs=1e-12)


def test_a_hint_with_a_knee_squares_what_is_below_it() -> None:
    """Huber's: half the square over the knee, then half a knee below the absolute difference."""
    guess, embedding, knee = _logits(0), _logits(1), 0.8
    apart = (guess - embedding).abs()
    assert bool((apart < knee).any())
    assert bool((apart > knee).any())
    bent = sum(d * d / (2 * knee) if d < knee else d - knee / 2 for d in apart.flatten().tolist())
    plain = embedding_hint(guess, embedding).total - apart.mean(dim=-1).sum()
    found = embedding_hint(guess, embedding, knee=knee).total
    assert float(found - plain) == pytest.approx(bent / guess.shape[1], rel=1e-10)


def test_the_hint_of_an_embedding_of_zeros_has_a_finite_gradient() -> None:
    guess = torch.zeros(2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(embedding_hint(guess, torch.zeros(2, 3)).total, guess)
    assert torch.isfinite(gradient).all()
