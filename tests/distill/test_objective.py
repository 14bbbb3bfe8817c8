"""The student's objective: its weights, and that nothing jumps at their ends."""

from collections.abc import Mapping
from typing import Literal

import pytest
import torch
import torch.nn.functional as F

from serkd.config import Distill
from serkd.distill.objective import Target, distillation_term, student_terms, weigh_terms
from serkd.losses.contrastive import supervised_contrastive
from serkd.losses.hint import embedding_hint
from serkd.losses.terms import Term
from serkd.models.student import StudentOutput

Kind = Literal["kl", "mse_logits", "dkd"]
HINTED = torch.linspace(-1.0, 1.0, 40, dtype=torch.float64).view(8, 5)
LABELS = torch.tensor([0, 1, 0, 2, 1, 3, 3, 0])


def _inputs() -> tuple[StudentOutput, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits, teacher, projection, embedding = (
        torch.randn(len(LABELS), width, generator=generator, dtype=torch.float64)
        for width in (4, 4, 6, 5)
    )
    return StudentOutput(logits, embedding, projection), teacher


def _sum(terms: Mapping[str, Term]) -> float:
    return float(sum(t.weight * t.total / max(t.count, 1.0) for t in terms.values()))


def _value(settings: Distill, *, has_teacher: bool = True) -> float:
    output, teacher = _inputs()
    hint = (output.embedding, HINTED) if settings.gamma > 0 else None
    return _sum(
        student_terms(
            output,
            LABELS,
            settings,
            weigh_terms(settings, has_teacher=has_teacher),
            target=Target(teacher, settings.temperature, hint) if has_teacher else None,
            keys=(output.projection, LABELS, 0),
        )
    )


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("contrast", [0.0, 0.4, 1.0])
def test_the_objective_is_the_weighted_sum_of_its_parts(alpha: float, contrast: float) -> None:
    output, teacher = _inputs()
    settings = Distill(alpha=alpha, supcon_weight=contrast, temperature=3.0, label_smoothing=0.1)
    ce = F.cross_entropy(output.logits, LABELS, label_smoothing=0.1)
    supcon = supervised_contrastive(
        output.projection,
        LABELS,
        output.projection,
        LABELS,
        temperature=settings.supcon_temperature,
    )
    kd = 9.0 * F.kl_div(
        (output.logits / 3).log_softmax(-1), (teacher / 3).softmax(-1), reduction="batchmean"
    )
    task = (1 - contrast) * ce + contrast * supcon.total / supcon.count
    expected = (1 - alpha) * task + alpha * kd
    assert _value(settings) == pytest.approx(float(expected), rel=1e-9)


WEIGHTS = ("alpha", "supcon_weight", "gamma", "label_smoothing", "dkd_target_weight")


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize(("end", "inside"), [(0.0, 1e-6), (1.0, 1 - 1e-6)])
@pytest.mark.parametrize("temperature", [1.0, 4.0, 10.0])
@pytest.mark.parametrize("kd", ["kl", "mse_logits", "dkd"])
def test_the_objective_has_no_jump_at_the_ends_of_a_weight(
    weight: str, end: float, inside: float, temperature: float, kd: Kind
) -> None:
    """A searched range may include 0 and 1: the ends must mean what lies next to them."""
    settings = Distill(temperature=temperature, kd=kd, gamma=0.5)
    at_end = _value(settings.model_copy(update={weight: end}))
    next_to_it = _value(settings.model_copy(update={weight: inside}))
    assert abs(at_end - next_to_it) < 1e-3


@pytest.mark.parametrize(
    ("changes", "left_out"),
    [
        ({"alpha": 0.0}, {"kd"}),
        ({"alpha": 1.0}, {"ce", "supcon"}),
        ({"supcon_weight": 0.0}, {"supcon"}),
        ({"supcon_weight": 1.0}, {"ce"}),
        ({"gamma": 0.0}, {"hint"}),
    ],
)
def test_a_term_of_weight_0_is_not_there(changes: dict[str, float], left_out: set[str]) -> None:
    settings = Distill(gamma=0.5).model_copy(update=changes)
    weights = weigh_terms(settings, has_teacher=True)
    assert set(weights) == {"ce", "supcon", "kd", "hint"} - left_out
    assert all(weight > 0 for weight in weights.values())


def test_the_hint_is_added_with_weight_gamma() -> None:
    output, _ = _inputs()
    hint = embedding_hint(output.embedding, HINTED)
    expected = _value(Distill()) + 0.25 * float(hint.total) / hint.count
    assert _value(Distill(gamma=0.25)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kd", ["kl", "mse_logits", "dkd"])
def test_every_kind_of_distillation_teaches_the_teacher(kd: Kind) -> None:
    output, teacher = _inputs()
    settings, teacher = Distill(kd=kd), teacher.requires_grad_()
    term = distillation_term(settings, output.logits, teacher, LABELS, 4.0)
    (gradient,) = torch.autograd.grad(term.total, teacher)
    assert float(gradient.abs().max()) > 1e-3


def test_without_a_teacher_the_task_keeps_its_full_weight() -> None:
    alone = _value(Distill(alpha=0.7), has_teacher=False)
    assert alone == pytest.approx(_value(Distill(alpha=0.0)), rel=1e-12)
